"""Folders of images, decoded when they are used."""

import copy
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from pyro_vae import checks
from pyro_vae.data.feed import derived
from pyro_vae.data.moments import moments
from pyro_vae.data.splits import NAMES, choose, divide
from pyro_vae.tracing import rows_for

GREY = ("1", "L", "LA")  # what PIL calls images without colour
DEEP = ("I", "F")  # and those with more than 8 bits to a channel, "I;16" among them


class Images(Dataset[Any]):
    r"""Image files as a ``Dataset``: x (C, H, W) in [0, 1], with its label behind it where there are classes.

    Nothing is held in memory but the names of the files. ``pv.fit``, ``pv.evaluate`` and ``pv.plot`` take it as
    it is, and a ``DataLoader`` with workers decodes in parallel. Transparency is left out.

    Args:
        files: the image files.
        labels: one whole number per file, or None.
        classes: what the labels stand for.
        size: (height, width) to resize to, whatever the proportions, or one number for a square; None where all
            have one size.
        grey: decode to one channel; otherwise one where the first image is grey, else three.
        binarise, seed: as for :func:`pyro_vae.data.load`; a static draw depends on ``seed`` and the file's name.
        folder: above all of the files; their names are then told from there, with their subfolders.
        like: the image that tells size and colour of all, so that the parts of a folder agree; by default the first.

    Raises:
        ValueError: by :meth:`__getitem__` too, where a file cannot be decoded or is unlike the first in size,
            colour or depth; it names the file.

    >>> from tempfile import TemporaryDirectory
    >>> from PIL import Image
    >>> with TemporaryDirectory() as folder:
    ...     Image.new("RGB", (12, 8), "red").save(Path(folder) / "red.png")
    ...     images = Images([Path(folder) / "red.png"])
    ...     images.shape, images[0][:, 0, 0].tolist()
    ((3, 8, 12), [1.0, 0.0, 0.0])
    """

    def __init__(
        self,
        files: Sequence[Path],
        labels: Tensor | None = None,
        classes: Sequence[str] = (),
        *,
        size: int | tuple[int, int] | None = None,
        grey: bool = False,
        binarise: str | None = None,
        seed: int = 0,
        folder: Path | None = None,
        like: Path | None = None,
    ) -> None:
        self.folder = folder
        self.files, self.labels, self.classes = list(files), labels, list(classes)
        self.size = None if size is None else _size(size)
        self.grey, self.binarise, self.seed = grey, binarise, seed
        if not self.files:
            raise ValueError("files: expected at least one image, found none")
        with _decoding(self.files[0] if like is None else like) as first:
            height, width = self.size or (first.height, first.width)
            #: the shape of one datum, the ``data_shape`` of a recipe
            self.shape = (1 if grey or first.mode in GREY else 3, height, width)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> Any:
        x = self._decoded(self.files[i])
        if self.binarise == "threshold":
            x = (x > 0.5).float()
        elif self.binarise == "dynamic":
            x = torch.bernoulli(x)
        elif self.binarise == "static":
            place = derived(self.seed, zlib.crc32(self._named(self.files[i]).encode()))
            x = torch.bernoulli(x, generator=torch.Generator().manual_seed(place))
        return x if self.labels is None else (x, int(self.labels[i]))

    def _named(self, file: Path) -> str:
        """What tells a file from all others, wherever the folder lies."""
        return file.name if self.folder is None else file.relative_to(self.folder).as_posix()

    def __repr__(self) -> str:
        return f"Images({len(self)} of shape {self.shape}, {len(self.classes)} classes, binarise={self.binarise})"

    def drawn(self, seed: int = 0) -> "Images":
        """The same images with the draws of each fixed by ``seed``; images without any as they are."""
        if self.binarise != "dynamic":
            return self
        fixed = copy.copy(self)
        fixed.binarise, fixed.seed = "static", seed
        return fixed

    def moments(self) -> dict[str, Any]:
        """Mean and standard deviation per channel, as :meth:`pyro_vae.data.Data.moments`; decodes every file."""
        if self.binarise is not None:
            raise ValueError(f"moments: expected grey values, found binary draws ({self.binarise})")
        size = rows_for({"x": torch.empty(1, *self.shape)})
        return moments(
            torch.stack([self._decoded(file) for file in self.files[start : start + size]])
            for start in range(0, len(self), size)
        )

    def _decoded(self, file: Path) -> Tensor:
        from PIL import Image

        channels, *expected = self.shape
        with _decoding(file) as image:
            if channels == 1 and not self.grey and image.mode not in GREY:
                raise _Unlike(f"in colour ({image.mode}), while the first image is grey; pass grey=True")
            pixels = image.convert("L" if channels == 1 else "RGB")
            if self.size is not None:
                pixels = pixels.resize(self.size[::-1], Image.Resampling.BILINEAR)
            values = torch.from_numpy(np.array(pixels)).reshape(pixels.height, pixels.width, channels)
        if [*values.shape[:2]] != expected:
            found, wanted = (" x ".join(map(str, size)) for size in (values.shape[:2], expected))
            raise ValueError(f"{file}: {found} pixels, expected {wanted} as the first image; pass size=(height, width)")
        return values.movedim(-1, 0).float() / 255


class _Unlike(ValueError):
    """An image that can be decoded, but not as the others."""


@contextmanager
def _decoding(file: Path) -> Iterator[Any]:
    from PIL import Image

    try:
        with Image.open(file) as image:
            if image.mode.startswith(DEEP):
                raise _Unlike(f"more than 8 bits to a channel (mode {image.mode}); convert it, or save arrays as .npy")
            yield image
    except _Unlike as error:
        raise ValueError(f"{file}: {error}") from None
    except Exception as error:  # PIL raises SyntaxError, OSError, ... as its formats do
        cause = " ".join(str(error).split())
        raise ValueError(f"{file}: not an image that can be decoded ({cause})") from None


def _size(size: Any) -> tuple[int, int]:
    found = checks.shape("size", size)
    if len(found) > 2:
        raise ValueError(f"size: expected (height, width) or one number, found {size!r}")
    return found[0], found[-1]


def images(folder: Path, split: str, seed: int, **options: Any) -> Images:
    """The images of a split of a folder.

    Subfolders ``train``, ``validation`` (``valid``, ``val``) and ``test`` are its parts, where there are two of
    them, or no others; otherwise parts are 80/10/10 of a permutation of the sorted files. Subfolders of images are
    classes, labelled in the order of their names.

    Raises:
        ValueError: where there is no image or no such part, or images lie beside folders of images.
    """
    subfolders = {p.name: p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")}
    parts = {name: path for name, path in subfolders.items() if name in NAMES}
    if len(parts) > 1 or (parts and len(parts) == len(subfolders)):
        found = {name: _files(path) for name, path in parts.items()}
        chosen = [pair for part in choose(found, split, folder, "folders") for pair in part]
        everything = [pair for part in found.values() for pair in part]
    else:
        everything = _files(folder)
        chosen = [everything[i] for i in divide(len(everything), split, seed, folder)]
    classes = sorted({name for _, name in everything if name})
    if classes and not all(name for _, name in everything):
        file = next(file for file, name in everything if not name)
        raise ValueError(
            f"{folder}: expected images or folders of images, one for each class, found both ({file.name})"
        )
    number = {name: i for i, name in enumerate(classes)}
    labels = torch.tensor([number[name] for _, name in chosen]) if classes else None
    return Images(
        [file for file, _ in chosen], labels, classes, seed=seed, folder=folder, like=everything[0][0], **options
    )


def _files(folder: Path) -> list[tuple[Path, str]]:
    """The images at any depth, in the order of their names, each with its class: its first subfolder, or ''."""
    from torchvision.datasets.folder import IMG_EXTENSIONS

    found = []
    for file in sorted(folder.rglob("*")):
        inside = file.relative_to(folder).parts
        if file.suffix.lower() in IMG_EXTENSIONS and not any(part.startswith(".") for part in inside):
            found.append((file, inside[0] if len(inside) > 1 else ""))
    if not found:
        raise ValueError(f"{folder}: holds no images ({', '.join(IMG_EXTENSIONS)}), nor train.npy or train.csv")
    return found
