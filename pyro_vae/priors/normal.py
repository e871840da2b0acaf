"""Normal priors."""

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae.checks import positive_int


class StandardNormal(nn.Module):
    """p(z) = N(z; 0, I),   whatever the conditions

    Shapes: event (latent,).

    Raises:
        ValueError: where ``latent`` is not a positive whole number.

    >>> StandardNormal(3)().event_shape
    torch.Size([3])
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, latent: int) -> None:
        super().__init__()
        positive_int("latent", latent)
        # buffers follow .to(device); not persistent, since they hold nothing that was learned
        self.register_buffer("loc", torch.zeros(latent), persistent=False)
        self.register_buffer("scale", torch.ones(latent), persistent=False)

    def forward(self, *conditions: Tensor) -> dist.Distribution:
        """The distribution of one code, which no condition changes."""
        return dist.Normal(self.loc, self.scale).to_event(1)
