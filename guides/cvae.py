"""The inference program of the conditional variational autoencoder."""

import pyro
from pyro.nn import PyroModule
from torch import Tensor, nn


class CVAEGuide(PyroModule):
    r"""q(z | x, c)

    One network reads a datum and its condition, and names the distribution of its code.

    Sites: ``z`` latent, (batch, latent).

    Args:
        posterior: ``(x, c) -> distribution`` over z, for example :class:`pyro_vae.posteriors.DiagonalNormal`.

    Source: Sohn, Lee & Yan 2015, "Learning structured output representation using deep conditional generative
    models", NIPS.

    >>> guide = CVAEGuide(DiagonalNormal(torch.nn.Bilinear(9, 3, 4), [(9,), (3,)], 2))
    >>> guide(x=torch.zeros(5, 9), c=torch.zeros(5, 3)).shape
    torch.Size([5, 2])
    """

    def __init__(self, posterior: nn.Module) -> None:
        super().__init__("guide")
        self.posterior = posterior

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """Draw a code for each datum of ``x`` under its condition."""
        with pyro.plate("data", x.shape[0]):
            return pyro.sample("z", self.posterior(x, c))
