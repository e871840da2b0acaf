"""Likelihoods of the levels of digital images: probabilities, not densities."""

from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
from torch import Tensor, nn

from pyro_vae import checks, distributions
from pyro_vae.likelihoods.base import Likelihood, several
from pyro_vae.posteriors import bounded_scale

MOST_BITS = 16  # float32 tells no more levels apart


class DiscretizedLogistic(Likelihood):
    r"""P(x | z) = prod_i F_i(x_i + w/2) - F_i(x_i - w/2),   F_i(t) = sigmoid((t - loc_i) / scale_i)

    x_i is one of the levels 0, w, 2w, ..., 1 with w = 1 / (2^bits - 1); the bins of 0 and 1 reach out to infinity.
    Of the decoder's m and s come loc = (1 + m) / 2 and scale = exp(7 tanh(s / 7)) / 2: both are as for data in [-1, 1].

    Shapes: (\*batch, \*latent) -> batch (\*batch,), event data_shape.

    Args:
        decoder: a module from (batch, \*latent) to (batch, 2, \*data_shape), in that order (as channels of an
            image, say): m, then s.
        latent: dimensions (or shape) of a code.
        data_shape: shape of one datum.
        bits: binary digits of a level, 8 for bytes, which are divided by 255.

    Raises:
        ValueError: where the decoder's output does not fit, or ``bits`` is not from 1 to 16; where data are scored
            that are no levels.

    Source: Kingma et al. 2016, arXiv:1606.04934, with two parameters per element.

    >>> likelihood = DiscretizedLogistic(torch.nn.Linear(2, 18), 2, (3, 3))
    >>> likelihood(torch.zeros(5, 2)).event_shape
    torch.Size([3, 3])
    """

    def __init__(
        self, decoder: nn.Module, latent: Sequence[int] | int, data_shape: Sequence[int] | int, bits: int = 8
    ) -> None:
        data_shape = checks.shape("data_shape", data_shape)
        super().__init__(decoder, latent, data_shape, gives=(2, *data_shape))
        self.bits = _bits(bits)

    @classmethod
    def decoder_shape(cls, data_shape: tuple[int, ...], **settings: Any) -> tuple[int, ...]:
        """A centre and a scale."""
        return several(2, data_shape)

    def forward(self, *z: Tensor) -> dist.Distribution:
        """The distribution of the data that ``z`` explains."""
        m, s = self.decoder(*z).unbind(-1 - len(self.data_shape))
        return distributions.DiscretizedLogistic(*_in_unit(m, s), self.bits).to_event(len(self.data_shape))


class DiscretizedLogisticMixture(Likelihood):
    r"""P(x | z) = prod_i sum_j pi_ij DiscretizedLogistic(x_i; loc_ij, scale_ij),   pi_i. = softmax(l_i.)

    Every element has a mixture of its own: the channels of a pixel are independent given z, where PixelCNN++
    lets the later ones look at the earlier. Levels, loc and scale are as in :class:`DiscretizedLogistic`.

    Shapes: (\*batch, \*latent) -> batch (\*batch,), event data_shape.

    Args:
        decoder: a module from (batch, \*latent) to (batch, 3, components, \*data_shape), in that order (as channels
            of an image, say): l, m, then s.
        latent: dimensions (or shape) of a code.
        data_shape: shape of one datum.
        bits: binary digits of a level, 8 for bytes, which are divided by 255.
        components: of each mixture.

    Raises:
        ValueError: where the decoder's output does not fit, ``bits`` is not from 1 to 16 or ``components`` is not
            positive; where data are scored that are no levels.

    Source: Salimans et al. 2017, "PixelCNN++", arXiv:1701.05517.

    >>> likelihood = DiscretizedLogisticMixture(torch.nn.Linear(2, 3 * 4 * 9), 2, (3, 3), components=4)
    >>> likelihood(torch.zeros(5, 2)).event_shape
    torch.Size([3, 3])
    """

    def __init__(
        self,
        decoder: nn.Module,
        latent: Sequence[int] | int,
        data_shape: Sequence[int] | int,
        bits: int = 8,
        components: int = 5,
    ) -> None:
        data_shape = checks.shape("data_shape", data_shape)
        gives = (3, checks.positive_int("components", components), *data_shape)
        super().__init__(decoder, latent, data_shape, gives)
        self.bits = _bits(bits)

    @classmethod
    def decoder_shape(cls, data_shape: tuple[int, ...], components: int = 5, **settings: Any) -> tuple[int, ...]:
        """A weight, a centre and a scale for each component."""
        return several(3 * checks.positive_int("components", components), data_shape)

    def forward(self, *z: Tensor) -> dist.Distribution:
        """The distribution of the data that ``z`` explains."""
        last = self.decoder(*z).movedim(-1 - len(self.data_shape), -1)
        logits, m, s = last.unbind(-2 - len(self.data_shape))
        mixture = distributions.DiscretizedLogisticMixture(logits, *_in_unit(m, s), self.bits)
        return mixture.to_event(len(self.data_shape))


def _bits(bits: int) -> int:
    if checks.positive_int("bits", bits) > MOST_BITS:
        raise ValueError(f"bits: expected at most {MOST_BITS}, found {bits}")
    return int(bits)


def _in_unit(m: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """Location and scale for data in [0, 1], from those for data in [-1, 1]."""
    return (1 + m) / 2, bounded_scale(s) / 2
