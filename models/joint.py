"""The story of the joint variational autoencoder."""

import pyro
from torch import Tensor, nn

from pyro_vae.story import Story


class JointModel(Story):
    r"""p(x, z, c) = p(c) p(z | c) p(x | z, c)

    A class that nobody has told, and a style beside it; data from both. It is the story of
    :class:`pyro_vae.models.CVAEModel`, whose c is never given.

    Sites: ``c`` latent, (batch, 1, classes), one-hot; ``z`` latent, (batch, latent); ``x`` data,
    (batch, \*data_shape).

    Args:
        classes: ``() -> distribution`` over c, for example :class:`pyro_vae.priors.Categorical`.
        prior: ``(c) -> distribution`` over z, for example :class:`pyro_vae.priors.StandardNormal`.
        likelihood: ``(z, c) -> distribution`` over x.

    Source: Dupont 2018, arXiv:1804.00104.

    >>> decoder = pv.nets.Joined(torch.nn.Linear(5, 9), [(2,), (1, 3)])
    >>> model = JointModel(pv.priors.Categorical((1, 3)), StandardNormal(2), Bernoulli(decoder, [(2,), (1, 3)], 9))
    >>> model(n=5).shape
    torch.Size([5, 9])
    """

    def __init__(self, classes: nn.Module, prior: nn.Module, likelihood: nn.Module) -> None:
        super().__init__("model")
        self.classes, self.prior, self.likelihood = classes, prior, likelihood

    def forward(self, x: Tensor | None = None, n: int = 1) -> Tensor:
        """Score ``x``, or without it dream ``n`` data."""
        with pyro.plate("data", n if x is None else x.shape[0]):
            c = pyro.sample("c", self.classes())
            z = pyro.sample("z", self.prior(c))
            return pyro.sample("x", self.likelihood(z, c), obs=x)
