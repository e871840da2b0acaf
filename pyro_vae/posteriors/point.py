"""Points: posteriors of autoencoders that are no inference."""

from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
from torch import nn

from pyro_vae.posteriors.base import Posterior, several


class Delta(Posterior):
    r"""q(z | x) = delta(z - encoder(x))

    One code for each datum, as in the plain autoencoder, which is trained by :func:`pyro_vae.fit` under ``temper=0.0``,
    and in the Wasserstein one (:class:`pyro_vae.infer.MMD`). The KL of a point from a prior with a density is infinite:
    a pair with such a posterior has no ELBO, and its reports say so. Under ``Trace_ELBO`` it is trained towards the
    largest p(x, z). The prior is one over all real numbers.

    Shapes: (\*batch, \*data_shape) -> batch (\*batch,), event (\*latent,).

    Args:
        encoder: a module from (batch, \*data_shape) to (batch, latent).
        data_shape, latent: as for :class:`DiagonalNormal`.

    Raises:
        ValueError: where the encoder's output is not ``latent`` wide.

    Source: Tolstikhin et al. 2018, arXiv:1711.01558; Makhzani et al. 2015, arXiv:1511.05644.

    >>> Delta(torch.nn.Linear(9, 2), 9, 2)(torch.zeros(5, 9)).mean.shape
    torch.Size([5, 2])
    """

    def __init__(
        self,
        encoder: nn.Module,
        data_shape: Sequence[Sequence[int]] | Sequence[int] | int,
        latent: Sequence[int] | int,
    ) -> None:
        super().__init__(encoder, data_shape, latent, 1)

    @classmethod
    def encoder_shape(cls, latent: tuple[int, ...], **settings: Any) -> tuple[int, ...]:
        """A number of each unit."""
        return several(1, latent)

    def forward(self, *x: Any) -> dist.Distribution:
        """The code of each datum."""
        (z,) = self.parameters_of(*x)
        return dist.Delta(z).to_event(len(self.latent))
