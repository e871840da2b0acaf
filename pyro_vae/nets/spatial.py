"""Convolutions between images of different sizes, such as the levels of a hierarchy."""

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from pyro_vae.checks import positive_int, shape
from pyro_vae.nets.conv import Conv
from pyro_vae.nets.features import Resized
from pyro_vae.nets.mlp import MLP


class Spatial(nn.Module):
    r"""y = W_L * h_{L-1} + b_L,   h_i = relu(W_i * h_{i-1} + b_i),   h_0 = x, brought to the other size on the way

    3 x 3 convolutions from one image to another. All but the one that has to stand in the larger of the two sizes
    stand in the smaller. Where one side is a vector, and the image has at least 8 x 8 pixels, this is
    :class:`Conv`; else, and between vectors, :class:`MLP`.

    Shapes: (batch, \*inside) -> (batch, \*outside).

    Args:
        inside, outside: shapes of one input and one output, (channels, height, width) or (width,).
        hidden: channels of the hidden layers, from ``inside`` to ``outside``.
        width: units of the fully connected layer beside a vector.

    Raises:
        ValueError: where a width is not a positive whole number.

    Source: the levels of Soenderby et al. 2016, arXiv:1602.02282, with the latents in space as in Kingma et al. 2016,
    arXiv:1606.04934.

    >>> Spatial((8, 7, 7), (1, 28, 28))(torch.zeros(5, 8, 7, 7)).shape
    torch.Size([5, 1, 28, 28])
    >>> Spatial((8, 7, 7), 16)(torch.zeros(5, 8, 7, 7)).shape
    torch.Size([5, 16])
    """

    def __init__(
        self,
        inside: Sequence[int] | int,
        outside: Sequence[int] | int,
        hidden: Sequence[int] = (32, 32),
        width: int = 256,
    ) -> None:
        super().__init__()
        inside, outside = shape("inside", inside), shape("outside", outside)
        hidden = tuple(positive_int(f"hidden[{i}]", c) for i, c in enumerate(hidden))
        images = [dims for dims in (inside, outside) if len(dims) == 3]
        if len(images) == 2:
            self.layers = nn.Sequential(*_resizing(inside, outside, hidden))
        elif images and hidden and min(images[0][1:]) >= 8:
            inwards = hidden if len(inside) == 3 else hidden[::-1]
            self.layers = nn.Sequential(Conv(inside, outside, inwards, width))
        else:
            self.layers = nn.Sequential(MLP(inside, outside, (width,) if hidden else ()))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layers."""
        return self.layers(x)


def _resizing(inside: tuple[int, ...], outside: tuple[int, ...], hidden: tuple[int, ...]) -> list[nn.Module]:
    channels = [inside[0], *hidden, outside[0]]
    convolutions: list[nn.Module] = [nn.Conv2d(i, o, 3, padding=1) for i, o in pairwise(channels)]
    if inside[1:] != outside[1:]:
        grows = math.prod(outside[1:]) > math.prod(inside[1:])
        at = len(hidden) if grows else 1  # before the last convolution, or after the first
        convolutions.insert(at, Resized((channels[at], *inside[1:]), outside[1:]))
    layers: list[nn.Module] = []
    for layer in convolutions:
        bent = isinstance(layer, nn.Conv2d) and any(isinstance(before, nn.Conv2d) for before in layers)
        layers += [nn.ReLU(), layer] if bent else [layer]
    return layers
