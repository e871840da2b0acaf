"""The story of the conditional variational autoencoder."""

import pyro
from torch import Tensor, nn

from pyro_vae.story import Story


class CVAEModel(Story):
    r"""p(x, z, c) = p(c) p(z | c) p(x | z, c)

    A condition, a code under it, and data from both. Where c is given in all data the pair is a conditional VAE;
    where it is latent, in all or in some, the story is that of semi-supervised learning.

    Sites: ``c`` condition, (batch, \*condition_shape), () for a class label; ``z`` latent, (batch, latent);
    ``x`` data, (batch, \*data_shape).

    Args:
        condition: ``() -> distribution`` over c: :class:`pyro_vae.priors.Classes`, or :class:`pyro_vae.priors.Given`.
        prior: ``(c) -> distribution`` over z, for example :class:`pyro_vae.priors.Conditional`.
        likelihood: ``(z, c) -> distribution`` over x.

    Source: Sohn, Lee & Yan 2015, "Learning structured output representation using deep conditional generative
    models", NIPS; Kingma et al. 2014, arXiv:1406.5298 (M2).

    >>> class Decoder(torch.nn.Module):
    ...     def forward(self, z, c):
    ...         return z.sum(-1, keepdim=True) + c.unsqueeze(-1).expand(-1, 9)
    >>> model = CVAEModel(pv.priors.Classes(3), StandardNormal(2), Bernoulli(Decoder(), [(2,), ()], 9))
    >>> model(c=torch.tensor([0, 1, 2, 0])).shape
    torch.Size([4, 9])
    """

    def __init__(self, condition: nn.Module, prior: nn.Module, likelihood: nn.Module) -> None:
        super().__init__("model")
        self.condition, self.prior, self.likelihood = condition, prior, likelihood

    def forward(self, x: Tensor | None = None, c: Tensor | None = None, n: int = 1) -> Tensor:
        """Score ``x`` under the condition ``c``; what is not given is dreamt, n times where nothing is."""
        given = x if x is not None else c
        with pyro.plate("data", n if given is None else given.shape[0]):
            c = pyro.sample("c", self.condition(), obs=c)
            z = pyro.sample("z", self.prior(c))
            return pyro.sample("x", self.likelihood(z, c), obs=x)
