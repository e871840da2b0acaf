"""Some of a data set that is at hand, as it is used, and the labels that it brings."""

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pyro_vae.data import Data
from pyro_vae.variant import Variant


class Rows:
    """Data in memory, of which any rows can be taken: a :class:`pyro_vae.data.Data`, an array or a mapping of sites.

    ``site`` is the one that holds the data themselves; ``labels`` are whole numbers, as told or as the data bring
    them, or None. A negative label is one that is missing.

    Raises:
        TypeError, ValueError: where they are none of these, or there are not as many labels as data.
    """

    def __init__(self, data: Any, labels: Any = None, variant: Variant | None = None, name: str = "data") -> None:
        if isinstance(data, Dataset | DataLoader):
            raise TypeError(
                f"{name}: expected data in memory, found a {type(data).__name__}; pass pv.data.first({name}, n), the "
                "first n of them"
            )
        self._data, self._name = data, name
        if isinstance(data, Data):
            found: Any = data.sites() if variant is None else data.sites(variant.conditions, variant.labels)
        else:
            found = _by_name(data) if variant is None else variant.by_name(data)
        try:
            self._stored = {site: torch.as_tensor(value) for site, value in found.items()}
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(f"{name}: expected an array, a tensor or a mapping of sites ({error})") from None
        given = () if variant is None else variant.given
        self.site = next((site for site in self._stored if site not in given), "")
        if not self.site:
            raise ValueError(f"{name}: expected a site of data, found {list(self._stored)}")
        sizes = {site: len(value) if value.dim() else 0 for site, value in self._stored.items()}
        self.size = sizes[self.site]
        if not self.size or len(set(sizes.values())) > 1:
            raise ValueError(f"{name}: expected sites with as many data each, at least one, found {sizes}")
        self.labels = self._labels(labels)

    def take(self, index: Tensor) -> dict[str, Tensor]:
        """Some of the data by site, divided and binarised as they are when they are used."""
        batch = {site: value[index.to(value.device)] for site, value in self._stored.items()}
        batch = self._data.transform(batch) if isinstance(self._data, Data) else batch
        x = batch[self.site]
        x = x if x.is_floating_point() else x.float()
        if not x.isfinite().all():
            raise ValueError(
                f"{self._name}: {self.site}: holds NaN or infinite values; drop or fill in the missing data"
            )
        return batch | {self.site: x}

    def _labels(self, told: Any) -> Tensor | None:
        if told is None:
            brought = self._data.labels if isinstance(self._data, Data) else None
            whole = brought is not None and brought.dim() == 1 and not brought.is_floating_point()
            return brought.long().cpu() if brought is not None and whole else None
        try:
            labels = torch.as_tensor(told).cpu()
        except (TypeError, ValueError, RuntimeError):
            raise TypeError(f"labels: expected whole numbers, found {told!r:.60}") from None
        if labels.shape != (self.size,) or labels.is_floating_point():
            raise ValueError(
                f"labels: expected ({self.size},) whole numbers, found {labels.dtype} of shape {tuple(labels.shape)}"
            )
        return labels.long()


def _by_name(data: Any) -> dict[str, Any]:
    """By site, where no pair says which; of several the one called x comes first."""
    if not hasattr(data, "keys"):
        return {"x": data}
    return dict(sorted(data.items(), key=lambda item: item[0] != "x"))
