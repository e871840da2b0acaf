"""Arrays in files: ``.npy``, which stays on disk, and ``.npz``."""

import errno
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.splits import NoSuchPart, choose


def array(path: Path, split: str) -> Tensor:
    """The array of a ``.npy`` file, memory-mapped and in its own dtype, or floats from an ``.npz`` file.

    What is written to the former stays in memory; one that is larger than memory must not be written to.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: where it holds no numbers, or none for the split.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     np.save(Path(folder) / "x.npy", np.zeros((5, 3), dtype=np.uint8))
    ...     array(Path(folder) / "x.npy", "train").dtype
    torch.uint8
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    with _reading(path):
        file = _opened(path)
    if isinstance(file, np.ndarray):
        if split not in ("train", "all"):
            raise NoSuchPart(
                f"{path}: a .npy file is one part, 'train' or 'all', found split {split!r}; put train.npy, "
                "validation.npy and test.npy into one folder and load that"
            )
        return _numbers(file, path)
    with file:
        names = choose({name: name for name in file}, split, path, "arrays")
        return joined([_numbers(_member(file, name, path), path).float() for name in names], path)


def _opened(path: Path) -> Any:
    if path.suffix == ".npz":
        ZipFile(path).close()  # numpy would leave a damaged one open
        return np.load(path, allow_pickle=False)
    try:
        return np.load(path, mmap_mode="c", allow_pickle=False)  # what is written to it stays in memory
    except OSError as error:
        if error.errno != errno.ENOMEM:
            raise
    # larger than memory, where the system promises no room for writing
    return np.load(path, mmap_mode="r", allow_pickle=False)


def joined(parts: Sequence[Tensor], where: Path) -> Tensor:
    """One tensor of several parts, read into memory; a single one as it is."""
    shapes = {tuple(part.shape[1:]) for part in parts}
    if len(shapes) > 1:
        raise ValueError(f"{where}: expected parts of one data shape, found {sorted(shapes)}")
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def _member(file: Any, name: str, path: Path) -> np.ndarray:
    with _reading(path):
        return file[name]


def _numbers(values: np.ndarray, path: Path) -> Tensor:
    if values.dtype.kind not in "biuf" or not values.dtype.isnative:
        raise ValueError(
            f"{path}: expected numbers in this machine's byte order, such as float32 or uint8, found {values.dtype}"
        )
    if not values.size or not values.ndim:
        raise ValueError(f"{path}: expected (n, ...) with at least one datum, found an array of shape {values.shape}")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")
            return torch.from_numpy(values)
    except TypeError:  # float128
        raise ValueError(f"{path}: torch has no {values.dtype}; save it as float32 or float64") from None


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, ValueError, BadZipFile) as error:
        cause = " ".join(str(error).split())
        raise ValueError(f"{path}: not an array of numbers that numpy can read ({cause})") from None
