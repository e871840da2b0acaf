"""The story of the supervised adversarial autoencoder."""

import pyro
from torch import Tensor, nn

from pyro_vae.story import Story


class AAEModel(Story):
    r"""p(x, z, c) = p(c) p(z | c) p(x | z)

    Each class has codes of its own, such as a mode of the prior, and says nothing of the data besides. Where a label
    is missing, codes are from all classes.

    Sites: ``c`` label, (batch,); ``z`` latent, (batch, latent); ``x`` data, (batch, \*data_shape).

    Args:
        classes: ``() -> distribution`` over c, for example :class:`pyro_vae.priors.Classes`.
        prior: ``(c) -> distribution`` over z, for example :class:`pyro_vae.priors.Ring`.
        likelihood: ``(z) -> distribution`` over x.

    Source: Makhzani et al. 2015, arXiv:1511.05644, section 2.3.

    >>> likelihood = Bernoulli(torch.nn.Linear(2, 9), 2, 9)
    >>> model = AAEModel(pv.priors.Classes(10), pv.priors.Ring(), likelihood)
    >>> model(c=torch.tensor([7, 7, 1, 0])).shape
    torch.Size([4, 9])
    """

    def __init__(self, classes: nn.Module, prior: nn.Module, likelihood: nn.Module) -> None:
        super().__init__("model")
        self.classes, self.prior, self.likelihood = classes, prior, likelihood

    def forward(self, x: Tensor | None = None, c: Tensor | None = None, n: int = 1) -> Tensor:
        """Score ``x`` of classes ``c``; what is not given is dreamt, n times where nothing is."""
        given = x if x is not None else c
        with pyro.plate("data", n if given is None else given.shape[0]):
            c = pyro.sample("c", self.classes(), obs=c)
            z = pyro.sample("z", self.prior(c))
            return pyro.sample("x", self.likelihood(z), obs=x)
