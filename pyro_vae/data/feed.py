"""Batches: mappings from site to tensor, shuffled, converted and kept on the device."""

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler, IterableDataset

from pyro_vae import checks
from pyro_vae.data.sets import Data
from pyro_vae.tracing import reseed, seeded
from pyro_vae.variant import Variant

Batch = dict[str, Any]
Parts = list[tuple[float, Batch]]  # the batches of one step, each with a weight


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
        produce: Callable[[int | None], Iterator[Parts]],
        transform: Callable[[Batch], Batch] = lambda batch: batch,
        *,
        streams: bool = False,
    ) -> None:
        self.size, self.steps, self.streams = size, steps, streams
        self._produce, self.transform = produce, transform

    def epoch(self, seed: int) -> Iterator[Parts]:
        """One pass in an order that depends on ``seed`` alone: what belongs to each step, before its ``transform``.

        That is one batch; or, where some of the data are labelled, a batch of the more numerous kind, and before it
        some of the others, which come by again and again with a weight that lets each count once in an epoch, on
        average. A loader's batch is divided, with weights of 1.
        """
        return self._produce(seed)

    def fixed(self) -> Iterator[Batch]:
        """One pass in the order of the data, with random transforms drawn from the caller's generators."""
        for parts in self._produce(None):
            for _, batch in parts:
                yield self.transform(batch)


def batches(
    variant: Variant,
    data: Any,
    batch_size: int,
    device: torch.device | None,
    name: str = "data",
    share: tuple[int, int] = (0, 1),
) -> Batches:
    """Batches of an array, a tensor, a mapping site -> tensor, a ``Dataset`` or a ``DataLoader``.

    Arrays and mappings become tensors that live on the device, except on CUDA where they would take more than
    half of the memory that is free: those stay where they are, on the host or on disk, and each batch is moved.
    Values become floats batch by batch, so that 8-bit data take one byte each. A ``Dataset`` yields a datum, or a
    tuple whose first elements are the sites of the pair in the order of the model's arguments (what follows, such
    as the labels of torchvision, is left out), or a mapping; a ``DataLoader`` yields batches of the same.

    Where the pair has sites of labels, a negative label is one that is missing: data with labels and data without
    come in batches of their own. Each step of training sees some of both; of a loader, what its batch holds.

    The order of a ``DataLoader``, and random transforms in its workers, depend on the seed of the epoch alone, also
    where it or its sampler has a generator of its own, which is left as it was. Random transforms in workers that
    are kept (``persistent_workers``) cannot be repeated: they go on from the epoch before.

    Of an epoch's steps the i-th of n processes, ``share=(i, n)``, sees its part: each takes a batch of those data that
    come next in the order of all, or every n-th batch of a loader. What all look at in order is the whole.

    Raises:
        ValueError, TypeError: where it is none of these, is empty or does not fit the pair.
    """
    checks.positive_int("batch_size", batch_size)
    if isinstance(data, DataLoader):
        return _of_loader(variant, data, name, share)
    if isinstance(data, Dataset):
        if hasattr(data, "__len__") and not len(data):
            raise ValueError(f"{name}: empty, a {type(data).__name__} of 0 data")
        shuffle = not isinstance(data, IterableDataset)
        return _of_loader(variant, DataLoader(data, batch_size, shuffle=shuffle), name, share)
    if hasattr(data, "iloc"):
        raise TypeError(f"{name}: a DataFrame; pass pv.data.load(frame), which tells the kinds of its columns")
    try:
        tensors = {k: torch.as_tensor(v) for k, v in _by_name(variant, data).items()}
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"{name}: expected an array, a tensor, a mapping of sites, a Dataset or a DataLoader, found "
            f"{type(data).__name__} ({error})"
        ) from None
    variant.prepare({k: v[:1] if v.dim() else v for k, v in tensors.items()}, finite=False)
    home = device if _fits(tensors.values(), device) else None
    tensors = {k: v.to(home) for k, v in tensors.items()}
    sizes = {k: len(v) for k, v in tensors.items()}
    if len(set(sizes.values())) != 1:
        raise ValueError(f"{name}: sites of different lengths: {sizes}")
    size = next(iter(sizes.values()))
    everything = torch.arange(size)
    *others, (most, names) = _by_labels(variant, tensors, everything)
    process, processes = share
    together = batch_size * processes
    steps = -(-len(most) // together)
    # so many of the others to a step that each is used once in an epoch, or more often with a smaller weight
    sizes_beside = [min(len(some), max(-(-len(some) // steps), together // 2)) for some, _ in others]

    def taken(index: Tensor, names: Iterable[str]) -> Batch:
        return variant.prepare({k: tensors[k][index.to(home)] for k in names}, finite=False)

    def produce(seed: int | None) -> Iterator[Parts]:
        if seed is None:
            for part in everything.split(batch_size):
                yield [(1.0, taken(*group)) for group in _by_labels(variant, tensors, part)]
            return
        generator = torch.Generator().manual_seed(derived(seed))
        order = most[torch.randperm(len(most), generator=generator)].to(home)
        beside = [
            (_over_and_over(some, length, generator, home), len(some) / (steps * length), their_names)
            for (some, their_names), length in zip(others, sizes_beside, strict=True)
        ]
        for index in order.split(together):
            groups = [(weight, next(some), their_names) for some, weight, their_names in beside]
            own = [(w, all_.tensor_split(processes)[process], of) for w, all_, of in (*groups, (1.0, index, names))]
            yield [(weight, taken(index, names)) for weight, index, names in own if len(index)]

    def used(batch: Batch) -> Batch:
        ready = data.transform(batch)
        if any(k not in batch or v.shape != batch[k].shape for k, v in ready.items()):
            # what a pair remembers to have seen has the form in which data are used, not that in which they are stored
            variant.prepare({k: v[:1] for k, v in ready.items()}, finite=False)
        return ready

    return Batches(size, steps, produce, *([used] if isinstance(data, Data) else []))


Group = tuple[Tensor, list[str]]  # data that have the same labels, and their sites


def _by_labels(variant: Variant, batch: Mapping[str, Tensor], members: Tensor) -> list[Group]:
    """Some data by the labels that they have, the most numerous last; a missing label is no site of a datum."""
    known = {}
    for name in variant.labels:
        if name in batch and batch[name].dim() == 1:
            labels = batch[name][members.to(batch[name].device)]
            if labels.is_floating_point() and labels.isnan().any():
                raise ValueError(f"{name}: holds NaN, expected whole numbers, of which a negative one is missing")
            known[name] = (labels >= 0).cpu()
    groups = []
    for pattern in itertools.product((True, False), repeat=len(known)):
        alike = torch.ones(len(members), dtype=torch.bool)
        for there, wanted in zip(known.values(), pattern, strict=True):
            alike &= there == wanted
        missing = {name for name, wanted in zip(known, pattern, strict=True) if not wanted}
        groups.append((members[alike], [name for name in batch if name not in missing]))
    return sorted((group for group in groups if len(group[0])), key=lambda group: len(group[0]))


def _over_and_over(
    members: Tensor, length: int, generator: torch.Generator, home: torch.device | None
) -> Iterator[Tensor]:
    """So many of some data at a time, in a new order each time that all have come by."""
    rest = members[:0].to(home)
    while True:
        while len(rest) < length:
            rest = torch.cat([rest, members[torch.randperm(len(members), generator=generator)].to(home)])
        yield rest[:length]
        rest = rest[length:]


def _apart(variant: Variant, batch: Batch) -> list[Batch]:
    """A batch of a loader; of labelled and other data, one of each."""
    if not any(name in batch for name in variant.labels):
        return [batch]
    tensors = {name: torch.as_tensor(value) for name, value in batch.items()}
    everything = torch.arange(len(next(iter(tensors.values()))))
    return [{k: tensors[k][members] for k in names} for members, names in _by_labels(variant, tensors, everything)]


def _fits(tensors: Iterable[Tensor], device: torch.device | None) -> bool:
    """Whether the data may live on the device: on CUDA, in half of what is free there."""
    if device is None or device.type != "cuda":
        return True
    elsewhere = sum(v.nbytes for v in tensors if v.device.type != "cuda")
    return elsewhere <= torch.cuda.mem_get_info(device)[0] / 2


def _of_loader(variant: Variant, loader: DataLoader, name: str, share: tuple[int, int]) -> Batches:
    try:
        size, steps = len(loader.dataset), len(loader)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name}: expected a data set of known length, found {type(loader.dataset).__name__}") from None
    if not size or not steps:
        raise ValueError(f"{name}: empty, {size} data in {steps} batches")

    process, processes = share
    if processes > 1 and isinstance(loader.sampler, DistributedSampler):
        raise ValueError(
            f"{name}: a loader with a DistributedSampler; each process takes its share of a loader of all data"
        )

    def produce(seed: int | None) -> Iterator[Parts]:
        def parts(item: Any) -> Parts:
            return [(1.0, variant.prepare(batch)) for batch in _apart(variant, _named(variant, item, name))]

        with _reseeded(_generators(loader), derived(seed or 0)):
            with torch.random.fork_rng(devices=[]):
                reseed(derived(seed or 0), torch.device("cpu"))  # those of other devices are the program's
                source = iter(loader)
                opening = list(itertools.islice(source, 1))  # samplers draw their order with the first item
            items = itertools.chain(opening, source)
            if seed is None:  # all, to look at
                yield from map(parts, items)
                return
            while turn := list(itertools.islice(items, processes)):
                yield parts(turn[process]) if process < len(turn) else []

    return Batches(size, -(-steps // processes), produce, streams=True)


def _generators(loader: DataLoader) -> list[torch.Generator]:
    """The generators of a user's own that a loader draws from."""
    samplers = (loader.sampler, loader.batch_sampler, getattr(loader.batch_sampler, "sampler", None))
    found = [getattr(owner, "generator", None) for owner in (loader, *samplers)]
    return list(dict.fromkeys(g for g in found if isinstance(g, torch.Generator)))


@contextmanager
def _reseeded(generators: list[torch.Generator], seed: int) -> Iterator[None]:
    """Generators that start from ``seed`` and are left as they were."""
    states = [generator.get_state() for generator in generators]
    try:
        for generator in generators:
            generator.manual_seed(seed)
        yield
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)


def _named(variant: Variant | None, item: Any, name: str) -> dict[str, Any]:
    """What a loader yields, by site; what follows the sites in a tuple, such as a label, is left out."""
    if isinstance(item, tuple | list):
        return dict(zip(["x"] if variant is None else variant.arguments, item, strict=False))
    try:
        return _by_name(variant, item)
    except StopIteration:
        raise TypeError(f"{name}: yields {type(item).__name__}, expected tensors") from None


def _by_name(variant: Variant | None, data: Any) -> dict[str, Any]:
    if isinstance(data, Data):
        return data.sites() if variant is None else data.sites(variant.conditions, variant.labels)
    if variant is not None:
        return variant.by_name(data)
    return dict(data) if isinstance(data, Mapping) else {"x": data}


def first(data: Any, n: int | None = None, variant: Variant | None = None) -> Batch:
    """The first n data, or all, by site: of whatever :func:`batches` takes, in its own order.

    What has no name of its own is named by ``variant``, or is called x; labels of which some are missing are left out,
    as a pair takes all of a batch or none. Random draws (dynamic binarisation, random
    transforms, the order of a shuffling loader) are the same each time.

    >>> digits = pv.data.load("digits", binarise="dynamic")
    >>> first(digits, 3)["x"].shape
    torch.Size([3, 1, 8, 8])
    """
    if isinstance(data, Dataset):
        data = DataLoader(data, batch_size=min(n or 256, 256))
    with seeded(0):
        if isinstance(data, DataLoader):
            batch = _from_loader(data, n, variant)
        else:
            batch = {k: v[:n] if np.ndim(v) else v for k, v in _by_name(variant, data).items()}
            batch = data.transform(batch) if isinstance(data, Data) else batch
    labels = () if variant is None else variant.labels
    return {k: v for k, v in batch.items() if k not in labels or bool((torch.as_tensor(v) >= 0).all())}


def _from_loader(loader: DataLoader, n: int | None, variant: Variant | None) -> Batch:
    parts: list[Batch] = []
    found = 0
    with _reseeded(_generators(loader), 0):
        for item in loader:
            parts.append(_named(variant, item, "data"))
            found += len(next(iter(parts[-1].values())))
            if n is not None and found >= n:
                break
    if not parts:
        raise ValueError("data: empty, a loader of no batches")
    return {name: torch.cat([torch.as_tensor(part[name]) for part in parts])[:n] for name in parts[0]}
