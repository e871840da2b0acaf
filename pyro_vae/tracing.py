"""What every pair has in common, read off its traces: sites, draws and log-weights per datum.

Everything here takes two Pyro programs and a batch, a mapping from observed sites to tensors whose
first dimension is the data plate (the rightmost plate, dim -1).
"""

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions import ImproperUniform
from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger, _bound_partial
from pyro.poutine.runtime import effectful
from pyro.poutine.util import site_is_factor, site_is_subsample
from torch import Tensor

from pyro_vae import checks, families
from pyro_vae.story import SHARED

Program = Callable[..., Any]
Batch = Mapping[str, Any]
Site = Mapping[str, Any]


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Random numbers that depend on ``seed`` alone, leaving the caller's generators as they were.

    With None the caller's generators are used as they are.
    """
    if seed is None:
        yield
        return
    with forked():
        torch.manual_seed(seed)
        yield


@contextmanager
def forked() -> Iterator[None]:
    """Whatever is drawn, the caller's generators are in the end what they were."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=list(devices)):
        yield


@contextmanager
def resting(module: torch.nn.Module) -> Iterator[None]:
    """No dropout, and no running average moves; each module is then in the mode that it was in."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def reseed(seed: int, device: torch.device | None) -> None:
    """Start the generators that a program on ``device`` draws from anew.

    ``torch.manual_seed`` would set those of every kind of device, at the price of a tenth of a small step.
    """
    if device is not None and device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


def sites(trace: poutine.Trace) -> dict[str, Site]:
    """The random sites of each datum: no plates, no deterministic values, no extra factors, nothing that all share."""
    nodes: dict[str, Any] = dict(trace.nodes)
    return {
        name: site
        for name, site in nodes.items()
        if site["type"] == "sample"
        and not site_is_subsample(site)
        and not site_is_factor(site)
        and not site["infer"].get("_deterministic")
        and not site["infer"].get(SHARED)
    }


def latent_sites(trace: poutine.Trace) -> dict[str, Site]:
    """The sites that a program drew."""
    return {name: site for name, site in sites(trace).items() if not site["is_observed"]}


def shared_sites(trace: poutine.Trace) -> dict[str, Site]:
    """The sites that all data share, as :class:`pyro_vae.story.Story` draws them."""
    nodes: dict[str, Any] = dict(trace.nodes)
    return {name: site for name, site in nodes.items() if site["type"] == "sample" and site["infer"].get(SHARED)}


def observed_sites(trace: poutine.Trace, names: Iterable[str] = ()) -> dict[str, Site]:
    """The sites at which a program took in data.

    Raises:
        ValueError: where none of them has one of ``names``.
    """
    observed = {name: site for name, site in sites(trace).items() if site["is_observed"]}
    for name in names:
        if name not in observed:
            raise ValueError(f"{name}: the model observes no site of that name; it observes {sorted(observed)}")
    return observed


def arguments(program: Program) -> tuple[list[str], bool]:
    """The sites that a program takes by name, and whether it takes any others besides.

    An argument with a default of its own, such as ``scale=1.0``, is a setting and no site.
    """
    parameters = _parameters(program)
    named = [
        n
        for n, p in parameters.items()
        if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL) and n != "n" and p.default in (p.empty, None)
    ]
    return named, any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def required(program: Program) -> list[str]:
    """The arguments without which a program cannot run."""
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [n for n, p in _parameters(program).items() if p.kind in by_name and p.default is p.empty]


def _parameters(program: Program) -> Mapping[str, inspect.Parameter]:
    _, bare = _unwrapped(program)
    if isinstance(bare, torch.nn.Module) and not hasattr(bare, "__signature__"):  # which one may have of its own
        bare = bare.forward
    return inspect.signature(bare).parameters


def handlers(program: Program) -> list[Any]:
    """The effect handlers that a program stands under, as far as they can be told."""
    around, bare = _unwrapped(program)
    return [*around, *getattr(bare, "handlers", ())]


def bare(program: Program) -> Program:
    """The program without the handlers around it."""
    inner = _unwrapped(program)[1]
    return getattr(inner, "program", inner)


def _unwrapped(program: Any) -> tuple[list[Any], Any]:
    """What ``handler(program)`` was made of; Pyro keeps the two as arguments of a partial function."""
    around = []
    while isinstance(program, _bound_partial):
        handler, program = program.func.args[:2]  # type: ignore[attr-defined]
        around.append(handler)
    return around, program


def is_local(site: Site) -> bool:
    """Whether a site lies inside the data plate, so that each datum has its own copy."""
    return any(frame.vectorized and frame.dim == -1 for frame in site["cond_indep_stack"])


def plate_nesting(*traces: poutine.Trace) -> int:
    """How many dimensions the plates of the programs take."""
    frames = [f for trace in traces for site in sites(trace).values() for f in site["cond_indep_stack"]]
    return max((-f.dim for f in frames if f.vectorized), default=1)


def plate_of(site: Site) -> Any:
    """The data plate that a site stands in, opened again."""
    frame = next(frame for frame in site["cond_indep_stack"] if frame.dim == -1)
    with poutine.block(hide=[frame.name]):  # it is in the trace already
        return pyro.plate(frame.name, frame.size)


def side_by_side(sites: Sequence[Site]) -> Tensor:
    """The values of some sites, as one vector for each datum."""
    events = [site["value"].dim() - site["fn"].event_dim for site in sites]
    batch = torch.broadcast_shapes(*(site["value"].shape[:n] for site, n in zip(sites, events, strict=True)))
    rows = [site["value"].reshape(*site["value"].shape[:n], -1) for site, n in zip(sites, events, strict=True)]
    return torch.cat([row.expand(*batch, -1).to(rows[0].dtype) for row in rows], -1)


@effectful(type="hidden")
def _hidden(value: Tensor) -> Tensor | None:
    return None


@effectful(type="filled")
def _filled(value: Tensor) -> Tensor:
    return value


def hidden(name: str, value: Tensor, *, given: bool = False) -> Tensor | None:
    """Which entries of a site's data are hidden, as handlers such as :class:`pyro_vae.infer.observed` say.

    ``given`` tells that the site is a condition. None where no handler speaks of the site.
    """
    return _hidden(value, name=name, infer={"given": given})


def filled(batch: Batch) -> dict[str, Any]:
    """A batch as a guide reads it: with something in place of the entries that are hidden."""
    return {name: _filled(value, name=name) if isinstance(value, Tensor) else value for name, value in batch.items()}


def filled_arguments(program: Program, args: Any, kwargs: Batch) -> tuple[Any, dict[str, Any]]:
    """As :func:`filled`, where some arguments of a program have no name."""
    names = list(_parameters(program)) if args else []
    first = filled(dict(zip(names, args, strict=False)))
    return (*first.values(), *args[len(first) :]), filled(kwargs)


class prepared(Messenger):  # a context, as handlers are
    """Tells the handlers around it that data come from :meth:`Variant.prepare`: NaN is what is hidden, and only that.

    Data may then be divided, shuffled and copied as they need be, whatever the shape of a mask.
    """

    def _process_message(self, msg: Any) -> None:
        msg["infer"]["prepared"] = True


def paired(model: Program, guide: Program, batch: Batch) -> tuple[poutine.Trace, poutine.Trace]:
    """Traces of the guide and of the model on the guide's draws."""
    guide_trace = poutine.trace(guide).get_trace(**filled(batch))
    model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(**batch)
    observed = observed_sites(model_trace)
    if not any("hidden" in site["infer"] for site in observed.values()):  # or else under a name of the story's own
        observed_sites(model_trace, [n for n in batch if n not in observed and torch.isnan(batch[n]).any()])
    for name, site in observed.items():
        mask = site["infer"].get("hidden")
        if mask is not None and name in batch and torch.isnan(batch[name]).sum() > mask.sum():
            raise ValueError(f"{name}: the model observes a function of it that loses NaN, which marks what is hidden")
    return guide_trace, model_trace


def codes_alone(model: Program, guide: Program, batch: Batch) -> tuple[poutine.Trace, poutine.Trace]:
    """As :func:`paired`, but the model runs no further than its last latent site: no data are explained."""
    guide_trace = poutine.trace(guide).get_trace(**filled(batch))
    shared = [name for name, site in latent_sites(guide_trace).items() if not site["infer"].get("is_auxiliary")]
    return guide_trace, until(shared, poutine.replay(model, trace=guide_trace), batch)


def until(names: Iterable[str], program: Program, batch: Batch) -> poutine.Trace:
    """The trace of a program as far as the last of some sites."""
    tracer = poutine.trace()
    with suppress(_Enough), tracer, _Until(names):
        program(**batch)
    return tracer.get_trace()


def _has_points(distribution: Any) -> bool:
    """Whether single values have a probability of their own."""
    return families.is_point(distribution) or families.is_discrete(distribution)


@dataclass
class Terms:
    """The terms of the ELBO, one entry per site, each of shape (particles, batch), in nats.

    ``data``: log p(x | ...);  ``prior``: log p(z | ...), in the order of the model;  ``posterior``: log q(z | ...), in
    that of the guide;  ``mean``: E_q[z | ancestors], of shape (particles, batch, units), where q has a mean;
    ``probs``: q(z | ancestors) of categories, in place of their mean, of shape (particles, batch, codes, categories);
    ``units``: log q - log p of each unit, of the same shape, where both factorise into units.

    Of codes alone ``data`` is empty; ``units`` is, where it is not of codes alone. ``unscored`` says of latent sites
    why they have no density, and no ELBO: their terms are NaN.
    """

    data: dict[str, Tensor]
    prior: dict[str, Tensor]
    posterior: dict[str, Tensor]
    mean: dict[str, Tensor]
    probs: dict[str, Tensor]
    units: dict[str, Tensor]
    #: how many numbers a code of each site has
    width: dict[str, int]
    unscored: dict[str, str] = field(default_factory=dict)

    @property
    def reconstruction(self) -> Tensor:
        """log p(x | z), over all data sites."""
        return torch.stack(list(self.data.values())).sum(0)

    @property
    def kl(self) -> dict[str, Tensor]:
        """log q - log p of each latent site, whose expectation is its KL divergence."""
        return {name: q - self.prior.get(name, 0.0) for name, q in self.posterior.items()}

    @property
    def log_weights(self) -> Tensor:
        """log p(x, z) - log q(z | x)."""
        return self.reconstruction - sum(self.kl.values())


def from_prior(model: Program, given: Iterable[str]) -> Program:
    """A guide that draws latent sites as the model does, from what is given alone."""

    def guide(**batch: Any) -> None:
        held = {name: batch[name] for name in given if name in batch}
        with poutine.block(hide=list(batch)):
            poutine.condition(poutine.uncondition(model), data=held)(**batch)

    return guide


def check_shape(name: str, site: Site) -> None:
    """A value that would be broadcast against its distribution would be scored many times over."""
    fn, found = site["fn"], tuple(site["value"].shape)
    if found != tuple(fn.batch_shape + fn.event_shape):
        wanted = ", ".join(map(str, (*fn.batch_shape[:-1], "batch", *fn.event_shape)))
        raise ValueError(
            f"{name}: expected values of shape ({wanted}), found {found} for a batch of {fn.batch_shape[-1]}"
        )


def check(guide_trace: poutine.Trace, model_trace: poutine.Trace) -> None:
    """Both programs speak of the same sites, each datum has its own, and values fit their distributions."""
    posterior, drawn = latent_sites(guide_trace), latent_sites(model_trace)
    alone = [name for name in shared_sites(model_trace) if name not in shared_sites(guide_trace)]
    if alone:
        raise ValueError(f"guide: lacks the sites {alone} of the model, which all data share; see pv.completed")
    missing = [name for name in drawn if name not in posterior]
    if missing:
        raise ValueError(f"guide: lacks the latent sites {missing} of the model")
    told = {**drawn, **shared_sites(model_trace)}
    found = {**posterior, **shared_sites(guide_trace)}
    strangers = [n for n, s in found.items() if n not in told and not s["infer"].get("is_auxiliary")]
    if strangers:
        raise ValueError(f"model: lacks the sites {strangers} that the guide draws")
    for name, site in {**posterior, **sites(model_trace)}.items():
        if not is_local(site):
            raise ValueError(
                f"site {name!r}: stands outside the data plate; bounds per datum need every site inside "
                f"`with pyro.plate('data', batch, dim=-1)`"
            )
    for name, site in sorted(sites(model_trace).items(), key=lambda item: not item[1]["is_observed"]):
        check_shape(name, site)  # data first: codes are computed from them


def unscored(guide_trace: poutine.Trace, model_trace: poutine.Trace) -> dict[str, str]:
    """The latent sites without a density, which leave the pair without an ELBO, and why."""
    found, drawn = {}, latent_sites(model_trace)
    for name, site in latent_sites(guide_trace).items():
        if name in drawn and not families.has_density(drawn[name]["fn"]):
            found[name] = (
                f"{name} has a prior that can only be sampled, so that log p({name}) and with it the ELBO are not known"
            )
        elif name in drawn and families.is_point(site["fn"]) and not _has_points(drawn[name]["fn"]):
            found[name] = (
                f"q({name} | x) is a point, whose KL from a prior with a density is infinite, so that there is no ELBO"
            )
    return found


def _terms(
    model: Program,
    guide: Program,
    batch: Batch,
    particles: int,
    given: tuple[str, ...],
    dim: int,
    codes: bool,
    partly: bool,
) -> Terms:
    """Terms of ``particles`` draws at once: in a plate of their own at ``dim``, or (0) as copies of the data."""
    size = len(next(iter(batch.values())))
    run = codes_alone if codes else paired
    if dim:
        with pyro.plate("_particles", particles, dim=dim):
            guide_trace, model_trace = run(model, guide, batch)
    else:
        guide_trace, model_trace = run(model, guide, copied(batch, particles))
    return scored(guide_trace, model_trace, particles, size, given, dim, codes=codes, partly=partly)


def scored(
    guide_trace: poutine.Trace,
    model_trace: poutine.Trace,
    particles: int,
    size: int,
    given: tuple[str, ...] = (),
    dim: int = 0,
    *,
    codes: bool = False,
    partly: bool = False,
) -> Terms:
    """The terms of two traces: of ``particles`` in a plate at ``dim``, or (0) as copies of the ``size`` data."""
    shared = {**shared_sites(guide_trace), **shared_sites(model_trace)}  # which are in no term of a datum
    without = unscored(guide_trace, model_trace)
    for why in () if partly else without.values():
        raise NotImplementedError(f"{why}; sample, encode, reconstruct and evaluate do without")
    for trace in (guide_trace, model_trace):
        trace.compute_log_prob(lambda name, site: name not in shared and name not in without)
    posterior, drawn = latent_sites(guide_trace), latent_sites(model_trace)
    data = {n: s for n, s in sites(model_trace).items() if s["is_observed"] and n not in given}

    def per_datum(group: dict[str, Site]) -> dict[str, Tensor]:
        def unknown(site: Site) -> Tensor:
            return torch.full((particles, size), math.nan, device=site["value"].device)

        return {
            name: unknown(site) if name in without else folded(log_prob(site), 0, particles, size, dim).sum(-1)
            for name, site in group.items()
        }

    def per_unit(group: dict[str, Tensor | None]) -> dict[str, Tensor]:
        return {
            name: folded(value, posterior[name]["fn"].event_dim, particles, size, dim)
            for name, value in group.items()
            if value is not None
        }

    categories = {name: families.probabilities(site["fn"]) for name, site in posterior.items()}
    means = per_unit({name: mean(site["fn"]) for name, site in posterior.items() if categories[name] is None})
    probs = {
        name: folded(p, 2, particles, size, dim).unflatten(-1, (-1, p.shape[-1]))
        for name, p in categories.items()
        if p is not None
    }
    scorable = [name for name in drawn if codes and name not in without]
    units = per_unit({name: _kl_by_unit(posterior[name], drawn[name]) for name in scorable})
    width = {name: site["value"].numel() // (particles * size) for name, site in posterior.items()}
    return Terms(per_datum(data), per_datum(drawn), per_datum(posterior), means, probs, units, width, without)


def _kl_by_unit(posterior: Site, prior: Site) -> Tensor | None:
    """log q - log p of each unit at the value drawn, in the shape of the value; None where units do not factorise."""
    log_q, log_p = _log_prob_by_unit(posterior), _log_prob_by_unit(prior)
    return None if log_q is None or log_p is None else log_q - log_p


def _log_prob_by_unit(site: Site) -> Tensor | None:
    """As :func:`log_prob`, before it is summed over the event."""
    fn, mask = site["fn"], site["mask"]
    if isinstance(mask, Tensor):
        mask = mask[(..., *[None] * fn.event_dim)]
    while isinstance(fn, torch.distributions.Independent):
        fn = fn.base_dist
    return None if fn.event_shape else scale_and_mask(fn.log_prob(site["value"]), mask=mask)


def log_prob(site: Site) -> Tensor:
    """log p of a site: what is masked counts nothing, and no handler or subsampled plate weighs the rest."""
    return scale_and_mask(site["unscaled_log_prob"], mask=site["mask"])


def folded(value: Tensor, event_dim: int, particles: int, size: int, dim: int) -> Tensor:
    """A site's quantity as (particles, batch, the rest of it)."""
    rows = value.movedim(-1 - event_dim, 0)  # the data plate; that of the particles is the leftmost
    return (rows.movedim(1, 0) if dim else rows).reshape(particles, size, -1)


def copied(batch: Batch, particles: int) -> dict[str, Any]:
    """The data so many times over, one copy after the other."""
    return {name: value.repeat(particles, *[1] * (value.dim() - 1)) for name, value in batch.items()}


def mean(distribution: Any) -> Tensor | None:
    """The mean of a distribution, or None where it has none (a Cauchy) or none is known (a flow)."""
    try:
        value = distribution.mean
    except (AttributeError, NotImplementedError):
        return None
    return value if torch.isfinite(value).all() else None


def centre(distribution: Any) -> Tensor | None:
    """A code that stands for a distribution; None where it has none.

    Its mean, or what its support holds nearest to that, as on a sphere; the mode of a discrete distribution, or of one
    without a mean; of a normal mapped onto another support, where its mean is mapped to.
    """
    found = None if families.is_discrete(distribution) else mean(distribution)
    if found is not None:
        return families.nearest(distribution.support, found)
    base = families.base(distribution)
    if isinstance(base, torch.distributions.TransformedDistribution):
        found = mean(base.base_dist)
        for transform in base.transforms if found is not None else ():
            found = transform(found)
        return found
    try:
        return distribution.mode.nan_to_num(1.0)  # of a fair coin torch knows none
    except (AttributeError, NotImplementedError):
        return None


def rows_for(batch: Batch, rows: int | None = None) -> int:
    """How many data to work on at a time: ``rows``, or so many that caches hold what a network says of them."""
    if rows is not None:
        return checks.positive_int("rows", rows)
    largest = max((value[0].numel() for value in batch.values()), default=4096)
    return max(min(2**21 // largest, 2048), 16)


def slices(size: int, length: int) -> Iterator[slice]:
    """Consecutive slices of at most ``length`` that cover ``size``."""
    for start in range(0, size, length):
        yield slice(start, min(start + length, size))


def terms(
    model: Program,
    guide: Program,
    batch: Batch,
    particles: int,
    given: tuple[str, ...] = (),
    rows: int = 4096,
    *,
    codes: bool = False,
    partly: bool = False,
) -> Iterator[tuple[slice, Terms]]:
    """Terms of ``particles`` draws per datum, never more than ``rows`` decoded at a time.

    ``given`` names the observed sites that are conditions. Yields the slice of the data that the terms
    belong to; each slice comes up until all its particles are drawn. With ``codes`` the terms are those of the codes
    alone, unit by unit too, and nothing is decoded. With ``partly`` a pair may lack the terms of some sites.

    Raises:
        ValueError: where a site stands outside the data plate, its values do not have the shape of its
            distribution, or the latent sites of model and guide differ.
        NotImplementedError: where a site has no density, unless ``partly``.
    """
    size = len(next(iter(batch.values())))
    with prepared():
        dim, shared = _look(model, guide, batch, particles)
    # draws share one pass of the encoder; but not one draw of what all data share, which has no place among copies
    together = 1 if shared and not dim else min(particles, 256, rows)
    for part in slices(size, max(rows // together, 1)):
        chunk = {name: value[part] for name, value in batch.items()}
        for draw in slices(particles, together):
            # data that were looked at with their first draws need not be looked at with each
            looked = pyro.validation_enabled(False) if draw.start else nullcontext()
            with prepared(), looked:
                found = _terms(model, guide, chunk, draw.stop - draw.start, given, dim, codes, partly)
            yield part, found


def _look(model: Program, guide: Program, batch: Batch, particles: int) -> tuple[int, bool]:
    """Try a pair on two data: where a plate of particles may stand, as :func:`_terms` takes it; is anything shared?

    A network that knows one batch dimension only, where another may not stand to its left, is told by its
    errors and by the shapes that it gives; copies of the data then take the place of the plate.
    """
    few = {name: value[:2] for name, value in batch.items()}
    size = len(next(iter(few.values())))
    with seeded(0):
        traces = paired(model, guide, few)
        check(*traces)
        shared = bool(shared_sites(traces[0]))
        if particles == 1:
            return 0, shared
        dim = -1 - plate_nesting(*traces)
        frames = [f for trace in traces for site in sites(trace).values() for f in site["cond_indep_stack"]]
        several = 1 + max(frame.size for frame in frames)  # a size that no other plate has
        try:
            with pyro.plate("_particles", several, dim=dim):
                traces = paired(model, guide, few)
        except Exception:  # whatever a network says of a shape that it does not know
            return 0, shared
    guide_trace, model_trace = traces
    drawn = latent_sites(model_trace)  # at what the guide drew: a prior that depends on no draw need not be repeated
    apart = [s["fn"].batch_shape for t in traces for n, s in sites(t).items() if t is guide_trace or n not in drawn]
    alike = all(len(s) == -dim and s[0] == several and s[-1] == size for s in apart)
    return (dim if alike and all(s["fn"].batch_shape[-1:] == (size,) for s in drawn.values()) else 0), shared


def dimensions(model: Program, guide: Program, batch: Batch, given: tuple[str, ...] = ()) -> int:
    """How many numbers a datum consists of, over all observed sites but the conditions."""
    _, trace = paired(model, guide, batch)
    observed = {n: s for n, s in sites(trace).items() if s["is_observed"] and n not in given}
    return sum(site["value"].numel() for site in observed.values()) // len(next(iter(batch.values())))


class Totals:
    """Running sums over data of the terms of the ELBO, averaged over particles; nats."""

    def __init__(self, particles: int = 1) -> None:
        self.particles = particles
        self.reconstruction = 0.0
        self.kl: dict[str, float] = {}

    def add(self, terms: Terms) -> None:
        """Take in some of the particles of some of the data."""

        def share(value: Tensor) -> float:
            return float(value.double().sum()) / self.particles

        self.reconstruction += share(terms.reconstruction)
        for site, value in terms.kl.items():
            self.kl[site] = self.kl.get(site, 0.0) + share(value)

    @property
    def elbo(self) -> float:
        """What is reconstructed less what the codes cost."""
        return self.reconstruction - sum(self.kl.values())


class Moments:
    """Running sums of log-weights over particles, enough for the bounds on log p(x).

    elbo = mean_k log w_k,  log_likelihood = log mean_k w_k,  ess = (sum_k w_k)^2 / sum_k w_k^2
    """

    def __init__(self, size: int) -> None:
        self.count = torch.zeros(size, dtype=torch.float64)
        self.total = torch.zeros(size, dtype=torch.float64)
        self.log_sum = torch.full((size,), -math.inf, dtype=torch.float64)
        self.log_sum_squares = torch.full((size,), -math.inf, dtype=torch.float64)
        self.like = self.total  # dtype and device of the weights that were taken in last

    def add(self, part: slice, log_weights: Tensor) -> None:
        """Take in a (particles, batch) tensor of the data in ``part``."""
        self.like = log_weights
        w = log_weights.double().cpu()
        self.count[part] += len(w)
        self.total[part] += w.sum(0)
        self.log_sum[part] = torch.logaddexp(self.log_sum[part], w.logsumexp(0))
        self.log_sum_squares[part] = torch.logaddexp(self.log_sum_squares[part], (2 * w).logsumexp(0))

    @property
    def elbo(self) -> Tensor:
        """E_q[log w] per datum."""
        return self.total / self.count

    @property
    def log_likelihood(self) -> Tensor:
        """log mean w per datum (Burda et al. 2016, arXiv:1509.00519)."""
        return self.log_sum - self.count.log()

    @property
    def effective_sample_size(self) -> Tensor:
        """Between 1 and the number of particles, per datum."""
        return (2 * self.log_sum - self.log_sum_squares).exp()


class _Inspection(Messenger):
    """Looks at what is given as soon as a model comes to its site, before any network reads it."""

    def __init__(self, names: Iterable[str]) -> None:
        super().__init__()
        self.names = set(names)

    def _pyro_sample(self, msg: Any) -> None:
        base = families.base(msg["fn"])
        if isinstance(base, ImproperUniform) and not msg["is_observed"] and msg["value"] is None:
            name = msg["name"]
            raise ValueError(f"{name}: missing; it has no density to be drawn from: pass it, as in {name}=...")

    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["name"] in self.names:
            check_shape(msg["name"], msg)
            checks.support(msg["fn"], msg["value"], msg["name"])


class _Enough(Exception):
    """All that was to be looked at has been seen."""


class _Until(Messenger):
    """Stops a program as soon as it has come by all of some sites; handlers around this one see the last of them."""

    def __init__(self, names: Iterable[str]) -> None:
        super().__init__()
        self.names = set(names)

    def _pyro_post_sample(self, msg: Any) -> None:
        self.names.discard(msg["name"])
        if not self.names:
            raise _Enough


def check_given(model: Program, names: Iterable[str], batch: Batch) -> None:
    """Hold what is given against its sites; the model runs no further than the last of them.

    Raises:
        ValueError: where a condition has another shape than its site, or lies outside the site's support.
    """
    if all(name in batch for name in required(model)):
        with suppress(_Enough), _Inspection(names), _Until(names):
            model(**batch)


def dream(model: Program, n: int, fixed: Batch, given: Batch, example: Batch | None) -> poutine.Trace:
    """Trace of a model that draws its data: ``fixed`` holds latent sites in place, ``given`` the conditions.

    A model that takes ``n`` is asked for n data; another is run on copies of ``example`` with its
    observations taken back.
    """
    if "n" in _parameters(model):
        program = model
        arguments: dict[str, Any] = {"n": n, **given}
    elif given and all(p.default is not p.empty or name in given for name, p in _parameters(model).items()):
        program, arguments = model, dict(given)  # the conditions say how many
    elif example is not None:
        program = poutine.uncondition(model)
        arguments = {k: v[:1].expand(n, *v.shape[1:]) for k, v in example.items()} | dict(given)
    else:
        raise ValueError(
            "model: cannot be asked for data without a batch; give it the arguments `x=None, n=1` "
            "(n data where x is None), or call .elbo(...) or pv.fit once, so that shapes are known"
        )
    with _Inspection(given):
        return poutine.trace(poutine.condition(program, data={**fixed, **given})).get_trace(**arguments)
