"""Normal priors."""

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae import checks


class StandardNormal(nn.Module):
    r"""p(z) = N(z; 0, I),   whatever the conditions

    Shapes: event (\*latent,).

    Args:
        latent: dimensions of the code, or its shape.

    Raises:
        ValueError: where ``latent`` is not a positive whole number, or several.

    >>> StandardNormal(3)().event_shape
    torch.Size([3])
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, latent: Sequence[int] | int) -> None:
        super().__init__()
        shape = checks.latent(latent)
        # buffers follow .to(device); not persistent, since they hold nothing that was learned
        self.register_buffer("loc", torch.zeros(shape), persistent=False)
        self.register_buffer("scale", torch.ones(shape), persistent=False)

    def forward(self, *conditions: Tensor) -> dist.Distribution:
        """The distribution of one code, which no condition changes."""
        return dist.Normal(self.loc, self.scale).to_event(self.loc.dim())
