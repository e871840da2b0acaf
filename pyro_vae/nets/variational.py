"""Layers whose weights are sample sites, which all data share."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from pyro.nn import PyroModule, PyroSample
from torch import Tensor, nn
from torch.nn import functional

from pyro_vae import checks
from pyro_vae.nets.weights import FAMILIES, normal
from pyro_vae.story import FLIPS


class Variational(PyroModule):
    """What layers with random weights have in common.

    ``priors`` are those of what the layer draws, by the names of its attributes; ``posteriors`` are q of each, which a
    guide takes over (:func:`pyro_vae.completed`). ``shape`` is that of the weights: units that go out, units that come
    in, and the kernel between each two.
    """

    def __init__(self, shape: tuple[int, ...], family: str, scale: float | None, bias: bool) -> None:
        super().__init__()
        self.shape, self.family = shape, checks.known("family", family, FAMILIES)
        self.scale = None if scale is None else checks.real("scale", scale, above=0)
        limit = 1 / math.sqrt(math.prod(shape[1:]))  # where torch's own layers start
        start = torch.empty(shape).uniform_(-limit, limit)
        settings = {} if self.scale is None else {"scale": self.scale}
        drawn = FAMILIES[family](start, self._per_unit(shape[1]), **settings)
        self.scales = tuple(name for name in drawn if name != "weight")  # by which the weights are multiplied
        if bias:
            drawn["bias"] = normal(torch.empty(shape[0]).uniform_(-limit, limit), ())["weight"]
        else:
            self.bias = None
        self.priors = nn.ModuleDict({name: prior for name, (prior, _) in drawn.items()})
        self.posteriors = {name: posterior for name, (_, posterior) in drawn.items()}  # a dict registers nothing
        for name in drawn:
            setattr(self, name, PyroSample(_Prior(name)))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the weights that were drawn; in training to each datum a flip of them, where q is symmetric."""
        weight, bias = self.weight, self.bias
        flips: Any = self._pyro_context.get(self._pyro_get_fullname("weight") + FLIPS)
        for name in self.scales:  # a unit's scale is that of what it says: scaling x is cheaper than scaling W
            x = x * getattr(self, name)
        if flips is None or not self.training or not self._of_data(x, flips):
            return self._applied(x, weight, bias)
        centre, signs, _ = flips
        inwards, outwards = (_signs(x, side, self._per_unit(self.shape[side]), signs) for side in (1, 0))
        return self._applied(x, centre, bias) + self._applied(x * inwards, weight - centre, None) * outwards

    def _of_data(self, x: Tensor, flips: Any) -> bool:
        """Whether rows are data: of other rows, such as tokens, several may belong to one datum."""
        return x.dim() > len(self._per_unit(1)) and len(x) == flips[2]

    def multiplied(self, drawn: Mapping[str, Tensor]) -> Tensor:
        """W, of what was drawn of it."""
        return math.prod([drawn[name] for name in self.scales], start=drawn["weight"])

    def _per_unit(self, units: int) -> tuple[int, ...]:
        """The shape of one number to a unit, as it broadcasts against data and weights."""
        raise NotImplementedError

    def _applied(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        raise NotImplementedError

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        """To another dtype or device go the posteriors too, which no guide may have taken yet."""
        for posterior in self.posteriors.values():
            posterior._apply(*args, **kwargs)
        return super()._apply(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        """As any module's of Pyro: without the weak references that it leaves on parameters."""
        for posterior in self.posteriors.values():
            for parameter in posterior.parameters():
                parameter.__dict__.pop("unconstrained", None)
        return super().__getstate__()

    def extra_repr(self) -> str:
        """How the layer was asked for."""
        return f"{self.shape[1]}, {self.shape[0]}, family={self.family!r}, scale={self.scale}"


class VariationalLinear(Variational):
    r"""y = W x + b,   W ~ p(W), b ~ N(0, I),   q(W, b) = q(W) q(b)

    In place of :class:`torch.nn.Linear` in any network of a pair: its weights are drawn once for all data.

    ======================  =========================================================  ================================
    family                  p(W)                                                       q(W)
    ======================  =========================================================  ================================
    ``"normal"``            N(0, scale^2)                                              normal
    ``"horseshoe"``         W_ji = V_ji l_i g, V ~ N(0, 1), l_i ~ C+(1), g ~ C+(scale)  normal, log-normal l and g
    ``"rectified_normal"``  max(0, N(0, scale^2)): none is negative, some are 0        rectified normal
    ``"piecewise_normal"``  N(0, scale^2) with a narrow piece about 0                  the same pieces, each moved
    ======================  =========================================================  ================================

    A horseshoe has one scale l_i for all weights that leave unit i: where it closes, the unit can be taken away
    (:func:`pyro_vae.prune`). In training each datum sees a flip of its own of the weights, where q is symmetric
    (normal, and V of a horseshoe): y = M x + r * ((W - M) (s * x)) with random signs r and s, whose distribution is
    that of W x; a datum keeps its signs wherever it meets the layer again, in either program. So the noise of gradients
    averages out over a batch.

    Sites: ``weight`` (V of a horseshoe), (outside, inside); ``bias``, (outside,); of a horseshoe also ``local_scale``,
    (inside,), and ``global_scale``, (). Each is named after where the layer stands, such as
    ``likelihood.decoder.net.1.weight``.

    Shapes: (\*batch, inside) -> (\*batch, outside).

    Args:
        inside, outside: how many units come in and go out.
        family: of prior and posterior.
        scale: of the prior, 1 where nothing is said.
        bias: whether there is one.

    Raises:
        ValueError: where a number is out of range, or the family is unknown.

    Source: Blundell et al. 2015, arXiv:1505.05424; horseshoe, Ghosh, Yao & Doshi-Velez 2018, arXiv:1806.05975, and
    Louizos, Ullrich & Welling 2017, arXiv:1705.08665; flips, Wen et al. 2018, arXiv:1803.04386.

    >>> layer = VariationalLinear(20, 500, family="horseshoe")
    >>> layer(torch.zeros(5, 20)).shape
    torch.Size([5, 500])
    """

    def __init__(
        self, inside: int, outside: int, family: str = "normal", scale: float | None = None, bias: bool = True
    ) -> None:
        shape = checks.positive_int("outside", outside), checks.positive_int("inside", inside)
        super().__init__(shape, family, scale, bias)

    def _per_unit(self, units: int) -> tuple[int, ...]:
        return (units,)

    def _applied(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return functional.linear(x, weight, bias)


class VariationalConv2d(Variational):
    r"""y_o = sum_i W_oi * x_i + b_o,   W ~ p(W), b ~ N(0, I),   q(W, b) = q(W) q(b)

    In place of :class:`torch.nn.Conv2d`, with the families of :class:`VariationalLinear`; a unit is a channel.

    Sites: as there; ``weight`` (outside, inside, height, width), ``local_scale`` (inside, 1, 1).

    Shapes: (batch, inside, height, width) -> (batch, outside, \*what torch.nn.Conv2d gives).

    Args:
        inside, outside: channels that come in and go out.
        kernel_size, stride, padding: as those of :class:`torch.nn.Conv2d`.
        family, scale, bias: as for :class:`VariationalLinear`.

    Raises:
        ValueError: where a number is out of range, or the family is unknown.

    Source: as for :class:`VariationalLinear`.

    >>> VariationalConv2d(3, 8, 3, padding=1)(torch.zeros(5, 3, 9, 9)).shape
    torch.Size([5, 8, 9, 9])
    """

    def __init__(
        self,
        inside: int,
        outside: int,
        kernel_size: int | tuple[int, int],
        stride: int = 1,
        padding: int = 0,
        family: str = "normal",
        scale: float | None = None,
        bias: bool = True,
    ) -> None:
        kernel = checks.shape("kernel_size", [kernel_size] * 2 if isinstance(kernel_size, int) else kernel_size)
        if len(kernel) != 2:
            raise ValueError(f"kernel_size: expected height and width, found {kernel_size!r}")
        stride, padding = checks.positive_int("stride", stride), padding and checks.positive_int("padding", padding)
        shape: tuple[int, ...] = checks.positive_int("outside", outside), checks.positive_int("inside", inside), *kernel
        super().__init__(shape, family, scale, bias)
        self.stride, self.padding = stride, padding

    def _per_unit(self, units: int) -> tuple[int, ...]:
        return (units, 1, 1)

    def _applied(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return functional.conv2d(x, weight, bias, self.stride, self.padding)


class _Prior:
    """How a layer draws one of its attributes; an object, as a function that Pyro keeps cannot be pickled."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, layer: Any) -> Any:
        return layer.priors[self.name]()


def _signs(x: Tensor, side: int, per_unit: tuple[int, ...], known: dict[Any, Tensor]) -> Tensor:
    """1 or -1 for each datum and unit; a datum keeps its own wherever it meets these weights again."""
    key = len(x), side
    if key not in known:
        known[key] = x.new_empty(len(x), *per_unit).bernoulli_().mul_(2).sub_(1)
    return known[key].reshape(len(x), *[1] * (x.dim() - 1 - len(per_unit)), *per_unit)
