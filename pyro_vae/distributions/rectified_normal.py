"""The rectified normal: a code of which exact zeros are part."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints, register_kl
from torch.distributions.utils import broadcast_all
from torch.special import log_ndtr, ndtri

from pyro_vae.distributions.truncated import LOG_ROOT_2PI


class RectifiedNormal(TorchDistribution):
    r"""z = max(0, u),   u ~ N(loc, scale^2):   P(z = 0) = Phi(-loc / scale),   p(z) = N(z; loc, scale^2) for z > 0

    log p is with respect to lengths on z > 0 and a unit mass at 0.

    As log q jumps at 0, pathwise gradients of log q - log p miss what leaves the atom, and are biased. So plain
    objectives take the score function, while those that take the KL in closed form may draw along the path
    (``closed_form``): :class:`pyro_vae.infer.AnalyticKL`. The KL of two rectified normals is known.

    Shapes: batch that of ``loc`` and ``scale``, event ().

    Args:
        loc, scale: of u.

    Source: Socci, Lee & Seung 1997, "The rectified Gaussian distribution", NIPS.

    >>> d = RectifiedNormal(torch.tensor(0.0), torch.tensor(1.0))
    >>> d.log_prob(torch.tensor(0.0)).exp(), d.mean
    (tensor(0.5000), tensor(0.3989))
    """

    arg_constraints: ClassVar = {"loc": constraints.real, "scale": constraints.positive}
    support = constraints.nonnegative
    has_rsample = False
    #: whether single values have a probability of their own
    has_atoms = True
    #: whether it may be drawn pathwise where its KL is taken in closed form
    closed_form = True

    def __init__(self, loc: Tensor, scale: Tensor, validate_args: bool | None = None) -> None:
        self.loc, self.scale = broadcast_all(loc, scale)
        super().__init__(self.loc.shape, validate_args=validate_args)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "RectifiedNormal":
        """The same distribution, more often."""
        new = RectifiedNormal(self.loc.expand(*batch_shape), self.scale.expand(*batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    @property
    def mean(self) -> Tensor:
        """E[z] = loc Phi(t) + scale N(t),   t = loc / scale."""
        return self._moments()[0].to(self.loc.dtype)

    @property
    def variance(self) -> Tensor:
        """E[z^2] - E[z]^2,   E[z^2] = (loc^2 + scale^2) Phi(t) + loc scale N(t)."""
        first, second = self._moments()
        return (second - first.square()).to(self.loc.dtype)

    @property
    def mode(self) -> Tensor:
        """That of u, rectified: the atom's probability and a density cannot be compared."""
        return self.loc.clamp(min=0)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log P(z = 0) at 0, the log density above."""
        if self._validate_args:
            self._validate_sample(value)
        above = -((value - self.loc) / self.scale).square() / 2 - self.scale.log() - LOG_ROOT_2PI
        return torch.where(value == 0, log_ndtr(-self.loc / self.scale), above)

    def cdf(self, value: Tensor) -> Tensor:
        """P(z <= value)."""
        if self._validate_args:
            self._validate_sample(value)
        return torch.where(value < 0, 0.0, log_ndtr((value - self.loc) / self.scale).exp())

    def icdf(self, value: Tensor) -> Tensor:
        """The least z with P(z' <= z) >= value."""
        return (self.loc + self.scale * ndtri(value)).clamp(min=0)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws, with gradients to ``loc`` and ``scale`` where they are above 0."""
        shape = self._extended_shape(torch.Size(sample_shape))
        eps = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        return (self.loc + self.scale * eps).clamp(min=0)

    def _moments(self) -> tuple[Tensor, Tensor]:
        # far below 0 their terms cancel in float32
        loc, scale = self.loc.double(), self.scale.double()
        t = loc / scale
        above, density = log_ndtr(t).exp(), torch.exp(-t.square() / 2 - LOG_ROOT_2PI)
        return loc * above + scale * density, (loc.square() + scale.square()) * above + loc * scale * density


@register_kl(RectifiedNormal, RectifiedNormal)
def _kl(q: RectifiedNormal, p: RectifiedNormal) -> Tensor:
    r"""KL = P(0) log(P(0) / P_p(0)) + int_{x > a} N(x) [((c + r x)^2 - x^2) / 2 - log r] dx

    x = (z - loc) / scale of q, a that of 0; r the ratio of the scales, c the difference of the locs by p's scale.
    """
    loc, scale, other_loc, other_scale = (v.double() for v in (q.loc, q.scale, p.loc, p.scale))  # small differences
    a, r, c = -loc / scale, scale / other_scale, (loc - other_loc) / other_scale
    at_zero, above = log_ndtr(a).exp(), log_ndtr(-a).exp()  # of which torch's ndtr has no digits in a tail
    density = torch.exp(-a.square() / 2) / math.sqrt(2 * math.pi)
    excess = (r - 1) * (r + 1)
    atom = at_zero * (log_ndtr(a) - log_ndtr(-other_loc / other_scale))
    rest = above * (c.square() / 2 + excess / 2 - r.log()) + density * (excess * a / 2 + c * r)
    return (atom + rest).to(torch.promote_types(q.loc.dtype, p.loc.dtype))
