"""The adversarial autoencoder: codes that a discriminator cannot tell from draws of the prior."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from pyro.optim import PyroOptim
from torch import Tensor, nn

from pyro_vae.infer.adversarial import Adversarial, Round
from pyro_vae.infer.aggregate import Draws
from pyro_vae.infer.svi import Optimiser


class AAE(Adversarial):
    r"""E_q[log p(x | z)] - weight KL(q(z) || p(z)),   q(z) = mean_x q(z | x),   KL(q(z) || p(z)) = E_q[T(z)]

    The adversarial autoencoder: the codes of all data together are held to the prior, by a discriminator T that tells
    them from draws of it. The prior need only be sampled, and the posterior may be a point. T reads the codes of all
    latent sites side by side, and then what is given above them: a class one-hot, 0 where its label is missing, so that
    each class has a prior of its own.

    The ratio of densities holds for the T that is best; the ELBO, whose KL is of each datum, is larger by I(x; z) in
    what it takes away. A :class:`temper` around the programs weighs the KL besides.

    Args:
        model, guide, optim, clip, discriminator_optim, discriminator_lr, penalty: as those of :class:`Adversarial`.
        discriminator: a module from (batch, units + width of the conditions) to (batch, 1); see :class:`Adversarial`.
        weight: of the KL, in nats per datum.

    Raises:
        ValueError: where the discriminator has another width; where latent sites are tempered by different weights;
            where the prior has parameters to learn.

    Source: Makhzani et al. 2015, arXiv:1511.05644.

    >>> pair, x = pv.vae((1, 8, 8), latent=2), pv.data.load("digits", binarise="threshold")
    >>> game = AAE(*pair, torch.optim.Adam, pv.nets.MLP(2, 1), weight=10.0)
    >>> run = pv.fit(pair, x, objective=game, epochs=1, progress=False)
    """

    kl = 0.0
    betas = (0.5, 0.999)  # the paces of the Adam that fit gives it: gradients of a moving opponent age fast

    def __init__(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        optim: Optimiser | PyroOptim,
        discriminator: nn.Module | None = None,
        *,
        weight: float = 1.0,
        discriminator_optim: Optimiser | None = None,
        discriminator_lr: float = 1e-3,
        penalty: float = 1.0,
        clip: float | None = None,
    ) -> None:
        super().__init__(
            model,
            guide,
            optim,
            discriminator,
            weight=weight,
            discriminator_optim=discriminator_optim,
            discriminator_lr=discriminator_lr,
            penalty=penalty,
            clip=clip,
        )
        prior = getattr(getattr(model, "program", model), "prior", None)
        if isinstance(prior, nn.Module) and any(p.requires_grad for p in prior.parameters()):
            raise ValueError(
                f"prior: expected one that is known, found {type(prior).__name__} with parameters to learn, which no "
                "game teaches"
            )

    def play(self, batch: Mapping[str, Tensor]) -> Round:
        """Reconstruct the batch from its codes, and show these beside as many of the prior."""
        draws = self.draws(batch)
        given = draws.conditions
        drawn, reference = (torch.cat([codes, given], -1) for codes in (draws.codes, draws.prior))
        weight = self.weight * _common_scale(draws)
        loss = self.loss.without_penalty(draws, self.kl) + weight * self.tell(drawn).sum()
        return Round(loss, drawn, reference)


def _common_scale(draws: Draws) -> float:
    """The weight that handlers put on latent sites."""
    scales = {float(site["scale"]) for site in draws.sites.values()}
    if len(scales) != 1:
        raise ValueError(f"temper: the sites {sorted(draws.sites)} have one KL; expected one weight, found {scales}")
    return scales.pop()
