"""load: data of every kind, from a name, a file, a folder or a table."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pyro_vae import checks
from pyro_vae.data.arrays import array, joined
from pyro_vae.data.folders import images
from pyro_vae.data.labels import few
from pyro_vae.data.named import SETS
from pyro_vae.data.quadrants import Quadrants
from pyro_vae.data.sets import Data
from pyro_vae.data.splits import NAMES, SPLITS, choose
from pyro_vae.data.sprites import Sprites
from pyro_vae.data.tables import table
from pyro_vae.tracing import seeded

BINARISE = ("dynamic", "static", "threshold")
FILES = {".csv": "a table", ".npy": "an array", ".npz": "an array"}
# which kinds of data take an option
TAKEN = {
    "binarise": ("a named set", "an array", "a folder of images"),
    "divide_by": ("an array",),
    "size": ("a folder of images",),
    "grey": ("a folder of images",),
    "columns": ("a table",),
    "missing": ("a table",),
    "quadrants": ("a named set", "an array"),
    "labelled": ("a named set", "a folder of images"),
    "download": ("a named set",),
}


def load(
    name_or_path: Any,
    split: str = "train",
    root: str | Path = "data",
    *,
    binarise: str | None = None,
    divide_by: float | None = None,
    size: int | tuple[int, int] | None = None,
    grey: bool = False,
    columns: Mapping[str, Any] | None = None,
    missing: bool = False,
    quadrants: int | None = None,
    labelled: int | None = None,
    download: bool = False,
    seed: int = 0,
) -> Any:
    r"""Data that ``pv.fit``, ``pv.evaluate`` and ``pv.plot`` take, with the ``shape`` of one datum.

    ======================  ================================================================================
    a name in ``SETS``      :class:`Data`: ``digits`` and ``patches`` (colour) are embedded, ``sprites``
                            and ``sprites-fine`` (:class:`Sprites`, from known factors) are drawn when used,
                            others such as ``mnist`` or ``cifar10`` come through torchvision, ``mnist-static`` is
                            MNIST as binarised once by Larochelle & Murray, the set of most published likelihoods
    ``.npy``, ``.npz``      :class:`Data`: an array; a ``.npy`` file stays on disk in its own dtype, and each
                            batch is read and made float when it is used
    a folder of images      :class:`Images`: decoded when used; subfolders are parts, or classes
    ``.csv``, a DataFrame   :class:`Table`: real, binary, categorical and count columns
    a folder of arrays      ``train.npy``, ``validation.npy`` and ``test.npy``, or the like in ``.csv``
    ======================  ================================================================================

    Shapes: ``x`` is (n, channels, height, width) with values in [0, 1] for images, (n, columns) for tables; an
    array is as it is.

    Args:
        split: ``train``, ``validation`` (in files also ``valid``, ``val``), ``test``, ``train+validation``, or
            of files ``all``. Named sets without a validation part give the last of their training data: 10,000,
            270 of the digits, 1,000 of USPS, 500 of STL-10. An ``.npz`` file holds one array per part; arrays
            that are joined are read into memory. One CSV file, a DataFrame or a folder of images without parts is
            divided 80/10/10, permuted by ``seed``.
        root: where the files of named sets lie, or are put.
        binarise: ``"dynamic"``, a fresh draw x ~ Bernoulli(p) at each use; ``"static"``, one draw, from
            ``seed``; ``"threshold"``, x = [p > 1/2]; None, the grey values, which are no Bernoulli data. The
            second and third read an array into memory. Sprites are binary whatever is asked for.
        divide_by: each batch of an array is divided by it: 255 for 8-bit images.
        size: (height, width) to resize images to, whatever their proportions, or one number for a square.
        grey: images with one channel; otherwise one where the first of them is grey, else three.
        columns: kinds of columns, ``{"zip": "categorical"}``, where the rule of :mod:`pyro_vae.data.tables` has
            them wrong, or the ``schema()`` of another table.
        missing: keep the cells of a table that are missing, as NaN, to be trained on and evaluated under
            ``pv.infer.observed(x=torch.isfinite)``; kinds and moments are those of the cells that are there.
        quadrants: how many quadrants of each image are given, 1 to 3, for a conditional pair that is to tell the rest;
            the data are then :class:`pyro_vae.data.Quadrants`.
        labelled: how many labels are kept, as many of each class, drawn by ``seed``; the others become -1, which
            ``pv.fit`` takes as missing where the pair can do without them.
        download: fetch what is missing.
        seed: of a static draw, of the division of files into parts, and of the labels that are kept.

    Raises:
        ValueError: for an unknown name, split or option, a file without the split, or one that is damaged or
            does not hold what it should; each error names the file.
        FileNotFoundError: where files are missing and ``download`` is not set.

    Source: Larochelle & Murray 2011 (static); Burda et al. 2016, arXiv:1509.00519 (dynamic).

    >>> load("digits", split="test").x.shape
    torch.Size([270, 1, 8, 8])
    >>> load("patches", split="test").shape
    (3, 32, 32)
    """
    checks.known("split", split, SPLITS)
    if binarise is not None:
        checks.known("binarise", binarise, BINARISE)
    kind, source = _kind(name_or_path)
    given = {"binarise": binarise, "divide_by": divide_by, "size": size, "columns": columns}
    given |= {"grey": grey or None, "missing": missing or None, "download": download or None}
    given |= {"quadrants": quadrants, "labelled": labelled}
    if quadrants is not None and labelled is not None:
        raise ValueError("quadrants, labelled: expected one of them; a part of the image is the condition, no label")
    for option, value in given.items():
        if value is not None and kind not in TAKEN[option]:
            raise ValueError(f"{option}: for {' or '.join(TAKEN[option])}, found {kind}")
    if kind == "a table":
        return table(source, split, columns, seed, missing=missing)
    if kind == "a folder of images":
        found = images(source, split, seed, size=size, grey=grey, binarise=binarise)
        if labelled is not None:
            found.labels = few(found.labels, labelled, seed)
        return found
    if kind == "a named set":
        checks.known("split", split, [s for s in SPLITS if s != "all"])
        part = SETS[source](Path(root), split, download)
        data = part if isinstance(part, Data) else Data(*part)
        if labelled is not None:
            data.labels = few(data.labels, labelled, seed)
        return _parted(_binarised(data, binarise, seed), quadrants)
    if isinstance(source, Mapping):
        folder = next(iter(source.values())).parent
        x = joined([array(path, "all") for path in choose(source, split, folder, "arrays")], folder)
    else:
        x = array(source, split)
    data = Data(x, divide_by=1.0 if divide_by is None else divide_by)
    return _parted(_binarised(data, binarise, seed), quadrants)


def _kind(given: Any) -> tuple[str, Any]:
    """What kind of data there is, and where: a name, a path, paths by part, or a DataFrame."""
    pandas = sys.modules.get("pandas")  # who has a DataFrame has imported it
    if pandas is not None and isinstance(given, pandas.DataFrame):
        return "a table", given
    if not isinstance(given, str | Path):
        raise TypeError(
            f"name_or_path: expected a name or a file, found {type(given).__name__}; "
            "pv.fit and pv.evaluate take arrays and tensors as they are"
        )
    path = Path(given)
    if not str(given):
        raise ValueError("name_or_path: expected a name or a file, found an empty one")
    if str(given) in SETS:
        return "a named set", str(given)
    if path.suffix in FILES:
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file")
        return FILES[path.suffix], path
    if path.is_dir():
        return _folder(path)
    if path.is_file():
        raise ValueError(f"{path}: expected a folder or a file that ends in {', '.join(FILES)}")
    if len(path.parts) > 1 or path.suffix:
        raise FileNotFoundError(f"{path}: no such file or folder")
    return "a named set", checks.known("name", str(given), SETS)  # which it is not


def _folder(path: Path) -> tuple[str, Any]:
    """A folder of images, or the files of its parts."""
    found = [p for p in sorted(path.iterdir()) if p.suffix in (".csv", ".npy") and p.stem in NAMES]
    if not found:
        return "a folder of images", path
    if len({p.suffix for p in found}) > 1:
        raise ValueError(f"{path}: expected parts of one kind, found {', '.join(p.name for p in found)}")
    return FILES[found[0].suffix], {p.stem: p for p in found}


def _parted(data: Data, quadrants: int | None) -> Data:
    if quadrants is not None and isinstance(data, Sprites):
        raise ValueError("quadrants: expected images in memory, found sprites, which are drawn when they are used")
    return data if quadrants is None else Quadrants(data, quadrants)


def _binarised(data: Data, binarise: str | None, seed: int) -> Data:
    """Data with binary values, drawn now or when they are used."""
    if binarise is None or isinstance(data, Sprites):  # which are binary as they are
        return data
    if binarise == "dynamic":
        return Data(data.x, data.labels, dynamic=True, divide_by=data.divide_by)
    data.check_range("binarise: expected values")
    x = data.transform({"x": data.x})["x"]
    if binarise == "threshold":
        return Data((x > 0.5).float(), data.labels)
    with seeded(seed):
        return Data(torch.bernoulli(x if x.is_floating_point() else x.float()), data.labels)
