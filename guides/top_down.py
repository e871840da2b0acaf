"""The ladder: the inference program of the hierarchical variational autoencoder, from the top downwards."""

from collections.abc import Sequence
from itertools import accumulate

import pyro
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_vae.posteriors import product


class TopDownGuide(PyroModule):
    r"""q(z | x) = q(z_L | x) q(z_{L-1} | x, z_L) ... q(z_1 | x, z_2)

    The ladder. On the way up, x becomes features d_1, ..., d_L, without a draw; on the way down each level is drawn
    from what its features say of it times what the level above says: N_l(z_l; d_l) p(z_l | z_{l+1}) / Z.

    Sites: ``zL``, ..., ``z1`` latent, from the top downwards.

    Args:
        features: from the data upwards, nets d_{l-1} -> d_l with d_0 = x.
        posteriors: from the data upwards, ``(d_l) -> diagonal normal`` N_l over z_l.
        priors: those of the model, ``(z_{l+1}) -> diagonal normal`` over z_l, for l = 1, ..., L - 1.

    Source: Soenderby et al. 2016, arXiv:1602.02282.

    >>> prior = pv.priors.Conditional(3, torch.nn.Linear(2, 6), 2)
    >>> posteriors = [DiagonalNormal(torch.nn.Linear(9, 6), 9, 3), DiagonalNormal(torch.nn.Linear(9, 4), 9, 2)]
    >>> TopDownGuide([torch.nn.Identity(), torch.nn.Identity()], posteriors, [prior])(torch.zeros(5, 9)).shape
    torch.Size([5, 3])
    """

    def __init__(
        self, features: Sequence[nn.Module], posteriors: Sequence[nn.Module], priors: Sequence[nn.Module]
    ) -> None:
        super().__init__("guide")
        self.features, self.posteriors = nn.ModuleList(features), nn.ModuleList(posteriors)
        self.priors = tuple(priors)  # a tuple registers nothing: their parameters are the model's

    def forward(self, x: Tensor) -> Tensor:
        """Draw codes for each datum of ``x``; returns z_1."""
        with pyro.plate("data", x.shape[0]):
            _, *d = accumulate(self.features, lambda below, net: net(below), initial=x)
            posteriors = list(self.posteriors)  # once, as Pyro takes note of all of their parameters each time
            z = pyro.sample(f"z{len(d)}", posteriors[-1](d[-1]))
            for level in range(len(d) - 1, 0, -1):
                q = product(posteriors[level - 1](d[level - 1]), self.priors[level - 1](z))
                z = pyro.sample(f"z{level}", q)
            return z
