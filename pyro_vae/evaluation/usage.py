"""How categorical codes are used, and how well classes that nobody told agree with labels."""

from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor


@dataclass(frozen=True)
class CodeUsage:
    """How a data set uses the categories of a site's codes.

    ``perplexity`` exp H(E_x q(z_j | x)), the mean over codes: how many categories are in use, as if evenly;  ``used``
    the share of the ``categories`` that are the likeliest of some datum.  Codes that are numbers of one codebook are
    ``pooled``: both figures are then of its entries, over all places. Which codes follow the data, I(z_j; x) > 0.01
    nats, is told with the units of other sites.
    """

    perplexity: float
    used: float
    codes: int
    categories: int
    pooled: bool

    def __str__(self) -> str:
        what = "entries" if self.pooled else "categories"
        return f"{self.perplexity:.2f} of {self.categories} {what}, {100 * self.used:.1f} % of them in use"


def clustering(classes: Tensor, labels: Tensor) -> float:
    """max over one-to-one maps m of the share of data with m(class) = label: the accuracy of classes without names.

    Each class is given the label that makes most of all together (the Hungarian method); where there are more classes
    than labels, those that are left over count as wrong.

    Shapes: (n,) whole numbers each.

    Raises:
        ValueError: where they are not as many whole numbers of at least 0.

    Source: Kuhn 1955, "The Hungarian method for the assignment problem".

    >>> clustering(torch.tensor([2, 2, 0, 0]), torch.tensor([0, 0, 1, 0]))
    0.75
    """
    for name, numbers in (("classes", classes), ("labels", labels)):
        if numbers.dim() != 1 or not len(numbers) or numbers.is_floating_point() or (numbers < 0).any():
            raise ValueError(f"{name}: expected (n,) whole numbers of at least 0, found {numbers!r:.60}")
    if len(classes) != len(labels):
        raise ValueError(f"classes, labels: expected as many, found {len(classes)} and {len(labels)}")
    rows, columns = int(classes.max()) + 1, int(labels.max()) + 1
    counts = torch.bincount(classes * columns + labels, minlength=rows * columns).reshape(rows, columns)
    chosen = linear_sum_assignment(counts.cpu().numpy(), maximize=True)
    return float(counts[tuple(torch.as_tensor(i) for i in chosen)].sum()) / len(labels)
