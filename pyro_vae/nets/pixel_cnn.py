"""Masked convolutions: what each place of a map says of itself, having seen those before it."""

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from pyro_vae import checks


class PixelCNN(nn.Module):
    r"""y_i = f(x_1, ..., x_{i-1}),   i the places of a map, row by row

    A gated PixelCNN without blind spots: one stack of convolutions sees all rows above, another what stands to the
    left and, at each layer, the first.

    Shapes: (batch, channels, height, width) -> the same.

    Args:
        channels: of the map.
        hidden: channels inside.
        layers: how many there are, the first one included.

    Raises:
        ValueError: where a number is not positive.

    Source: van den Oord et al. 2016, arXiv:1606.05328, section 2.

    >>> net, x = PixelCNN(3, hidden=8), torch.zeros(1, 3, 4, 4, requires_grad=True)
    >>> net(x)[0, :, 1, 2].sum().backward()
    >>> x.grad[0].abs().sum(0).bool().long()
    tensor([[1, 1, 1, 1],
            [1, 1, 0, 0],
            [0, 0, 0, 0],
            [0, 0, 0, 0]])
    """

    def __init__(self, channels: int, hidden: int = 64, layers: int = 4) -> None:
        super().__init__()
        checks.positive_int("channels", channels)
        checks.positive_int("hidden", hidden)
        inside = [channels] + [hidden] * (checks.positive_int("layers", layers) - 1)
        self.above = nn.ModuleList(nn.Conv2d(n, 2 * hidden, (2, 3)) for n in inside)
        self.left = nn.ModuleList(nn.Conv2d(n, 2 * hidden, (1, 2)) for n in inside)
        self.down = nn.ModuleList(nn.Conv2d(2 * hidden, 2 * hidden, 1) for _ in inside)
        self.out = nn.ModuleList(nn.Conv2d(hidden, hidden, 1) for _ in inside)
        self.last = nn.Sequential(nn.ReLU(), nn.Conv2d(hidden, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layers."""
        rows = before = x
        for i, (above, left, down, out) in enumerate(zip(self.above, self.left, self.down, self.out, strict=True)):
            # the first layer leaves out the row and the place that the others, which see its output, may see
            strict = i == 0
            up = above(pad(rows, (1, 1, 1 + strict, 0)))[..., : x.shape[-2], :]
            beside = left(pad(before, (1 + strict, 0, 0, 0)))[..., : x.shape[-1]]
            new = out(_gated(beside + down(up)))
            rows, before = _gated(up), new if strict else before + new
        return self.last(before)


def _gated(x: Tensor) -> Tensor:
    content, gate = x.chunk(2, 1)
    return torch.tanh(content) * torch.sigmoid(gate)
