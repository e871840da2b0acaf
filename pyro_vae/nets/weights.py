"""Families of random weights: the prior of what a layer draws, and the posterior with which training starts."""

from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae.distributions import PiecewiseNormal, RectifiedNormal

SPREAD = 0.05  # of a posterior at first, in units of its prior
# of a horseshoe: the spread of a weight and of the logarithm of a scale at first; by how much faster this logarithm
# moves than a weight, as it has several units to go where a weight has tenths
OPEN, LOOSE, SWIFT = 0.2, 0.1, 7.0
SPIKE = 0.05  # half the width of a piecewise normal's narrow piece, and its spread, in units of the wide ones


class Weights(nn.Module):
    r"""() -> p(w) = prod_i p(w_i),   of a family whose numbers are held, or learned

    Args:
        make: from numbers, by name, to the distribution of a weight, or of each.
        shape: of all weights.
        learned: whether the numbers are parameters, as those of a posterior; ``breaks`` always stay.
        unit: in which ``loc`` is kept: an optimiser moves all numbers by steps of one size.
        numbers: by name; a ``scale`` is kept as its logarithm.
    """

    def __init__(
        self,
        make: Callable[..., Any],
        shape: tuple[int, ...],
        *,
        learned: bool = False,
        unit: float = 1.0,
        **numbers: Any,
    ) -> None:
        super().__init__()
        self.make, self.shape, self.unit, self.numbers = make, shape, unit, tuple(numbers)
        for name, value in numbers.items():
            number = torch.as_tensor(value, dtype=torch.get_default_dtype()).clone()
            number = number.log() if name == "scale" else number / unit if name == "loc" else number
            if learned and name != "breaks":
                self.register_parameter(name, nn.Parameter(number))
            else:
                self.register_buffer(name, number, persistent=False)

    @property
    def symmetric(self) -> bool:
        """Whether w - E[w] is as likely as its opposite, number by number."""
        return self.make is dist.Normal

    def keep(self, dim: int, index: Tensor) -> None:
        """Let go of all weights along a dimension but some."""
        self.shape = (*self.shape[:dim], len(index), *self.shape[dim + 1 :])
        for name, number in self.named_parameters():  # what all weights have in common stays
            setattr(self, name, nn.Parameter(number.detach().index_select(dim, index.to(number.device))))

    def forward(self) -> Any:
        """The distribution of all of them."""
        numbers = {name: getattr(self, name) for name in self.numbers}
        if "scale" in numbers:
            numbers["scale"] = numbers["scale"].exp()
        if self.unit != 1.0:
            numbers["loc"] = numbers["loc"] * self.unit
        return self.make(**numbers).expand(self.shape).to_event(len(self.shape))


Drawn = dict[str, tuple[Weights, Weights]]  # by the name of what is drawn: prior and posterior
Family = Callable[..., Drawn]


def normal(start: Tensor, units: tuple[int, ...], scale: float = 1.0, spread: float = SPREAD) -> Drawn:
    """w ~ N(0, scale^2)."""
    shape = tuple(start.shape)
    at_first = torch.full(shape, spread * scale)
    prior = Weights(dist.Normal, shape, loc=0.0, scale=scale)
    return {"weight": (prior, Weights(dist.Normal, shape, learned=True, loc=start, scale=at_first))}


def horseshoe(start: Tensor, units: tuple[int, ...], scale: float = 1.0) -> Drawn:
    """w = v l g,   v ~ N(0, 1), l ~ HalfCauchy(1) of each unit, g ~ HalfCauchy(scale) of the layer."""
    whole = 2 * float(start.abs().max())

    def positive(shape: tuple[int, ...], scale: float, median: float) -> tuple[Weights, Weights]:
        loc, spread = torch.full(shape, median).log(), torch.full(shape, LOOSE)
        prior = Weights(dist.HalfCauchy, shape, scale=scale)
        return prior, Weights(dist.LogNormal, shape, learned=True, unit=SWIFT, loc=loc, scale=spread)

    scales = {"global_scale": positive((), scale, whole), "local_scale": positive(units, 1.0, 1.0)}
    return scales | normal(start / whole, units, spread=OPEN)


def rectified_normal(start: Tensor, units: tuple[int, ...], scale: float = 1.0) -> Drawn:
    """w = max(0, u),   u ~ N(0, scale^2): no weight is negative, and some are exactly 0."""
    shape, make = tuple(start.shape), RectifiedNormal
    spread = torch.full(shape, SPREAD * scale)
    prior = Weights(make, shape, loc=0.0, scale=scale)
    return {"weight": (prior, Weights(make, shape, learned=True, loc=start, scale=spread))}


def piecewise_normal(start: Tensor, units: tuple[int, ...], scale: float = 1.0) -> Drawn:
    """Pieces of N(0, scale^2) on both sides of a narrow one about 0."""
    shape, make = tuple(start.shape), PiecewiseNormal
    breaks = [-SPIKE * scale, SPIKE * scale]
    prior = Weights(make, shape, breaks=breaks, loc=[0.0] * 3, scale=[scale, SPIKE * scale, scale])
    loc, spread = start.unsqueeze(-1).expand(*shape, 3), torch.full((*shape, 3), SPREAD * scale)
    return {"weight": (prior, Weights(make, shape, learned=True, breaks=breaks, loc=loc, scale=spread))}


FAMILIES: dict[str, Family] = {f.__name__: f for f in (normal, horseshoe, rectified_normal, piecewise_normal)}
