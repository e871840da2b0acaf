"""Data sets by name, as mappings from the data site to a tensor."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae import checks
from pyro_vae.tracing import seeded

BINARISE = ("dynamic", "static", "threshold")
SPLITS = ("train", "validation", "test", "train+validation")


class Data(Mapping[str, Tensor]):
    r"""A data set: a mapping from the data site ``x`` to a tensor (n, \*data_shape), with labels beside it.

    ``pv.fit`` and ``pv.evaluate`` take it as it is. Where ``dynamic`` is set the values are probabilities in
    [0, 1]: a fresh binary image is drawn each time a datum is used, ``x_i ~ Bernoulli(p_i)``.

    >>> digits = load("digits", binarise="threshold")
    >>> digits.x.shape, digits.labels.shape
    (torch.Size([1257, 1, 8, 8]), torch.Size([1257]))
    """

    def __init__(self, x: Tensor, labels: Tensor | None = None, *, dynamic: bool = False) -> None:
        self.x = torch.as_tensor(x)
        self.labels = None if labels is None else torch.as_tensor(labels)
        self.dynamic = dynamic
        if dynamic:
            self.x = self.x if self.x.is_floating_point() else self.x.float()
            if not (self.x.min() >= 0 and self.x.max() <= 1):
                raise ValueError(
                    f"dynamic: expected probabilities in [0, 1], found {self.x.min():g} to {self.x.max():g}; "
                    "scale them first"
                )

    def __getitem__(self, site: str) -> Tensor:
        if site != "x":
            raise KeyError(site)
        return self.x

    def __iter__(self) -> Iterator[str]:
        return iter(("x",))

    def __len__(self) -> int:
        return 1  # sites, as for any mapping; len(data.x) counts the data

    def __repr__(self) -> str:
        shape = tuple(self.x.shape)
        return f"Data(x={shape}, labels={self.labels is not None}, dynamic={self.dynamic})"

    def transform(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """What is done to a batch when it is used: dynamic binarisation, or nothing."""
        return batch | {"x": torch.bernoulli(batch["x"])} if self.dynamic else batch

    def drawn(self, seed: int = 0) -> "Data":
        """The same data with the random numbers drawn once, for the verbs of a variant and for evaluation."""
        with seeded(seed):
            return Data(self.transform({"x": self.x})["x"], self.labels)


def load(
    name_or_path: str | Path,
    split: str = "train",
    root: str | Path = "data",
    *,
    binarise: str | None = None,
    download: bool = False,
    seed: int = 0,
) -> Data:
    r"""A data set by name, or the array in a ``.npy`` or ``.npz`` file.

    Names: ``digits`` (scikit-learn's 8x8 digits, embedded), ``mnist``, ``fashion-mnist`` (through
    torchvision), ``mnist-static`` (MNIST as binarised once by Larochelle & Murray, the set of most published
    likelihoods).

    Shapes: ``x`` is (n, channels, height, width) with values in [0, 1] for images; an array as it is.

    Args:
        split: ``train``, ``validation``, ``test`` or ``train+validation``. Sets without a validation part
            of their own give the last of their training data: 10,000 of MNIST, 270 of the digits. An ``.npz``
            file holds one array per split (``valid`` will do); a ``.npy`` file is all one split.
        root: where torchvision's folders and ``binarized_mnist.npz`` lie, or are put.
        binarise: ``"dynamic"``, a fresh draw x ~ Bernoulli(p) at each use; ``"static"``, one draw, from
            ``seed``; ``"threshold"``, x = [p > 1/2]; None, the grey values, which are no Bernoulli data.
        download: fetch what is missing.

    Raises:
        ValueError: for an unknown name, split or binarisation, or a file without the split.
        FileNotFoundError: where the files are missing and ``download`` is not set.

    Source: Larochelle & Murray 2011 (static); Burda et al. 2016, arXiv:1509.00519 (dynamic).

    >>> load("digits", split="test").x.shape
    torch.Size([270, 1, 8, 8])
    """
    checks.known("split", split, SPLITS)
    if binarise is not None:
        checks.known("binarise", binarise, BINARISE)
    if not isinstance(name_or_path, str | Path):
        raise TypeError(
            f"name_or_path: expected a name or a file, found {type(name_or_path).__name__}; "
            "pv.fit and pv.evaluate take arrays and tensors as they are"
        )
    path = Path(name_or_path)
    if path.suffix in (".npy", ".npz"):
        x, labels = _array(path, split)
    else:
        name = checks.known("name", str(name_or_path), SETS)
        x, labels = SETS[name](Path(root), split, download)
    if binarise is not None and (x.min() < 0 or x.max() > 1):
        raise ValueError(f"binarise: expected values in [0, 1], found {x.min():g} to {x.max():g}; scale them first")
    if binarise == "threshold":
        x = (x > 0.5).float()
    elif binarise == "static":
        with seeded(seed):
            x = torch.bernoulli(x)
    return Data(x, labels, dynamic=binarise == "dynamic")


Part = tuple[Tensor, Tensor | None]


def _digits(root: Path, split: str, download: bool) -> Part:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    x = torch.as_tensor(bunch.images, dtype=torch.float32)[:, None] / 16
    labels = torch.as_tensor(bunch.target)
    order = torch.as_tensor(np.random.default_rng(0).permutation(len(x)))  # the file is sorted by writer
    cut = {"train": slice(0, 1257), "validation": slice(1257, 1527), "test": slice(1527, None)}
    part = slice(0, 1527) if split == "train+validation" else cut[split]
    return x[order[part]], labels[order[part]]


def _torchvision(name: str) -> Callable[[Path, str, bool], Part]:
    def part(root: Path, split: str, download: bool) -> Part:
        from torchvision import datasets

        try:
            data: Any = getattr(datasets, name)(str(root), train=split != "test", download=download)
        except RuntimeError as error:
            raise FileNotFoundError(f"root: no {name} under {root}; pass download=True ({error})") from None
        cut = {"train": slice(0, -10_000), "validation": slice(-10_000, None)}.get(split, slice(None))
        return data.data[cut, None].float() / 255, data.targets[cut]

    return part


def _mnist_static(root: Path, split: str, download: bool) -> Part:
    found = [p for p in (root / "binarized_mnist.npz", root / "mnist_static" / "binarized_mnist.npz") if p.is_file()]
    if found:
        x, _ = _array(found[0], split)
        return x.reshape(-1, 1, 28, 28), None
    parts = {
        "train": ["train"],
        "validation": ["valid"],
        "test": ["test"],
        "train+validation": ["train", "valid"],
    }
    images = [torch.as_tensor(np.loadtxt(_amat(root, p, download), dtype=np.float32)) for p in parts[split]]
    return torch.cat(images).reshape(-1, 1, 28, 28), None


def _amat(root: Path, part: str, download: bool) -> Path:
    """One of the three text files that Larochelle published."""
    path = root / f"binarized_mnist_{part}.amat"
    if not path.is_file():
        if not download:
            raise FileNotFoundError(
                f"root: neither binarized_mnist.npz nor {path.name} under {root}; pass download=True"
            )
        from torchvision.datasets.utils import download_url

        url = f"http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/{path.name}"
        download_url(url, str(root))
    return path


def _array(path: Path, split: str) -> Part:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        file = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path}: not an array of numbers that numpy can read ({error})") from None
    if isinstance(file, np.ndarray):
        return torch.as_tensor(file).float(), None
    wanted = [("validation", "valid") if s == "validation" else (s,) for s in split.split("+")]
    names = [next((n for n in choice if n in file), None) for choice in wanted]
    if None in names:
        raise ValueError(f"{path}: holds the arrays {sorted(file)}, none for split {split!r}")
    return torch.cat([torch.as_tensor(file[n]).float() for n in names if n]), None


SETS: dict[str, Callable[[Path, str, bool], Part]] = {
    "digits": _digits,
    "fashion-mnist": _torchvision("FashionMNIST"),
    "mnist": _torchvision("MNIST"),
    "mnist-static": _mnist_static,
}
