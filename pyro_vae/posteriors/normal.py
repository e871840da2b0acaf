"""Diagonal normals."""

from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae import checks
from pyro_vae.posteriors.base import Posterior, bounded_scale


def diagonal_normal(parameters: Tensor, event_dim: int = 1) -> dist.Distribution:
    r"""N(loc, diag scale^2),   scale = exp(7 tanh(s / 7)), of a network's (\*batch, 2, \*latent): loc first, then s."""
    loc, s = parameters.unbind(-1 - event_dim)
    return dist.Normal(loc, bounded_scale(s)).to_event(event_dim)


def product(q: Any, p: Any) -> dist.Distribution:
    r"""N(z; loc, diag scale^2) = q(z) p(z) / Z,   1 / scale^2 = 1 / scale_q^2 + 1 / scale_p^2

    What two diagonal normals say together; each counts as far as it is precise. loc is the mean of theirs, weighed
    by their precisions.

    Raises:
        TypeError: where one of them is no diagonal normal.

    Source: Soenderby et al. 2016, arXiv:1602.02282, equation 17.

    >>> product(dist.Normal(torch.zeros(2), 1.0).to_event(1), dist.Normal(torch.ones(2), 1.0).to_event(1)).mean
    tensor([0.5000, 0.5000])
    """
    for factor in (q, p):
        normal = isinstance(factor, dist.Independent) and isinstance(factor.base_dist, torch.distributions.Normal)
        if not normal or factor.event_dim != q.event_dim:
            raise TypeError(f"expected two diagonal normals of one event to multiply, found {factor}")
    a, b = q.base_dist, p.base_dist
    variance = a.scale**2 + b.scale**2
    loc = (a.loc * b.scale**2 + b.loc * a.scale**2) / variance
    return dist.Normal(loc, a.scale * b.scale / variance.sqrt()).to_event(q.event_dim)


class DiagonalNormal(Posterior):
    r"""q(z | x) = N(z; loc(x), diag scale(x)^2),   scale(x) = exp(7 tanh(s(x) / 7))

    The encoder gives loc and s. The bound on the scale means that no step can drive it to 0 or infinity.

    Shapes: (\*batch, \*data_shape) -> batch (\*batch,), event (\*latent,).

    Args:
        encoder: a module from (batch, \*data_shape) to (batch, 2 * latent): loc first, then s.
        data_shape: shape of one datum; a sequence of shapes where the encoder reads several things, as in q(z | x, c).
        latent: dimensions of the code, or its shape.

    Raises:
        ValueError: where the encoder's output is not 2 * latent wide.

    Source: Kingma & Welling 2014, arXiv:1312.6114, appendix C.

    >>> posterior = DiagonalNormal(torch.nn.Linear(9, 4), 9, 2)
    >>> posterior(torch.zeros(5, 9))
    Independent(Normal(loc: torch.Size([5, 2]), scale: torch.Size([5, 2])), 1)
    """

    def forward(self, *x: Tensor) -> dist.Distribution:
        """The distribution of the code of each datum."""
        return diagonal_normal(self.encoder(*x), len(self.latent))


class BatchNormNormal(DiagonalNormal):
    r"""q(z | x) = N(z; b + g (loc(x) - m) / d, diag scale(x)^2),   m, d: mean and deviation of loc over the batch

    The mean of each unit has the deviation ``g`` over the data, whatever the network: under a standard normal prior
    its KL is at least g^2 / 2 nats on average. Where a ladder multiplies it by a prior this is so of what the data say,
    and not of the product. b is learned. A batch of one, and all data after training, are normalised by running
    averages.

    Shapes: as :class:`DiagonalNormal`.

    Args:
        encoder, data_shape, latent: as for :class:`DiagonalNormal`.
        g: deviation of the means, greater than 0.

    Raises:
        ValueError: where ``g`` is not greater than 0; else as :class:`DiagonalNormal`.

    Source: Zhu et al. 2020, "A batch normalized inference network keeps the KL vanishing away", arXiv:2004.12585.

    >>> posterior = BatchNormNormal(torch.nn.Linear(9, 4), 9, 2, g=0.5)
    >>> posterior(torch.eye(9)).mean.detach().std(0, correction=0).round(decimals=2)
    tensor([0.5000, 0.5000])
    """

    mean: Tensor
    variance: Tensor
    batches: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        data_shape: Sequence[Sequence[int]] | Sequence[int] | int,
        latent: Sequence[int] | int,
        g: float = 0.5,
    ) -> None:
        super().__init__(encoder, data_shape, latent)
        self.g = checks.real("g", g, above=0)
        self.b = nn.Parameter(torch.zeros(self.latent))
        self.register_buffer("mean", torch.zeros(self.latent))
        self.register_buffer("variance", torch.ones(self.latent))
        self.register_buffer("batches", torch.zeros(()))

    def forward(self, *x: Tensor) -> dist.Distribution:
        """The distribution of the code of each datum."""
        loc, s = self.parameters_of(*x)
        mean, variance = self._moments(loc.reshape(-1, *self.latent))
        normed = (loc - mean) / (variance + 1e-8).sqrt()
        return dist.Normal(self.b + self.g * normed, bounded_scale(s)).to_event(len(self.latent))

    def _moments(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        if not self.training or rows.shape[0] == 1:
            return self.mean, self.variance
        mean, variance = rows.mean(0), rows.var(0, correction=0)
        with torch.no_grad():
            self.batches += 1
            share = (1 / self.batches).clamp(min=0.1)  # all batches alike at first, then the later ones more
            self.mean.lerp_(mean, share)
            self.variance.lerp_(variance, share)
        return mean, variance
