"""Batches of a data set, as its whole ELBO sees them."""

from typing import Any

from pyro.poutine.messenger import Messenger

from pyro_vae import checks
from pyro_vae.story import SHARED


class minibatch(Messenger):  # a context, as handlers are
    r"""(|B| / N) (log p(theta) - log q(theta)) + sum_{n in B} (log p(x_n, z_n | theta) - log q(z_n | x_n, theta))

    What all N data share counts once for all of them: in a batch B it is weighed by the share of the data that the
    batch is, so that an epoch adds up to the ELBO of the data set. :func:`pyro_vae.fit` applies it where a pair has
    such sites: random weights, or a prior with attributes that are :class:`pyro.nn.PyroSample`.

    Args:
        size: N, how many data there are.

    Raises:
        ValueError: where ``size`` is not a positive whole number.

    Source: Hoffman et al. 2013, arXiv:1206.7051.

    >>> pair = pv.vae(9, latent=2)
    >>> model, guide = pair.trained(minibatch(1000))
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = checks.positive_int("size", size)
        self.batch: int | None = None  # how many data there are in the batch that is at hand

    def _pyro_sample(self, msg: Any) -> None:
        if msg["infer"].get(SHARED):
            if self.batch is None:
                raise ValueError(
                    "minibatch: how many data are at hand is not known; take variant.trained(minibatch(size))"
                )
            msg["scale"] = msg["scale"] * (self.batch / self.size)

    def __repr__(self) -> str:
        return f"minibatch({self.size})"
