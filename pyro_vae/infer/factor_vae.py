"""FactorVAE: units that a discriminator cannot tell from independent ones."""

from collections.abc import Mapping

import torch
from torch import Tensor

from pyro_vae import families
from pyro_vae.distributions import RelaxedCodes
from pyro_vae.infer.adversarial import Adversarial, Round


class FactorVAE(Adversarial):
    r"""ELBO - weight KL(q(z) || prod_j q(z_j)),   the total correlation of the codes = E_q[T(z)]

    A discriminator T tells codes from codes whose units were shuffled over the batch, each on its own.

    Args:
        model, guide, optim, clip, discriminator_optim, discriminator_lr, penalty: as those of :class:`Adversarial`.
        discriminator: a module from (batch, units) to (batch, 1); see :class:`Adversarial`.
        weight: of the total correlation, in nats per datum; the gamma of the paper.

    Raises:
        ValueError: where the discriminator has another width; in use, where codes are categories.

    Source: Kim & Mnih 2018, arXiv:1802.05983.

    >>> from functools import partial
    >>> pair, x = pv.vae((1, 8, 8), latent=4), pv.data.load("digits", binarise="threshold")
    >>> run = pv.fit(pair, x, objective=partial(FactorVAE, weight=6.0), epochs=1, progress=False)
    """

    def play(self, batch: Mapping[str, Tensor]) -> Round:
        """The ELBO of the batch, and its codes beside shuffled ones."""
        draws = self.draws(batch)
        for name, site in draws.sites.items():
            if isinstance(families.base(site["fn"]), RelaxedCodes):
                raise ValueError(
                    f"FactorVAE: {name}: expected units that are numbers, found {families.family(site['fn'])}"
                )
        z = draws.codes
        loss = self.loss.without_penalty(draws, self.kl) + self.weight * self.tell(z).sum()
        return Round(loss, z, shuffled(z.detach()))


def shuffled(codes: Tensor) -> Tensor:
    """The units of some codes, each in an order of its own."""
    order = torch.rand(codes.shape, device=codes.device).argsort(0)
    return codes.gather(0, order)
