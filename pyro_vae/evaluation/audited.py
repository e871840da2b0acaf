"""What an audit of the guide found: numbers, a table, and words."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pyro_vae import describe

CONVERGED = 1.05  # split R-hat above which the halves of a chain disagree
ENOUGH = 50  # effective draws, from which a mean is known to a seventh of a standard deviation
FEW = 20  # effective draws; an estimate of log p(x) from fewer is too low by more than 1/40 nats
SMALL = 0.05  # nats that are not worth a word
OFF = 0.1  # of a standard deviation


@dataclass(frozen=True)
class Units:
    """One latent site of one datum, a number for each unit: mean and standard deviation by NUTS and by both guides.

    ``effective_sample_size`` and ``r_hat``, of the halves, are those of the chain.
    """

    mean: tuple[float, ...]
    sd: tuple[float, ...]
    amortised_mean: tuple[float, ...]
    amortised_sd: tuple[float, ...]
    optimised_mean: tuple[float, ...]
    optimised_sd: tuple[float, ...]
    effective_sample_size: tuple[float, ...]
    r_hat: tuple[float, ...]


@dataclass(frozen=True)
class Datum:
    """One datum, in nats: ``amortisation_gap`` = ``optimised_elbo`` - ``elbo``; errors are standard errors over draws.

    ``log_likelihood`` is the importance-weighted estimate under the optimised q, which rests on
    ``effective_sample_size`` draws; ``approximation_gap`` = ``log_likelihood`` - ``optimised_elbo``. ``sites`` has the
    moments, and is empty without a chain; ``divergences`` counts those of the chain.
    """

    elbo: float
    optimised_elbo: float
    amortisation_gap: float
    amortisation_gap_error: float
    log_likelihood: float
    log_likelihood_error: float
    approximation_gap: float
    approximation_gap_error: float
    effective_sample_size: float
    sites: dict[str, Units]
    divergences: int


@dataclass(frozen=True)
class Agreement:
    r"""How far the codes of a site are from those of NUTS, over all data and units.

    ``shift``: root mean square of (mean_q - mean) / sd;  ``ratio``: mean of sd_q / sd. An exact q would have a shift
    of about ``noise``, since draws are finite in number. ``effective_sample_size`` is the smallest, ``r_hat`` the
    largest of all.
    """

    amortised_shift: float
    amortised_ratio: float
    optimised_shift: float
    optimised_ratio: float
    noise: float
    effective_sample_size: float
    r_hat: float

    @property
    def converged(self) -> bool:
        """Whether the chains are long enough to be compared with."""
        return self.r_hat <= CONVERGED and self.effective_sample_size >= ENOUGH

    @classmethod
    def of(cls, units: Sequence[Units], particles: int) -> "Agreement":
        """Over the data, from the moments of each."""

        def all_of(name: str) -> list[float]:
            return [value for one in units for value in getattr(one, name)]

        means, sds = all_of("mean"), [sd or math.nan for sd in all_of("sd")]  # of a chain that does not move
        ess, r_hat = all_of("effective_sample_size"), all_of("r_hat")

        def shift(of: str) -> float:
            triples = zip(all_of(f"{of}_mean"), means, sds, strict=True)
            return _mean([((q - p) / sd) ** 2 for q, p, sd in triples]) ** 0.5

        def ratio(of: str) -> float:
            return _mean([q / p for q, p in zip(all_of(f"{of}_sd"), sds, strict=True)])

        return cls(
            amortised_shift=shift("amortised"),
            amortised_ratio=ratio("amortised"),
            optimised_shift=shift("optimised"),
            optimised_ratio=ratio("optimised"),
            noise=_mean([1 / n + 1 / particles for n in ess]) ** 0.5,
            effective_sample_size=math.nan if any(n != n for n in ess) else min(ess),
            r_hat=math.nan if any(r != r for r in r_hat) else max(r_hat),
        )


@dataclass(frozen=True)
class Audit:
    """What :func:`audit` found; prints as a table. In nats per datum; gaps are means over the data, in ``rows``.

    ``left_out`` maps latent sites without moments to the reason; it is empty where no chain was asked for.
    """

    rows: tuple[Datum, ...]
    particles: int
    steps: int
    draws: int
    left_out: dict[str, str]

    @property
    def amortisation_gap(self) -> float:
        """ELBO of the best q of the family for each datum - ELBO: what one network for all data costs."""
        return _mean([row.amortisation_gap for row in self.rows])

    @property
    def amortisation_gap_error(self) -> float:
        """Standard error for these data, over the draws."""
        return _error([row.amortisation_gap_error for row in self.rows])

    @property
    def approximation_gap(self) -> float:
        """log p(x) - ELBO of the best q of the family: what the family costs."""
        return _mean([row.approximation_gap for row in self.rows])

    @property
    def approximation_gap_error(self) -> float:
        """Standard error for these data, over the draws."""
        return _error([row.approximation_gap_error for row in self.rows])

    @property
    def sites(self) -> dict[str, Agreement]:
        """How far the codes are from those of NUTS, site by site."""
        names = self.rows[0].sites
        return {name: Agreement.of([row.sites[name] for row in self.rows], self.particles) for name in names}

    def to_dict(self) -> dict[str, Any]:
        """The audit as plain numbers and lists, ready for JSON: None in place of what is no finite number."""
        gaps = ("amortisation_gap", "amortisation_gap_error", "approximation_gap", "approximation_gap_error")
        derived = {name: getattr(self, name) for name in gaps}
        sites = {name: asdict(found) for name, found in self.sites.items()}
        return _plain(asdict(self) | derived | {"sites": sites, "verdicts": self.verdicts})

    @property
    def verdicts(self) -> list[str]:
        """In words: how large the gaps are and what would close them, and where a number is not to be trusted."""
        words = [
            _gap(
                "amortisation",
                (self.amortisation_gap, self.amortisation_gap_error),
                "a larger encoder, or more training of the guide, could gain so much",
            ),
            _gap(
                "approximation",
                (self.approximation_gap, self.approximation_gap_error),
                "only a richer family of q could gain so much",
            ),
        ]
        poor = [str(i) for i, row in enumerate(self.rows) if not row.effective_sample_size >= FEW]
        if poor:
            which = f"{'data' if len(poor) > 1 else 'datum'} {', '.join(poor)}"
            words.append(
                f"log p(x) of {which} rests on fewer than {FEW} effective draws: it is too low, and the approximation "
                "gap with it; raise particles"
            )
        words += [_moments(name, found) for name, found in self.sites.items()]
        divergences = sum(row.divergences for row in self.rows)
        if divergences:
            words.append(f"NUTS met {divergences} divergences: its moments may miss parts of the posterior")
        return words + [f"{name}: no moments; {why}" for name, why in self.left_out.items()]

    def __str__(self) -> str:
        rows = [_figures(str(i), row) for i, row in enumerate(self.rows)]
        lines = describe.table(
            ["", "ELBO", "optimised", "amortisation gap", "log p(x)", "approximation gap", "effective draws"], rows
        )
        lines.append(
            f"nats, {self.particles} particles; optimised: the guide fitted to each datum alone, in {self.steps} steps"
        )
        if self.sites:
            moments = [
                [name, q, *(f"{getattr(a, f'{q}_{moment}'):.2f}" for moment in ("shift", "ratio"))]
                for name, a in self.sites.items()
                for q in ("amortised", "optimised")
            ]
            lines += ["", *describe.table(["", "q", "means off by", "sd of q"], moments)]
            lines.append(f"in standard deviations of p(z | x), by NUTS ({self.draws} draws for each datum)")
            lines += [
                f"{name}: an exact q would be off by {a.noise:.2f}; {_trust(a)}" for name, a in self.sites.items()
            ]
        return "\n".join([*lines, "", *self.verdicts])


def _gap(name: str, gap: tuple[float, float], words: str) -> str:
    nats, error = gap
    told = f"the {name} gap is {nats:.2f} +- {error:.2f} nats on average: "
    return told + ("nothing to gain" if nats <= max(2 * error, SMALL) else words)


def _moments(name: str, found: Agreement) -> str:
    """Whether q is where the posterior is, and as wide."""
    if not found.converged:
        return f"{name}: NUTS has NOT CONVERGED, or is too short ({_trust(found)}): raise warmup and draws"
    words = []
    if found.amortised_shift > max(2 * found.noise, OFF):
        words.append(f"means of q are off by {found.amortised_shift:.2f} standard deviations")
    if abs(found.amortised_ratio - 1) > OFF:
        kind = "narrow" if found.amortised_ratio < 1 else "wide"
        words.append(f"q is too {kind}, with {found.amortised_ratio:.2f} of the posterior's standard deviations")
    return f"{name}: " + (" and ".join(words) or "q has the moments of the posterior")


def _trust(found: Agreement) -> str:
    return f"smallest effective sample size {found.effective_sample_size:.0f}, largest R-hat {found.r_hat:.3f}"


def _figures(name: str, row: Datum) -> list[str]:
    return [
        name,
        f"{row.elbo:.3f}",
        f"{row.optimised_elbo:.3f}",
        f"{row.amortisation_gap:.3f} +- {row.amortisation_gap_error:.3f}",
        f"{row.log_likelihood:.3f} +- {row.log_likelihood_error:.3f}",
        f"{row.approximation_gap:.3f} +- {row.approximation_gap_error:.3f}",
        f"{row.effective_sample_size:.1f}",
    ]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _error(errors: Sequence[float]) -> float:
    """That of a mean of independent estimates."""
    return math.hypot(*errors) / len(errors)


def _plain(value: Any) -> Any:
    """Without tuples, NaN and infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
