"""Which units of a code follow the data, and what to call a code that does not."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_vae import tracing
from pyro_vae.variant import Variant

ACTIVE = 0.01  # Burda et al. 2016, arXiv:1509.00519, section 5.1
SPENT = 0.05  # nats a unit; the code of a unit that carries more is no copy of its prior
COPIED = ACTIVE / 2  # nats a unit; under a standard normal prior a unit whose means vary by more carries more
ADVICE = (
    "what may help: temper=pv.infer.WarmUp(epochs=...), objective=pv.FreeBits(...), posterior=pv.posteriors."
    "BatchNormNormal, a guide that takes more steps (pv.infer.Aggressive)"
)


class _Moments(NamedTuple):
    """How many values there were, their mean, and the sum of the squares of their deviations from it."""

    size: int = 0
    mean: Tensor = torch.zeros((), dtype=torch.float64)
    deviations: Tensor = torch.zeros((), dtype=torch.float64)

    @classmethod
    def of(cls, values: Tensor) -> "_Moments":
        variance, mean = torch.var_mean(values, 0, correction=0)
        return cls(len(values), mean.double(), variance.double() * len(values))

    def joined(self, other: "_Moments") -> "_Moments":
        size = self.size + other.size
        step = other.mean - self.mean.to(other.mean)
        between = step**2 * self.size * other.size / size
        deviations = self.deviations.to(other.mean) + other.deviations + between
        return _Moments(size, self.mean.to(other.mean) + step * other.size / size, deviations)


class Activity:
    r"""Var_x E_q[u] of each unit of a latent site, from running sums over the data; active where it is above 0.01.

    Posterior means come along draws of their ancestors. The mean over K of these varies about E_q[u] with a variance
    of s^2 / K, s^2 that over the draws of one datum, which is no sign of the data; it is taken off.

    Source: Burda, Grosse & Salakhutdinov 2016, arXiv:1509.00519, section 5.1.

    >>> activity = Activity()
    >>> activity.add(torch.tensor([[[0.0, 5.0], [1.0, 5.0]]]))
    >>> activity.variance.tolist(), activity.active
    ([0.25, 0.0], 1)
    """

    def __init__(self) -> None:
        self._draws = self._data = _Moments()
        self._noise = torch.zeros((), dtype=torch.float64)

    def add(self, means: Tensor, draws: int = 1) -> None:
        """Take in some of the means of some data, (some draws, batch, units), until all ``draws`` are there."""
        self._draws = self._draws.joined(_Moments.of(means))
        if self._draws.size < draws:
            return
        self._noise = self._noise.to(means.device) + self._draws.deviations.sum(0) / draws / max(draws - 1, 1)
        self._data = self._data.joined(_Moments.of(self._draws.mean))
        self._draws = _Moments()

    @property
    def size(self) -> int:
        """How many data there were."""
        return self._data.size

    @property
    def variance(self) -> Tensor:
        """Of each unit, (units,); of a single datum it is 0."""
        noise = self._noise * (1 - 1 / self.size)
        return ((self._data.deviations - noise) / self.size).clamp(min=0).cpu()

    @property
    def units(self) -> int:
        """How many there are."""
        return self._data.mean.numel()

    @property
    def active(self) -> int:
        """How many follow the data."""
        return int((self.variance > ACTIVE).sum())


def code_terms(
    variant: Variant, batch: Mapping[str, Any], particles: int, rows: int | None = None
) -> Iterator[tracing.Terms]:
    """As :meth:`pyro_vae.Variant.terms`, of the codes alone: nothing is decoded."""
    ready = variant.prepare(batch)
    variant.check_batch(ready, model=variant.model, guide=variant.guide)
    length = tracing.rows_for(ready, rows)
    with variant._still(None):
        for _, terms in tracing.terms(
            variant.model, variant.guide, ready, particles, variant.conditions, length, codes=True, partly=True
        ):
            yield terms


def collapsed(site: str, kl: float, units: int, active: int | None) -> str:
    """In words, where a whole site has collapsed onto its prior; nothing where it has not.

    ``kl`` is in nats per datum; ``active`` is None where the posterior has no mean, so that its KL alone can tell. A
    narrow prior is none: means vary by little, and yet tell the data apart, which takes nats. Nor does a unit follow
    the data that follows its prior, which ancestors or conditions move.

    >>> collapsed("z", 0.001, 8, 0)
    'z has COLLAPSED: none of its 8 units follows the data, the model ignores it'
    >>> collapsed("z", 0.001, 8, 8)
    'z has COLLAPSED onto its prior: it says nothing of the data that is not said above it'
    """
    if active == 0 and kl <= SPENT * units:
        return f"{site} has COLLAPSED: none of its {units} units follows the data, the model ignores it"
    if active != 0 and kl < COPIED * (active or units):
        return f"{site} has COLLAPSED onto its prior: it says nothing of the data that is not said above it"
    return ""


def verdict(site: str, kl: float, units: int, active: int | None) -> str:
    """As :func:`collapsed`, of single units too.

    >>> verdict("z", 9.2, 8, 6)
    'z: 2 of 8 units have collapsed onto the prior'
    """
    words = collapsed(site, kl, units, active)
    if not words and active and active < units:
        return f"{site}: {units - active} of {units} units have collapsed onto the prior"
    return words
