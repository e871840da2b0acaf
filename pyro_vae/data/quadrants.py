"""Structured completion: a part of an image is given, the rest is to be told."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pyro_vae.data.sets import Data

NAMES = ("bottom left", "top left", "top right")


class Quadrants(Data):
    r"""Images in two parts: c, the first ``given`` of bottom left, top left and top right quadrant; x, the rest.

    Both are vectors of pixels, of one and the same binary image where the data are drawn dynamically. ``shape`` and
    ``condition_shape`` are what a conditional pair is built from, :meth:`join` puts images together again.

    Shapes: x (n, pixels), c (n, given pixels).

    Args:
        images: data of shape (n, channels, height, width).
        given: how many quadrants, 1 to 3.

    Raises:
        ValueError: where the data are no images of at least 2 x 2, or ``given`` is another number.

    Source: the task of Sohn, Lee & Yan 2015, "Learning structured output representation using deep conditional
    generative models", NIPS, as in Pyro's tutorial.

    >>> digits = Quadrants(pv.data.load("digits", binarise="threshold"), given=1)
    >>> pair = pv.cvae(digits.shape, latent=2, condition_shape=digits.condition_shape)
    >>> part = pv.data.first(digits, 5)
    >>> digits.join(pair.sample(5, c=part["c"]), part["c"]).shape
    torch.Size([5, 1, 8, 8])
    """

    def __init__(self, images: Data, given: int) -> None:
        super().__init__(images.x, images.labels, dynamic=images.dynamic, divide_by=images.divide_by)
        if self.x.dim() != 4 or min(self.x.shape[2:]) < 2:
            raise ValueError(f"given: expected images (n, channels, height, width), found {tuple(self.x.shape)}")
        if given not in range(1, len(NAMES) + 1):
            raise ValueError(f"given: expected 1 to 3 quadrants ({', '.join(NAMES)}), found {given!r}")
        self.given = given
        self.image_shape = tuple(self.x.shape[1:])
        height, width = self.image_shape[1:]
        down, left = torch.arange(height) >= height // 2, torch.arange(width) < width // 2
        told = [down[:, None] & left, ~down[:, None] & left, ~down[:, None] & ~left][:given]
        mask = torch.stack(told).any(0).expand(self.image_shape).flatten()
        self._given, self._rest = mask.nonzero()[:, 0], (~mask).nonzero()[:, 0]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of x, the ``data_shape`` of a recipe."""
        return (len(self._rest),)

    @property
    def condition_shape(self) -> tuple[int, ...]:
        """The shape of c."""
        return (len(self._given),)

    def sites(self, conditions: Sequence[str] | None = None, labels: Sequence[str] = ()) -> dict[str, Tensor]:
        """The images, which :meth:`transform` takes apart."""
        if conditions is not None and not conditions:
            raise ValueError("quadrants: the pair has no condition for the part that is given; use pv.cvae")
        return {"x": self.x}

    def transform(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Both parts of a batch of images, divided and binarised as any."""
        pixels = self.used(batch["x"]).flatten(1)
        return {"x": pixels[:, self._rest.to(pixels.device)], "c": pixels[:, self._given.to(pixels.device)]}

    def drawn(self, seed: int = 0) -> "Quadrants":
        """The same data with the random numbers drawn once."""
        return Quadrants(super().drawn(seed), self.given)

    def join(self, x: Tensor, c: Tensor) -> Tensor:
        """Images (n, channels, height, width) of both parts."""
        pixels = x.new_empty(len(x), len(self._rest) + len(self._given))
        pixels[:, self._rest.to(x.device)] = x
        pixels[:, self._given.to(x.device)] = c.to(x)
        return pixels.reshape(-1, *self.image_shape)

    def moments(self) -> dict[str, Any]:
        """Mean and standard deviation of x, by the channels of the images."""
        found = super().moments()
        return {k: torch.tensor(v).expand(self.image_shape).flatten()[self._rest].tolist() for k, v in found.items()}
