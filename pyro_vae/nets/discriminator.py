"""Networks that tell two samples apart."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import normalize

from pyro_vae.checks import positive_int, shape


class Discriminator(nn.Module):
    r"""T(x) = w . f(x) + b,   f the features: strided convolutions of an image, fully connected layers of anything else

    Shapes: (batch, \*inside) -> (batch, \*outside); ``features`` gives (batch, ...).

    Args:
        inside: shape of one input.
        outside: shape of one output, by default one number.
        hidden: channels of the convolutions, each of which halves the image; or widths of the layers. By default
            (32, 64) for images of at least 8 x 8, (256, 256) for anything else.
        spectral: whether the weights of each layer are divided by their largest singular value, so that T is smooth.

    Raises:
        ValueError: where a width is not a positive whole number, or an image is too small for so many stages.

    Source: the image networks of Radford et al. 2016, arXiv:1511.06434, without batch norm; the norm, Miyato et al.
    2018, arXiv:1802.05957.

    >>> net = Discriminator((1, 28, 28))
    >>> net(torch.zeros(5, 1, 28, 28)).shape, net.features(torch.zeros(5, 1, 28, 28)).shape
    (torch.Size([5, 1]), torch.Size([5, 64, 7, 7]))
    """

    def __init__(
        self,
        inside: Sequence[int] | int,
        outside: Sequence[int] | int = 1,
        hidden: Sequence[int] | None = None,
        spectral: bool = False,
    ) -> None:
        super().__init__()
        inside, outside = shape("inside", inside), shape("outside", outside)
        image = len(inside) == 3 and min(inside[1:]) >= 8
        usual = (32, 64) if image else (256, 256)
        widths = [positive_int(f"hidden[{i}]", w) for i, w in enumerate(usual if hidden is None else hidden)]
        size = [n >> len(widths) for n in inside[1:]] if image else []  # each stage halves it, rounding down
        if 0 in size:
            raise ValueError(f"hidden: {len(widths)} stages leave nothing of an image of {inside[1]} x {inside[2]}")
        norm: Callable[[nn.Module], nn.Module] = Spectral if spectral else lambda layer: layer
        layers: list[nn.Module] = [] if image else [nn.Flatten()]
        for i, o in pairwise([inside[0] if image else math.prod(inside), *widths]):
            layer = nn.Conv2d(i, o, 4, stride=2, padding=1) if image else nn.Linear(i, o)
            layers += [norm(layer), nn.LeakyReLU(0.2)]
        last = math.prod([*widths[-1:], *size]) if widths else math.prod(inside)
        #: all layers but the last
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Flatten(), norm(nn.Linear(last, math.prod(outside))), nn.Unflatten(1, outside))

    def forward(self, x: Tensor) -> Tensor:
        """T of each input."""
        return self.head(self.features(x))


class Spectral(nn.Module):
    r"""layer(x) with W / s in place of W, s its largest singular value, followed by one power iteration at a time

    Unlike :func:`torch.nn.utils.parametrizations.spectral_norm` it can be pickled, as pairs are.
    """

    u: Tensor

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.register_buffer("u", normalize(torch.randn(len(self._weight)), dim=0))

    @property
    def _weight(self) -> Tensor:
        return self.layer.get_parameter("weight").flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output."""
        weight = self._weight
        with torch.no_grad():
            v = normalize(weight.mT @ self.u, dim=0)
            u = normalize(weight @ v, dim=0)
            if self.training:
                self.u.copy_(u)
        scaled = self.layer.get_parameter("weight") / (u @ weight @ v)
        return functional_call(self.layer, {"weight": scaled}, (x,))
