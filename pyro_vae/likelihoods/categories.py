"""The likelihood of categories."""

from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
from torch import Tensor, nn

from pyro_vae import checks, distributions
from pyro_vae.likelihoods.base import Likelihood, several
from pyro_vae.nets import OneHot


class Categorical(Likelihood):
    r"""p(x | z) = prod_i softmax(decoder(z)_{., i})_{x_i},   x_i in {0, ..., classes - 1}

    Shapes: (\*batch, \*latent) -> batch (\*batch,), event data_shape. Draws are numbers of the dtype of the logits.

    Args:
        decoder: a module from (batch, \*latent) to (batch, classes, \*data_shape), in that order (as channels of an
            image, say): the logits.
        latent: dimensions (or shape) of a code.
        data_shape: shape of one datum.
        classes: how many categories there are, at least 2.

    Raises:
        ValueError: where the decoder's output does not fit, or ``classes`` is less than 2; where data are scored
            that are not the numbers of categories.

    >>> likelihood = Categorical(torch.nn.Linear(2, 36), 2, (3, 3), classes=4)
    >>> likelihood(torch.zeros(5, 2)).event_shape
    torch.Size([3, 3])
    """

    def __init__(
        self, decoder: nn.Module, latent: Sequence[int] | int, data_shape: Sequence[int] | int, classes: int
    ) -> None:
        data_shape = checks.shape("data_shape", data_shape)
        super().__init__(decoder, latent, data_shape, gives=(checks.several("classes", classes), *data_shape))

    @classmethod
    def decoder_shape(cls, data_shape: tuple[int, ...], classes: int, **settings: Any) -> tuple[int, ...]:
        """One logit for each category."""
        return several(checks.several("classes", classes), data_shape)

    @classmethod
    def features(cls, data_shape: tuple[int, ...], classes: int, **settings: Any) -> OneHot:
        """Categories enter one-hot."""
        return OneHot(data_shape, checks.several("classes", classes))

    def forward(self, *z: Tensor) -> dist.Distribution:
        """The distribution of the data that ``z`` explains."""
        logits = self.decoder(*z).movedim(-1 - len(self.data_shape), -1)
        return distributions.NumberedCategorical(logits=logits).to_event(len(self.data_shape))
