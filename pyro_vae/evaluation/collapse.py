"""The collapse report: which levels of a code, and which of their units, tell anything of the data."""

import itertools
import math
from dataclasses import dataclass, field
from typing import Any

import pyro
from torch import Tensor

from pyro_vae import checks, describe, tracing
from pyro_vae.data import batches
from pyro_vae.evaluation.top_level import top_level_information
from pyro_vae.infer.activity import ADVICE, Activity, code_terms, collapsed, verdict
from pyro_vae.infer.usage import Usage
from pyro_vae.tracing import seeded
from pyro_vae.variant import Variant


@dataclass(frozen=True, eq=False)
class Level:
    """One latent site, over the ``data`` at which it is latent; in nats per datum.

    ``unit_kl``, (units,), adds up to ``kl``; None where posterior and prior do not both factorise into units.
    ``variance``, (units,), is Var_x E_q[u], and ``active`` counts those above 0.01; None where the posterior has no
    mean, and of a single datum. Units are in the order of the site's event, flattened, within its inner plates.
    """

    site: str
    kl: float
    units: int
    active: int | None
    unit_kl: Tensor | None
    variance: Tensor | None
    data: int

    @property
    def collapsed(self) -> bool:
        """Whether the level has collapsed onto its prior; of a single datum nothing is known."""
        return self.data > 1 and bool(collapsed(self.site, self.kl, self.units, self.active))

    @property
    def verdict(self) -> str:
        """In words, where the level or some of its units have collapsed; else empty."""
        return verdict(self.site, self.kl, self.units, self.active) if self.data > 1 else ""

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and lists."""
        return {k: v.tolist() if isinstance(v, Tensor) else v for k, v in vars(self).items()}


@dataclass(frozen=True, eq=False)
class Collapse:
    """What :func:`collapse_report` found; prints as a table. Levels are in the order of the model, the top level first.

    ``report["z1"]`` is the level of a site. ``mutual_information`` is that of the data and the ``top`` level, in nats,
    from ``draws`` codes; None where the pair has conditions, labels or no latent sites, or where the data are not the
    same at each pass.
    """

    levels: tuple[Level, ...]
    particles: int
    data: int
    mutual_information: float | None
    mutual_information_error: float | None
    draws: int

    def __getitem__(self, site: str) -> Level:
        found = {level.site: level for level in self.levels}
        return found[checks.known("site", site, found)]

    @property
    def top(self) -> str:
        """The first latent site of the model."""
        return next((level.site for level in self.levels), "")

    @property
    def verdicts(self) -> list[str]:
        """In words, where levels or units have collapsed onto their prior."""
        return [level.verdict for level in self.levels if level.verdict]

    @property
    def advice(self) -> str:
        """What may help, where a whole level has collapsed; else empty."""
        return ADVICE if any(level.collapsed for level in self.levels) else ""

    def to_dict(self) -> dict[str, Any]:
        """The report as plain numbers and lists, ready for JSON: None in place of what is not a number."""
        figures = vars(self) | {"levels": {level.site: level.to_dict() for level in self.levels}}
        return {k: None if v != v else v for k, v in figures.items()} | {"verdicts": self.verdicts}

    def __str__(self) -> str:
        lines = describe.table(("", "KL", "active units", "KL of a unit"), [_row(level) for level in self.levels])
        lines.append(f"nats per datum, {self.particles} particles, {self.data} data; the top level stands first")
        if self.mutual_information is not None:
            lines.append(
                f"mutual information of x and {self.top}: {self.mutual_information:.3f} +- "
                f"{self.mutual_information_error:.3f}; at most log N = {math.log(self.data):.3f} ({self.draws} draws)"
            )
        return "\n".join([*lines, *self.verdicts, *filter(None, [self.advice])])


def _row(level: Level) -> tuple[str, str, str, str]:
    active = "-" if level.active is None else str(level.active)
    each = "-" if level.unit_kl is None else f"{float(level.unit_kl.min()):z.3f} to {float(level.unit_kl.max()):z.3f}"
    return level.site, f"{level.kl:z.3f}", f"{active} of {level.units}", each


def collapse_report(
    variant: Variant,
    data: Any,
    *,
    particles: int = 16,
    seed: int = 0,
    batch_size: int = 1000,
    rows: int | None = None,
) -> Collapse:
    r"""KL_l = E_q[log q(z_l | ...) - log p(z_l | ...)] = sum_u KL_u,   a unit u active where Var_x E_q[u] > 0.01

    Which levels of a pair, and which of their units, tell anything of the data: the KL of each latent site and unit,
    in nats per datum; active units; and I(x; z) of the top level alone, the first latent site of the model. Of the
    bare pair, whatever it was trained under; data are not decoded. The expectation is over K = ``particles`` joint
    draws of all sites, so that it is right in whatever order the guide draws them. E_q[u] is the mean of the
    posterior's means over the same draws of its ancestors, and what these draws alone add to Var_x is taken off.

    A level has collapsed where none of its units is active, or where it takes less than 0.005 nats for each that
    is: its means may follow the data because its prior does, through the levels above or a condition. Units that
    have collapsed in a level that has not are often only more than are needed.

    Args:
        data: what :func:`pyro_vae.evaluate` takes. Dynamic binarisation is drawn once, from ``seed``.
        particles: K, draws per datum.
        rows: how many data times draws are worked on at a time; memory grows with it.

    Raises:
        ValueError, TypeError: where an argument is wrong, or the data do not fit the pair.

    Source: Burda, Grosse & Salakhutdinov 2016, arXiv:1509.00519, section 5.1 (active units); Sønderby et al. 2016,
    arXiv:1602.02282 (KL by level); Hoffman & Johnson 2016, "ELBO surgery" (mutual information, with the bias that
    :mod:`pyro_vae.evaluation.top_level` tells of where the guide draws the top level last).

    >>> report = collapse_report(pv.vae((1, 8, 8), latent=2), pv.data.load("digits", "test", binarise="threshold"))
    >>> report["z"].units, report["z"].kl == float(report["z"].unit_kl.sum())
    (2, True)
    """
    checks.instance("variant", variant, Variant)
    checks.positive_int("particles", particles)
    data = data.drawn(seed) if hasattr(data, "drawn") else data
    feed = batches(variant, data, batch_size, variant.device)
    found: dict[str, _Sums] = {}
    orders: list[list[str]] = []
    size = 0
    with seeded(seed), pyro.validation_enabled():
        for batch in feed.fixed():
            # one datum is explained, for the sake of errors; a mask of all data ends here too
            list(variant.terms(**{name: value[:1] for name, value in batch.items()}))
            size += len(next(iter(batch.values())))
            for terms in code_terms(variant, batch, particles, rows):
                for site in terms.posterior:
                    found.setdefault(site, _Sums()).add(site, terms, particles)
                orders.append([*terms.prior, *terms.posterior])
    information = top_level_information(variant, feed, particles, rows, seed)
    orders.sort(key=len, reverse=True)  # a batch with labels has fewer latent sites than others
    levels = [found[site].level(site) for site in dict.fromkeys(itertools.chain.from_iterable(orders))]
    return Collapse(tuple(levels), particles, size, information.nats, information.error, information.draws)


@dataclass
class _Sums:
    """Running sums over the data of one site."""

    kl: float = 0.0
    unit_kl: Tensor | None = None
    width: int = 0
    size: float = 0.0
    activity: Activity = field(default_factory=Activity)
    usage: Usage = field(default_factory=Usage)

    def add(self, site: str, terms: tracing.Terms, particles: int) -> None:
        kl = terms.kl[site].double()
        self.kl += float(kl.sum()) / particles
        self.size += kl.numel() / particles
        self.width = terms.width[site]
        if site in terms.units:
            units = terms.units[site].double().sum((0, 1)).cpu() / particles
            self.unit_kl = units if self.unit_kl is None else self.unit_kl + units
        if site in terms.mean:
            self.activity.add(terms.mean[site], particles)
        if site in terms.probs:
            self.usage.add(terms.probs[site], particles)
            self.width = self.usage.units

    def level(self, site: str) -> Level:
        size = round(self.size)
        unit_kl = None if self.unit_kl is None else self.unit_kl / size
        kl = self.kl / size if unit_kl is None else float(unit_kl.sum())
        active, variance = None, None
        if self.activity.size > 1:
            active, variance = self.activity.active, self.activity.variance
        elif self.usage.size > 1:
            active = self.usage.active
        return Level(site, kl, self.width, active, unit_kl, variance, size)
