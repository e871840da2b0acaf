"""Data sets by name."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data import sprites
from pyro_vae.data.arrays import array
from pyro_vae.data.sets import Data

Part = tuple[Tensor, Tensor | None]


@dataclass(frozen=True)
class Named:
    """A data set by name: what it is in one line, and the images and labels of a split when it is called.

    >>> SETS["digits"].description
    '8x8 grey digits, 1,797 of scikit-learn; embedded'
    >>> x, labels = SETS["digits"](Path("data"), "test", False)
    >>> x.shape
    torch.Size([270, 1, 8, 8])
    """

    description: str
    read: Callable[[Path, str, bool], Part | Data]

    def __call__(self, root: Path, split: str, download: bool) -> Part | Data:
        """Images (n, C, H, W) in [0, 1], and labels where there are any; or data that are drawn when they are used."""
        return self.read(root, split, download)


def _digits(root: Path, split: str, download: bool) -> Part:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    x = torch.as_tensor(bunch.images, dtype=torch.float32)[:, None] / 16
    labels = torch.as_tensor(bunch.target)
    order = torch.as_tensor(np.random.default_rng(0).permutation(len(x)))  # the file is sorted by writer
    cut = {"train": slice(0, 1257), "validation": slice(1257, 1527), "test": slice(1527, None)}
    part = slice(0, 1527) if split == "train+validation" else cut[split]
    return x[order[part]], labels[order[part]]


# the columns of the photographs, 640 wide, that each part is cut from: no pixel is in two parts
STRIPS = {"train": (0, 448), "validation": (448, 544), "test": (544, 640)}


def _patches(root: Path, split: str, download: bool) -> Part:
    from sklearn.datasets import load_sample_image

    images, labels = [], []
    for label, name in enumerate(("china.jpg", "flower.jpg")):
        photograph = torch.tensor(load_sample_image(name)).movedim(-1, 0)
        for part in split.split("+"):
            start, stop = STRIPS[part]
            tiles = photograph[:, :, start:stop].unfold(1, 32, 16).unfold(2, 32, 16)  # (3, down, across, 32, 32)
            images.append(tiles.movedim(0, 2).flatten(0, 1))
            labels.append(torch.full((len(images[-1]),), label))
    order = torch.as_tensor(np.random.default_rng(0).permutation(sum(map(len, images))))
    return torch.cat(images)[order].float() / 255, torch.cat(labels)[order]


def _torchvision(
    name: str, held_out: int = 10_000, parts: tuple[Any, Any] = (True, False), **options: Any
) -> Callable[[Path, str, bool], Part]:
    """torchvision's own loader; ``parts`` is what it takes for the training data and for the test data."""

    def read(root: Path, split: str, download: bool) -> Part:
        from torchvision import datasets

        chosen = parts[split == "test"]
        keyword = {"train" if isinstance(chosen, bool) else "split": chosen}
        with _found(name, root, download):
            data: Any = getattr(datasets, name)(str(root), download=download, **keyword, **options)
        cut = {"train": slice(0, -held_out), "validation": slice(-held_out, None)}.get(split, slice(None))
        labels = torch.as_tensor(data.targets if hasattr(data, "targets") else data.labels)[cut]
        x = torch.as_tensor(data.data[cut])
        if x.dim() == 3:
            x = x[:, None]
        elif x.shape[-1] == 3:  # CIFAR's lie in the order of PIL
            x = x.movedim(-1, 1)
        if name == "EMNIST":
            x = x.mT  # the files hold letters that lie on their side
        return x.float().contiguous() / 255, (labels[:, 0] if name == "QMNIST" else labels).long()

    return read


def _sprites(*, fine: bool) -> Callable[[Path, str, bool], Data]:
    return lambda root, split, download: sprites.grid(split, fine=fine)


@contextmanager
def _found(name: str, root: Path, download: bool) -> Iterator[None]:
    """torchvision's words about missing and damaged files, in one line that says what to do."""
    try:
        yield
    except Exception as error:  # each of its readers has its own for a file that is cut short
        cause = " ".join(str(error).split())
        if download:
            raise ConnectionError(f"download: no {name} for {root} ({cause})") from None
        if isinstance(error, FileNotFoundError) or "not found" in cause:
            raise FileNotFoundError(f"root: no {name} under {root}; pass download=True ({cause})") from None
        raise ValueError(f"root: {name} under {root} is damaged; fetch it again ({cause})") from None


def _mnist_static(root: Path, split: str, download: bool) -> Part:
    found = [p for p in (root / "binarized_mnist.npz", root / "mnist_static" / "binarized_mnist.npz") if p.is_file()]
    if found:
        return array(found[0], split).reshape(-1, 1, 28, 28), None
    names = ["valid" if part == "validation" else part for part in split.split("+")]
    images = [torch.as_tensor(np.loadtxt(_amat(root, name, download), dtype=np.float32)) for name in names]
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
        with _found("MNIST as binarised", root, download):
            download_url(url, str(root))
    return path


# 10,000 of the training data are held out for validation, or as many as the line says
SETS: dict[str, Named] = {
    "cifar10": Named("32x32 colour photographs of 10 classes, 60,000", _torchvision("CIFAR10")),
    "cifar100": Named("32x32 colour photographs of 100 classes, 60,000", _torchvision("CIFAR100")),
    "digits": Named("8x8 grey digits, 1,797 of scikit-learn; embedded", _digits),
    "emnist": Named(
        "28x28 grey letters and digits, 47 balanced classes, 131,600", _torchvision("EMNIST", split="balanced")
    ),
    "emnist-letters": Named("28x28 grey letters, classes 1 to 26, 145,600", _torchvision("EMNIST", split="letters")),
    "fashion-mnist": Named("28x28 grey garments of 10 classes, 70,000", _torchvision("FashionMNIST")),
    "kmnist": Named("28x28 grey Japanese characters of 10 classes, 70,000", _torchvision("KMNIST")),
    "mnist": Named("28x28 grey digits, 70,000", _torchvision("MNIST")),
    "mnist-static": Named("28x28 binary digits, MNIST as binarised once; no labels, 70,000", _mnist_static),
    "patches": Named("32x32 colour patches of two photographs of scikit-learn, 1,850; embedded", _patches),
    "qmnist": Named("28x28 grey digits, MNIST with a test part of 60,000", _torchvision("QMNIST")),
    "sprites": Named("64x64 binary shapes of 5 known factors, 92,160; drawn when used", _sprites(fine=False)),
    "sprites-fine": Named("64x64 binary shapes, 40 rotations and 32x32 places, 737,280", _sprites(fine=True)),
    "stl10": Named(
        "96x96 colour photographs of 10 classes, 13,000; 500 for validation",
        _torchvision("STL10", 500, ("train", "test")),
    ),
    "svhn": Named("32x32 colour house numbers of 10 classes, 99,289", _torchvision("SVHN", parts=("train", "test"))),
    "usps": Named("16x16 grey digits, 9,298; 1,000 for validation", _torchvision("USPS", 1000)),
}
