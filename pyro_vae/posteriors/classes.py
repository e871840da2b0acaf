"""Posteriors of class labels and of categorical codes."""

from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
from torch import Tensor, nn

from pyro_vae import checks, distributions
from pyro_vae.nets import FlattenBatch
from pyro_vae.posteriors.base import Posterior, several


class Classifier(nn.Module):
    r"""q(c | x) = softmax(encoder(x))_c,   c in {0, ..., classes - 1}

    Shapes: (\*batch, \*data_shape) -> batch (\*batch,), event (), a label.

    Args:
        encoder: a module from (batch, \*data_shape) to (batch, classes): the logits.
        data_shape: shape of one datum.
        classes: how many there are.

    Raises:
        ValueError: where the encoder's output is not ``classes`` wide; where a label is scored that is none of them.

    Source: Kingma et al. 2014, arXiv:1406.5298.

    >>> Classifier(torch.nn.Linear(9, 4), 9, 4)(torch.zeros(5, 9)).probs.shape
    torch.Size([5, 4])
    """

    def __init__(self, encoder: nn.Module, data_shape: Sequence[int] | int, classes: int) -> None:
        super().__init__()
        inside = checks.inputs("data_shape", data_shape)
        checks.positive_int("classes", classes)
        checks.net("classifier", encoder, inside, (classes,))
        self.encoder = FlattenBatch(encoder, inside, (classes,))

    def forward(self, x: Tensor) -> dist.Distribution:
        """The distribution of the class of each datum."""
        return distributions.ClassLabel(logits=self.encoder(x))


class Categorical(Posterior):
    r"""q(z | x) = prod_j Categorical(z_j; softmax(encoder(x)_j)),   z_j one-hot

    Shapes: (\*batch, \*data_shape) -> batch (\*batch,), event (codes, categories).

    Args:
        encoder: a module from (batch, \*data_shape) to (batch, codes * categories): the logits.
        data_shape: as for :class:`DiagonalNormal`.
        latent: (codes, categories).

    Raises:
        ValueError: where the encoder's output has another width, or ``latent`` is no such pair of numbers.

    Source: Jang, Gu & Poole 2017, arXiv:1611.01144.

    >>> Categorical(torch.nn.Linear(9, 8), 9, (2, 4))(torch.zeros(5, 9)).probs.shape
    torch.Size([5, 2, 4])
    """

    def __init__(
        self,
        encoder: nn.Module,
        data_shape: Sequence[Sequence[int]] | Sequence[int] | int,
        latent: Sequence[int],
    ) -> None:
        super().__init__(encoder, data_shape, checks.codes(latent), 1)

    @classmethod
    def encoder_shape(cls, latent: tuple[int, ...], **settings: Any) -> tuple[int, ...]:
        """A logit of each category."""
        return several(1, checks.codes(latent))

    def forward(self, *x: Tensor) -> dist.Distribution:
        """The distribution of the codes of each datum."""
        (logits,) = self.parameters_of(*x)
        return distributions.Codes(logits)
