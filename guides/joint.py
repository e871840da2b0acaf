"""The inference program of the joint variational autoencoder."""

import pyro
from pyro.nn import PyroModule
from torch import Tensor, nn


class JointGuide(PyroModule):
    r"""q(c, z | x) = q(c | x) q(z | x)

    Two networks read x, one guesses its class, the other its style.

    Sites: ``c`` latent, (batch, 1, classes), one-hot; ``z`` latent, (batch, latent).

    Args:
        classifier: ``(x) -> distribution`` over c, for example :class:`pyro_vae.posteriors.Categorical`.
        posterior: ``(x) -> distribution`` over z.

    Source: Dupont 2018, arXiv:1804.00104, equation 4.

    >>> classifier = pv.posteriors.Categorical(torch.nn.Linear(9, 3), 9, (1, 3))
    >>> JointGuide(classifier, DiagonalNormal(torch.nn.Linear(9, 4), 9, 2))(x=torch.zeros(5, 9)).shape
    torch.Size([5, 2])
    """

    def __init__(self, classifier: nn.Module, posterior: nn.Module) -> None:
        super().__init__("guide")
        self.classifier, self.posterior = classifier, posterior

    def forward(self, x: Tensor) -> Tensor:
        """Draw a class and a style for each datum of ``x``; returns the style."""
        with pyro.plate("data", x.shape[0]):
            pyro.sample("c", self.classifier(x))
            return pyro.sample("z", self.posterior(x))
