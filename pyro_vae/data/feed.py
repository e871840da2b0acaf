"""Batches: mappings from site to tensor, shuffled, converted and kept on the device."""

import hashlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from pyro_vae import checks
from pyro_vae.data.sets import Data
from pyro_vae.variant import Variant

Batch = dict[str, Any]


def derived(seed: int, *where: int) -> int:
    """A seed of its own for each place (epoch, step) of a training, so that any step can be repeated."""
    digest = hashlib.blake2b(repr((seed, *where)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


class Batches:
    """Batches of a data set for one pair; ``epoch(seed)`` yields them shuffled, ``fixed()`` in order.

    ``size`` is the number of data, ``steps`` the number of batches an epoch has; ``streams`` tells that the
    data come from a loader and are not at hand all at once.
    """

    def __init__(
        self,
        size: int,
        steps: int,
        produce: Callable[[int | None], Iterator[Batch]],
        transform: Callable[[Batch], Batch] = lambda batch: batch,
        *,
        streams: bool = False,
    ) -> None:
        self.size, self.steps, self.streams = size, steps, streams
        self._produce, self.transform = produce, transform

    def epoch(self, seed: int) -> Iterator[Batch]:
        """One pass in an order that depends on ``seed`` alone; each batch before its ``transform``."""
        return self._produce(seed)

    def fixed(self) -> Iterator[Batch]:
        """One pass in the order of the data, with random transforms drawn from the caller's generators."""
        for batch in self._produce(None):
            yield self.transform(batch)


def batches(variant: Variant, data: Any, batch_size: int, device: torch.device | None, name: str = "data") -> Batches:
    """Batches of an array, a tensor, a mapping site -> tensor, a ``Dataset`` or a ``DataLoader``.

    Arrays and mappings become tensors that live on the device. A ``Dataset`` yields a datum, or a tuple whose
    first elements are the sites of the pair in the order of the model's arguments (what follows, such as the
    labels of torchvision, is left out), or a mapping; a ``DataLoader`` yields batches of the same.

    Raises:
        ValueError, TypeError: where it is none of these, is empty or does not fit the pair.
    """
    checks.positive_int("batch_size", batch_size)
    if isinstance(data, DataLoader):
        return _of_loader(variant, data, name)
    if isinstance(data, Dataset):
        if hasattr(data, "__len__") and not len(data):
            raise ValueError(f"{name}: empty, a {type(data).__name__} of 0 data")
        shuffle = not isinstance(data, IterableDataset)
        return _of_loader(variant, DataLoader(data, batch_size, shuffle=shuffle), name)
    try:
        tensors = {k: torch.as_tensor(v).to(device) for k, v in variant.by_name(data).items()}
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"{name}: expected an array, a tensor, a mapping of sites, a Dataset or a DataLoader, found "
            f"{type(data).__name__} ({error})"
        ) from None
    variant.prepare({k: v[:1] if v.dim() else v for k, v in tensors.items()}, finite=False)
    sizes = {k: len(v) for k, v in tensors.items()}
    if len(set(sizes.values())) != 1:
        raise ValueError(f"{name}: sites of different lengths: {sizes}")
    size = next(iter(sizes.values()))
    steps = -(-size // batch_size)

    def produce(seed: int | None) -> Iterator[Batch]:
        if seed is None:
            order = torch.arange(size)
        else:
            order = torch.randperm(size, generator=torch.Generator().manual_seed(derived(seed)))
        for index in order.to(device).split(batch_size):
            yield variant.prepare({k: v[index] for k, v in tensors.items()}, finite=False)

    return Batches(size, steps, produce, *([data.transform] if isinstance(data, Data) else []))


def _of_loader(variant: Variant, loader: DataLoader, name: str) -> Batches:
    try:
        size, steps = len(loader.dataset), len(loader)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name}: expected a data set of known length, found {type(loader.dataset).__name__}") from None
    if not size or not steps:
        raise ValueError(f"{name}: empty, {size} data in {steps} batches")

    def produce(seed: int | None) -> Iterator[Batch]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived(seed or 0))
            source = iter(loader)
            first = list(itertools.islice(source, 1))  # samplers draw their order with the first item
        for item in itertools.chain(first, source):
            yield variant.prepare(_named(variant, item, name))

    return Batches(size, steps, produce, streams=True)


def _named(variant: Variant, item: Any, name: str) -> dict[str, Any]:
    if isinstance(item, tuple | list):
        return dict(zip(variant.arguments, item, strict=False))
    try:
        return variant.by_name(item)
    except StopIteration:
        raise TypeError(f"{name}: yields {type(item).__name__}, expected tensors") from None
