"""The continuous Bernoulli, from its logits alone."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from pyro_vae.distributions.advised import Advised

NEAR = 0.2  # where |l| is less, five terms of the series are exact in double precision


class ContinuousBernoulli(Advised, TorchDistribution):
    r"""p(x) = C(l) sigmoid(l)^x sigmoid(-l)^(1 - x),   C(l) = l / tanh(l / 2),   x in [0, 1]

    torch's own works with probabilities, which saturate: in float32 its log p is off by 0.06 nats at |l| = 17 and by
    0.6 at 30. Here log p and the mean are right to rounding for every l, and so are their gradients.

    Shapes: batch that of ``logits``, event ().

    Args:
        logits: l, any real number; 0 is the uniform distribution.

    Source: Loaiza-Ganem & Cunningham 2019, arXiv:1907.06845.

    >>> ContinuousBernoulli(torch.tensor([-1e3, 0.0, 1e3])).mean
    tensor([0.0010, 0.5000, 0.9990])
    """

    arg_constraints: ClassVar = {"logits": constraints.real}
    support = constraints.unit_interval
    has_rsample = False
    advice = (
        "Continuous Bernoulli data lie in [0, 1]: divide by the largest possible value (x / 255 for bytes), "
        "or choose another likelihood (pv.likelihoods.Normal)"
    )

    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        self.logits = logits
        super().__init__(logits.shape, validate_args=validate_args)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "ContinuousBernoulli":
        """The same distribution, more often."""
        new = ContinuousBernoulli(self.logits.expand(*batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    @property
    def mean(self) -> Tensor:
        """E[x] = 1 / (1 - exp(-l)) - 1 / l."""
        near, _, a = self._split()
        square = near.square()
        series = 0.5 + near * (1 / 12 - square * (1 / 720 - square * (1 / 30240 - square / 1209600)))
        # of the end of [0, 1] where the mass is; exp(a) would overflow, and take the gradient with it
        from_end = 1 / a + torch.exp(-a) / torch.expm1(-a)
        return torch.where(self._is_near(), series, torch.where(self.logits > 0, 1 - from_end, from_end))

    def log_prob(self, value: Tensor) -> Tensor:
        """Log p(x)."""
        if self._validate_args:
            self._validate_sample(value)
        # log p = l (x - 1/2) - log(sinh(l / 2) / (l / 2)): an even series about 0, and further out
        # the exponential decay from the end where the mass is, in which nothing cancels
        near, square, a = self._split()
        series = square * (1 / 6 - square * (1 / 180 - square * (1 / 2835 - square / 37800)))
        from_end = torch.where(self.logits > 0, 1 - value, value)
        decay = -a * from_end - torch.log(-torch.expm1(-a) / a)
        return torch.where(self._is_near(), near * (value - 0.5) - series, decay)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws, by the inverse of the distribution function."""
        with torch.no_grad():
            shape = self._extended_shape(torch.Size(sample_shape))
            u = torch.rand(shape, dtype=self.logits.dtype, device=self.logits.device)
            zero = self.logits == 0
            a = torch.where(zero, 1.0, self.logits.abs())
            from_end = -torch.log1p(u * torch.expm1(-a)) / a
            x = torch.where(self.logits > 0, 1 - from_end, from_end)
            return torch.where(zero, u, x).clamp(0, 1)

    def _is_near(self) -> Tensor:
        return self.logits.abs() < NEAR

    def _split(self) -> tuple[Tensor, Tensor, Tensor]:
        """The logits and (l / 2)^2 near 0, |l| further out; where not used each is harmless, to gradients too."""
        near = self._is_near()
        small = torch.where(near, self.logits, 0.0)
        return small, (small / 2).square(), torch.where(near, 1.0, self.logits.abs())
