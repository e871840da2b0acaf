"""The horseshoe: a prior under which most numbers are next to nothing, and the others as large as they like."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.utils import broadcast_all

EULER = 0.5772156649015329
EDGE = 1e-3  # scales from the pole within which the gradient is held
LEAST = torch.finfo(torch.float32).tiny  # scales from the pole at which log p stops rising
SPLIT, TERMS = 3.0, 30  # where the series of E1 ends, and the terms of both that double precision takes there


class Horseshoe(TorchDistribution):
    r"""p(z) = exp(u) E1(u) / (scale sqrt(2 pi^3)),   u = (z - loc)^2 / (2 scale^2),   E1(u) = int_u^inf exp(-t) / t dt

    What z = loc + scale lambda eps is with lambda ~ HalfCauchy(1) and eps ~ N(0, 1). The tails are a Cauchy's. At loc
    there is a pole, p ~ -log |z - loc|: log p is exact down to ``1e-38 scale`` from it, and nearer stays as it is
    there, 3.1 - log scale, so that a draw which rounds to loc costs no infinity.

    Next to the pole d log p / dz ~ 1 / (z log z), whose variance is infinite under any q with a density there: no
    number of draws would average it. So within ``1e-3 scale`` of loc the gradient of log p with respect to z and loc
    is held at its value at that distance, with its sign, and is 0 at loc. With distances in units of ``scale``, the
    gradient of E_q[log p] is then off by at most 2 q'(0) 1e-3 / 7. That with respect to scale, bounded, is exact; of a
    horseshoe's own draws, which move along with it, that of E_q[log q] is off by 2.4e-4 / scale.

    Shapes: batch that of ``loc`` and ``scale``, event ().

    Args:
        loc: where the pole is, and the median.
        scale: half of the draws are within 0.58 scales of loc.

    Source: Carvalho, Polson & Scott 2010, "The horseshoe estimator for sparse signals", Biometrika 97.

    >>> Horseshoe(torch.tensor(0.0), torch.tensor(1.0)).log_prob(torch.tensor([0.0, 1e-30, 1.0, 1e15]))
    tensor([  3.0999,   2.8655,  -2.1439, -70.4481])
    """

    arg_constraints: ClassVar = {"loc": constraints.real, "scale": constraints.positive}
    support = constraints.real
    has_rsample = True

    def __init__(self, loc: Tensor, scale: Tensor, validate_args: bool | None = None) -> None:
        self.loc, self.scale = broadcast_all(loc, scale)
        super().__init__(self.loc.shape, validate_args=validate_args)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "Horseshoe":
        """The same distribution, more often."""
        new = Horseshoe(self.loc.expand(*batch_shape), self.scale.expand(*batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    @property
    def mean(self) -> Tensor:
        """There is none.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("a horseshoe has no mean: its tails are a Cauchy's; its median and mode are loc")

    @property
    def variance(self) -> Tensor:
        """There is none.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("a horseshoe has no variance: its tails are a Cauchy's")

    @property
    def mode(self) -> Tensor:
        """The pole."""
        return self.loc

    def log_prob(self, value: Tensor) -> Tensor:
        """Log p(z)."""
        if self._validate_args:
            self._validate_sample(value)
        # squares of what float32 holds are beyond float32
        scale = self.scale.double()
        shape = _LogShape.apply(value.double() - self.loc.double(), scale)
        log_prob = shape - scale.log() - math.log(2 * math.pi**3) / 2
        return log_prob.to(torch.promote_types(value.dtype, self.loc.dtype))

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws, with gradients to ``loc`` and ``scale``."""
        shape = self._extended_shape(torch.Size(sample_shape))
        angle = torch.rand(shape, dtype=torch.float64, device=self.loc.device) * (math.pi / 2)
        local = torch.tan(angle) * torch.randn(shape, dtype=torch.float64, device=self.loc.device)
        return self.loc + self.scale * local.to(self.loc.dtype)


class _LogShape(torch.autograd.Function):
    """log(exp(u) E1(u)) of u = (distance / scale)^2 / 2, with the gradient that the class above tells of."""

    @staticmethod
    def forward(ctx: Any, distance: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(distance, scale)
        return _expanded((distance.abs() / scale).clamp(min=LEAST).square() / 2)[0]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        distance, scale = ctx.saved_tensors
        d = (distance.abs() / scale).clamp(min=LEAST)
        held = d.clamp(min=EDGE)
        by_distance = distance.sign() * held * _expanded(held.square() / 2)[1] / scale
        by_scale = -d.square() * _expanded(d.square() / 2)[1] / scale
        (gradient,) = gradients
        return gradient * by_distance, (gradient * by_scale).sum_to_size(scale.shape)


def _expanded(u: Tensor) -> tuple[Tensor, Tensor]:
    """Of log g, g(u) = exp(u) E1(u), the value and the derivative 1 - 1 / (u g)."""
    small = u < SPLIT
    # E1(u) = -euler - log u + sum_k (-1)^(k + 1) u^k / (k k!)
    near = torch.where(small, u, 1.0)
    series = torch.zeros_like(u)
    for k in range(TERMS, 0, -1):
        series = near * ((-1) ** (k + 1) / (k * math.factorial(k)) + series)
    integral = series - EULER - near.log()
    # g = 1 / (u + t), t = 1 - 1 / (u + 3 - 4 / (u + 5 - 9 / ...)): 1 - 1 / (u g) is -t / u, in which nothing cancels
    far = torch.where(small, SPLIT, u)
    fraction = torch.zeros_like(u)
    for k in range(TERMS, 0, -1):
        fraction = k**2 / (far + (2 * k + 1) - fraction)
    t = 1 - fraction
    value = torch.where(small, near + integral.log(), -torch.log(far + t))
    return value, torch.where(small, 1 - torch.exp(-near) / (near * integral), -t / far)
