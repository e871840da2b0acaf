"""One report for any pair: bounds on log p(x), and where the nats go."""

from dataclasses import asdict, dataclass
from typing import Any

import pyro
import torch
from torch import Tensor

from pyro_vae import checks
from pyro_vae.data import Data, batches
from pyro_vae.tracing import Moments, Totals, seeded
from pyro_vae.variant import Variant

ACTIVE = 0.01  # Burda et al. 2016, arXiv:1509.00519, section 5.1
SPENT = 0.05  # nats a unit; the code of a unit that carries more is no copy of its prior


@dataclass(frozen=True)
class Report:
    """What :func:`evaluate` found; all in nats per datum.

    ``elbo`` = ``reconstruction`` - sum of ``kl``, exactly: all three come from the same draws.
    """

    elbo: float
    log_likelihood: float
    standard_error: float
    effective_sample_size: float
    reconstruction: float
    kl: dict[str, float]
    active_units: dict[str, int]
    units: dict[str, int]
    particles: int
    data: int

    def to_dict(self) -> dict[str, Any]:
        """The report as plain numbers, ready for JSON: None in place of what is not a number."""
        return {name: None if value != value else value for name, value in asdict(self).items()}

    @property
    def verdicts(self) -> list[str]:
        """In words, where latents have collapsed onto their prior."""
        words = []
        for site, active in self.active_units.items():
            units = self.units[site]
            if active == 0 and self.kl[site] > SPENT * units:
                continue  # a narrow prior: means vary by little, and yet tell the data apart
            if active == 0:
                words.append(f"{site} has COLLAPSED: none of its {units} units follows the data, the model ignores it")
            elif active < units:
                words.append(f"{site}: {units - active} of {units} units have collapsed onto the prior")
        return words

    def __str__(self) -> str:
        lines = [
            f"log-likelihood  {self.log_likelihood:10.3f}  +- {self.standard_error:.3f} nats per datum "
            f"({self.particles} particles, {self.data} data)",
            f"ELBO            {self.elbo:10.3f}  = reconstruction - KL",
            f"reconstruction  {self.reconstruction:10.3f}",
        ]
        for site, kl in self.kl.items():
            active = f"  ({self.active_units[site]} of {self.units[site]} units active)" if site in self.units else ""
            lines.append(f"KL of {site:9s} {kl:10.3f}{active}")
        lines.append(f"effective draws {self.effective_sample_size:10.1f}  of {self.particles}")
        return "\n".join(lines + self.verdicts)


def evaluate(
    variant: Variant,
    data: Any,
    *,
    particles: int = 100,
    seed: int = 0,
    batch_size: int = 1000,
    rows: int | None = None,
) -> Report:
    r"""log p(x) >= log (1/K) sum_k p(x, z_k) / q(z_k | x) >= E_q[log p(x, z) - log q(z | x)]

    The bare pair on a data set, whatever it was trained under. ``standard_error`` is that of the mean of the
    estimates of log p(x) over the data (NaN for one datum); ``effective_sample_size`` lies between 1 and K
    and tells how well q covers the posterior; a unit is active where Var_x(E_q[u]) > 0.01.

    Args:
        data: an array, a tensor, a mapping site -> tensor, a ``Dataset`` or a ``DataLoader``. Dynamic
            binarisation is drawn once, from ``seed``.
        particles: K, draws per datum.
        rows: how many data times draws are decoded at a time; memory grows with it.

    Raises:
        ValueError: where the data do not fit the pair, or lie outside the likelihood's support.

    Source: Burda, Grosse & Salakhutdinov 2016, arXiv:1509.00519.

    >>> pair = pv.vae((1, 8, 8), latent=2)
    >>> report = evaluate(pair, pv.data.load("digits", "test", binarise="threshold"), particles=10)
    >>> report.elbo <= report.log_likelihood
    True
    """
    checks.instance("variant", variant, Variant)
    checks.positive_int("particles", particles)
    data = data.drawn(seed) if isinstance(data, Data) else data
    totals = Totals(particles)
    log_likelihood, ess = [], []
    means: dict[str, list[Tensor]] = {}
    with seeded(seed), pyro.validation_enabled():
        for batch in batches(variant, data, batch_size, variant.device).fixed():
            moments = Moments(len(next(iter(batch.values()))))
            averages: dict[str, Tensor] = {}
            for part, terms in variant.terms(particles, rows=rows, **batch):
                moments.add(part, terms.log_weights)
                totals.add(terms)
                share = len(terms.log_weights) / particles
                for name, mean in terms.mean.items():
                    if name not in averages:
                        averages[name] = torch.zeros(len(moments.total), mean.shape[1], dtype=torch.float64)
                    averages[name][part] += share * mean.double().cpu()
            for name, average in averages.items():
                means.setdefault(name, []).append(average)
            log_likelihood.append(moments.log_likelihood)
            ess.append(moments.effective_sample_size)
    bound = torch.cat(log_likelihood)
    size = len(bound)
    codes = {name: torch.cat(m) for name, m in means.items() if size > 1}  # one datum has no variance
    return Report(
        elbo=totals.elbo / size,
        log_likelihood=float(bound.mean()),
        standard_error=float(bound.std() / size**0.5) if size > 1 else float("nan"),
        effective_sample_size=float(torch.cat(ess).mean()),
        reconstruction=totals.reconstruction / size,
        kl={site: kl / size for site, kl in totals.kl.items()},
        active_units={name: int((c.var(0, correction=0) > ACTIVE).sum()) for name, c in codes.items()},
        units={name: c.shape[1] for name, c in codes.items()},
        particles=particles,
        data=size,
    )
