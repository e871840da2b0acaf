"""Posteriors of other families than the normal, their parameters computed from the data."""

from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
from torch import Tensor, nn
from torch.distributions import biject_to, constraints

from pyro_vae import checks, distributions
from pyro_vae.posteriors.base import Posterior, bounded, bounded_scale, several

BREAKS = (-1.0, 0.0, 1.0)


class Horseshoe(Posterior):
    r"""q(z | x) = prod_u Horseshoe(z_u; loc_u(x), scale_u(x)),   scale(x) = exp(7 tanh(s(x) / 7))

    A pole at loc and tails without a mean: where q says "here", and seldom means somewhere else. A code of it is at its
    mode.

    Shapes: as :class:`DiagonalNormal`.

    Args:
        encoder, data_shape, latent: as for :class:`DiagonalNormal`.

    Raises:
        ValueError: where the encoder's output is not 2 * latent wide.

    Source: Carvalho, Polson & Scott 2010, "The horseshoe estimator for sparse signals", Biometrika.

    >>> Horseshoe(torch.nn.Linear(9, 4), 9, 2)(torch.zeros(5, 9)).event_shape
    torch.Size([2])
    """

    def forward(self, *x: Tensor) -> dist.Distribution:
        """The distribution of the code of each datum."""
        loc, s = self.parameters_of(*x)
        return distributions.Horseshoe(loc, bounded_scale(s)).to_event(len(self.latent))


class RectifiedNormal(Posterior):
    r"""z = max(0, u),   u ~ N(loc(x), diag scale(x)^2),   scale(x) = exp(7 tanh(s(x) / 7))

    A unit is off, exactly 0, with probability Phi(-loc / scale). Its log q jumps there, so that
    :func:`pyro_vae.fit` trains it under :class:`pyro_vae.infer.AnalyticKL`, and under ``Trace_ELBO`` it is not
    reparameterised.

    Shapes: as :class:`DiagonalNormal`.

    Args:
        encoder, data_shape, latent: as for :class:`DiagonalNormal`.

    Raises:
        ValueError: where the encoder's output is not 2 * latent wide.

    Source: Hinton & Ghahramani 1997, "Generative models for discovering sparse distributed representations".

    >>> q = RectifiedNormal(torch.nn.Linear(9, 4), 9, 2)(torch.zeros(5, 9))
    >>> bool((q.sample() >= 0).all())
    True
    """

    def forward(self, *x: Tensor) -> dist.Distribution:
        """The distribution of the code of each datum."""
        loc, s = self.parameters_of(*x)
        return distributions.RectifiedNormal(loc, bounded_scale(s)).to_event(len(self.latent))


class PiecewiseNormal(Posterior):
    r"""q(z | x) = prod_u PiecewiseNormal(z_u; breaks, loc_u(x), scale_u(x)),   one loc and scale for each segment

    Continuous, with up to as many modes as there are segments.

    Shapes: as :class:`DiagonalNormal`.

    Args:
        encoder: a module from (batch, \*data_shape) to (batch, 2 * segments * latent): the locs, then the s.
        data_shape, latent: as for :class:`DiagonalNormal`.
        breaks: where one segment ends and the next begins, of every unit.

    Raises:
        ValueError: where ``breaks`` do not increase, or the encoder's output has another width.

    >>> posterior = PiecewiseNormal(torch.nn.Linear(9, 12), 9, 2, breaks=(-1.0, 1.0))
    >>> posterior(torch.zeros(5, 9)).event_shape
    torch.Size([2])
    """

    breaks: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        data_shape: Sequence[Sequence[int]] | Sequence[int] | int,
        latent: Sequence[int] | int,
        breaks: Sequence[float] = BREAKS,
    ) -> None:
        cuts = checks.increasing("breaks", breaks)
        super().__init__(encoder, data_shape, latent, 2 * len(cuts) + 2)
        self.register_buffer("breaks", cuts, persistent=False)

    @classmethod
    def encoder_shape(
        cls, latent: tuple[int, ...], breaks: Sequence[float] = BREAKS, **settings: Any
    ) -> tuple[int, ...]:
        """Loc and s of each segment."""
        return several(2 * len(checks.increasing("breaks", breaks)) + 2, latent)

    def forward(self, *x: Tensor) -> dist.Distribution:
        """The distribution of the code of each datum."""
        loc, s = self.encoder(*x).movedim(-1 - len(self.latent), -1).chunk(2, -1)
        scale = bounded_scale(s, 3.0)  # beyond, a segment far from its loc holds no mass in float32
        return distributions.PiecewiseNormal(self.breaks, loc, scale).to_event(len(self.latent))


class VonMisesFisher(Posterior):
    r"""q(z | x) = C(k(x)) exp(k(x) loc(x)^T z),   |z| = |loc(x)| = 1,   k(x) = 1 + exp(7 tanh(s(x) / 7))

    Codes on a sphere, under :class:`pyro_vae.priors.SphericalUniform`. The KL depends on k alone, and cannot be escaped
    by a code near the origin.

    Shapes: (\*batch, \*data_shape) -> batch (\*batch,), event (latent,).

    Args:
        encoder: a module from (batch, \*data_shape) to (batch, latent + 1): a vector, of whatever length, and s.
        data_shape: as for :class:`DiagonalNormal`.
        latent: dimensions of the space that the sphere lies in, at least 2.

    Raises:
        ValueError: where ``latent`` is less than 2, or the encoder's output is not latent + 1 wide.

    Source: Davidson et al. 2018, arXiv:1804.00891.

    >>> q = VonMisesFisher(torch.nn.Linear(9, 4), 9, 3)(torch.ones(5, 9))
    >>> torch.allclose(q.sample().norm(dim=-1), torch.ones(5))
    True
    """

    def __init__(
        self,
        encoder: nn.Module,
        data_shape: Sequence[Sequence[int]] | Sequence[int] | int,
        latent: Sequence[int] | int,
    ) -> None:
        (width,) = self.encoder_shape(checks.latent(latent))
        super().__init__(encoder, data_shape, width, 1)
        self.latent = (width - 1,)

    @classmethod
    def encoder_shape(cls, latent: tuple[int, ...], **settings: Any) -> tuple[int, ...]:
        """A direction, and how sure of it."""
        return (checks.on_sphere(latent) + 1,)

    def forward(self, *x: Tensor) -> dist.Distribution:
        """The distribution of the code of each datum."""
        v, s = self.encoder(*x).squeeze(-2).split([*self.latent, 1], -1)
        loc = v / v.norm(dim=-1, keepdim=True).clamp(min=1e-12)
        return distributions.VonMisesFisher(loc, 1 + bounded_scale(s.squeeze(-1)))


class Transformed(Posterior):
    r"""z = T(u),   u ~ N(20 tanh(loc(x) / 20), diag scale(x)^2),   scale(x) = min(exp(7 tanh(s(x) / 7)), 4)

    T is a smooth bijection onto the support of the prior: positive numbers, an interval, a simplex. q is log-normal,
    logit-normal, ... The bounds keep what T makes of u away from 0 and infinity, in float32 too.

    Shapes: as :class:`DiagonalNormal`.

    Args:
        encoder: a module from (batch, \*data_shape) to (batch, 2 * unconstrained): loc and s of the u.
        data_shape, latent: as for :class:`DiagonalNormal`.
        support: a constraint of :mod:`torch.distributions.constraints`, that of the prior.

    Raises:
        ValueError: where PyTorch knows no bijection onto ``support``, or the encoder's output does not fit.

    Source: Kucukelbir et al. 2017, arXiv:1603.00788.

    >>> q = Transformed(torch.nn.Linear(9, 4), 9, 2, support=torch.distributions.constraints.positive)
    >>> bool((q(torch.zeros(5, 9)).sample() > 0).all())
    True
    """

    def __init__(
        self,
        encoder: nn.Module,
        data_shape: Sequence[Sequence[int]] | Sequence[int] | int,
        latent: Sequence[int] | int,
        support: constraints.Constraint,
    ) -> None:
        self.encoder_shape(latent if isinstance(latent, tuple) else checks.latent(latent), support)
        outside = () if latent == () else checks.latent(latent)
        super().__init__(encoder, data_shape, tuple(biject_to(support).inverse_shape(outside)))
        self.support, self.code = support, outside

    @classmethod
    def encoder_shape(
        cls, latent: tuple[int, ...], support: constraints.Constraint = constraints.real, **settings: Any
    ) -> tuple[int, ...]:
        """Loc and s of every number before the bijection."""
        try:
            return several(2, tuple(biject_to(support).inverse_shape(latent)))
        except NotImplementedError:
            raise ValueError(f"support: no bijection onto {support} is known") from None

    def forward(self, *x: Tensor) -> dist.Distribution:
        """The distribution of the code of each datum."""
        loc, s = self.parameters_of(*x)
        u = dist.Normal(bounded(loc, 20.0), bounded_scale(s).clamp(max=4.0))
        q = dist.TransformedDistribution(u, [biject_to(self.support)])
        return q.to_event(len(self.code) - len(q.event_shape))
