"""Labels, and data of which few have one."""

import torch
from torch import Tensor

from pyro_vae import checks

MISSING = -1


def few(labels: Tensor | None, number: int, seed: int) -> Tensor:
    """As many labels of each class as of any other, ``number`` in all, drawn by ``seed``; the others are -1.

    Raises:
        ValueError: where there are no labels, too few of a class, or ``number`` is no multiple of the number of
            classes.

    >>> few(torch.tensor([0, 1, 0, 1]), 2, seed=0).tolist()
    [0, -1, -1, 1]
    """
    checks.positive_int("labelled", number)
    if labels is None:
        raise ValueError("labelled: the data have no labels")
    labels = labels.long()
    classes = labels.unique()
    each, over = divmod(number, len(classes))
    if over or not each:
        raise ValueError(f"labelled: expected a multiple of the number of classes, {len(classes)}, found {number}")
    generator = torch.Generator().manual_seed(seed)
    kept = torch.full_like(labels, MISSING)
    for label in classes:
        members = (labels == label).nonzero()[:, 0]
        if len(members) < each:
            raise ValueError(
                f"labelled: class {int(label)} has {len(members)} data, {each} of each class are asked for"
            )
        kept[members[torch.randperm(len(members), generator=generator)[:each]]] = label
    return kept
