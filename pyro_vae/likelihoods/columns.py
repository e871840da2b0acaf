"""The likelihood of a table's rows."""

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae import checks, distributions
from pyro_vae.likelihoods.base import Likelihood
from pyro_vae.likelihoods.counts import overdispersed
from pyro_vae.nets import ByColumn, Log1p, OneHot, Standardise
from pyro_vae.posteriors import bounded_scale

KINDS = ("real", "binary", "count")
Kind = str | int


class Columns(Likelihood):
    r"""p(x | z) = prod_i p_i(x_i | decoder(z)_i),   each column by its kind

    - ``"real"``: N(mean_i + std_i m, (std_i scale_i)^2), scale_i learned, starting at 1, bounded as the posterior's;
    - ``"binary"``: Bernoulli, x_i in {0, 1};
    - a whole number k of at least 2: categories, x_i in {0, ..., k - 1};
    - ``"count"``: negative binomial, as in :class:`NegativeBinomial`.

    Shapes: (\*batch, \*latent) -> batch (\*batch,), event (columns,).

    Args:
        decoder: a module from (batch, \*latent) to (batch, total): the columns one after the other, k logits for
            categories, one parameter for every other kind.
        latent: dimensions (or shape) of a code.
        data_shape: (columns,).
        columns: from each column's name to its kind, in the order of the table; or the kinds alone.
        mean, std: centre and spread of the real columns, by default 0 and 1: a number, or one per column, of which
            those of other columns are passed over.

    Raises:
        ValueError: where a kind is unknown, their number is not that of the data, ``mean`` or ``std`` do not fit, or
            the decoder's output does not; where data are scored that a column cannot hold: the column is named.

    Source: Nazabal et al. 2020, "Handling incomplete heterogeneous data using VAEs", arXiv:1807.03653.

    >>> columns = {"age": "real", "smoker": "binary", "town": 5, "visits": "count"}
    >>> likelihood = Columns(torch.nn.Linear(2, 8), 2, 4, columns=columns, mean=(40, 0, 0, 0), std=(15, 1, 1, 1))
    >>> likelihood(torch.zeros(5, 2)).event_shape
    torch.Size([4])
    """

    def __init__(
        self,
        decoder: nn.Module,
        latent: Sequence[int] | int,
        data_shape: Sequence[int] | int,
        columns: Mapping[str, Kind] | Sequence[Kind],
        mean: Any = None,
        std: Any = None,
    ) -> None:
        data_shape = checks.shape("data_shape", data_shape)
        kinds = _kinds(columns, data_shape)
        super().__init__(decoder, latent, data_shape, gives=self.decoder_shape(data_shape, columns))
        self.names, self.widths = list(kinds), [_width(kind) for kind in kinds.values()]
        self.groups = _groups(kinds)
        if "real" in self.groups:
            reals = self.groups["real"]
            self.units = _units(reals, data_shape, mean, std)
            self.log_scale = nn.Parameter(torch.zeros(len(reals)))
        if "count" in self.groups:
            self.log_r = nn.Parameter(torch.zeros(len(self.groups["count"])))

    @classmethod
    def decoder_shape(cls, data_shape: tuple[int, ...], columns: Any, **settings: Any) -> tuple[int, ...]:
        """One parameter per column, and of categories one for each."""
        return (sum(_width(kind) for kind in _kinds(columns, data_shape).values()),)

    @classmethod
    def features(
        cls, data_shape: tuple[int, ...], columns: Any, mean: Any = None, std: Any = None, **settings: Any
    ) -> ByColumn:
        """Reals standardised, categories one-hot, counts as log(1 + x)."""

        def read(kind: Kind, positions: list[int]) -> nn.Module:
            if isinstance(kind, int):
                return OneHot(len(positions), kind)
            if kind == "real":
                return _units(positions, data_shape, mean, std)
            return Log1p(len(positions)) if kind == "count" else nn.Identity()

        groups = _groups(_kinds(columns, data_shape))
        return ByColumn([(positions, read(kind, positions)) for kind, positions in groups.items()])

    def forward(self, *z: Tensor) -> dist.Distribution:
        """The distribution of the rows that ``z`` explains."""
        given = self.decoder(*z).split(self.widths, -1)
        parts = [(p, self._part(kind, torch.stack([given[i] for i in p], -2))) for kind, p in self.groups.items()]
        return distributions.Row(parts, self.names)

    def _part(self, kind: Kind, given: Tensor) -> dist.Distribution:
        """The distribution of the columns of one kind, from their parameters (*batch, columns, width)."""
        if isinstance(kind, int):
            return _Category(logits=given)
        one = given.squeeze(-1)
        if kind == "real":
            return _RealNumber(self.units.back(one), self.units.std * bounded_scale(self.log_scale))
        return _Binary(logits=one) if kind == "binary" else _Count(**overdispersed(one, self.log_r))


class _RealNumber(distributions.FiniteNormal):
    advice = "A real column holds finite numbers: drop or fill in the missing values"


class _Binary(distributions.BinaryBernoulli):
    advice = "A binary column holds 0 and 1: recode it, or declare it as 'real' or as a number of categories"


class _Category(distributions.NumberedCategorical):
    advice = (
        "A column of k categories holds the whole numbers 0 to k - 1: number its values from 0 "
        "(torch.unique(x, return_inverse=True)), or declare more of them"
    )


class _Count(distributions.CountNegativeBinomial):
    advice = "A column of counts holds 0, 1, 2, ...: pass what was counted, before any scaling, or declare it 'real'"


def _kinds(columns: Any, data_shape: tuple[int, ...]) -> dict[Any, Kind]:
    """The kind of each column, by name or else by position."""
    if not isinstance(columns, Mapping | list | tuple):
        raise ValueError(f"columns: expected kinds, or a mapping from names to kinds, found {columns!r:.60}")
    named = dict(columns) if isinstance(columns, Mapping) else dict(enumerate(columns))
    if (len(named),) != data_shape:
        raise ValueError(f"columns: expected as many kinds as data_shape {data_shape} has columns, found {len(named)}")
    for name, kind in named.items():
        whole = isinstance(kind, Integral) and not isinstance(kind, bool)
        if not (kind >= 2 if whole else kind in KINDS):
            raise ValueError(
                f"columns: {name!r}: expected {', '.join(map(repr, KINDS))} or a number of categories of at least 2, "
                f"found {kind!r}"
            )
        named[name] = int(kind) if whole else kind
    return named


def _width(kind: Kind) -> int:
    return kind if isinstance(kind, int) else 1


def _groups(kinds: dict[Any, Kind]) -> dict[Kind, list[int]]:
    """The positions of the columns of each kind."""
    groups: dict[Kind, list[int]] = {}
    for i, kind in enumerate(kinds.values()):
        groups.setdefault(kind, []).append(i)
    return groups


def _units(reals: list[int], data_shape: tuple[int, ...], mean: Any, std: Any) -> Standardise:
    """The units of the real columns."""

    def of(name: str, value: Any) -> Any:
        value = value.tolist() if hasattr(value, "tolist") else value
        if not isinstance(value, list | tuple):
            return value
        if (len(value),) != data_shape:
            raise ValueError(f"{name}: expected one number per column, {data_shape[0]}, found {len(value)}")
        return [value[i] for i in reals]

    return Standardise(len(reals), of("mean", mean), of("std", std))
