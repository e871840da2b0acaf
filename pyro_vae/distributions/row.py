"""A row of a table, whose columns are of different kinds."""

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from pyro_vae import families
from pyro_vae.distributions.advised import Advised


class Row(Advised, TorchDistribution):
    r"""p(x) = prod_i p_i(x_i),   x = (x_1, ..., x_d), one column each

    Columns of one kind share a part, so that a wide table costs no more than the number of its kinds.

    Shapes: batch (\*batch,), event (d,).

    Args:
        parts: pairs of the columns' positions and their distribution, of batch shape (\*batch, number of positions).
        names: of the d columns, for errors; by default their positions.

    >>> normal, coin = dist.Normal(torch.zeros(5, 2), 1.0), dist.Bernoulli(torch.full((5, 1), 0.5))
    >>> row = Row([((0, 2), normal), ((1,), coin)])
    >>> row.sample().shape, row.log_prob(torch.zeros(5, 3)).shape
    (torch.Size([5, 3]), torch.Size([5]))
    """

    arg_constraints: ClassVar = {}
    has_rsample = False
    advice = "the parts speak for themselves"

    def __init__(
        self,
        parts: Sequence[tuple[Sequence[int], Any]],
        names: Sequence[Any] | None = None,
        validate_args: bool | None = None,
    ) -> None:
        self.parts = [(tuple(positions), part) for positions, part in parts]
        width = sum(len(positions) for positions, _ in self.parts)
        self.names = tuple(range(width) if names is None else names)
        batch = torch.broadcast_shapes(*(part.batch_shape[:-1] for _, part in self.parts))
        super().__init__(batch, torch.Size([width]), validate_args=validate_args)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "Row":
        """The same distribution, more often."""
        parts = [(p, part.expand(torch.Size([*batch_shape, len(p)]))) for p, part in self.parts]
        new = Row(parts, self.names, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @constraints.dependent_property(event_dim=1)
    def support(self) -> constraints.Constraint:
        """What each column may hold."""
        return _Cells([(positions, part.support) for positions, part in self.parts])

    @property
    def mean(self) -> Tensor:
        """The columns' means.

        Raises:
            NotImplementedError: where a column holds categories, which have none.
        """
        if any(isinstance(families.base(part), torch.distributions.Categorical) for _, part in self.parts):
            raise NotImplementedError("categories have no mean")
        return self._whole([part.mean for _, part in self.parts])

    def log_prob(self, value: Tensor) -> Tensor:
        """The columns' log p, summed."""
        if self._validate_args:
            self._validate_sample(value)
        return sum(part.log_prob(columns(value, positions)).sum(-1) for positions, part in self.parts)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Each column's own draws."""
        return self._whole([part.sample(torch.Size(sample_shape)) for _, part in self.parts])

    def masked(self, mask: Tensor) -> "Row":
        r"""The same row with the log p of the cells in ``mask`` alone, which broadcasts to (\*batch, d)."""
        parts = [(p, families.masked(part, columns(mask, p))) for p, part in self.parts]
        new = Row(parts, self.names, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def inside(self) -> Tensor:
        """A row that the columns can explain, of the dtype and device of their parameters."""
        cells = [families.inside(part) for _, part in self.parts]
        shapes = [torch.broadcast_shapes(cell.shape, (len(p),)) for cell, (p, _) in zip(cells, self.parts, strict=True)]
        batch = torch.broadcast_shapes(*(shape[:-1] for shape in shapes))
        return self._whole([c.expand(*batch, s[-1]) for c, s in zip(cells, shapes, strict=True)])

    def by_column(self, value: Tensor) -> Iterator[tuple[Any, Any, Tensor]]:
        """Each column's name, its distribution and its values."""
        for positions, part in self.parts:
            for i in positions:
                yield self.names[i], part, value[..., i]

    def _whole(self, values: list[Tensor]) -> Tensor:
        found: dict[int, Tensor] = {}
        for (positions, _), value in zip(self.parts, values, strict=True):
            found.update(zip(positions, value.unbind(-1), strict=True))
        return torch.stack([found[i] for i in range(len(found))], -1)


class _Cells(constraints.Constraint):
    """Every cell of a row is what its part may hold."""

    event_dim = 1

    def __init__(self, parts: list[tuple[tuple[int, ...], constraints.Constraint]]) -> None:
        self.parts = parts

    def check(self, value: Tensor) -> Tensor:
        """Which rows are."""
        return torch.stack([part.check(columns(value, positions)).all(-1) for positions, part in self.parts]).all(0)


def columns(x: Tensor, positions: Sequence[int]) -> Tensor:
    """Some of the columns of rows."""
    # by views and one stack: a list as an index would be copied to the device at every step
    values = x.unbind(-1)
    return torch.stack([values[i] for i in positions], -1)
