"""The inference program of the hierarchical variational autoencoder, from the data upwards."""

from collections.abc import Sequence

import pyro
from pyro.nn import PyroModule
from torch import Tensor, nn


class BottomUpGuide(PyroModule):
    r"""q(z | x) = q(z_1 | x) q(z_2 | z_1) ... q(z_L | z_{L-1})

    Each level is drawn from the one below it, the lowest from the data.

    Sites: ``z1``, ..., ``zL`` latent, from the data upwards.

    Args:
        posteriors: ``(z_{l-1}) -> distribution`` over z_l, with z_0 = x.

    Source: Rezende, Mohamed & Wierstra 2014, arXiv:1401.4082; two levels of it, Burda, Grosse & Salakhutdinov 2016,
    arXiv:1509.00519.

    >>> posteriors = [DiagonalNormal(torch.nn.Linear(9, 6), 9, 3), DiagonalNormal(torch.nn.Linear(3, 4), 3, 2)]
    >>> BottomUpGuide(posteriors)(torch.zeros(5, 9)).shape
    torch.Size([5, 2])
    """

    def __init__(self, posteriors: Sequence[nn.Module]) -> None:
        super().__init__("guide")
        self.posteriors = nn.ModuleList(posteriors)

    def forward(self, x: Tensor) -> Tensor:
        """Draw codes for each datum of ``x``; returns z_L."""
        with pyro.plate("data", x.shape[0]):
            z = x
            for level, posterior in enumerate(self.posteriors, 1):
                z = pyro.sample(f"z{level}", posterior(z))
            return z
