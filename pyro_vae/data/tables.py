"""Tables: rows of real, binary, categorical and count columns."""

import re
import warnings
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.columns import Column, column, of_schema
from pyro_vae.data.moments import moments
from pyro_vae.data.sets import Data
from pyro_vae.data.splits import choose, divide


class Table(Data):
    """Rows of a table: x (n, columns), with the kind of each column in ``columns``.

    A real column and a count hold their values; a binary or a categorical one holds 0, 1, ..., the places of its
    values in ``columns[name].values``.

    >>> import pandas as pd
    >>> people = pd.DataFrame({"height": [1.7, 1.85, 1.62], "likes": ["tea", "coffee", "milk"]})
    >>> table = pv.data.load(people, "all")
    >>> {name: str(column) for name, column in table.columns.items()}
    {'height': 'real', 'likes': 'categorical (coffee, milk, tea)'}
    >>> table.x[:, 1].tolist()
    [2.0, 0.0, 1.0]
    >>> table.to_frame(table.x)["likes"].tolist()
    ['tea', 'coffee', 'milk']
    """

    def __init__(self, x: Tensor, columns: Mapping[str, Column]) -> None:
        super().__init__(x)
        self.columns = dict(columns)
        if self.x.dim() != 2 or self.x.shape[1] != len(self.columns):
            raise ValueError(f"x: expected (n, {len(self.columns)}), found {tuple(self.x.shape)}")

    def __repr__(self) -> str:
        kinds = ", ".join(f"{name}: {column.kind}" for name, column in self.columns.items())
        return f"Table({len(self.x)} rows; {kinds})"

    def schema(self) -> dict[str, Any]:
        """The columns as a plain dictionary that JSON takes, for ``load(other, columns=schema)``."""
        return {name: column.schema() for name, column in self.columns.items()}

    def to_frame(self, x: Any) -> Any:
        """Rows x (n, columns), such as draws of a pair, as a pandas DataFrame with the table's names and values."""
        return frame(x, self.schema())

    def moments(self) -> dict[str, Any]:
        """As of any :class:`Data`, over the cells that are there."""
        for name, cells in zip(self.columns, self.x.unbind(1), strict=True):
            if torch.isnan(cells).all():
                raise ValueError(f"moments: {_named(name)}: missing in all {len(cells)} rows of this part")
        return moments((chunk.double() for chunk in self._chunks()), missing=True)

    def settings(self) -> dict[str, Any]:
        """Kinds, and the moments of real columns (0 and 1 of others) in this part, as plain numbers.

        For ``functools.partial(pv.likelihoods.Columns, **train.settings())``; take them from the training part.

        >>> import pandas as pd
        >>> frame = pd.DataFrame({"a": [0.5, 1.5], "b": [False, True]})
        >>> pv.data.load(frame, "all").settings()
        {'columns': {'a': 'real', 'b': 'binary'}, 'mean': [1.0, 0.0], 'std': [0.5, 1.0]}
        """
        kinds = {n: len(c.values) if c.kind == "categorical" else c.kind for n, c in self.columns.items()}
        fitted = self.moments()
        return {
            "columns": kinds,
            "mean": [m if kind == "real" else 0.0 for kind, m in zip(kinds.values(), fitted["mean"], strict=True)],
            "std": [s if kind == "real" else 1.0 for kind, s in zip(kinds.values(), fitted["std"], strict=True)],
        }

    def fill(self) -> list[float]:
        """What a guide reads in place of missing cells: the mean of those in this part, -1 for categories.

        So a missing category is none of them, of zeros in one-hot features. For
        ``pv.infer.observed(fill=train.fill(), x=torch.isfinite)``; take it from the training part.

        >>> import pandas as pd
        >>> frame = pd.DataFrame({"a": [0.5, 1.5, None], "b": [False, None, True], "c": ["x", "y", "z"]})
        >>> pv.data.load(frame, "all", missing=True).fill()
        [1.0, 0.5, -1.0]
        """
        means = zip(self.columns.values(), self.moments()["mean"], strict=True)
        return [-1.0 if column.kind == "categorical" else mean for column, mean in means]


def frame(x: Any, schema: Mapping[str, Any]) -> Any:
    """Rows x (n, columns) as a pandas DataFrame, by the :meth:`Table.schema` of a table; NaN is a missing value.

    Raises:
        ValueError: where the shape differs, or a number is none of a category: means are no draws.

    >>> frame([[1.5, 1]], {"height": {"kind": "real"}, "likes": {"kind": "binary", "values": ["tea", "milk"]}})
       height likes
    0     1.5  milk
    """
    import pandas as pd

    rows = torch.as_tensor(x).detach().cpu().double().numpy()
    if rows.ndim != 2 or rows.shape[1] != len(schema):
        raise ValueError(f"x: expected (n, {len(schema)}), found {rows.shape}")
    decoded = {
        name: of_schema(entry, _named(name)).decode(values, _named(name))
        for (name, entry), values in zip(schema.items(), rows.T, strict=True)
    }
    return pd.DataFrame(decoded)


def table(source: Any, split: str, columns: Mapping[str, Any] | None, seed: int, *, missing: bool = False) -> Table:
    """Rows of a DataFrame, of a CSV file, or of CSV files by part, for a split.

    Kinds are told from all rows, whatever the split: text and truth values are ``binary`` where there are two of
    them, else ``categorical``; numbers are ``real`` where one has a fraction, ``count`` where there are more than
    10 different ones, none negative and none above 1e6 (``real`` where one is); fewer are ``binary`` or
    ``categorical``. ``columns`` maps names to other kinds, or is the schema of another table, which is then taken
    as it is. With ``missing`` cells may be missing: they are NaN, and kinds are told from the others.

    Raises:
        ValueError: where a file is none, values are missing (with ``missing``, a whole column), a column is constant,
            its name comes twice, its values do not fit its kind or are unknown to the schema.
    """
    columns = {} if columns is None else columns
    if not isinstance(columns, Mapping):
        raise TypeError(f"columns: expected a mapping from column to kind, found {type(columns).__name__}")
    if not isinstance(source, Mapping):
        where = "table" if not isinstance(source, Path) else str(source)
        rows = _read(source, columns) if isinstance(source, Path) else source
        whole = _columns(rows, columns, where, missing)
        return _table(rows.iloc[divide(len(rows), split, seed, where)], whole, where)
    import pandas as pd

    frames = {part: _read(path, columns) for part, path in source.items()}
    where = str(next(iter(source.values())).parent)
    names = list(next(iter(frames.values())).columns)
    for part, rows in frames.items():
        if list(rows.columns) != names:
            raise ValueError(f"{source[part]}: expected the columns {names}, found {list(rows.columns)}")
    whole = _columns(pd.concat(list(frames.values()), ignore_index=True), columns, where, missing)
    return _table(pd.concat(choose(frames, split, where, "tables")), whole, where)


def _named(name: str) -> str:
    return f"column {name!r}"


def _table(rows: Any, columns: Mapping[str, Column], where: str) -> Table:
    encoded = [c.encode(rows[name], f"{where}: {_named(name)}") for name, c in columns.items()]
    return Table(torch.from_numpy(np.stack(encoded, 1)).float(), columns)


def _columns(rows: Any, kinds: Mapping[str, Any], where: str, missing: bool) -> dict[str, Column]:
    """The kind of each column of a whole table."""
    names = list(rows.columns)
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ValueError(f"{where}: {_named(twice[0])} comes {names.count(twice[0])} times, expected different names")
    if not names or not len(rows):
        raise ValueError(f"{where}: expected rows and columns, found {len(rows)} rows of {len(names)} columns")
    text = [name for name in names if not isinstance(name, str)]
    if text:
        raise ValueError(f"{where}: expected columns with names of text, found {text[0]!r}")
    unknown = [name for name in kinds if name not in names]
    if unknown:
        raise ValueError(f"columns: {where} has no column {unknown[0]!r}; it has {', '.join(names)}")
    if kinds and all(isinstance(kind, Mapping) for kind in kinds.values()):  # a schema: these columns and no others
        strangers = [name for name in names if name not in kinds]
        if strangers:
            raise ValueError(f"{where}: {_named(strangers[0])} is not in the schema; drop it")
        names = list(kinds)
    for name in names:
        lacking = int(rows[name].isna().sum())
        if lacking == len(rows) or (lacking and not missing):
            todo = "drop it" if lacking == len(rows) else "drop them or fill them in, or keep them with missing=True"
            raise ValueError(f"{where}: {_named(name)}: missing in {lacking} of {len(rows)} rows; {todo}")
    return {name: column(rows[name].dropna(), kinds.get(name), f"{where}: {_named(name)}") for name in names}


def _read(path: Path, kinds: Mapping[str, Any]) -> Any:
    """A CSV file whose first row names the columns, as a DataFrame."""
    try:
        import pandas as pd
    except ImportError:
        raise ImportError("pandas: needed to read tables; pip install 'pyro_vae[tables]'") from None
    read = partial(pd.read_csv, path, index_col=False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # rows longer than the first
            # read apart, as pandas renames the second of two like names
            names = read(header=None, nrows=1, dtype=str, keep_default_na=False).iloc[0].tolist()
            text = [name for name in names if _is_text(kinds.get(name))]
            rows = read(header=0, low_memory=False, dtype=dict.fromkeys(text, str))
            whole = [name for name in names if name not in kinds and name in rows and _may_be_whole(rows[name])]
            asked = {*text, *whole}  # of these the very words count, which pandas has read as numbers or as missing
            words = read(header=0, dtype=str, usecols=asked, keep_default_na=False, na_values=[""]) if asked else rows
    except (ValueError, OSError, pd.errors.ParserWarning) as error:
        cause = " ".join(str(error).split())
        raise ValueError(f"{path}: not a table that pandas can read ({cause})") from None
    if "" in names:
        raise ValueError(f"{path}: column {names.index('') + 1} has no name; pandas writes one so unless index=False")
    if all(re.fullmatch(r"[-+.\deE]+", name) for name in names):
        raise ValueError(f"{path}: expected the names of columns in the first row, found the numbers {names[:3]}")
    if len(set(names)) < len(names):
        rows.columns = pd.Index(names)  # for the words about it
        return rows
    rows[text] = words[text]  # NA is a name there, as of Namibia
    for name in names:
        if kinds.get(name) == "categorical":
            there = rows[name].dropna()
            numbers = pd.to_numeric(there, errors="coerce")
            rows[name] = numbers.reindex(rows.index) if (numbers.astype(str) == there).all() else rows[name]
        elif name in whole:
            padded = words[name][words[name].str.fullmatch(r"0\d+", na=False)]
            if len(padded):
                raise ValueError(
                    f"{path}: {_named(name)}: {padded.iloc[0]!r} begins with 0, as names do and numbers do not; say "
                    "which it is in columns, 'categorical' or 'count'"
                )
    return rows


def _may_be_whole(values: Any) -> bool:
    """Whether numbers as pandas has read them were written without a fraction: with missing cells they are floats."""
    return values.dtype.kind == "i" or (values.dtype.kind == "f" and bool(values.isna().any()))


def _is_text(kind: Any) -> bool:
    """Whether a column is read as text at first: the leading zeros of a category belong to its name."""
    values = kind.get("values") or () if isinstance(kind, Mapping) else ()
    return kind == "categorical" or (bool(values) and all(isinstance(v, str) for v in values))
