"""Any number of leading batch dimensions for networks that know only one."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pyro_vae import checks


class FlattenBatch(nn.Module):
    r"""Run ``net`` on (\*batch, \*inside) as if the batch had one dimension, and restore the batch.

    Particles and enumeration add dimensions on the left, most networks and every convolution
    expect exactly one. What comes out is arranged as ``outside``.

    Of several inputs the batches are broadcast against each other: a code with a dimension of particles more
    meets a condition without. An input of shape () is a class label and reaches the net as an integer, any other as
    floats.

    Shapes: (\*batch, \*inside) -> (\*batch, \*outside).

    Args:
        net: a module that takes one tensor for each of its inputs.
        inside: the shape of its input; of several inputs, a sequence of shapes.
        outside: the shape of its output.

    Raises:
        ValueError: where the right-hand dimensions of an input are not ``inside``, or the batches of several differ.

    >>> net = FlattenBatch(torch.nn.Linear(4, 6), (4,), (3, 2))
    >>> net(torch.zeros(7, 5, 4)).shape
    torch.Size([7, 5, 3, 2])
    >>> net = FlattenBatch(torch.nn.Bilinear(4, 2, 6), [(4,), (2,)], (6,))
    >>> net(torch.zeros(7, 5, 4), torch.zeros(5, 2)).shape
    torch.Size([7, 5, 6])
    """

    def __init__(self, net: nn.Module, inside: Sequence[Sequence[int]] | Sequence[int], outside: Sequence[int]) -> None:
        super().__init__()
        self.net, self.outside = net, tuple(outside)
        self.inside = checks.inputs("inside", inside)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Apply the network to each datum."""
        batches = [_batch(x, dims) for x, dims in zip(inputs, self.inside, strict=True)]
        try:
            batch = torch.broadcast_shapes(*batches)
        except RuntimeError:
            found = " and ".join(str(tuple(x.shape)) for x in inputs)
            raise ValueError(f"expected inputs of one batch, found {found}") from None
        flat = [
            x.expand(*batch, *dims).reshape(math.prod(batch), *dims)
            for x, dims in zip(inputs, self.inside, strict=True)
        ]
        y = self.net(*(self._read(x) if dims else x.long() for x, dims in zip(flat, self.inside, strict=True)))
        return y.reshape(*batch, *self.outside)

    def _read(self, x: Tensor) -> Tensor:
        """Whole numbers and truth values, such as attributes, as the net's own numbers."""
        if x.is_floating_point():
            return x
        own = (p.dtype for p in self.net.parameters() if p.is_floating_point())
        return x.to(next(own, torch.get_default_dtype()))


def _batch(x: Tensor, inside: tuple[int, ...]) -> torch.Size:
    batch = x.shape[: max(x.dim() - len(inside), 0)]
    if not batch or x.shape[len(batch) :] != inside:
        wanted = ", ".join(map(str, ("batch", *inside)))
        raise ValueError(f"expected data of shape ({wanted}), found {tuple(x.shape)}")
    return batch
