"""Priors of categorical codes."""

import math
from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae import checks, distributions, nets


class Categorical(nn.Module):
    r"""p(z) = prod_j Categorical(z_j; p_j),   z_j one-hot,   p_j = 1 / categories, or learned

    Shapes: event (codes, categories).

    Args:
        latent: (codes, categories).
        learned: whether the probabilities are learned, for each code.

    Raises:
        ValueError: where ``latent`` is no such pair of numbers.

    Source: Jang, Gu & Poole 2017, arXiv:1611.01144.

    >>> Categorical((20, 10))().event_shape
    torch.Size([20, 10])
    """

    logits: Tensor

    def __init__(self, latent: Sequence[int], learned: bool = False) -> None:
        super().__init__()
        self.latent, self.learned = checks.codes(latent), learned
        checks.instance("learned", learned, bool)
        if learned:
            self.logits = nn.Parameter(torch.zeros(self.latent))
        else:
            self.register_buffer("logits", torch.zeros(self.latent), persistent=False)

    def forward(self, *conditions: Tensor) -> dist.Distribution:
        """The distribution of one datum's codes, which no condition changes."""
        return distributions.Codes(self.logits)


class PixelCNN(nn.Module):
    r"""p(z) = prod_j p(z_j | z_1, ..., z_{j-1}),   z_j one-hot, the places of a map row by row

    A prior that is learned along with the pair and sees codes as they are: its gradient does not reach them.

    Shapes: event (height * width, categories).

    Args:
        latent: (height * width, categories).
        size: (height, width) of the map; by default a single row.
        hidden, layers: of :class:`pyro_vae.nets.PixelCNN`.

    Raises:
        ValueError: where ``latent`` and ``size`` do not fit.

    Source: van den Oord et al. 2016, arXiv:1606.05328; van den Oord, Vinyals & Kavukcuoglu 2017, arXiv:1711.00937.

    >>> PixelCNN((12, 8), size=(3, 4), hidden=16)().sample((2,)).shape
    torch.Size([2, 12, 8])
    """

    def __init__(
        self, latent: Sequence[int], size: Sequence[int] | None = None, hidden: int = 32, layers: int = 4
    ) -> None:
        super().__init__()
        self.latent, self.hidden, self.layers = checks.codes(latent), hidden, layers
        places, categories = self.latent
        self.size = (1, places) if size is None else checks.shape("size", size)
        if len(self.size) != 2 or math.prod(self.size) != places:
            raise ValueError(f"size: expected (height, width) of a map of {places} places, found {self.size}")
        self.net = nets.PixelCNN(categories, hidden, layers)

    def forward(self, *conditions: Tensor) -> dist.Distribution:
        """The distribution of one datum's codes, which no condition changes."""
        like = next(self.net.parameters())
        return distributions.AutoregressiveCodes(self.conditionals, self.latent[0], (), like, self.latent[1:])

    def conditionals(self, z: Tensor) -> dist.Distribution:
        """Of each code, given those before it."""
        images = z.detach().reshape(-1, *self.size, self.latent[1]).movedim(-1, 1)
        logits = self.net(images).movedim(1, -1).reshape(z.shape)
        return dist.OneHotCategorical(logits=logits)
