"""Posteriors of class labels."""

from collections.abc import Sequence

import pyro.distributions as dist
from torch import Tensor, nn

from pyro_vae import checks, distributions
from pyro_vae.nets import FlattenBatch


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
