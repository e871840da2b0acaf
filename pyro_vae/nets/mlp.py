"""Fully connected networks."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor, nn

from pyro_vae.checks import positive_int, shape
from pyro_vae.nets.variational import VariationalLinear


class MLP(nn.Sequential):
    r"""y = W_L h_{L-1} + b_L,   h_i = activation(W_i h_{i-1} + b_i),   h_0 = x

    Shapes: (batch, \*inside) -> (batch, \*outside).

    Args:
        inside: shape of one input.
        outside: shape of one output.
        hidden: widths of the hidden layers.
        activation: the non-linearity, a module class.

    Raises:
        ValueError: where a width is not a positive whole number.

    >>> MLP((1, 28, 28), (2, 20), hidden=(400, 200))(torch.zeros(5, 1, 28, 28)).shape
    torch.Size([5, 2, 20])
    """

    def __init__(
        self,
        inside: Sequence[int] | int,
        outside: Sequence[int] | int,
        hidden: Sequence[int] = (400,),
        activation: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__(*_fully_connected(inside, outside, hidden, lambda i, o: (nn.Linear(i, o), activation())))


class VariationalMLP(nn.Sequential):
    r"""y = W_L h_{L-1} + b_L,   h_i = activation(W_i h_{i-1} + b_i),   h_0 = x,   W ~ p(W), b ~ p(b)

    :class:`MLP` of layers whose weights are random, :class:`VariationalLinear`.

    Shapes: (batch, \*inside) -> (batch, \*outside).

    Args:
        inside, outside, hidden, activation: as for :class:`MLP`.
        family: of the weights, as for :class:`VariationalLinear`; or one for each layer, the first for that next to the
            input.
        scale: of the priors, as there.

    Raises:
        ValueError: where a width is not a positive whole number, or a family is unknown; where there are not as many
            families as layers.

    Source: Blundell et al. 2015, arXiv:1505.05424.

    >>> VariationalMLP(20, (1, 28, 28), hidden=(500,), family="horseshoe")(torch.zeros(5, 20)).shape
    torch.Size([5, 1, 28, 28])
    """

    def __init__(
        self,
        inside: Sequence[int] | int,
        outside: Sequence[int] | int,
        hidden: Sequence[int] = (400,),
        activation: Callable[[], nn.Module] = nn.ReLU,
        family: str | Sequence[str] = "normal",
        scale: float | None = None,
    ) -> None:
        layers = len(hidden) + 1
        families = [family] * layers if isinstance(family, str) else list(family)
        if len(families) != layers:
            raise ValueError(f"family: expected one, or one for each of {layers} layers, found {len(families)}")
        rest = iter(families)

        def layer(i: int, o: int) -> nn.Module:
            return VariationalLinear(i, o, family=next(rest), scale=scale)

        super().__init__(*_fully_connected(inside, outside, hidden, lambda i, o: (layer(i, o), activation()), layer))


class GatedMLP(nn.Sequential):
    r"""y = W_L h_{L-1} + b_L,   h_i = (W_i h_{i-1} + b_i) * sigmoid(V_i h_{i-1} + c_i),   h_0 = x

    Shapes: (batch, \*inside) -> (batch, \*outside).

    Source: Dauphin et al. 2017, arXiv:1612.08083; the networks of Tomczak & Welling 2018, arXiv:1705.07120.

    >>> GatedMLP(784, (2, 40))(torch.zeros(5, 784)).shape
    torch.Size([5, 2, 40])
    """

    def __init__(
        self,
        inside: Sequence[int] | int,
        outside: Sequence[int] | int,
        hidden: Sequence[int] = (300, 300),
    ) -> None:
        super().__init__(*_fully_connected(inside, outside, hidden, lambda i, o: (GatedLinear(i, o),)))


class GatedLinear(nn.Module):
    r"""y = (W x + b) * sigmoid(V x + c)

    Shapes: (\*batch, inside) -> (\*batch, outside).
    """

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.both = nn.Linear(inside, 2 * outside)  # one product for value and gate

    def forward(self, x: Tensor) -> Tensor:
        """The gated value."""
        return nn.functional.glu(self.both(x), -1)


def _fully_connected(
    inside: Sequence[int] | int,
    outside: Sequence[int] | int,
    hidden: Sequence[int],
    layer: Callable[[int, int], tuple[nn.Module, ...]],
    last: Callable[[int, int], nn.Module] = nn.Linear,
) -> list[nn.Module]:
    inside, outside = shape("inside", inside), shape("outside", outside)
    widths = [math.prod(inside), *(positive_int(f"hidden[{i}]", w) for i, w in enumerate(hidden))]
    stack = [m for i, o in pairwise(widths) for m in layer(i, o)]
    return [nn.Flatten(), *stack, last(widths[-1], math.prod(outside)), nn.Unflatten(1, outside)]
