"""Pictures of any pair: each function draws on the axes it is handed, or on new ones, and returns the figure.

``data`` are whatever :func:`pyro_vae.fit` takes: an array, a mapping of sites, a :class:`pyro_vae.data.Data`, a
``Dataset`` or a loader; where several sites hold data, the first that is an image is shown. ``site`` is a latent
site, the first where none is named. ``conditions`` are those of :meth:`pyro_vae.Variant.sample`. Images have the
shape (H, W), (1, H, W) or (3, H, W) and are clipped to [0, 1].
ValueError tells of data that are no images, of sites and units that are not there, and of counts that are not positive.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from pyro.distributions import constraints as pyro_constraints
from torch.distributions import constraints

from pyro_vae import families, tracing
from pyro_vae.checks import instance, known, positive_int
from pyro_vae.comparison import Comparison
from pyro_vae.data import Quadrants, first
from pyro_vae.evaluation import Collapse, Level
from pyro_vae.infer.activity import ACTIVE
from pyro_vae.train import Run
from pyro_vae.variant import Variant, traversed

MOST_UNITS = 10  # rows of a traversal where none are asked for
MOST_CATEGORIES = 12  # columns of one, of the most used
MOST_CLASSES = 10  # more numbers than these are a quantity
DRAWS = 40_000  # of a prior, where its density or its quantiles are estimated
CELLS = 200  # to a side of the plane on which a density is shown
REGIONS = (0.99, 0.9, 0.5)  # shares of a density that lines enclose
SHADES = LinearSegmentedColormap.from_list("shades", ["1.0", "0.55"])  # under points of any colour
CURVES = {"objective": "objective", "elbo": "ELBO, training", "validation_elbo": "ELBO, validation"}

# the units of a level, and the colour of each kind
UNITS = {"active: follows the data": "C0", "not active": "0.75", "active or not: not known": "C1"}

Ticks = tuple[str, dict[int, str]]  # what an axis shows, and a label for some of the rows or columns
BARE: Ticks = ("", {})


def samples(variant: Variant, n: int = 64, *, ax: Axes | None = None, seed: int = 0, **conditions: Any) -> Figure:
    """E[x | z], z ~ p(z): what the model dreams, n likelihood means in a square grid.

    Before training this is the prior predictive: what prior and likelihood expect of data that nobody has seen.

    Args:
        n: how many pictures.
        seed: of the codes.

    >>> plt.close(samples(pv.vae((1, 8, 8), latent=2), 9))
    """
    _, images = _images(variant, variant.sample(n, mean=True, seed=seed, **conditions), 1)
    columns = math.ceil(math.sqrt(n))
    padded = np.pad(images, [(0, -n % columns), (0, 0), (0, 0), (0, 0)], constant_values=1.0)
    return _tiled(padded.reshape(-1, columns, *images.shape[1:]), ax)


def reconstructions(variant: Variant, data: Any, n: int = 10, *, ax: Axes | None = None, seed: int = 0) -> Figure:
    """E[x' | z], z ~ q(z | x): data above, and below each what is left of it after the passage through its code.

    Args:
        n: how many, from the first on; fewer where there are fewer data.
        seed: of the codes.

    >>> plt.close(reconstructions(pv.vae((1, 8, 8), latent=2), torch.zeros(3, 1, 8, 8)))
    """
    batch = _batch(variant, data, positive_int("n", n))
    site, below = _images(variant, variant.reconstruct(mean=True, seed=seed, **batch), 1)
    _, above = _images(variant, {site: batch[site]}, 1)
    return _tiled(np.stack([above, below]), ax, rows=("", {0: "data", 1: "reconstruction"}))


def levels(variant: Variant, data: Any, n: int = 6, draws: int = 2, *, ax: Axes | None = None, seed: int = 0) -> Figure:
    """E[x | z], some levels from q(z | x), those below them drawn from the model: what each level holds of a datum.

    From left to right each datum, its reconstruction, and what is left of it where the lowest level is drawn anew
    given those above it, the two lowest, and so on until nothing is held. The lowest is what the model draws last.

    Args:
        n: how many data, one row each, from the first on.
        draws: pictures for each number of levels drawn anew.

    Raises:
        ValueError: where the pair has no latent site.

    Source: Soenderby et al. 2016, arXiv:1602.02282, figure 6; Maaloe et al. 2019, arXiv:1902.02102, figure 4.

    >>> plt.close(levels(pv.hvae((1, 8, 8), latents=(4, 2)), torch.zeros(3, 1, 8, 8), n=3))
    """
    batch = _batch(variant, data, positive_int("n", n))
    given: dict[str, Any] = {k: v[:1] for k, v in batch.items() if k in variant.given}
    sites = [site for site in variant.latent_sites(**given) if site not in variant.given][::-1]
    if not sites:
        raise ValueError("levels: the model has no latent site")
    site, shown = _images(variant, {k: v for k, v in batch.items() if k not in variant.given}, 1)
    columns, names = [shown], {0: site, 1: "all held"}
    for count in range(len(sites) + 1):
        for draw in range(positive_int("draws", draws) if count else 1):
            again = variant.reconstruct(resample=sites[:count], mean=True, seed=seed + draw, **batch)
            columns.append(_images(variant, again, 1)[1])
        if count:  # in the middle of its draws
            names[2 + (count - 1) * draws + (draws - 1) // 2] = sites[0] if count == 1 else f"to {sites[count - 1]}"
    return _tiled(np.stack(columns, 1), ax, columns=("drawn anew", names))


def transfers(
    variant: Variant, data: Any, to: Sequence[Any], n: int = 8, *, site: str | None = None, ax: Axes | None = None
) -> Figure:
    """E[x | z, c'], z the mean of q(z | x, c): each datum on the left, and its code under other conditions beside it.

    Args:
        to: the conditions, one column each, for example ``range(10)``.
        n: how many data, from the first on.
        site: the condition, or the label; by default the first that the pair has.

    Raises:
        ValueError: where the pair has no conditions and no labels.

    Source: Kingma et al. 2014, arXiv:1406.5298, figure 1 (analogies).

    >>> pair, digits = pv.cvae((1, 8, 8), latent=2), pv.data.load("digits", binarise="threshold")
    >>> plt.close(transfers(pair, digits, to=range(10)))
    """
    to = list(to)
    if not variant.given or not to:
        raise ValueError(f"to: expected new values of one of {list(variant.given)}, found {to}")
    site = variant.given[0] if site is None else known("site", site, variant.given)
    batch = _batch(variant, data, positive_int("n", n))
    (name, first), *columns = [
        _images(variant, {k: v for k, v in batch.items() if k not in variant.given}, 1),
        *(_images(variant, variant.transfer({site: value}, seed=0, **batch), 1) for value in to),
    ]
    images = np.stack([first, *(image for _, image in columns)], 1)
    labels = {0: name} | ({i + 1: f"{value}" for i, value in enumerate(to)} if not np.ndim(to[0]) else {})
    return _tiled(images, ax, columns=(site, labels))


def completions(
    variant: Variant, data: Quadrants, n: int = 10, draws: int = 4, *, ax: Axes | None = None, seed: int = 0
) -> Figure:
    """E[x | z, c], z ~ p(z | c): the part of each image that is given, ways to complete it, and the image itself.

    Args:
        data: images in two parts.
        n: how many, from the first on.
        draws: how many completions of each.

    >>> digits = pv.data.load("digits", binarise="threshold", quadrants=1)
    >>> pair = pv.cvae(digits.shape, latent=2, condition_shape=digits.condition_shape)
    >>> plt.close(completions(pair, digits))
    """
    instance("data", data, Quadrants)
    batch = _batch(variant, data, positive_int("n", n))
    x, c = batch["x"], batch["c"]
    rows = [data.join(torch.full_like(x, 0.5), c)]
    for i in range(positive_int("draws", draws)):
        rows.append(data.join(variant.sample(len(x), mean=True, seed=seed + i, c=c), c))
    images = [_images(variant, {"x": row}, 1)[1] for row in (*rows, data.join(x, c))]
    names = {0: "given", **{i + 1: "completed" for i in range(draws)}, draws + 1: "data"}
    return _tiled(np.stack(images), ax, rows=("", names))


def learning_curves(run: Run, *, ax: Axes | None = None) -> Figure:
    """Objective and ELBO of each epoch, in nats per datum; where there was validation, a dot marks the best epoch.

    The objective is the mean over the epoch, the ELBO that after it.

    >>> x = pv.data.load("digits", binarise="threshold").x[:128]
    >>> run = pv.fit(pv.vae((1, 8, 8), latent=2), x, epochs=2, progress=False)
    >>> plt.close(learning_curves(run))
    """
    ax = _axes(ax, 5.4, 3.4)
    for column in [c for c in CURVES if c in run.history]:
        ax.plot(range(1, run.epochs + 1), run.history[column], label=CURVES[column])
    if "validation_elbo" in run.history:
        best = run.history["validation_elbo"][run.best_epoch - 1]
        ax.plot(run.best_epoch, best, "o", color="black", label=f"best epoch: {run.best_epoch}, {best:.2f}")
    ax.locator_params(axis="x", integer=True)
    ax.set(xlabel="epoch", ylabel="nats per datum")
    ax.legend(frameon=False, loc="lower right")
    return ax.figure.figure


def latents(
    variant: Variant, data: Any, labels: Any = None, *, site: str | None = None, ax: Axes | None = None
) -> Figure:
    """E_q[z | x] of each datum, coloured by its label: where the guide puts the data.

    Of more than two units the first two principal components are shown; one unit is drawn as a histogram. A posterior
    without a mean is shown at its mode, one on a sphere where the sphere is nearest to its mean.

    Args:
        labels: one per datum, by default those that a :class:`pyro_vae.data.Data` brings. Whole numbers and
            names are classes; fractions, and more than 10 different numbers, are a quantity.

    Raises:
        ValueError: where the posterior has no finite mean and no mode, or labels and data differ in number.

    >>> digits = pv.data.load("digits", binarise="threshold")
    >>> plt.close(latents(pv.vae((1, 8, 8), latent=5), digits))
    """
    site, means = _means(variant, _batch(variant, data), site)
    project, names = _plane(means, site)
    found = _labels(labels, data, len(means))
    ax = _axes(ax, 5.4, 4.2)
    draw = _scatter if means.shape[1] > 1 else _histogram
    draw(ax, project(means), found)
    ax.set(xlabel=names[0], ylabel=[*names, "data"][1])
    _legend(ax)
    return ax.figure.figure


def prior(
    variant: Variant,
    data: Any = None,
    labels: Any = None,
    *,
    site: str | None = None,
    n: int = 2000,
    ax: Axes | None = None,
    seed: int = 0,
    **conditions: Any,
) -> Figure:
    """p(z), and over it z ~ q(z | x), a draw for each datum: whether the prior is where the guide puts the data.

    Draws and no means, since it is the aggregate posterior mean_x q(z | x) that the prior is to match. Lines enclose
    50, 90 and 99% of the prior. The density is exact where the site has one or two units and its log p is known and the
    same for all data; else it is estimated from draws: of a prior with sites of its own, below another level, under the
    conditions of the data, on a sphere, where exact zeros are possible. Of more than two units the first two principal
    components of the codes are shown, or of the prior's draws where there are no data; of one unit histogram and line.

    Args:
        data: none for the prior alone.
        labels: as for :func:`latents`.
        site: by default that at the top of the model.
        n: how many data, from the first on.
        seed: of the codes, and of the prior's draws.

    Raises:
        ValueError: where the site is discrete, or labels and data differ in number.

    Source: Tomczak & Welling 2018, arXiv:1705.07120.

    >>> digits = pv.data.load("digits", binarise="threshold")
    >>> plt.close(prior(pv.vae((1, 8, 8), latent=2, prior=pv.priors.Mixture), digits, n=500))
    """
    positive_int("n", n)
    batch = {} if data is None else _batch(variant, data, n)
    given = conditions | {name: value for name, value in batch.items() if name in variant.given}
    site, drawn = _drawn(variant, site, given, seed)
    codes = _codes(variant, batch, site, seed) if batch else None
    found = None if codes is None else _labels(labels, data, len(codes), n)
    project, names = _plane(drawn if codes is None else codes, site)
    log_p = _log_density(*(_node(variant, site, k, given, seed) for k in (1, 32))) if drawn.shape[1] < 3 else None
    points, drawn = None if codes is None else project(codes), project(drawn)
    edges = [_edges(*rows) for rows in zip(drawn.T, [None, None] if points is None else points.T, strict=False)]
    density = _estimated(drawn, edges) if log_p is None else _exact(log_p, edges)
    ax = _axes(ax, 5.4, 4.4)
    show = _over_plane if len(edges) == 2 else _over_line
    show(ax, points, found, edges, density, site)
    ax.set(xlabel=names[0], ylabel=[*names, "density"][1])
    _legend(ax)
    return ax.figure.figure


def manifold(
    variant: Variant, n: int = 20, *, site: str | None = None, ax: Axes | None = None, **conditions: Any
) -> Figure:
    r"""E[x | z] on the grid z_i = Q_i((k + 1/2) / n), k < n, Q_i the quantiles of unit i: the sheet of two units.

    Each picture stands for an equal share of a standard normal prior; unit 0 grows to the right, unit 1 upwards. Of
    another prior, each row and each column does: its quantiles are those of 40,000 draws.

    Args:
        n: pictures to a side.

    Raises:
        ValueError: where the site does not have two units, or they fill no plane, as on a sphere; where a condition or
            a label is not told.

    Source: Kingma & Welling 2014, arXiv:1312.6114, figure 4.

    >>> plt.close(manifold(pv.vae((1, 8, 8), latent=2), 5))
    """
    for name in variant.given:
        if name not in conditions:
            raise ValueError(f"{name}: missing; a sheet is drawn under one condition, as in {name}=...")
    shares = (torch.arange(positive_int("n", n)) + 0.5) / n
    site, fn = _latent(variant, site, conditions)
    shape = fn.event_shape
    if math.prod(shape) != 2:
        raise ValueError(f"site: expected a latent site of two units, found {site!r} of shape {tuple(shape)}")
    if _is_surface(fn.support):
        raise ValueError(f"site: expected codes that fill a plane, found {site!r} over {fn.support}")
    across, upwards = _quantiles(variant, site, fn, shares, conditions)
    codes = torch.cartesian_prod(upwards.flip(0), across).flip(-1)  # row by row from the top left
    decoded = variant.decode({site: codes.reshape(-1, *shape)}, seed=0, **conditions)
    _, images = _images(variant, decoded, 1)
    some = (0, n // 4, n - 1 - n // 4, n - 1)
    right, up = {k: f"{across[k]:.1f}" for k in some}, {n - 1 - k: f"{upwards[k]:.1f}" for k in some}
    rows, columns = (f"{site}, unit 1", up), (f"{site}, unit 0", right)
    return _tiled(images.reshape(n, n, *images.shape[1:]), ax, rows, columns)


def traversals(
    variant: Variant,
    data: Any,
    *,
    site: str | None = None,
    units: Sequence[int] | None = None,
    values: Sequence[float] | None = None,
    resample: Sequence[str] = (),
    ax: Axes | None = None,
) -> Figure:
    """E[x | z] while one unit of the first datum's code takes other values: what each unit means.

    Args:
        units: one row each; by default up to ten, those whose posterior means vary most over all of the data. Of
            categorical codes a unit is one code.
        values: one column each; see :meth:`pyro_vae.Variant.traverse`. Of more than 12 categories the most used.
        resample: latent sites that are drawn from the model instead, such as the levels below ``site``.

    >>> plt.close(traversals(pv.vae((1, 8, 8), latent=2), torch.zeros(1, 1, 8, 8)))
    """
    batch = _batch(variant, data)
    site, means = _means(variant, batch, site)
    given = {name: value[:1] for name, value in batch.items() if name in variant.given}
    fn = variant.latent_sites(**given)[site]
    hot = families.is_one_hot(fn.support)
    if hot:
        means = means.reshape(len(means), -1, fn.event_shape[-1])
    if values is None:
        values = traversed(fn.support, fn.sample())
        if hot and len(values) > MOST_CATEGORIES:
            values = sorted(np.argsort(-means.mean((0, 1)), kind="stable")[:MOST_CATEGORIES].tolist())
    if units is None:  # a stable sort: units that vary alike, as all do over one datum, keep their order
        spread = means.var(0).sum(-1) if hot else means.var(0)
        units = np.argsort(-spread, kind="stable")[:MOST_UNITS].tolist()
    moved = variant.traverse(site, units, values, resample=resample, **_batch(variant, batch, 1))
    _, images = _images(variant, moved, 2)
    rows = (f"unit of {site}", {i: str(unit) for i, unit in enumerate(units)})
    columns = ("category" if hot else "value", {i: f"{value:g}" for i, value in enumerate(values)})
    return _tiled(images, ax, rows, columns)


def interpolations(
    variant: Variant, starts: Any, ends: Any, steps: int = 8, *, ax: Axes | None = None, **conditions: Any
) -> Figure:
    """E[x | (1 - w) z + w z'], w from 0 to 1: one row per pair of data, z and z' their posterior means.

    Args:
        starts, ends: the data on the left, and as many on the right.
        steps: pictures to a row.

    Raises:
        ValueError: where starts and ends differ in number.

    >>> plt.close(interpolations(pv.vae((1, 8, 8), latent=2), torch.zeros(3, 1, 8, 8), torch.ones(3, 1, 8, 8)))
    """
    first, last = _batch(variant, starts), _batch(variant, ends)
    _, images = _images(variant, variant.interpolate(first, last, steps, **conditions), 2)
    return _tiled(images.swapaxes(0, 1), ax, columns=("", {steps - 1: "end", 0: "start"}))


def comparison(result: Comparison) -> Figure:
    """What :func:`pyro_vae.compare` found: log p(x) of each variant, and its rate against its distortion.

    One dot per seed, on the left with a bar at their mean. Rate + distortion is minus the ELBO; along the dashed
    line it is that of the variant whose mean is best.

    >>> x = pv.data.load("digits", binarise="threshold").x[:100]
    >>> pairs = {"vae": pv.vae((1, 8, 8), latent=2), "beta": pv.beta_vae((1, 8, 8), latent=2)}
    >>> plt.close(comparison(pv.compare(pairs, x, seeds=2, particles=5, epochs=1, progress=False)))
    """
    rows = result.rows
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 1.8 + 0.3 * max(len(rows), 5)), layout="constrained")
    points = []
    for i, row in enumerate(rows):
        color, reports = f"C{i % 10}", row.reports
        bounds = [report.log_likelihood for report in reports if report.log_likelihood is not None]
        rates = [report.rate for report in reports if report.rate is not None]
        if not bounds:  # a pair without an ELBO
            continue
        left.plot(bounds, [i] * len(bounds), "o", color=color, alpha=0.7)
        left.plot([np.mean(bounds)] * 2, [i - 0.3, i + 0.3], color=color, linewidth=1.5)
        distortions = [report.distortion for report in reports]
        right.plot(rates, distortions, "o", color=color, alpha=0.7, label=row.name)
        points.append((np.mean(rates), np.mean(distortions)))
    left.set_yticks(range(len(rows)), [row.name for row in rows])
    left.set_ylim(len(rows) - 0.5, -0.5)
    left.locator_params(axis="x", nbins=5)
    left.grid(axis="x", alpha=0.3)
    left.set_xlabel(f"log-likelihood, nats per datum ({rows[0].reports[0].particles} particles)")
    if not points:
        plt.close(figure)
        raise ValueError("result: no variant has an ELBO to compare")
    best = min(points, key=sum)
    name = f"minus ELBO = {sum(best):.2f}"
    right.axline(best, slope=-1, color="0.6", linestyle="--", linewidth=1, zorder=0, label=name)
    right.set(xlabel="rate: KL, nats per datum", ylabel="distortion: nats per datum")
    right.legend(frameon=False)
    return figure


def collapse(reports: Collapse | Mapping[str, Collapse]) -> Figure:
    """What :func:`pyro_vae.collapse_report` found: the KL of each unit, level by level, the top level on the left.

    Units stand in the order of their KL, coloured where they follow the data; the strip below the bars repeats the
    colour, as bars may be too low to be seen. Where a level has no KL of its units, all are drawn at their mean.
    Several reports, such as those before and after a cure, have a row each, on one scale.

    Args:
        reports: one, or a mapping from name to report.

    Raises:
        TypeError, ValueError: where they are none of these, or have no level to show.

    >>> pair, x = pv.vae((1, 8, 8), latent=8), pv.data.load("digits", binarise="threshold").x
    >>> plt.close(collapse(pv.collapse_report(pair, x)))
    """
    named = reports if isinstance(reports, Mapping) else {"": reports}
    for name, report in named.items():
        instance(f"reports: {name}" if name else "reports", report, Collapse)
    longest_first = sorted(named.values(), key=lambda report: -len(report.levels))
    sites = list(dict.fromkeys(level.site for report in longest_first for level in report.levels))
    if not sites:
        raise ValueError(f"reports: expected at least one with a latent site, found {len(named)} without")
    levels = [level for report in named.values() for level in report.levels]
    units = {site: max(level.units for level in levels if level.site == site) for site in sites}
    most = max(max(float(_by_unit(level).max()) for level in levels), 1e-3)
    roots = np.sqrt([units[site] for site in sites])
    figure, axes = plt.subplots(
        len(named),
        len(sites),
        figsize=(max(2.2 + 1.6 * len(sites), 5.4), 0.6 + 2.2 * len(named)),
        width_ratios=roots.clip(0.6 * roots.mean()).tolist(),  # so that there is room for words above few units
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    kinds = set()
    for row, (name, report) in zip(axes, named.items(), strict=True):
        found = {level.site: level for level in report.levels}
        for ax, site in zip(row, sites, strict=True):
            ax.set(xticks=[], ylim=(-0.06 * most, 1.05 * most))
            ax.spines[:].set_visible(False)
            ax.tick_params(axis="y", length=0)
            if site in found:
                kinds |= _units(ax, found[site], units[site], most)
        row[0].set_ylabel(f"{name}\nKL of a unit, nats".strip())
    handles = [plt.Rectangle((0, 0), 1, 1, color=UNITS[kind], label=kind) for kind in UNITS if kind in kinds]
    figure.legend(handles=handles, loc="outside lower right", ncols=len(handles), frameon=False)
    return figure


def _by_unit(level: Level) -> np.ndarray:
    """The KL of each unit, or the mean of all in place of each."""
    return np.full(level.units, level.kl / level.units) if level.unit_kl is None else level.unit_kl.numpy()


def _units(ax: Axes, level: Level, places: int, most: float) -> set[str]:
    """Bars and a strip for one level, in axes with so many places; returns the kinds of units that it has."""
    active, still, unknown = UNITS
    heights, variance = _by_unit(level), level.variance
    kind = np.full(level.units, unknown) if variance is None else np.where(variance.numpy() > ACTIVE, active, still)
    order = np.argsort(-heights, kind="stable")
    half = 0.4 if level.units <= 100 and level.unit_kl is not None else 0.5  # more have no room for gaps
    edges = (np.arange(level.units)[:, None] + [-half, half]).reshape(-1)
    for name in set(kind):
        mine = kind[order] == name
        for base, tops in ((0.0, heights[order].clip(0)), (-0.06 * most, np.full(level.units, -0.02 * most))):
            steps = np.full(len(edges) - 1, base)  # every second one is a gap
            steps[::2] = np.where(mine, tops, base)
            ax.stairs(steps, edges, baseline=base, fill=True, color=UNITS[name])
    ax.set_xlim(-0.5 - 0.02 * places, places - 0.5 + 0.02 * places)
    count = f"{level.units} units" if level.active is None else f"{level.active} of {level.units} active"
    ax.set_title(f"{level.site}\n{count}\n{level.kl:z.2f} nats", fontsize="medium")
    ax.grid(axis="y", alpha=0.3)
    ax.set_axisbelow(True)
    return set(kind)


def _batch(variant: Variant, data: Any, n: int | None = None) -> dict[str, Any]:
    """The first n data, or all, by site."""
    return variant.prepare(first(data, n, variant))


def _images(variant: Variant, data: Any, leading: int) -> tuple[str, np.ndarray]:
    r"""The first data site that holds images, as (\*leading, H, W, channels) in [0, 1]."""
    if not isinstance(data, Mapping):
        data = variant.by_name(data)
    for name, value in data.items():
        shape = value.shape[leading:]
        if len(shape) == 2 or (len(shape) == 3 and shape[0] in (1, 3)):
            value = value.unsqueeze(leading) if len(shape) == 2 else value
            pixels = value.detach().float().cpu().nan_to_num(0.5)  # what is missing is grey
            return name, pixels.movedim(leading, -1).clamp(0, 1).numpy()
    found = ", ".join(f"{name} of shape {tuple(value.shape[leading:])}" for name, value in data.items())
    raise ValueError(f"data: expected images of shape (H, W), (1, H, W) or (3, H, W), found {found}")


def _latent(variant: Variant, site: str | None, conditions: Mapping[str, Any]) -> tuple[str, Any]:
    """A latent site of the model, by default the one at the top, and its distribution of one code.

    Sites of a prior's own stand above its codes, and are none.
    """
    sites = {name: fn for name, fn in variant.latent_sites(**conditions).items() if name not in variant.given}
    if not sites:
        raise ValueError("site: the model has no latent site")
    if site is None:
        own = getattr(variant.guide, "reads", {})
        codes = [name for name, fn in sites.items() if name not in own and not families.is_discrete(fn)]
        site = next(iter(codes or sites))
    return site, sites[known("site", site, sites)]


def _means(variant: Variant, batch: Mapping[str, Any], site: str | None) -> tuple[str, np.ndarray]:
    """A latent site of the guide and where its posteriors are centred, (batch, units); of classes, probabilities."""
    posteriors = variant.encode(ancestors="mean", **batch)
    continuous = [name for name, q in posteriors.items() if not families.is_discrete(q)]
    site = (continuous or list(posteriors))[0] if site is None else known("site", site, posteriors)
    q = posteriors[site]
    means = tracing.mean(q) if families.is_discrete(q) else tracing.centre(q)
    if means is None:
        raise ValueError(f"site: expected posteriors with a finite mean, or a mode, found none at {site!r}")
    return site, _rows(means, q)


def _rows(value: torch.Tensor, fn: Any) -> np.ndarray:
    """Codes, or what is said of each unit, as (batch, units)."""
    value = value.movedim(-1 - fn.event_dim, 0).float().cpu()
    return value.reshape(len(value), -1).numpy()


def _codes(variant: Variant, batch: Mapping[str, Any], site: str, seed: int) -> np.ndarray:
    """z ~ q(z | x), (batch, units)."""
    with tracing.seeded(seed):
        posteriors = variant.encode(seed=None, **batch)
        q = posteriors[known("site", site, posteriors)]
        return _rows(q.sample(), q)


def _node(variant: Variant, site: str, n: int, conditions: Mapping[str, Any], seed: int) -> Mapping[str, Any]:
    """A latent site in n draws of the model, which decodes none of them."""
    given = {}
    for name, value in conditions.items():
        several = np.ndim(value) > 0 and len(value) > 1  # so many of each that all of them count
        given[name] = torch.as_tensor(value)[torch.arange(n) * len(value) // n] if several else value
    return tracing.until([site], partial(variant.draw, n, seed, **given), {}).nodes[site]


def _drawn(variant: Variant, site: str | None, conditions: Mapping[str, Any], seed: int) -> tuple[str, np.ndarray]:
    """A latent site that is not discrete, and many draws of it from the model, (draws, units)."""
    first = {name: value[:1] if np.ndim(value) else value for name, value in conditions.items()}
    site, fn = _latent(variant, site, first)
    if families.is_discrete(fn):
        raise ValueError(f"site: expected codes that are numbers, found {site!r}, {families.family(fn)}")
    widest = max(math.prod(fn.event_shape), 1, *(torch.as_tensor(value).numel() for value in first.values()))
    node = _node(variant, site, min(DRAWS, max(2**23 // widest, 1000)), conditions, seed)
    return site, _rows(node["value"], node["fn"])


def _is_surface(support: Any) -> bool:
    """Whether codes have fewer dimensions than units."""
    return families.innermost(support) in (pyro_constraints.sphere, constraints.simplex)


def _quantiles(
    variant: Variant, site: str, fn: Any, shares: torch.Tensor, conditions: Mapping[str, Any]
) -> torch.Tensor:
    """Of each unit of a site, (units, shares)."""
    base = families.base(fn)
    if isinstance(base, torch.distributions.Normal) and (base.loc == 0).all() and (base.scale == 1).all():
        return torch.distributions.Normal(0.0, 1.0).icdf(shares).expand(2, -1)
    _, drawn = _drawn(variant, site, conditions, 0)
    return torch.as_tensor(drawn).quantile(shares, 0).T


def _log_density(one: Mapping[str, Any], several: Mapping[str, Any]) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """log p(z) of codes (n, units), of a site in one draw of the model and in several.

    None where it is not known, or depends on what was drawn or given above the site.
    """
    fn, z = one["fn"], several["value"]
    atoms = getattr(families.base(fn), "has_atoms", False)  # which no density shows
    if atoms or _is_surface(fn.support) or len(fn.batch_shape) != 1:
        return None

    def log_p(codes: torch.Tensor) -> torch.Tensor:
        codes = codes.to(z).reshape(-1, 1, *fn.event_shape)
        inside = fn.support.check(codes).reshape(len(codes), -1).all(-1)
        kept = torch.where(inside.reshape(-1, *[1] * (codes.dim() - 1)), codes, z[0])  # which may be asked for
        parts = [fn.log_prob(kept[part])[:, 0] for part in tracing.slices(len(kept), 4096)]
        return torch.where(inside, torch.cat(parts), -torch.inf)

    try:
        with torch.no_grad():
            found = several["fn"].log_prob(z.unsqueeze(1))
    except NotImplementedError:
        return None
    return log_p if torch.allclose(found, found[:, :1].expand_as(found)) else None


def _edges(drawn: np.ndarray, codes: np.ndarray | None) -> np.ndarray:
    """Where cells begin and end that hold nearly all draws and all codes, but for those in heavy tails."""
    ends = []
    for values, share in ((drawn, 0.001), (codes, 0.0)):
        if values is not None:
            first, low, high, last = np.quantile(values, [share, 0.05, 0.95, 1 - share])
            ends += [max(first, 2 * low - high), min(last, 2 * high - low)]
    margin = 0.05 * (max(ends) - min(ends)) or 0.5
    return np.linspace(min(ends) - margin, max(ends) + margin, CELLS + 1)


def _exact(log_p: Callable[[torch.Tensor], torch.Tensor], edges: Sequence[np.ndarray]) -> np.ndarray:
    """p(z) at the centre of each cell."""
    centres = [torch.as_tensor((e[1:] + e[:-1]) / 2) for e in edges]
    points = torch.cartesian_prod(*centres).reshape(-1, len(edges))
    with torch.no_grad():
        return log_p(points).double().exp().cpu().numpy().reshape([CELLS] * len(edges))


def _estimated(drawn: np.ndarray, edges: Sequence[np.ndarray]) -> np.ndarray:
    """p(z) at the centre of each cell: a histogram of draws, smoothed as Scott's rule has it for the highest mode."""
    density = np.histogramdd(drawn, edges)[0] / len(drawn)
    for axis, (rows, e) in enumerate(zip(drawn.T, edges, strict=True)):
        ranked, tenth = np.sort(rows), len(rows) // 10
        # 0.2513 of the spread of a normal; the spread of several modes together would blur each
        spread = (ranked[tenth:] - ranked[:-tenth]).min() / 0.2513
        width = max(spread * len(rows) ** (-1 / (len(edges) + 4)), e[1] - e[0])
        centres = (e[1:] + e[:-1]) / 2
        kernel = np.exp(-(((centres[:, None] - centres) / width) ** 2) / 2) / (width * math.sqrt(2 * math.pi))
        density = np.moveaxis(np.tensordot(kernel, density, (1, axis)), 0, axis)
    return density


def _plane(rows: np.ndarray, site: str) -> tuple[Callable[[np.ndarray], np.ndarray], list[str]]:
    """What shows codes in a plane, and what to call its axes: two principal components where there are more units."""
    from sklearn.decomposition import PCA

    if rows.shape[1] < 3:
        return np.asarray, [f"{site}, unit {unit}" for unit in range(rows.shape[1])]
    if not rows.var(0).any():
        raise ValueError(f"data: expected more than one code at {site!r} to project, found {len(rows)} alike")
    pca = PCA(2).fit(rows)
    shares = [f"{share:.0%} of the variance" for share in pca.explained_variance_ratio_]
    return pca.transform, [f"{site}, component {i + 1} ({share})" for i, share in enumerate(shares)]


def _labels(labels: Any, data: Any, found: int, most: int | None = None) -> np.ndarray | None:
    """Labels of the data, of those that are shown."""
    labels = getattr(data, "labels", None) if labels is None else labels
    if labels is None:
        return None
    labels = np.asarray(labels).reshape(-1)
    if len(labels[:most]) != found:
        raise ValueError(f"labels: expected {found}, one per datum, found {len(labels)}")
    return labels[:most]


def _groups(labels: np.ndarray | None) -> dict[str, np.ndarray]:
    """Which data belong to each class; empty where labels are a quantity or missing."""
    if labels is None or labels.dtype.kind == "f":
        return {}
    groups = {str(label): labels == label for label in np.unique(labels)}
    return {} if labels.dtype.kind in "iu" and len(groups) > MOST_CLASSES else groups


def _scatter(ax: Axes, points: np.ndarray, labels: np.ndarray | None, size: float = 9) -> None:
    groups = _groups(labels)
    for label, chosen in groups.items():
        ax.scatter(points[chosen, 0], points[chosen, 1], s=size, linewidths=0, alpha=0.8, label=label)
    if not groups:
        drawn = ax.scatter(points[:, 0], points[:, 1], s=size, linewidths=0, alpha=0.8, c=labels)
        if labels is not None:
            ax.figure.figure.colorbar(drawn, ax=ax)
    ax.set_aspect("equal")


def _histogram(ax: Axes, points: np.ndarray, labels: np.ndarray | None, **options: Any) -> None:
    groups = _groups(labels)
    parts = [points[chosen, 0] for chosen in groups.values()]
    ax.hist(parts or points[:, 0], stacked=True, label=list(groups) or None, **({"bins": 40} | options))


def _over_plane(
    ax: Axes,
    points: np.ndarray | None,
    labels: np.ndarray | None,
    edges: Sequence[np.ndarray],
    density: np.ndarray,
    site: str,
) -> None:
    """Points over a shaded density, and lines around regions of it."""
    ranked = np.sort(density, axis=None)[::-1]
    mass = np.cumsum(ranked) * np.prod([e[1] - e[0] for e in edges])
    # of the densest 5% all is alike, or next to a pole nothing else would have a shade
    most, *levels = ranked[np.searchsorted(mass, [0.05, *REGIONS]).clip(max=len(ranked) - 1)]
    extent = (edges[0][0], edges[0][-1], edges[1][0], edges[1][-1])
    ax.imshow(density.T, origin="lower", extent=extent, cmap=SHADES, vmin=0, vmax=most or 1, interpolation="bilinear")
    if points is not None:
        _scatter(ax, points, labels, 6)
    # a uniform density has none, and one with heavy tails reaches beyond what is shown
    lines = {level: f"{share:.0%}" for level, share in zip(levels, REGIONS, strict=True) if most > level > ranked[-1]}
    if lines:
        centres = [(e[1:] + e[:-1]) / 2 for e in edges]
        ax.contour(*centres, density.T, sorted(lines), colors="0.2", linewidths=0.8, zorder=3)
    ax.set(xlim=extent[:2], ylim=extent[2:])
    regions = ", ".join(lines[level] for level in sorted(lines, reverse=True))
    _entitle(ax, points, edges, site, f"lines: {regions} of p({site})" if lines else f"grey: p({site})")


def _over_line(
    ax: Axes,
    points: np.ndarray | None,
    labels: np.ndarray | None,
    edges: Sequence[np.ndarray],
    density: np.ndarray,
    site: str,
) -> None:
    """A histogram, and a density as a line."""
    (e,) = edges
    if points is not None:
        _histogram(ax, points, labels, bins=e[::5], density=True)
    ax.plot((e[1:] + e[:-1]) / 2, density, color="black", linewidth=1.2)
    ax.set_xlim(e[0], e[-1])
    _entitle(ax, points, edges, site, f"line: p({site})")


def _entitle(ax: Axes, points: np.ndarray | None, edges: Sequence[np.ndarray], site: str, prior: str) -> None:
    """Say what is shown, and how many codes are not."""
    title = prior
    if points is not None:
        ends = np.array([(e[0], e[-1]) for e in edges])
        outside = int(((points < ends[:, 0]) | (points > ends[:, 1])).any(1).sum())
        missing = f" ({outside} of {len(points)} outside)" if outside else ""
        title = f"{'points' if len(edges) == 2 else 'bars'}: {site} ~ q({site} | x){missing};  {prior}"
    ax.set_title(title, fontsize="small")


def _legend(ax: Axes) -> None:
    if ax.get_legend_handles_labels()[0]:
        ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5), markerscale=2)


def _axes(ax: Axes | None, width: float, height: float) -> Axes:
    return plt.subplots(figsize=(width, height), layout="constrained")[1] if ax is None else ax


def _tiled(images: np.ndarray, ax: Axes | None, rows: Ticks = BARE, columns: Ticks = BARE) -> Figure:
    """Show (rows, columns, H, W, channels) as one array, with thin white gaps."""
    scale = math.ceil(16 / max(images.shape[2:4]))  # so that a gap of one pixel is thin
    images = images.repeat(scale, 2).repeat(scale, 3)
    down, across, height, width, channels = images.shape
    gap = max(height, width) // 16
    canvas = np.ones((down, height + gap, across, width + gap, channels), images.dtype)
    canvas[:, :height, :, :width] = images.swapaxes(1, 2)
    canvas = canvas.reshape(down * (height + gap), across * (width + gap), channels)[:-gap, :-gap]
    side = min(max(0.6, height / 60), 7.5 / max(down, across * width / height))  # inches
    left = 0.2 * bool(rows[0]) + 0.1 * max(map(len, rows[1].values()), default=0)
    below = 0.2 * bool(columns[0]) + 0.25 * bool(columns[1])
    ax = _axes(ax, side * across * width / height + left, side * down + below)
    pixels = canvas.squeeze(-1) if channels == 1 else canvas
    smooth = "nearest" if max(pixels.shape) < 500 else "antialiased"  # large ones may have to shrink
    ax.imshow(pixels, cmap="gray", vmin=0, vmax=1, interpolation=smooth)
    for axis, (name, labels), size in ((ax.yaxis, rows, height), (ax.xaxis, columns, width)):
        axis.set_ticks([i * (size + gap) + (size - 1) / 2 for i in labels], list(labels.values()))
        axis.set_tick_params(length=0)
        axis.set_label_text(name)
    ax.spines[:].set_visible(False)
    return ax.figure.figure
