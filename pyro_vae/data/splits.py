"""Parts of a data set: their names, and how a whole is divided into them."""

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np

PARTS = ("train", "validation", "test")
SPLITS = (*PARTS, "train+validation", "all")
ALIASES = {"train": ("train",), "validation": ("validation", "valid", "val"), "test": ("test",)}
NAMES = tuple(alias for part in PARTS for alias in ALIASES[part])

T = TypeVar("T")


class NoSuchPart(ValueError):
    """A data set has no part of that name."""


def choose(found: Mapping[str, T], split: str, where: str | Path, what: str) -> list[T]:
    """What was found under the names of the parts that a split consists of; ``all`` is every part there is.

    Raises:
        NoSuchPart: where a part is missing.
        ValueError: where it is there under two names.
    """
    names = {part: [alias for alias in ALIASES[part] if alias in found] for part in PARTS}
    for part, aliases in names.items():
        if len(aliases) > 1:
            raise ValueError(f"{where}: expected one of the {what} {aliases} for {part!r}, found both")
    wanted = [part for part in PARTS if names[part]] if split == "all" else split.split("+")
    if not wanted or not all(names[part] for part in wanted):
        raise NoSuchPart(f"{where}: holds the {what} {sorted(found)}, none for split {split!r}")
    return [found[names[part][0]] for part in wanted]


def divide(n: int, split: str, seed: int, where: str | Path) -> np.ndarray:
    """Which of n data belong to a split: 80/10/10 of a permutation from ``seed``; ``all`` keeps their order.

    Raises:
        NoSuchPart: where there are too few to hold any out.

    >>> [len(divide(105, part, 0, "table")) for part in ("train", "validation", "test", "train+validation")]
    [85, 10, 10, 95]
    """
    if split == "all":
        return np.arange(n)
    held = n // 10
    if split != "train" and not held:
        raise NoSuchPart(f"{where}: {n} data are too few to hold out a part for {split!r}, expected 10 or more")
    first, last = {
        "train": (0, n - 2 * held),
        "validation": (n - 2 * held, n - held),
        "test": (n - held, n),
        "train+validation": (0, n - held),
    }[split]
    return np.random.default_rng(seed).permutation(n)[first:last]
