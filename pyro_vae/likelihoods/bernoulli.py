"""Likelihoods of data that are 0 or 1, or lie between."""

import pyro.distributions as dist
from torch import Tensor

from pyro_vae import distributions
from pyro_vae.likelihoods.base import Likelihood


class Bernoulli(Likelihood):
    r"""p(x | z) = prod_i Bernoulli(x_i; sigmoid(decoder(z)_i)),   x_i in {0, 1}

    Shapes: (\*batch, \*latent) -> batch (\*batch,), event data_shape.

    Args:
        decoder: a module from (batch, \*latent) to (batch, \*data_shape): the logits.
        latent: dimensions (or shape) of a code.
        data_shape: shape of one datum.

    Raises:
        ValueError: where the decoder's output does not fit; where data are scored that are not 0 or 1.

    >>> likelihood = Bernoulli(torch.nn.Linear(2, 9), 2, (3, 3))
    >>> likelihood(torch.zeros(5, 2)).event_shape
    torch.Size([3, 3])
    """

    def forward(self, *z: Tensor) -> dist.Distribution:
        """The distribution of the data that ``z`` explains."""
        return distributions.BinaryBernoulli(logits=self.decoder(*z)).to_event(len(self.data_shape))


class ContinuousBernoulli(Likelihood):
    r"""p(x | z) = prod_i C(l_i) sigmoid(l_i)^x_i sigmoid(-l_i)^(1 - x_i),   l = decoder(z),   x_i in [0, 1]

    A density on [0, 1], normalised by C(l) = l / tanh(l / 2): what grey values may be scored with where a
    Bernoulli would score them with no distribution at all.

    Shapes: (\*batch, \*latent) -> batch (\*batch,), event data_shape.

    Args:
        decoder: a module from (batch, \*latent) to (batch, \*data_shape): the logits l.
        latent: dimensions (or shape) of a code.
        data_shape: shape of one datum.

    Raises:
        ValueError: where the decoder's output does not fit; where data are scored outside [0, 1].

    Source: Loaiza-Ganem & Cunningham 2019, arXiv:1907.06845.

    >>> likelihood = ContinuousBernoulli(torch.nn.Linear(2, 9), 2, (3, 3))
    >>> likelihood(torch.zeros(5, 2)).event_shape
    torch.Size([3, 3])
    """

    def forward(self, *z: Tensor) -> dist.Distribution:
        """The distribution of the data that ``z`` explains."""
        return distributions.ContinuousBernoulli(self.decoder(*z)).to_event(len(self.data_shape))
