"""The inference program of the variational autoencoder."""

import pyro
from pyro.nn import PyroModule
from torch import Tensor, nn


class VAEGuide(PyroModule):
    r"""q(z | x)

    One network, shared by all data (amortised), reads x and names the distribution of its code.

    Sites: ``z`` latent, (batch, latent).

    Args:
        posterior: ``(x) -> distribution`` over z, for example :class:`pyro_vae.posteriors.DiagonalNormal`.

    Source: Kingma & Welling 2014, arXiv:1312.6114.

    >>> guide = VAEGuide(DiagonalNormal(torch.nn.Linear(9, 4), 9, 2))
    >>> guide(x=torch.zeros(5, 9)).shape
    torch.Size([5, 2])
    """

    def __init__(self, posterior: nn.Module) -> None:
        super().__init__("guide")
        self.posterior = posterior

    def forward(self, x: Tensor) -> Tensor:
        """Draw a code for each datum of ``x``."""
        with pyro.plate("data", x.shape[0]):
            return pyro.sample("z", self.posterior(x))
