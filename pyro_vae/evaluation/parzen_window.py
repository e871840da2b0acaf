"""The Parzen window: a density of draws, for models whose own is not known."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae import checks
from pyro_vae.evaluation.fidelity import doubles
from pyro_vae.infer.mmd import squared_distances
from pyro_vae.tracing import slices

SCALES = tuple(np.geomspace(0.03, 1.0, 20))  # in standard deviations of the data


@dataclass(frozen=True)
class ParzenEstimate:
    """What :func:`parzen_log_likelihood` found, in nats per datum, with a window of ``scale`` around each of ``draws``.

    ``standard_error`` is over the data alone, NaN for one datum: other draws give other figures.
    """

    log_likelihood: float
    standard_error: float
    scale: float
    draws: int

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, ready for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        error = f" +- {self.standard_error:.3f}"
        return f"Parzen {self.log_likelihood:.3f}{error} nats per datum ({self.draws} draws, scale {self.scale:.4g})"


def parzen_log_likelihood(
    draws: Any, data: Any, *, validation: Any, scales: Sequence[float] | None = None
) -> ParzenEstimate:
    r"""log p(x) = log (1/K) sum_k N(x; s_k, scale^2 I),   scale = argmax of the mean of log p over validation data

    The density of K draws s_k of a model, as a mixture of normals around them: the figure of older papers on models
    that can only be sampled, such as adversarial ones. Of a VAE the importance-weighted bound of
    :func:`pyro_vae.evaluate` is the better figure. It is a density of real values, whatever the data are, and compares
    with nothing but itself, at the same number of draws.

    It is misleading in high dimensions: it is far below the model's own log-likelihood however many draws there are,
    grows with their number, and does not order models as that does; cluster centres of the training data get more than
    draws of the very distribution that the data are from.

    Shapes: draws (K, \*data_shape), data (n, \*data_shape), validation (m, \*data_shape).

    Args:
        validation: data apart from ``data``, on which the scale is chosen.
        scales: standard deviations among which it is chosen; by default 20 between 0.03 and 1 times the standard
            deviation of all values of ``validation``. Where the first or the last is chosen, a wider range is better.

    Raises:
        ValueError, TypeError: where shapes differ, a value is NaN or infinite, or a scale is not positive.

    Source: Breuleux, Bengio & Vincent 2011, "Quickly generating representative samples from an RBM-derived process",
    Neural Computation 23(8); its defects, Theis, van den Oord & Bethge 2016, arXiv:1511.01844, section 5.

    >>> draws, data, validation = torch.randn(3, 1000, 1)
    >>> estimate = parzen_log_likelihood(draws, data, validation=validation)
    >>> abs(estimate.log_likelihood + 1.42) < 0.15  # of N(0, 1) it is -1.42
    True
    """
    told = {"draws": draws, "data": data, "validation": validation}
    draws, data, validation = (_vectors(name, value) for name, value in told.items())
    shapes = {name: tuple(torch.as_tensor(value).shape[1:]) for name, value in told.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"draws, data, validation: expected data of one shape, found {shapes}")
    scales = _scales(scales, validation)
    scale = scales[int(_log_density(draws, validation, scales).mean(0).argmax())]
    nats = _log_density(draws, data, [scale])[:, 0]
    error = float(nats.std()) / len(nats) ** 0.5 if len(nats) > 1 else math.nan
    return ParzenEstimate(float(nats.mean()), error, scale, len(draws))


def _log_density(draws: Tensor, data: Tensor, scales: Sequence[float]) -> Tensor:
    """log p of each datum under a window of each scale, (n, scales)."""
    dims = draws.shape[1]
    middle = draws.mean(0)  # which the differences of squares lose fewer digits around
    draws, data = draws - middle, data - middle
    parts = []
    for part in slices(len(data), max(2**22 // len(draws), 1)):
        x = data[part]
        squared = squared_distances(x, draws)
        found = [
            (squared / (-2 * s**2)).logsumexp(1) - math.log(len(draws)) - dims * math.log(s * (2 * math.pi) ** 0.5)
            for s in scales
        ]
        parts.append(torch.stack(found, 1))
    return torch.cat(parts)


def _scales(scales: Sequence[float] | None, validation: Tensor) -> list[float]:
    if scales is None:
        spread = float(validation.std()) if validation.numel() > 1 else 0.0
        if not spread:
            raise ValueError("scales: expected for validation data that are all the same, found None")
        return [float(s) * spread for s in SCALES]
    found = [checks.real(f"scales[{i}]", s, above=0) for i, s in enumerate(scales)]
    if not found:
        raise ValueError("scales: expected one or more standard deviations, found none")
    return found


def _vectors(name: str, value: Any) -> Tensor:
    """Data as vectors, in double precision on the host."""
    tensor = doubles(name, value, "a tensor (n, ...)")
    if tensor.dim() < 2 or not tensor.numel():
        raise ValueError(f"{name}: expected (n, ...) with at least one datum, found {tuple(tensor.shape)}")
    return tensor.flatten(1)
