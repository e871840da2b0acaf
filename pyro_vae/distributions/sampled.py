"""A distribution of which nothing but draws is known."""

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints


class Sampled(TorchDistribution):
    r"""z ~ p(z), without a density

    Shapes: batch (\*batch,), event (\*event,).

    Args:
        sampler: ``(n) -> tensor`` (n, \*event).
        event_shape: of one draw.

    >>> Sampled(lambda n: torch.rand(n, 2), (2,)).sample((5,)).shape
    torch.Size([5, 2])
    """

    arg_constraints: ClassVar = {}
    has_rsample = False
    has_density = False

    def __init__(
        self, sampler: Callable[[int], Tensor], event_shape: Sequence[int], batch_shape: Sequence[int] = ()
    ) -> None:
        self.sampler = sampler
        super().__init__(torch.Size(batch_shape), torch.Size(event_shape), validate_args=False)

    @constraints.dependent_property(is_discrete=False)
    def support(self) -> constraints.Constraint:
        """Any number, as far as is known."""
        return constraints.independent(constraints.real, len(self.event_shape))

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "Sampled":
        """The same, more often."""
        return Sampled(self.sampler, self.event_shape, batch_shape)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws."""
        shape = self._extended_shape(torch.Size(sample_shape))
        batch = shape[: len(shape) - len(self.event_shape)]
        with torch.no_grad():
            return self.sampler(math.prod(batch)).reshape(shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Refused.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(
            "a prior that can only be sampled has no log p(z), which the ELBO and every bound need; pv.aae and "
            "pv.infer.MMD with kl=0 train without, sample, encode, reconstruct and evaluate do without"
        )
