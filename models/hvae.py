"""The story of the hierarchical variational autoencoder."""

from collections.abc import Sequence

import pyro
from torch import Tensor, nn

from pyro_vae.story import Story


class HVAEModel(Story):
    r"""p(x, z) = p(z_L) p(z_{L-1} | z_L) ... p(z_1 | z_2) p(x | z_1, ..., z_L)

    Codes of codes: each level is drawn given the one above it. Without ``skip`` the data are drawn from the lowest
    level alone, p(x | z_1), so that whatever a level knows of them has to pass through all that are below it.

    Sites: ``zL``, ..., ``z1`` latent, from the top downwards, (batch, \*latents[l - 1]); ``x`` data,
    (batch, \*data_shape).

    Args:
        priors: from the data upwards, ``(z_{l+1}) -> distribution`` over z_l, and ``() -> distribution`` at the top.
        likelihood: ``(z_1, ..., z_L) -> distribution`` over x, or ``(z_1) -> distribution`` without ``skip``.
        skip: whether the data see all levels.

    Source: Rezende, Mohamed & Wierstra 2014, arXiv:1401.4082; Soenderby et al. 2016, arXiv:1602.02282.

    >>> priors = [pv.priors.Conditional(3, torch.nn.Linear(2, 6), 2), StandardNormal(2)]
    >>> HVAEModel(priors, Bernoulli(torch.nn.Linear(3, 9), 3, 9), skip=False)(n=5).shape
    torch.Size([5, 9])
    """

    def __init__(self, priors: Sequence[nn.Module], likelihood: nn.Module, skip: bool = True) -> None:
        super().__init__("model")
        self.priors, self.likelihood, self.skip = nn.ModuleList(priors), likelihood, skip

    def forward(self, x: Tensor | None = None, n: int = 1) -> Tensor:
        """Score ``x``, or without it dream ``n`` data."""
        with pyro.plate("data", n if x is None else x.shape[0]):
            codes: list[Tensor] = []
            for level, prior in reversed(list(enumerate(self.priors, 1))):
                codes = [pyro.sample(f"z{level}", prior(*codes[:1])), *codes]
            return pyro.sample("x", self.likelihood(*(codes if self.skip else codes[:1])), obs=x)
