"""Strided convolutions between an image and a smaller map of it."""

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from pyro_vae.checks import positive_int, shape
from pyro_vae.nets.conv import double, halve, halvings


class Strided(nn.Module):
    r"""Strided convolutions from an image to a map, or transposed ones from a map to an image

    As :class:`Conv`, but what lies within stays where it is: each stage halves height and width, rounding up, and
    residual blocks of 3 x 3 convolutions stand in the smallest size.

    Shapes: (batch, channels, height, width) -> (batch, channels', height', width').

    Args:
        inside, outside: shapes of one input and one output; the smaller is the larger, halved once for each stage.
        hidden: channels of the stages, from the larger inwards.
        blocks: how many residual blocks there are.

    Raises:
        ValueError: where the sizes are not such.

    Source: van den Oord, Vinyals & Kavukcuoglu 2017, arXiv:1711.00937, section 4.1.

    >>> Strided((3, 33, 20), (8, 9, 5))(torch.zeros(5, 3, 33, 20)).shape
    torch.Size([5, 8, 9, 5])
    >>> Strided((8, 9, 5), (3, 33, 20))(torch.zeros(5, 8, 9, 5)).shape
    torch.Size([5, 3, 33, 20])
    """

    def __init__(
        self, inside: Sequence[int], outside: Sequence[int], hidden: Sequence[int] = (64, 64), blocks: int = 2
    ) -> None:
        super().__init__()
        inside, outside = shape("inside", inside), shape("outside", outside)
        shrinks = math.prod(inside[1:]) > math.prod(outside[1:])
        image, small = (inside, outside) if shrinks else (outside, inside)
        channels = [positive_int(f"hidden[{i}]", c) for i, c in enumerate(hidden)]
        if len(image) != 3 or len(small) != 3 or halvings(image[1:], len(channels))[-1] != small[1:]:
            raise ValueError(
                f"Strided: expected an image and a map of its size halved once for each of "
                f"hidden={tuple(channels)}, found {inside} -> "
                f"{outside}"
            )
        inner = channels[-1]
        rest = [_Residual(inner) for _ in range(blocks)]
        if shrinks:
            stages = [halve(i, o) for i, o in pairwise([image[0], *channels])]
            self.layers = nn.Sequential(*stages, *rest, nn.ReLU(), nn.Conv2d(inner, small[0], 1))
        else:
            sizes, outwards = halvings(image[1:], len(channels)), [*channels[::-1], image[0]]
            stages = [
                nn.Sequential(nn.ReLU(), double(i, o, size))
                for (i, o), size in zip(pairwise(outwards), sizes[-2::-1], strict=True)
            ]
            self.layers = nn.Sequential(nn.Conv2d(small[0], inner, 3, padding=1), *rest, *stages)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the stages."""
        return self.layers(x)


class _Residual(nn.Module):
    """x + W' * relu(W * relu(x))"""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(), nn.Conv2d(channels, channels, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)
