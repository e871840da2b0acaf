"""Any number of leading batch dimensions for networks that know only one."""

import math

from torch import Tensor, nn


class FlattenBatch(nn.Module):
    r"""Run ``net`` on (\*batch, \*inside) as if the batch had one dimension, and restore the batch.

    Particles and enumeration add dimensions on the left, most networks and every convolution
    expect exactly one. What comes out is arranged as ``outside``.

    Shapes: (\*batch, \*inside) -> (\*batch, \*outside).

    Raises:
        ValueError: where the right-hand dimensions of the input are not ``inside``.

    >>> net = FlattenBatch(torch.nn.Linear(4, 6), (4,), (3, 2))
    >>> net(torch.zeros(7, 5, 4)).shape
    torch.Size([7, 5, 3, 2])
    """

    def __init__(self, net: nn.Module, inside: tuple[int, ...], outside: tuple[int, ...]) -> None:
        super().__init__()
        self.net, self.inside, self.outside = net, tuple(inside), tuple(outside)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the network to each datum."""
        batch = x.shape[: max(x.dim() - len(self.inside), 0)]
        if not batch or x.shape[len(batch) :] != self.inside:
            wanted = ", ".join(map(str, self.inside))
            raise ValueError(f"expected data of shape (batch, {wanted}), found {tuple(x.shape)}")
        y = self.net(x.reshape(math.prod(batch), *self.inside))
        return y.reshape(*batch, *self.outside)
