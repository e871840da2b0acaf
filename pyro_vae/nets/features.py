"""Fixed features: data as a network reads them best."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae.checks import positive_int, shape
from pyro_vae.distributions.row import columns


class Features(nn.Module):
    """A net without weights of its own; ``outside`` is the shape of what it makes of one datum."""

    outside: tuple[int, ...]


class Log1p(Features):
    r"""y = log(1 + x), for counts: what spans orders of magnitude comes into a network's reach

    Shapes: (\*batch, \*inside) -> the same.

    >>> Log1p((2, 3))(torch.zeros(5, 2, 3)).shape
    torch.Size([5, 2, 3])
    """

    def __init__(self, inside: Sequence[int] | int) -> None:
        super().__init__()
        self.outside = shape("inside", inside)

    def forward(self, x: Tensor) -> Tensor:
        """The features of each datum."""
        return torch.log1p(x.clamp(min=0))  # no NaN from what is no count: the likelihood says what is wrong


class OneHot(Features):
    r"""y_k = [x = k],   k = 0, ..., classes - 1, for categories

    The first dimension of a datum is multiplied by ``classes``, so that an image remains one.

    Shapes: (\*batch, \*inside) -> (\*batch, classes * inside[0], \*inside[1:]); class labels, whose ``inside`` is
    (), go from (\*batch,) to (\*batch, classes).

    Raises:
        ValueError: where ``classes`` is not a positive whole number.

    >>> OneHot((1, 8, 8), classes=4)(torch.zeros(5, 1, 8, 8)).shape
    torch.Size([5, 4, 8, 8])
    >>> OneHot((), classes=3)(torch.tensor([0, 2]))
    tensor([[1., 0., 0.],
            [0., 0., 1.]])
    """

    def __init__(self, inside: Sequence[int] | int, classes: int) -> None:
        super().__init__()
        self.inside = () if inside == () else shape("inside", inside)
        self.classes = positive_int("classes", classes)
        first, *others = self.inside or (1,)
        self.outside = (self.classes * first, *others)

    def forward(self, x: Tensor) -> Tensor:
        """The features of each datum; zeros for what is none of the categories."""
        k = torch.arange(self.classes, device=x.device, dtype=x.dtype).reshape(-1, *[1] * len(self.inside))
        hot = x.unsqueeze(-1 - len(self.inside)) == k
        hot = hot.to(x.dtype if x.is_floating_point() else torch.get_default_dtype())
        return hot.flatten(-1 - len(self.inside), -len(self.inside)) if self.inside else hot


class Standardise(Features):
    r"""y = (x - mean) / std,   and back:   x = mean + std y

    Shapes: (\*batch, \*inside) -> the same.

    Args:
        inside: shape of one datum.
        mean: a number, or numbers that broadcast to ``inside``: one per channel has shape (channels, 1, 1).
        std: likewise, greater than 0.

    Raises:
        ValueError: where ``mean`` or ``std`` does not fit, is not finite, or ``std`` is not greater than 0.

    >>> Standardise(2, mean=(1.0, 2.0), std=2.0)(torch.tensor([[1.0, 4.0]]))
    tensor([[0., 1.]])
    """

    mean: Tensor
    std: Tensor

    def __init__(self, inside: Sequence[int] | int, mean: Any = None, std: Any = None) -> None:
        super().__init__()
        self.outside = shape("inside", inside)
        self.register_buffer("mean", _numbers("mean", 0.0 if mean is None else mean, self.outside))
        self.register_buffer("std", _numbers("std", 1.0 if std is None else std, self.outside))
        if not (self.std > 0).all():
            raise ValueError(
                f"std: expected numbers greater than 0, found {self.std.min():g}; "
                "drop what does not vary, or give it a std of 1"
            )

    def forward(self, x: Tensor) -> Tensor:
        """The features of each datum."""
        return (x - self.mean) / self.std

    def back(self, y: Tensor) -> Tensor:
        """The datum that has features ``y``."""
        return self.mean + self.std * y


class Resized(Features):
    r"""An image in another size: means of its pixels where it shrinks, copies of them where it grows

    Shapes: (batch, channels, height, width) -> (batch, channels, \*size).

    Args:
        inside: shape of one image.
        size: height and width that it is to have.

    Raises:
        ValueError: where ``inside`` is no image, or ``size`` no height and width.

    >>> Resized((1, 2, 2), (1, 4))(torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]))
    tensor([[[[2., 2., 3., 3.]]]])
    """

    def __init__(self, inside: Sequence[int], size: Sequence[int]) -> None:
        super().__init__()
        channels, *_ = inside = shape("inside", inside)
        self.size = shape("size", size)
        if len(inside) != 3 or len(self.size) != 2:
            raise ValueError(f"expected (channels, height, width) and (height, width), found {inside} and {self.size}")
        self.outside = (channels, *self.size)

    def forward(self, x: Tensor) -> Tensor:
        """The image in its new size."""
        return nn.functional.interpolate(x, self.size, mode="area")


class ByColumn(Features):
    r"""y = concatenate_j f_j(x_{columns of j}), for the rows of a table

    Shapes: (\*batch, columns) -> (\*batch, features).

    Args:
        parts: pairs of the positions of some columns and their features, a module from (\*batch, positions).

    >>> ByColumn([((0, 2), torch.nn.Identity()), ((1,), OneHot(1, classes=3))])(torch.zeros(5, 3)).shape
    torch.Size([5, 5])
    """

    def __init__(self, parts: Sequence[tuple[Sequence[int], nn.Module]]) -> None:
        super().__init__()
        self.positions = [tuple(positions) for positions, _ in parts]
        self.parts = nn.ModuleList(part for _, part in parts)
        widths = (getattr(part, "outside", (len(positions),))[0] for positions, part in parts)
        self.outside = (sum(widths),)

    def forward(self, x: Tensor) -> Tensor:
        """The features of each row."""
        taken = zip(self.parts, self.positions, strict=True)
        return torch.cat([part(columns(x, positions)) for part, positions in taken], -1)


def _numbers(name: str, value: Any, inside: tuple[int, ...]) -> Tensor:
    try:
        numbers = torch.as_tensor(value, dtype=torch.get_default_dtype()).detach().clone()
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{name}: expected a number or nested sequences of numbers, found {value!r:.60}") from None
    try:
        fits = torch.broadcast_shapes(numbers.shape, inside) == inside
    except RuntimeError:
        fits = False
    if not fits:
        hint = f"; one per channel has shape ({inside[0]}, 1, 1)" if len(inside) == 3 else ""
        raise ValueError(f"{name}: expected numbers that broadcast to {inside}, found {tuple(numbers.shape)}{hint}")
    if not torch.isfinite(numbers).all():
        raise ValueError(f"{name}: expected finite numbers, found {value!r:.60}")
    return numbers
