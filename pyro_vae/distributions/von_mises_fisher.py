"""The von Mises-Fisher distribution: what a normal is to R^d, on the sphere."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor
from torch.distributions import Beta, register_kl

from pyro_vae.distributions.advised import Advised
from pyro_vae.distributions.bessel import iv_ratio, log_0f1
from pyro_vae.distributions.spherical_uniform import ADVICE, SphericalUniform, check_vectors, directions, log_area

# of Gauss and Legendre, on [-1, 1]
NODES, WEIGHTS = np.polynomial.legendre.leggauss(40)
REACH = 10.0  # standard deviations of the angle, beyond which no mass is left that float64 could tell


class VonMisesFisher(Advised, TorchDistribution):
    r"""p(z) = C_d(k) exp(k loc . z),   C_d(k) = k^v / ((2 pi)^(v + 1) I_v(k)),   v = d / 2 - 1,   |z| = 1

    The density is with respect to the area of the sphere S^(d-1) in R^d; at k = 0 it would be uniform.

    Draws have gradients in both parameters. The angle phi between z and ``loc`` is drawn by rejection, and moves with
    k as its quantiles do, dphi/dk = -(dF/dk) / (dF/dphi), F its distribution function. The gradient of the accepted
    proposal, as it is often taken, lacks that of having been accepted.

    Everything is computed in float64, and returned in the dtype of ``loc``.

    Shapes: batch that of ``concentration``, event (d,).

    Args:
        loc: unit vectors of shape (\*batch, d), the directions of the means, d at least 2.
        concentration: k, positive numbers of shape (\*batch).

    Raises:
        ValueError: where ``loc`` is no vector of two or more dimensions.

    Source: Davidson et al. 2018, arXiv:1804.00891; Wood 1994, "Simulation of the von Mises Fisher distribution".

    >>> north = torch.tensor([0.0, 0.0, 1.0])
    >>> VonMisesFisher(north, torch.tensor(2.0)).mean
    tensor([0.0000, 0.0000, 0.5373])
    """

    arg_constraints: ClassVar = {"loc": constraints.sphere, "concentration": constraints.positive}
    support = constraints.sphere
    has_rsample = True
    advice = ADVICE

    def __init__(self, loc: Tensor, concentration: Tensor, validate_args: bool | None = None) -> None:
        check_vectors("loc", loc)
        batch, event = torch.broadcast_shapes(loc.shape[:-1], concentration.shape), loc.shape[-1:]
        self.loc, self.concentration = loc.expand(batch + event), concentration.expand(batch)
        super().__init__(batch, event, validate_args=validate_args)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "VonMisesFisher":
        """The same distribution, more often."""
        batch = torch.Size(batch_shape)
        loc, concentration = self.loc.expand(batch + self.event_shape), self.concentration.expand(batch)
        new = VonMisesFisher(loc, concentration, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @property
    def mean(self) -> Tensor:
        """E[z] = A(k) loc,   A = I_{v+1} / I_v; it lies inside the sphere."""
        return (self._resultant().unsqueeze(-1) * self.loc.double()).to(self.loc.dtype)

    @property
    def mode(self) -> Tensor:
        """``loc``."""
        return self.loc

    def entropy(self) -> Tensor:
        """H = log area - KL(p || uniform)."""
        return (log_area(self.event_shape[0]) - _divergence(self)).to(self.loc.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log p(z)."""
        if self._validate_args:
            self._validate_sample(value)
        k, v = self.concentration.double(), self.event_shape[0] / 2 - 1
        log_p = k * _cosine(self.loc, value) - log_0f1(v, k) - log_area(self.event_shape[0])
        return log_p.to(self.loc.dtype)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """An angle to ``loc`` first, then a direction in which to leave it."""
        shape, loc = self._extended_shape(torch.Size(sample_shape)), self.loc.double()
        d = shape[-1]
        angle = _Angle.apply(self.concentration.double().expand(shape[:-1]), d).unsqueeze(-1)
        aside = directions((*shape[:-1], d - 1), like=loc)
        from_pole = torch.cat([angle.cos(), angle.sin() * aside], -1)
        # The reflection that exchanges e_1 and -s loc, s the sign of loc's first entry, and then z -> -s z, take e_1
        # to loc. The mirror's normal e_1 + s loc is at least sqrt(2) long, so that loc = +-e_1 is as good as any other
        s = torch.where(loc[..., :1] < 0, -1.0, 1.0)
        normal = s * loc + (torch.arange(d, device=loc.device) == 0)
        along = (normal * from_pole).sum(-1, keepdim=True) / normal.square().sum(-1, keepdim=True)
        return (s * (2 * along * normal - from_pole)).to(self.loc.dtype)

    def _resultant(self) -> Tensor:
        return iv_ratio(self.event_shape[0] / 2 - 1, self.concentration.double())


@register_kl(VonMisesFisher, SphericalUniform)
def _kl_to_uniform(p: VonMisesFisher, q: SphericalUniform) -> Tensor:
    """k A(k) - log 0F1(; d / 2; k^2 / 4)"""
    _same_sphere(p, q)
    shape = torch.broadcast_shapes(p.batch_shape, q.batch_shape)
    return _divergence(p).to(p.loc.dtype).expand(shape)


@register_kl(VonMisesFisher, VonMisesFisher)
def _kl_to_von_mises_fisher(p: VonMisesFisher, q: VonMisesFisher) -> Tensor:
    """A(k_p) (k_p - k_q loc_p . loc_q) + log C_d(k_p) - log C_d(k_q)"""
    _same_sphere(p, q)
    v, k_p, k_q = p.event_shape[0] / 2 - 1, p.concentration.double(), q.concentration.double()
    kl = p._resultant() * (k_p - k_q * _cosine(p.loc, q.loc)) + log_0f1(v, k_q) - log_0f1(v, k_p)
    return kl.to(p.loc.dtype)


def _same_sphere(p: TorchDistribution, q: TorchDistribution) -> None:
    if p.event_shape != q.event_shape:
        raise ValueError(f"KL: expected two distributions on one sphere, found {p.event_shape} and {q.event_shape}")


def _divergence(p: VonMisesFisher) -> Tensor:
    """KL(p || uniform), in float64."""
    k = p.concentration.double()
    return k * p._resultant() - log_0f1(p.event_shape[0] / 2 - 1, k)


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    """a . b of unit vectors, in float64.

    From the chord between them: the rounding of their lengths, which k multiplies, then counts by 1 - a . b alone.
    """
    return 1 - (a.double() - b.double()).square().sum(-1) / 2


class _Angle(torch.autograd.Function):
    """phi with density proportional to sin(phi)^(d - 2) exp(k cos(phi)) on [0, pi]."""

    @staticmethod
    def forward(ctx: Any, k: Tensor, d: int) -> Tensor:
        angle = _draw_angles(k, d)
        ctx.save_for_backward(k, angle)
        ctx.d = d
        return angle

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        k, angle = ctx.saved_tensors
        return grad * _slope(k, angle, ctx.d), None


def _draw_angles(k: Tensor, d: int) -> Tensor:
    """Wood's rejection, in the half angle: 1 - w and 1 + w are exact at both poles."""
    flat = k.flatten()
    angle = torch.empty_like(flat)
    left = torch.arange(flat.numel(), device=k.device)
    a = flat.new_tensor((d - 1) / 2)
    while left.numel():
        wanted = flat[left]
        b = (d - 1) / (2 * wanted + torch.hypot(2 * wanted, 2 * a))
        x = (1 - b) / (1 + b)
        z = Beta(a, a, validate_args=False).sample(wanted.shape)
        w = (1 - (1 + b) * z) / (1 - (1 - b) * z)
        log_accept = wanted * (w - x) + (d - 1) * torch.log((1 - x * w) / (1 - x.square()))
        # so that nothing is drawn for ever where k is NaN
        accepted = ~(torch.rand_like(wanted).log() > log_accept)
        angle[left[accepted]] = 2 * torch.atan2((b * z).sqrt(), (1 - z).sqrt())[accepted]
        left = left[~accepted]
    return angle.view(k.shape)


def _slope(k: Tensor, angle: Tensor, d: int) -> Tensor:
    r"""dphi/dk = -(1 / g(phi)) int_0^phi g(t) (cos t - A(k)) dt,   g(t) = sin(t)^(d - 2) exp(k cos(t))

    The integral over all of [0, pi] is 0. It is taken on the side of phi where the integrand has one sign. The result
    can itself be differentiated, in both arguments, so that draws have derivatives of any order.
    """
    a = iv_ratio(d / 2 - 1, k)
    with torch.no_grad():  # nothing stands at the end that could change with it
        cosine = 2 * k / (d - 2 + torch.hypot(2 * k, k.new_tensor(d - 2)))  # of the angle where g is greatest
        mode, reach = torch.acos(cosine.clamp(max=1)), REACH / torch.sqrt(k * cosine + d - 2)
        inner = (torch.minimum(mode, angle) - reach).clamp(min=0)
        outer = (torch.maximum(mode, angle) + reach).clamp(max=math.pi)
        end = torch.where(angle.cos() > a, inner, outer)

    def log_g(t: Tensor, k: Tensor) -> Tensor:
        return k * t.cos() + (d - 2) * t.sin().log()

    half, total, log_g_of_angle = (end - angle) / 2, torch.zeros_like(k), log_g(angle, k).unsqueeze(-1)
    nodes, weights = k.new_tensor(NODES), k.new_tensor(WEIGHTS)
    together = max(2**20 // max(k.numel(), 1), 1)  # memory stays bounded whatever the number of draws
    for n, w in zip(nodes.split(together), weights.split(together), strict=True):
        t = angle.unsqueeze(-1) + half.unsqueeze(-1) * (n + 1)
        ratio = torch.exp(log_g(t, k.unsqueeze(-1)) - log_g_of_angle)
        total = total + (ratio * (t.cos() - a.unsqueeze(-1))) @ w
    # from phi to an end: on the inner side this is -int_0^phi, on the outer one int_phi^pi, and these are equal
    return half * total
