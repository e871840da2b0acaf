"""The uniform distribution on the sphere."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor

from pyro_vae.distributions.advised import Advised

ADVICE = "Directions have length 1: divide each by its norm (x / x.norm(dim=-1, keepdim=True))"


class SphericalUniform(Advised, TorchDistribution):
    r"""p(z) = Gamma(d / 2) / (2 pi^(d/2)),   |z| = 1

    The density is with respect to the area of the sphere S^(d-1) in R^d.

    Shapes: batch (\*batch,), event (d,).

    Args:
        like: a tensor of shape (\*batch, d), d at least 2, whose shape, dtype and device a draw shall have.

    Raises:
        ValueError: where ``like`` is no vector of two or more dimensions.

    >>> SphericalUniform(torch.zeros(3)).log_prob(torch.tensor([0.0, 0.6, 0.8])).exp() * 4 * torch.pi
    tensor(1.0000)
    """

    arg_constraints: ClassVar = {}
    support = constraints.sphere
    has_rsample = True  # there is nothing in which a gradient of draws could be missing
    advice = ADVICE

    def __init__(self, like: Tensor, validate_args: bool | None = None) -> None:
        check_vectors("like", like)
        self._zeros = like.new_zeros(()).expand(like.shape)
        super().__init__(like.shape[:-1], like.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "SphericalUniform":
        """The same distribution, more often."""
        new = SphericalUniform(self._zeros.expand(torch.Size(batch_shape) + self.event_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    @property
    def mean(self) -> Tensor:
        """The centre of the sphere."""
        return self._zeros

    def log_prob(self, value: Tensor) -> Tensor:
        """Log p(z), the same everywhere."""
        if self._validate_args:
            self._validate_sample(value)
        shape = torch.broadcast_shapes(value.shape[:-1], self.batch_shape)
        return -self._log_area().expand(shape)

    def entropy(self) -> Tensor:
        """The logarithm of the area."""
        return self._log_area()

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Normal draws, brought to length 1."""
        return directions(self._extended_shape(torch.Size(sample_shape)), self._zeros)

    def _log_area(self) -> Tensor:
        return self._zeros[..., 0] + log_area(self.event_shape[0])


def check_vectors(name: str, value: Tensor) -> None:
    """Raise where ``value`` holds no vectors of two or more dimensions, and so no sphere."""
    if value.dim() < 1 or value.shape[-1] < 2:
        raise ValueError(f"{name}: expected vectors of 2 or more dimensions, found shape {tuple(value.shape)}")


def log_area(dim: int) -> float:
    """log(2 pi^(d/2) / Gamma(d / 2)), of the sphere of radius 1 in R^d."""
    return math.log(2) + dim / 2 * math.log(math.pi) - math.lgamma(dim / 2)


def directions(shape: Sequence[int], like: Tensor) -> Tensor:
    """Uniform vectors of length 1, along the last dimension of ``shape``."""
    # in single precision one draw in millions is 0, which has no direction where there is but one dimension
    x = torch.randn(torch.Size(shape), dtype=torch.float64, device=like.device)
    return (x / torch.linalg.vector_norm(x, dim=-1, keepdim=True)).to(like.dtype)
