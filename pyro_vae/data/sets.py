"""A data set at hand: a mapping from the data site to a tensor."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae import checks
from pyro_vae.data.moments import moments
from pyro_vae.tracing import seeded, slices

UNORDERED = (torch.uint16, torch.uint32, torch.uint64)  # torch stores and converts these, and compares none


class Data(Mapping[str, Tensor]):
    r"""A data set: a mapping from the data site ``x`` to a tensor (n, \*data_shape), with labels beside it.

    ``pv.fit``, ``pv.evaluate`` and ``pv.plot`` take it as it is. ``x`` is what is stored, and may lie on disk
    with 8 bits to a value; :meth:`transform` is done to each batch when it is used.

    Args:
        divide_by: each batch is divided by it, 255 for 8-bit images.
        dynamic: the values, once divided, are probabilities in [0, 1]: a fresh binary image is drawn each time
            a datum is used, ``x_i ~ Bernoulli(p_i)``.

    Raises:
        ValueError: where there is no datum, or ``dynamic`` values are no probabilities.

    >>> digits = pv.data.load("digits", binarise="threshold")
    >>> digits.x.shape, digits.labels.shape, digits.shape
    (torch.Size([1257, 1, 8, 8]), torch.Size([1257]), (1, 8, 8))
    """

    def __init__(
        self, x: Tensor, labels: Tensor | None = None, *, dynamic: bool = False, divide_by: float = 1.0
    ) -> None:
        self.x = torch.as_tensor(x)
        self.labels = None if labels is None else torch.as_tensor(labels)
        self.dynamic = dynamic
        self.divide_by = checks.real("divide_by", divide_by, above=0)
        if not self.x.numel():
            raise ValueError(f"x: expected (n, ...) with at least one datum, found {tuple(self.x.shape)}")
        if dynamic:
            self.check_range("dynamic: expected probabilities")

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one datum, the ``data_shape`` of a recipe."""
        return tuple(self.x.shape[1:])

    def __getitem__(self, site: str) -> Tensor:
        if site != "x":
            raise KeyError(site)
        return self.x

    def __iter__(self) -> Iterator[str]:
        return iter(("x",))

    def __len__(self) -> int:
        return 1  # sites, as for any mapping; len(data.x) counts the data

    def __repr__(self) -> str:
        scaled = f", divide_by={self.divide_by:g}" if self.divide_by != 1 else ""
        shape = tuple(self.x.shape)
        return f"Data(x={shape}, labels={self.labels is not None}, dynamic={self.dynamic}{scaled})"

    def sites(self, conditions: Sequence[str] | None = None, labels: Sequence[str] = ()) -> dict[str, Tensor]:
        """By site: x, and the labels, where there are any, for the first of a pair's sites of labels or conditions.

        ``conditions`` are None where no pair asks. A label of -1 is one that is missing.
        """
        wanted = [*labels, *(conditions or ())][:1]
        return {"x": self.x} | ({} if self.labels is None else dict.fromkeys(wanted, self.labels))

    def transform(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """What is done to a batch when it is used: division, dynamic binarisation, or nothing."""
        return batch | {"x": self.used(batch["x"])}

    def used(self, x: Tensor) -> Tensor:
        """Some of what is stored, as it is used."""
        if self.divide_by != 1:
            x = x / self.divide_by
        return torch.bernoulli(x if x.is_floating_point() else x.float()) if self.dynamic else x

    def drawn(self, seed: int = 0) -> "Data":
        """The same data with the random numbers drawn once, into memory; data without any as they are."""
        if not self.dynamic:
            return self
        with seeded(seed):
            return Data(self.used(self.x), self.labels)

    def moments(self) -> dict[str, Any]:
        r"""Mean and standard deviation of x as plain lists, for ``partial(pv.likelihoods.Normal, **train.moments())``.

        The story is then told in standardised units: both are part of the pair's configuration, are saved with
        it, and are undone whenever it samples. Take them from the training part.

        Shapes: of images (C, H, W) per channel, (C, 1, 1); of anything else per element, \*data_shape. A constant
        has std 1.

        >>> Data(torch.tensor([[0.0, 7.0], [4.0, 7.0]])).moments()
        {'mean': [2.0, 7.0], 'std': [2.0, 1.0]}
        """
        if self.dynamic:
            raise ValueError("moments: dynamic data are binary when they are used, which nothing standardises")
        return moments(chunk.double() / self.divide_by for chunk in self._chunks())

    def check_range(self, expected: str) -> None:
        """Raise where a value is no probability, in words that name the argument."""
        ends = []
        for chunk in self._chunks():
            least, most = (chunk.double() if chunk.dtype in UNORDERED else chunk).aminmax()
            # as plain numbers: small tensors that are kept between large ones break up the memory
            ends.append((least.item(), most.item()))
        low, high = np.min(ends) / self.divide_by, np.max(ends) / self.divide_by
        if not (low >= 0 and high <= 1):
            raise ValueError(f"{expected} in [0, 1], found {low:g} to {high:g}; scale them first")

    def _chunks(self) -> Iterator[Tensor]:
        """x a few data at a time, as an array on disk may not fit into memory."""
        for part in slices(len(self.x), max(2**18 // self.x[0].numel(), 1)):
            yield self.x[part]
