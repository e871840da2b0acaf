"""Sprites: images of which every factor of variation is known, drawn when they are used."""

import functools
import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae import checks
from pyro_vae.data.sets import Data

NAMES = ("shape", "scale", "rotation", "x", "y")
SHAPES = ("square", "ellipse", "heart")
SIZES = (3, 6, 20, 16, 16)
FINE = (3, 6, 40, 32, 32)
STEPS = tuple(fine // coarse for fine, coarse in zip(FINE, SIZES, strict=True))
SCALES = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
WIDTH, NEAREST, REACH = 64, 16, 16  # of an image; the first centre, and how far from it a shape may reach
# pixels that each shape covers at scale 1; of 440 no outline runs through the centre of a pixel at any rotation, so
# that rounding, which machines do each in their own way, cannot change an image
AREA = 440.0
HEART_AREA, HEART_CENTRE = 3.6619727, 0.2934813  # of (x^2 + y^2 - 1)^3 < x^2 y^3; the centre lies on its axis
HELD_OUT = 10_000  # data for validation, and as many for the test


class Sprites(Data):
    r"""Binary images 64 x 64 of one square, ellipse or heart, with all that distinguishes them known.

    The ``factors`` of each image are its shape (3), scale (6), rotation (20), x (16) and y (16): 92,160 in all; or on
    the ``fine`` grid, of 40 rotations and 32 x 32 places, 737,280. Only these numbers are stored, as bytes; a batch
    is drawn (:func:`render`) when it is used, on the device where it is. ``x`` holds the factors, therefore, and
    ``pv.data.first(sprites, n)["x"]`` the first n images. ``labels`` are the shapes.

    Not all images differ: a square looks the same after a quarter of a turn, an ellipse after half of it, so that
    nothing can learn which of these rotations was meant.

    Shapes: factors (n, 5), labels (n,), images (n, 1, 64, 64).

    Raises:
        ValueError: where the factors are no whole numbers, each below its entry of ``factor_sizes``.

    Source: in the manner of dSprites, Matthey, Higgins, Hassabis & Lerchner 2017,
    https://github.com/deepmind/dsprites-dataset; these are images of our own, with other outlines, and no rotation
    comes twice.

    >>> sprites = pv.data.load("sprites")
    >>> sprites
    Sprites(72160 of shape (1, 64, 64); shape 3, scale 6, rotation 20, x 16, y 16)
    >>> few = sprites.subset(100)
    >>> pv.data.first(few)["x"].shape, few.factors.shape
    (torch.Size([100, 1, 64, 64]), torch.Size([100, 5]))
    """

    factor_names = NAMES

    def __init__(self, factors: Any, labels: Tensor | None = None, *, fine: bool = False) -> None:
        self.fine = bool(fine)
        whole = _checked(factors, self.factor_sizes)
        super().__init__(whole.to(torch.uint8), whole[:, 0] if labels is None else labels)

    @property
    def factor_sizes(self) -> tuple[int, ...]:
        """How many values each factor has."""
        return FINE if self.fine else SIZES

    @property
    def factors(self) -> Tensor:
        """(n, 5) whole numbers: shape, scale, rotation, x and y of each image."""
        return self.x.long()

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of an image."""
        return (1, WIDTH, WIDTH)

    def __repr__(self) -> str:
        grid = ", ".join(f"{name} {size}" for name, size in zip(NAMES, self.factor_sizes, strict=True))
        return f"Sprites({len(self.x)} of shape {self.shape}; {grid})"

    def subset(self, n: int) -> "Sprites":
        """The first n, which are n at random: the parts that ``pv.data.load`` gives are permuted."""
        n = checks.positive_int("n", n)
        return Sprites(self.x[:n], None if self.labels is None else self.labels[:n], fine=self.fine)

    def used(self, x: Tensor) -> Tensor:
        """The images of some of the factors."""
        return _drawn(x.long(), self.fine).to(x.dtype if x.is_floating_point() else torch.get_default_dtype())

    def _chunks(self) -> Iterator[Tensor]:
        for part in self.x.split(64):
            yield self.used(part)


def render(factors: Any, *, fine: bool = False) -> Tensor:
    r"""x_ij = [ R_-a ((i, j) - c) / s lies in the shape ],   c = 16 + 2 (x, y),   a = 18 degrees x rotation

    Images of sprites: the shape (0 square, 1 ellipse, 2 heart), s = 0.5, 0.6, ..., 1, turned anticlockwise by a, its
    centre of gravity on the pixel c, x to the right and y down. On the ``fine`` grid c = 16 + (x, y) and a = 9 degrees
    x rotation. All shapes of one scale have the same area, 440 s^2 pixels, and none is cut off by the border.

    Shapes: (n, 5) whole numbers to (n, 1, 64, 64), zeros and ones of the default dtype on the device of the factors.

    Raises:
        ValueError: where the factors are no whole numbers within the sizes of the grid.

    >>> heart, square = render([[2, 5, 0, 8, 8], [0, 0, 0, 0, 15]])
    >>> square.sum(), square.nonzero().double().mean(0)[1:]
    (tensor(121.), tensor([46., 16.], dtype=torch.float64))
    """
    return _drawn(_checked(factors, FINE if fine else SIZES), fine).to(torch.get_default_dtype())


def grid(split: str, *, fine: bool = False) -> Sprites:
    """The sprites of a split of all combinations: 10,000 for the test and 10,000 for validation, always the same.

    >>> [len(grid(part).x) for part in ("train", "validation", "test", "train+validation")]
    [72160, 10000, 10000, 82160]
    """
    sizes = FINE if fine else SIZES
    n = math.prod(sizes)
    first, last = {
        "train": (0, n - 2 * HELD_OUT),
        "validation": (n - 2 * HELD_OUT, n - HELD_OUT),
        "test": (n - HELD_OUT, n),
        "train+validation": (0, n - HELD_OUT),
    }[split]
    chosen = np.argsort(_scrambled(np.arange(n, dtype=np.uint64)))[first:last]
    return Sprites(np.stack(np.unravel_index(chosen, sizes), 1), fine=fine)


def _scrambled(numbers: np.ndarray) -> np.ndarray:
    """Numbers of 64 bits in disorder, one to one: the same in every version of numpy, as no generator promises.

    Source: SplitMix64; Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators", OOPSLA.
    """
    mixed = (numbers + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _checked(factors: Any, sizes: tuple[int, ...]) -> Tensor:
    found = torch.as_tensor(factors)
    if found.dim() != 2 or found.shape[1] != len(sizes) or not len(found):
        raise ValueError(f"factors: expected (n, {len(sizes)}) of {', '.join(NAMES)}, found {tuple(found.shape)}")
    if found.is_floating_point() or found.is_complex() or found.dtype == torch.bool:
        raise ValueError(f"factors: expected whole numbers, found {found.dtype}")
    whole = found.long()
    for name, size, column in zip(NAMES, sizes, whole.T, strict=True):
        low, high = (int(end) for end in column.aminmax())
        if low < 0 or high >= size:
            raise ValueError(f"factors: {name}: expected 0 to {size - 1}, found {low} to {high}")
    return whole


def _drawn(factors: Tensor, fine: bool) -> Tensor:
    """Images as bytes: each is a window on its shape, which lies still while the window moves."""
    steps = (1,) * len(FINE) if fine else STEPS
    shape, scale, rotation, x, y = (column * step for column, step in zip(factors.T, steps, strict=True))
    windows = _windows(factors.device)
    which = (shape * FINE[1] + scale) * FINE[2] + rotation
    return windows[which, FINE[4] - 1 - y, FINE[3] - 1 - x][:, None]


@functools.lru_cache(maxsize=4)
def _windows(device: torch.device) -> Tensor:
    """Every shape, scale and rotation seen through every window, (720, 32, 32, 64, 64) of 7 MB in memory."""
    at = torch.arange(-REACH, REACH + 1, dtype=torch.float64)
    right, up = at.expand(len(at), -1), -at[:, None].expand(-1, len(at))
    pictures = []
    for shape, scale, turn in itertools.product(SHAPES, SCALES, range(FINE[2])):
        angle = 2 * math.pi * turn / FINE[2]
        across = (right * math.cos(angle) + up * math.sin(angle)) / scale
        along = (up * math.cos(angle) - right * math.sin(angle)) / scale
        pictures.append(outline(shape, across, along) < 0)
    margin = [FINE[3] - 1] * 4  # as far as a window moves
    bank = torch.nn.functional.pad(torch.stack(pictures).to(torch.uint8), margin).to(device)
    return bank.unfold(1, WIDTH, 1).unfold(2, WIDTH, 1)


def outline(shape: str, x: Tensor, y: Tensor) -> Tensor:
    """Below zero inside a shape of scale 1 whose centre of gravity is the origin, in pixels with y up."""
    if shape == "square":
        return torch.maximum(x.abs(), y.abs()) - math.sqrt(AREA) / 2
    if shape == "ellipse":  # half as long again as it is wide, and lying flat
        return (x.square() / 1.5 + y.square() * 1.5) * math.pi / AREA - 1
    unit = math.sqrt(AREA / HEART_AREA)
    x, y = x / unit, y / unit + HEART_CENTRE
    return (x.square() + y.square() - 1) ** 3 - x.square() * y**3
