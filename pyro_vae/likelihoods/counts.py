"""Likelihoods of counts."""

from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae import distributions
from pyro_vae.likelihoods.base import Likelihood
from pyro_vae.nets import Log1p
from pyro_vae.posteriors import bounded, bounded_scale

LOG_RATE_BOUND = 14.0  # rates from 8e-7 to 1.2e6, so that no step can overflow


class _Counts(Likelihood):
    """Counts enter an encoder as log(1 + x)."""

    @classmethod
    def features(cls, data_shape: tuple[int, ...], **settings: Any) -> Log1p:
        """The logarithm of one more than each count."""
        return Log1p(data_shape)


class Poisson(_Counts):
    r"""p(x | z) = prod_i Poisson(x_i; rate_i),   rate = exp(14 tanh(decoder(z) / 14)),   x_i in {0, 1, 2, ...}

    Shapes: (\*batch, \*latent) -> batch (\*batch,), event data_shape.

    Args:
        decoder: a module from (batch, \*latent) to (batch, \*data_shape): the logarithms of the rates, and near
            them what they are bounded to.
        latent: dimensions (or shape) of a code.
        data_shape: shape of one datum.

    Raises:
        ValueError: where the decoder's output does not fit; where data are scored that are no counts.

    >>> likelihood = Poisson(torch.nn.Linear(2, 9), 2, (3, 3))
    >>> likelihood(torch.zeros(5, 2)).event_shape
    torch.Size([3, 3])
    """

    def forward(self, *z: Tensor) -> dist.Distribution:
        """The distribution of the data that ``z`` explains."""
        rate = bounded_scale(self.decoder(*z), LOG_RATE_BOUND)
        return distributions.CountPoisson(rate).to_event(len(self.data_shape))


class NegativeBinomial(_Counts):
    r"""p(x | z) = prod_i NB(x_i; rate_i, r_i),   rate = exp(14 tanh(decoder(z) / 14)),   x_i in {0, 1, 2, ...}

    The mean of x_i is rate_i, its variance rate_i + rate_i^2 / r_i: counts that spread wider than a Poisson's.
    Each element has an r of its own, learned, starting at 1 and bounded as the posterior's scale.

    Shapes: (\*batch, \*latent) -> batch (\*batch,), event data_shape.

    Args:
        decoder: a module from (batch, \*latent) to (batch, \*data_shape): the logarithms of the rates, and near
            them what they are bounded to.
        latent: dimensions (or shape) of a code.
        data_shape: shape of one datum.

    Raises:
        ValueError: where the decoder's output does not fit; where data are scored that are no counts.

    Source: Zhao et al. 2020, "Variational autoencoders for sparse and overdispersed discrete data",
    arXiv:1905.00616; an r for each element, shared by all data, as in Lopez et al. 2017, arXiv:1709.02082.

    >>> likelihood = NegativeBinomial(torch.nn.Linear(2, 9), 2, (3, 3))
    >>> likelihood(torch.zeros(5, 2)).event_shape
    torch.Size([3, 3])
    """

    def __init__(self, decoder: nn.Module, latent: Sequence[int] | int, data_shape: Sequence[int] | int) -> None:
        super().__init__(decoder, latent, data_shape)
        self.log_r = nn.Parameter(torch.zeros(self.data_shape))

    def forward(self, *z: Tensor) -> dist.Distribution:
        """The distribution of the data that ``z`` explains."""
        settings = overdispersed(self.decoder(*z), self.log_r)
        return distributions.CountNegativeBinomial(**settings).to_event(len(self.data_shape))


def overdispersed(log_rate: Tensor, log_r: Tensor) -> dict[str, Tensor]:
    """A negative binomial's parameters from those of its mean and of its r; in logarithms, so that none overflows."""
    logits = bounded(log_rate, LOG_RATE_BOUND) - bounded(log_r)
    return {"total_count": bounded_scale(log_r), "logits": logits}
