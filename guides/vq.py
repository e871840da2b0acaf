"""The inference program of the vector-quantised variational autoencoder."""

import pyro
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_vae.distributions import PointCodes


class VQGuide(PyroModule):
    r"""q(z | x) = prod_j [z_j = nearest(h(x))_j]

    A network reads x and lays a vector at each place of a map; the code of the place is the entry of the codebook
    nearest to it. All probability is at one code, so that log q(z | x) = 0 there. ``commitment`` |h_j - e_k|^2 is taken
    from the objective, and from no metric, which keeps the vectors near the entries that stand for them.

    Sites: ``z`` latent, (batch, height * width, entries), one-hot.

    Args:
        encoder: ``(x) -> h``, (batch, width, height, width).
        codebook: that of the model's decoder, such as :class:`pyro_vae.nets.Codebook`, whose owner is the model.
        commitment: at least 0.

    Source: van den Oord, Vinyals & Kavukcuoglu 2017, arXiv:1711.00937.

    >>> codebook = pv.nets.Codebook(entries=8, width=2, size=(3, 3))
    >>> VQGuide(torch.nn.Conv2d(1, 2, 1), codebook)(x=torch.zeros(5, 1, 3, 3)).shape
    torch.Size([5, 9, 8])
    """

    def __init__(self, encoder: nn.Module, codebook: nn.Module, commitment: float = 0.25) -> None:
        super().__init__("guide")
        self.encoder, self.commitment = encoder, commitment
        self.codebook = (codebook,)  # a tuple registers nothing

    def forward(self, x: Tensor) -> Tensor:
        """Draw the codes of each datum of ``x``."""
        (codebook,) = self.codebook
        with pyro.plate("data", x.shape[0]):
            h = self.encoder(x)
            z = codebook.nearest(h)
            if self.commitment:  # in a guide log q counts against the objective
                distance = (h - codebook(z.detach())).square().sum((-1, -2, -3))
                pyro.factor("commitment", self.commitment * distance, has_rsample=True)
            return pyro.sample("z", PointCodes(z))
