"""Several inputs of one network, joined into one."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from pyro_vae.nets.features import Features


class Joined(nn.Module):
    r"""y = net([f_1(x_1), ..., f_k(x_k)])

    Each input is read by features of its own and all are laid side by side, as a vector; or, where ``outside`` of
    :func:`joint` is an image, as its channels: numbers become constant planes.

    Shapes: (batch, \*inside_i) for each input -> what ``net`` makes of (batch, \*joint).

    Args:
        net: a module that takes one tensor.
        parts: for each input its features, or its shape where it is taken as it is.
        image: join as the channels of an image.

    Raises:
        ValueError: where inputs are to be joined as an image and none of them is one, or two have different sizes.

    >>> net = Joined(torch.nn.Linear(12, 6), [(1, 3, 3), pv.nets.OneHot((), classes=3)])
    >>> net(torch.zeros(5, 1, 3, 3), torch.tensor([0, 1, 2, 0, 1])).shape
    torch.Size([5, 6])
    """

    def __init__(self, net: nn.Module, parts: Sequence[Features | tuple[int, ...]], *, image: bool = False) -> None:
        super().__init__()
        self.net = net
        self.features = nn.ModuleList(part if isinstance(part, Features) else nn.Identity() for part in parts)
        self.size = joint(parts, image=True)[1:] if image else None

    def forward(self, *inputs: Tensor) -> Tensor:
        """Apply the network to what the inputs are together."""
        read = [features(x) for features, x in zip(self.features, inputs, strict=True)]
        like = next(self.net.parameters(), read[0])
        joined = [x.to(like.dtype) for x in read]
        if self.size is None:
            return self.net(torch.cat([x.flatten(1) for x in joined], 1))
        planes = [x if x.dim() == 4 else x[..., None, None].expand(-1, -1, *self.size) for x in joined]
        return self.net(torch.cat(planes, 1))


def joint(parts: Sequence[Features | tuple[int, ...]], *, image: bool) -> tuple[int, ...]:
    """The shape of several inputs together, by their features or shapes."""
    shapes = [part.outside if isinstance(part, Features) else part for part in parts]
    if not image:
        return (sum(math.prod(shape) for shape in shapes),)
    sizes = [shape[1:] for shape in shapes if len(shape) == 3]
    if not sizes or any(a != b for a, b in pairwise(sizes)) or any(len(shape) not in (1, 3) for shape in shapes):
        raise ValueError(f"expected images of one size and vectors to join with them, found {shapes}")
    return (sum(shape[0] for shape in shapes), *sizes[0])
