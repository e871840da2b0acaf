"""Mean and standard deviation of a data set, for a likelihood in standardised units."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


def moments(chunks: Iterable[Tensor], *, missing: bool = False) -> dict[str, Any]:
    r"""mean = sum_n x_n / N,  std = (sum_n (x_n - mean)^2 / N)^1/2,  in float64 and one pass

    Of images (n, C, H, W) per channel, shaped (C, 1, 1); of anything else (n, \*data_shape) per element. A
    constant has std 1, as in scikit-learn's ``StandardScaler``. With ``missing`` NaN is passed over; each element
    has to be there at least once.

    Raises:
        ValueError: where a value is NaN or infinite.

    >>> moments([torch.tensor([[1.0, 5.0]]), torch.tensor([[3.0, 5.0]])])
    {'mean': [2.0, 5.0], 'std': [1.0, 1.0]}
    """
    count, mean, squares = (torch.zeros(()).double() for _ in range(3))
    for chunk in chunks:
        image = chunk.dim() == 4
        shape = (chunk.shape[1], 1, 1) if image else chunk.shape[1:]
        values = chunk.detach().cpu().double()
        values = values.movedim(1, -1).flatten(0, -2) if image else values.reshape(len(chunk), -1)
        # Chan, Golub & LeVeque 1983: a sum of raw squares would lose the variance beside a large mean
        there = ~torch.isnan(values) if missing else torch.ones_like(values, dtype=torch.bool)
        n = there.sum(0)
        own = values.where(there, 0.0).sum(0) / n.clamp(min=1)
        total, delta = count + n, own - mean
        squares = squares + (values - own).where(there, 0.0).square().sum(0)
        squares = squares + delta.square() * (count * n / total.clamp(min=1))
        mean, count = mean + delta * (n / total.clamp(min=1)), total
    if not (mean.isfinite().all() and squares.isfinite().all()):
        raise ValueError("moments: x holds NaN or infinite values; drop or fill in the missing data")
    variance = squares / count
    eps = torch.finfo(torch.float64).eps
    # a constant such as 0.1 has a variance too: that of rounding, within scikit-learn's bound
    constant = variance <= count * eps * variance + (count * mean * eps).square()
    std = variance.sqrt().where(~constant, 1.0)
    if not math.prod(shape):
        raise ValueError(f"moments: expected data of at least one element, found the shape {tuple(shape)}")
    return {"mean": mean.reshape(shape).tolist(), "std": std.reshape(shape).tolist()}
