"""Conditions: what is said of a site c that is given, p(c), and of a code that depends on it, p(z | c)."""

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae import checks, distributions
from pyro_vae.nets import FlattenBatch
from pyro_vae.posteriors import diagonal_normal, twice


class Classes(nn.Module):
    """p(c) = 1 / classes,   c in {0, ..., classes - 1}

    Shapes: event (), a label.

    Args:
        classes: how many there are.

    Raises:
        ValueError: where ``classes`` is no whole number of at least 2; where a label is scored that is none of them.

    >>> Classes(10)().sample((3,)).shape
    torch.Size([3])
    """

    logits: Tensor

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.register_buffer("logits", torch.zeros(checks.several("classes", classes)), persistent=False)

    def forward(self) -> dist.Distribution:
        """The distribution of one label."""
        return distributions.ClassLabel(logits=self.logits)


class Given(nn.Module):
    r"""p(c) = 1: a condition without a density, which scores zero nats and cannot be drawn

    Shapes: event (\*shape,).

    Args:
        shape: of one condition, such as an embedding of 512 numbers or a part of an image.

    >>> Given(512)().log_prob(torch.zeros(3, 512))
    tensor([0., 0., 0.])
    """

    def __init__(self, shape: Sequence[int] | int) -> None:
        super().__init__()
        self.shape = checks.shape("shape", shape)

    def forward(self) -> dist.Distribution:
        """The distribution, if it were one, of one condition."""
        return distributions.NoDensity(self.shape)


class Conditional(nn.Module):
    r"""p(z | c) = N(z; loc(c), diag scale(c)^2),   scale(c) = exp(7 tanh(s(c) / 7)),   c = c_1, c_2, ...

    Shapes: (\*batch, \*inside) -> batch (\*batch,), event (\*latent,).

    Args:
        latent: dimensions of the code z, or its shape.
        net: a module from (batch, \*inside) to (batch, 2 * latent): loc first, then s.
        inside: shape of one condition, () for a class label; of several conditions, a sequence of shapes.

    Raises:
        ValueError: where the output of the net is not 2 * latent wide.

    Source: Sohn, Lee & Yan 2015, "Learning structured output representation using deep conditional generative
    models", NIPS.

    >>> prior = Conditional(2, torch.nn.Linear(3, 4), 3)
    >>> prior(torch.zeros(5, 3))
    Independent(Normal(loc: torch.Size([5, 2]), scale: torch.Size([5, 2])), 1)
    """

    def __init__(
        self,
        latent: Sequence[int] | int,
        net: nn.Module,
        inside: Sequence[Sequence[int]] | Sequence[int] | int,
    ) -> None:
        super().__init__()
        self.latent = checks.latent(latent)
        shapes = ((),) if inside == () else checks.inputs("inside", inside)
        checks.net("net", net, shapes, twice(self.latent))
        self.net = FlattenBatch(net, shapes, (2, *self.latent))

    def forward(self, *c: Tensor) -> dist.Distribution:
        """The distribution of the code under each condition."""
        return diagonal_normal(self.net(*c), len(self.latent))
