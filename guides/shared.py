"""The inference of what all data share."""

from collections.abc import Collection, Mapping
from typing import Any

import pyro
from pyro.nn import PyroModule
from torch import nn

from pyro_vae.story import FLIPS, SHARED


class SharedGuide(PyroModule):
    r"""q(theta) = prod_i q(theta_i)

    What is drawn once for all data: the weights of variational layers, by the posteriors that the layers bring; what
    else there is by an automatic guide. A posterior that is ``symmetric`` about its mean tells the mean to its layer,
    which may then flip the weights, and keeps the signs of each datum, for all layers that see this draw.

    Sites: the shared ones.

    Args:
        posteriors: for each site, in the order of the model, ``() -> distribution`` over it.
        others: an automatic guide over the other sites.
        still: sites whose layers do not flip them, as they also read what is no datum.

    Source: Blundell et al. 2015, arXiv:1505.05424.

    >>> layer = pv.nets.VariationalLinear(3, 2)
    >>> guide = SharedGuide({f"layer.{name}": q for name, q in layer.posteriors.items()})
    >>> sorted(pyro.poutine.trace(guide).get_trace().stochastic_nodes)
    ['layer.bias', 'layer.weight']
    """

    def __init__(
        self, posteriors: Mapping[str, nn.Module], others: nn.Module | None = None, still: Collection[str] = ()
    ) -> None:
        super().__init__("guide")
        self.still = frozenset(still)
        self.sites, self.posteriors, self.others = tuple(posteriors), nn.ModuleList(posteriors.values()), others

    @property
    def by_site(self) -> dict[str, nn.Module]:
        """The posterior that each site has."""
        return dict(zip(self.sites, self.posteriors, strict=True))

    def forward(self, *args: Any, **kwargs: Any) -> None:
        """Draw them, whatever the data."""
        if self.others is not None:
            self.others()
        for site, posterior in zip(self.sites, list(self.posteriors), strict=True):
            q = posterior()
            flips = (q.mean, {}, 0) if getattr(posterior, "symmetric", False) and site not in self.still else None
            pyro.sample(site, q, infer={SHARED: True, FLIPS: flips})
