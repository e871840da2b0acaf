"""Convolutional networks between an image and a vector, for any channel count, height and width from 8 up."""

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from pyro_vae.checks import positive_int, shape


class Conv(nn.Module):
    r"""Strided convolutions from an image to a vector, or transposed ones from a vector to an image.

    The side that has three dimensions is the image. Each stage halves its height and width, rounding
    up; the way back restores the very sizes, so that odd ones need no padding.

    Shapes: (batch, channels, height, width) -> (batch, \*outside), or
    (batch, \*inside) -> (batch, channels, height, width).

    Args:
        inside, outside: shapes of one input and one output; exactly one of them is an image.
        hidden: channels of the stages, from the image inwards.
        width: units of the fully connected layer beside the vector.

    Raises:
        ValueError: where no side or both are images, or the image is smaller than 8 x 8.

    Source: the strided networks of Radford et al. 2016, arXiv:1511.06434, without batch norm.

    >>> Conv((3, 33, 20), (2, 16))(torch.zeros(5, 3, 33, 20)).shape
    torch.Size([5, 2, 16])
    >>> Conv(16, (3, 33, 20))(torch.zeros(5, 16)).shape
    torch.Size([5, 3, 33, 20])
    """

    def __init__(
        self,
        inside: Sequence[int] | int,
        outside: Sequence[int] | int,
        hidden: Sequence[int] = (32, 64, 128),
        width: int = 256,
    ) -> None:
        super().__init__()
        inside, outside = shape("inside", inside), shape("outside", outside)
        if (len(inside) == 3) == (len(outside) == 3):
            raise ValueError(f"Conv: expected exactly one image (channels, height, width), found {inside} -> {outside}")
        positive_int("width", width)
        encodes = len(inside) == 3
        image, vector = (inside, outside) if encodes else (outside, inside)
        if min(image[1:]) < 8:
            raise ValueError(f"Conv: expected an image of at least 8 x 8, found {image[1]} x {image[2]}")
        channels = [image[0], *(positive_int(f"hidden[{i}]", c) for i, c in enumerate(hidden))]
        sizes = halvings(image[1:], len(hidden))
        smallest = (channels[-1], *sizes[-1])
        if encodes:
            stages = [halve(i, o) for i, o in pairwise(channels)]
            layers = [*stages, nn.Flatten(), nn.Linear(math.prod(smallest), width), nn.ReLU()]
            self.layers = nn.Sequential(*layers, nn.Linear(width, math.prod(vector)), nn.Unflatten(1, outside))
        else:
            layers = [nn.Flatten(), nn.Linear(math.prod(vector), width), nn.ReLU()]
            layers += [nn.Linear(width, math.prod(smallest)), nn.Unflatten(1, smallest), nn.ReLU()]
            for stage in reversed(range(len(hidden))):
                layers += [double(channels[stage + 1], channels[stage], sizes[stage]), nn.ReLU()]
            self.layers = nn.Sequential(*layers[:-1])  # the last stage gives parameters, which have any sign

    def forward(self, x: Tensor) -> Tensor:
        """Apply the stages."""
        return self.layers(x)


def halvings(size: tuple[int, ...], stages: int) -> list[tuple[int, ...]]:
    """The sizes of an image before and after each stage.

    >>> halvings((28, 33), 2)
    [(28, 33), (14, 17), (7, 9)]
    """
    sizes = [tuple(size)]
    for _ in range(stages):
        sizes.append(tuple((n + 1) // 2 for n in sizes[-1]))
    return sizes


def halve(inside: int, outside: int) -> nn.Module:
    """One stage inwards."""
    return nn.Sequential(nn.Conv2d(inside, outside, 3, stride=2, padding=1), nn.ReLU())


def double(inside: int, outside: int, size: tuple[int, ...]) -> nn.Module:
    """One stage outwards, to a ``size``."""
    # a transposed convolution of stride 2 gives 2 n - 1 rows, and one more where `size` is even
    more = ((size[0] + 1) % 2, (size[1] + 1) % 2)
    return nn.ConvTranspose2d(inside, outside, 3, stride=2, padding=1, output_padding=more)
