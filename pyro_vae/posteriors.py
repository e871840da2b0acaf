"""Posteriors: callables ``(x) -> distribution`` over a latent site."""

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae import checks, distributions
from pyro_vae.nets import FlattenBatch

LOG_SCALE_BOUND = 7.0


def bounded(s: Tensor, bound: float = LOG_SCALE_BOUND) -> Tensor:
    """Bound * tanh(s / bound): near s, and never outside [-bound, bound]."""
    return bound * torch.tanh(s / bound)


def bounded_scale(s: Tensor, bound: float = LOG_SCALE_BOUND) -> Tensor:
    """exp(7 tanh(s / 7)): near exp(s), and never outside [exp(-7), exp(7)], about 0.0009 to 1100; or another bound."""
    return torch.exp(bounded(s, bound))


def diagonal_normal(parameters: Tensor) -> dist.Distribution:
    r"""N(loc, diag scale^2),   scale = exp(7 tanh(s / 7)), of a network's (\*batch, 2, latent): loc first, then s."""
    loc, s = parameters.unbind(-2)
    return dist.Normal(loc, bounded_scale(s)).to_event(1)


class DiagonalNormal(nn.Module):
    r"""q(z | x) = N(z; loc(x), diag scale(x)^2),   scale(x) = exp(7 tanh(s(x) / 7))

    The encoder gives loc and s. The bound on the scale means that no step can drive it to 0 or infinity.

    Shapes: (\*batch, \*data_shape) -> batch (\*batch,), event (latent,).

    Args:
        encoder: a module from (batch, \*data_shape) to (batch, 2 * latent): loc first, then s.
        data_shape: shape of one datum; a sequence of shapes where the encoder reads several things, as in q(z | x, c).
        latent: dimensions of the code.

    Raises:
        ValueError: where the encoder's output is not 2 * latent wide.

    Source: Kingma & Welling 2014, arXiv:1312.6114, appendix C.

    >>> posterior = DiagonalNormal(torch.nn.Linear(9, 4), 9, 2)
    >>> posterior(torch.zeros(5, 9))
    Independent(Normal(loc: torch.Size([5, 2]), scale: torch.Size([5, 2])), 1)
    """

    def __init__(
        self, encoder: nn.Module, data_shape: Sequence[Sequence[int]] | Sequence[int] | int, latent: int
    ) -> None:
        super().__init__()
        inside = checks.inputs("data_shape", data_shape)
        checks.positive_int("latent", latent)
        checks.net("encoder", encoder, inside, (2 * latent,))
        self.encoder = FlattenBatch(encoder, inside, (2, latent))

    def forward(self, *x: Tensor) -> dist.Distribution:
        """The distribution of the code of each datum."""
        return diagonal_normal(self.encoder(*x))


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
