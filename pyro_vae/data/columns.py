"""Columns of a table: what kind each is, and how its values become numbers and come back."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pyro_vae import checks

KINDS = ("binary", "categorical", "count", "real")
MOST = 1e6  # larger whole numbers are amounts, or names, and no counts
FEW = 10  # more whole numbers than these are a quantity, as are more labels in pyro_vae.plot


@dataclass(frozen=True)
class Column:
    """One column: its kind, and the values that a binary or categorical one takes, in the order of their numbers."""

    kind: str
    values: tuple[Any, ...] = ()

    def __str__(self) -> str:
        return f"{self.kind} ({', '.join(map(str, self.values))})" if self.values else self.kind

    def schema(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {"kind": self.kind, "values": list(self.values)} if self.values else {"kind": self.kind}

    def encode(self, values: Any, where: str) -> np.ndarray:
        """A pandas Series as numbers: those of the categories, or its own; NaN where a cell is missing."""
        there = values.notna().to_numpy()
        found = np.full(len(values), np.nan)
        if there.any():
            found[there] = self._encode(values[there], where)
        return found

    def _encode(self, values: Any, where: str) -> np.ndarray:
        if self.values:
            # a number that stands among text is read as text
            numbers = {str(v): i for i, v in enumerate(self.values)} | {v: i for i, v in enumerate(self.values)}
            places = [numbers.get(v, numbers.get(str(v))) for v in values]
            if None in places:
                stranger = _plain(values.iloc[places.index(None)])
                raise ValueError(f"{where}: unknown value {stranger!r}, expected one of {_some(self.values)}")
            return np.asarray(places, dtype=np.float64)
        found = as_numbers(values, where)
        if self.kind == "count" and not _counts(found):
            wrong = found[(found < 0) | (found != np.round(found))][0]
            raise ValueError(f"{where}: expected counts, whole numbers of at least 0, found {wrong:g}")
        return found

    def decode(self, x: np.ndarray, where: str) -> Any:
        """Numbers back as values; of NaN, a missing one."""
        there = ~np.isnan(x)
        if not there.all():
            decoded = np.full(len(x), None if self.values else np.nan, dtype=object if self.values else np.float64)
            decoded[there] = self.decode(x[there], where)
            return decoded
        if self.kind == "real":
            return x
        whole = np.round(x).astype(np.int64)
        most = len(self.values) - 1 if self.values else np.inf
        wrong = (whole != x) | (whole < 0) | (whole > most)
        if wrong.any():
            expected = f"numbers of categories, 0 to {most}" if self.values else "whole numbers of at least 0"
            raise ValueError(f"{where}: expected {expected}, found {x[wrong][0]:g}; pass draws, not means")
        return [self.values[i] for i in whole] if self.values else whole


def column(values: Any, kind: Any, where: str) -> Column:
    """What a pandas Series holds: of the given kind, a word or an entry of a schema, or (None) by its values."""
    if isinstance(kind, Mapping):
        return of_schema(kind, where)
    distinct = sorted({_plain(v) for v in values.unique()}, key=lambda v: (isinstance(v, str), v))
    if len(distinct) == 1:
        raise ValueError(f"{where}: holds the one value {distinct[0]!r}; drop it")
    kind = _inferred(values, distinct, where) if kind is None else checks.known(where, kind, KINDS)
    if kind == "binary" and len(distinct) != 2:
        raise ValueError(f"{where}: expected two different values of a binary column, found {_some(distinct)}")
    return Column(kind, tuple(distinct) if kind in ("binary", "categorical") else ())


def of_schema(entry: Mapping[str, Any], where: str) -> Column:
    """The column of an entry of a schema."""
    kind, values = entry.get("kind"), entry.get("values", [])
    checks.known(f"{where}: kind", str(kind), KINDS)
    fits = {"binary": lambda n: n == 2, "categorical": lambda n: n > 0}.get(str(kind), lambda n: n == 0)
    if not isinstance(values, list | tuple) or not fits(len(values)):
        raise ValueError(
            f"{where}: expected the values of a {kind} column as Table.schema() gives them, found {values!r}"
        )
    return Column(str(kind), tuple(values))


def _inferred(values: Any, distinct: list[Any], where: str) -> str:
    """The rule of :func:`pyro_vae.data.tables.table`."""
    if any(isinstance(v, str) for v in distinct):
        _refuse_text(values, distinct, where)
        return "binary" if len(distinct) == 2 else "categorical"
    if all(isinstance(v, bool) for v in distinct):
        return "binary"
    found = as_numbers(values, where)
    if (found != np.round(found)).any():
        return "real"
    if len(distinct) > FEW:
        return "count" if _counts(found) and found.max() <= MOST else "real"
    return "binary" if len(distinct) == 2 else "categorical"


def _refuse_text(values: Any, distinct: list[Any], where: str) -> None:
    """Text that is meant as numbers, or that is different in most rows, makes no categories."""
    import pandas as pd

    no_number = values[pd.to_numeric(values, errors="coerce").isna()]
    if len(no_number) < len(values) / 2:
        raise ValueError(
            f"{where}: expected numbers, found {no_number.iloc[0]!r} among them; clean it, or name its kind in columns"
        )
    if len(distinct) > max(FEW, len(values) / 2):
        raise ValueError(
            f"{where}: {len(distinct)} different texts in {len(values)} rows, such as {distinct[0]!r}, are neither "
            "numbers nor categories; clean it, drop it, or name its kind in columns"
        )


def as_numbers(values: Any, where: str) -> np.ndarray:
    """A pandas Series as finite float64 that float32 can tell apart."""
    import pandas as pd

    if values.dtype.kind not in "biuf":
        missing = pd.to_numeric(values, errors="coerce").isna() if values.dtype.kind in "OTU" else values.notna()
        if missing.any():
            raise ValueError(f"{where}: expected numbers, found {_plain(values[missing].iloc[0])!r}")
        values = pd.to_numeric(values)
    found = values.to_numpy(dtype=np.float64)
    if not np.isfinite(found).all():
        raise ValueError(f"{where}: expected finite numbers, found {found[~np.isfinite(found)][0]}")
    with np.errstate(over="ignore"):
        spread, lost = np.ptp(found), np.abs(found - found.astype(np.float32)).max()
    if spread > 0 and lost > spread / 1000:  # seconds since 1970, long identifiers
        raise ValueError(
            f"{where}: numbers from {found.min():.10g} to {found.max():.10g} run together in 32 bits; "
            "subtract an offset"
        )
    return found


def _counts(found: np.ndarray) -> bool:
    return bool((found >= 0).all() and (found == np.round(found)).all())


def _plain(value: Any) -> Any:
    """A value of numpy's as Python's own, which JSON takes; whole floats as whole numbers."""
    value = value.item() if isinstance(value, np.generic) else value
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _some(values: Any) -> str:
    shown = ", ".join(repr(v) for v in list(values)[:10])
    return f"{shown}, ..." if len(values) > 10 else shown
