"""The story of the variational autoencoder."""

import pyro
from torch import Tensor, nn

from pyro_vae.story import Story


class VAEModel(Story):
    r"""p(x, z) = p(z) p(x | z)

    A code z is drawn from the prior and the likelihood turns it into data.

    Sites: ``z`` latent, (batch, latent); ``x`` data, (batch, \*data_shape).

    Args:
        prior: ``() -> distribution`` over z, for example :class:`pyro_vae.priors.StandardNormal`.
        likelihood: ``(z) -> distribution`` over x, for example :class:`pyro_vae.likelihoods.Bernoulli`.

    Source: Kingma & Welling 2014, arXiv:1312.6114; Rezende, Mohamed & Wierstra 2014, arXiv:1401.4082.

    >>> model = VAEModel(StandardNormal(2), Bernoulli(torch.nn.Linear(2, 9), 2, 9))
    >>> model(n=5).shape
    torch.Size([5, 9])
    """

    def __init__(self, prior: nn.Module, likelihood: nn.Module) -> None:
        super().__init__("model")
        self.prior, self.likelihood = prior, likelihood

    def forward(self, x: Tensor | None = None, n: int = 1) -> Tensor:
        """Score ``x``, or without it dream ``n`` data."""
        with pyro.plate("data", n if x is None else x.shape[0]):
            z = pyro.sample("z", self.prior())
            return pyro.sample("x", self.likelihood(z), obs=x)
