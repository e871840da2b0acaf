"""Logistic distributions over the evenly spaced levels that digital images have."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.utils import broadcast_all
from torch.nn.functional import logsigmoid

from pyro_vae.distributions.advised import Advised

ADVICE = (
    "Discretised data are the levels k / (2^bits - 1), in [0, 1]: divide bytes by 255, round other values "
    "(n = 2**bits - 1; (x * n).round() / n), or choose another likelihood (pv.likelihoods.ContinuousBernoulli)"
)


class Levels(constraints.Constraint):
    """The numbers k / (2^bits - 1) for k = 0, ..., 2^bits - 1, as closely as float32 can tell."""

    is_discrete = True
    lower_bound, upper_bound = 0.0, 1.0

    def __init__(self, bits: int) -> None:
        self.bits = bits

    def check(self, value: Tensor) -> Tensor:
        """Which values are levels."""
        k = value * (2**self.bits - 1)
        # data are often made in float32 by a division or two: a few roundings of a number up to 2^bits
        near = (k - k.round()).abs() <= 2**self.bits * 4 * torch.finfo(torch.float32).eps
        return near & (k > -0.5) & (k < 2**self.bits - 0.5)

    def __repr__(self) -> str:
        return f"the {2**self.bits} levels of {self.bits} bits"


class DiscretizedLogistic(Advised, TorchDistribution):
    r"""P(x) = F(x + w/2) - F(x - w/2),   F(t) = sigmoid((t - loc) / scale),   w = 1 / (2^bits - 1)

    x is one of the levels 0, w, 2w, ..., 1. The bins of 0 and 1 reach out to infinity, so that probabilities sum to 1.

    With b and a for the standardised ends of a bin, log P = log sigmoid(b) + log sigmoid(-a) + log(1 - exp(a - b)),
    which loses no digits, however far the bin lies from ``loc``.

    Shapes: batch that of ``loc`` and ``scale``, event ().

    Args:
        loc: centre of the logistic, in the units of x.
        scale: its scale, in the units of x; the standard deviation is 1.81 times as large.
        bits: binary digits of a level, 8 for bytes.

    Source: Kingma et al. 2016, arXiv:1606.04934.

    >>> levels = torch.arange(256) / 255
    >>> DiscretizedLogistic(torch.tensor(0.3), torch.tensor(0.01), bits=8).log_prob(levels).exp().sum()
    tensor(1.0000)
    """

    arg_constraints: ClassVar = {"loc": constraints.real, "scale": constraints.positive}
    has_rsample = False
    advice = ADVICE

    def __init__(self, loc: Tensor, scale: Tensor, bits: int, validate_args: bool | None = None) -> None:
        self.loc, self.scale = broadcast_all(loc, scale)
        self.bits = bits
        super().__init__(self.loc.shape, validate_args=validate_args)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "DiscretizedLogistic":
        """The same distribution, more often."""
        loc, scale = self.loc.expand(*batch_shape), self.scale.expand(*batch_shape)
        new = DiscretizedLogistic(loc, scale, self.bits, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> constraints.Constraint:
        """The levels."""
        return Levels(self.bits)

    @property
    def mean(self) -> Tensor:
        """E[x] = w sum_k P(x >= k w), over k = 1, ..., 2^bits - 1."""
        n = 2**self.bits - 1
        ends = (torch.arange(n, dtype=self.loc.dtype, device=self.loc.device) + 0.5) / n
        loc, scale = self.loc.unsqueeze(-1), self.scale.unsqueeze(-1)
        together = max(2**22 // max(self.loc.numel(), 1), 1)  # memory stays bounded whatever the images' size
        total = torch.zeros_like(self.loc)
        for part in ends.split(together):
            total = total + torch.sigmoid((loc - part) / scale).sum(-1)
        return total / n

    def log_prob(self, value: Tensor) -> Tensor:
        """Log P(x)."""
        if self._validate_args:
            self._validate_sample(value)
        half = 0.5 / (2**self.bits - 1)
        below = logsigmoid((value - self.loc + half) / self.scale)
        above = logsigmoid((self.loc - value + half) / self.scale)
        width = torch.log(-torch.expm1(-2 * half / self.scale))
        first, last = value < half, value > 1 - half
        return torch.where(first, below, torch.where(last, above, below + above + width))

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws of the logistic, at their nearest levels."""
        with torch.no_grad():
            shape, n = self._extended_shape(torch.Size(sample_shape)), 2**self.bits - 1
            u = torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device)
            return ((self.loc + self.scale * torch.logit(u)).clamp(0, 1) * n).round() / n


class DiscretizedLogisticMixture(Advised, TorchDistribution):
    r"""P(x) = sum_j softmax(logits)_j DiscretizedLogistic(x; loc_j, scale_j)

    Shapes: batch that of the parameters short of their last dimension, which counts the components; event ().

    Args:
        logits: of the components' weights.
        loc, scale: of each component, see :class:`DiscretizedLogistic`.
        bits: binary digits of a level, 8 for bytes.

    Source: Salimans et al. 2017, "PixelCNN++", arXiv:1701.05517.

    >>> loc = torch.tensor([0.2, 0.8])
    >>> DiscretizedLogisticMixture(torch.zeros(2), loc, torch.full((2,), 0.01), bits=8).mean
    tensor(0.5000)
    """

    arg_constraints: ClassVar = {
        "logits": constraints.real_vector,
        "loc": constraints.real_vector,
        "scale": constraints.independent(constraints.positive, 1),
    }
    has_rsample = False
    advice = ADVICE

    def __init__(
        self, logits: Tensor, loc: Tensor, scale: Tensor, bits: int, validate_args: bool | None = None
    ) -> None:
        self.logits, self.loc, self.scale = broadcast_all(logits, loc, scale)
        self.components = DiscretizedLogistic(self.loc, self.scale, bits, validate_args=False)
        super().__init__(self.logits.shape[:-1], validate_args=validate_args)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "DiscretizedLogisticMixture":
        """The same distribution, more often."""
        full = (*batch_shape, self.logits.shape[-1])
        logits, loc, scale = (p.expand(full) for p in (self.logits, self.loc, self.scale))
        new = DiscretizedLogisticMixture(logits, loc, scale, self.components.bits, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> constraints.Constraint:
        """The levels."""
        return Levels(self.components.bits)

    @property
    def mean(self) -> Tensor:
        """The components' means, weighted."""
        return (self.logits.softmax(-1) * self.components.mean).sum(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log P(x)."""
        if self._validate_args:
            self._validate_sample(value)
        return torch.logsumexp(self.logits.log_softmax(-1) + self.components.log_prob(value.unsqueeze(-1)), -1)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """A component first, then its draw."""
        with torch.no_grad():
            weights = torch.distributions.Categorical(logits=self.logits, validate_args=False)
            chosen = weights.sample(torch.Size(sample_shape)).unsqueeze(-1)
            full = (*chosen.shape[:-1], self.logits.shape[-1])
            loc, scale = (p.expand(full).gather(-1, chosen).squeeze(-1) for p in (self.loc, self.scale))
            return DiscretizedLogistic(loc, scale, self.components.bits, validate_args=False).sample()
