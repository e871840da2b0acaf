"""The inference of what a prior draws for itself."""

from collections.abc import Mapping, Sequence
from inspect import signature
from typing import Any

import pyro
from pyro import poutine
from pyro.nn import PyroModule
from torch import nn

from pyro_vae import tracing
from pyro_vae.story import FLIPS, SHARED, Random


class Amortised(PyroModule):
    r"""q(z, u, theta | x) = q(theta) q(z | x) prod_i q(u_i | z, u_1, ..., u_{i-1})

    A prior may be a program: it draws sites u of its own, and then the code. Given the code, u tells nothing more of
    the data, so that its exact posterior depends on the code alone, and one small network serves all data. What all
    data share, theta, has one posterior; drawn first, it stands in the networks of either program that need it.

    Sites: the shared ones; those of the guide; then the prior's own, (batch, \*event).

    Args:
        guide: q(z | x).
        posteriors: for each site of a prior's own, in the order of the model, ``(v) -> distribution`` over it, where v
            is all that it reads, laid side by side as a vector.
        reads: for each of them, the code that its prior is of, and those before it.
        shared: q(theta), such as a :class:`pyro_vae.guides.SharedGuide`, called without arguments.
        randoms: where in the pair what is shared stands.

    Source: Kingma & Welling 2014, arXiv:1312.6114; Ranganath, Tran & Blei 2016, arXiv:1511.02386.

    >>> guide = pv.guides.VAEGuide(DiagonalNormal(torch.nn.Linear(9, 4), 9, 2))
    >>> own = {"u": DiagonalNormal(torch.nn.Linear(2, 6), 2, 3)}
    >>> Amortised(guide, own, {"u": ["z"]})(x=torch.zeros(5, 9)).shape
    torch.Size([5, 2])
    """

    def __init__(
        self,
        guide: nn.Module,
        posteriors: Mapping[str, nn.Module],
        reads: Mapping[str, Sequence[str]],
        shared: nn.Module | None = None,
        randoms: Sequence[Random] = (),
    ) -> None:
        super().__init__("guide")
        self.guide, self.posteriors, self.shared = guide, nn.ModuleList(posteriors.values()), shared
        self.randoms = tuple(randoms)  # a tuple registers nothing: some of their modules are the model's
        self.reads = {site: tuple(reads[site]) for site in posteriors}
        factors = [f"q({site} | {', '.join(read)})" for site, read in self.reads.items()]
        self.__doc__ = " ".join([(guide.__doc__ or "").partition("\n")[0], *factors])
        self.__signature__ = getattr(guide, "__signature__", signature(guide.forward))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Draw what the guide draws for each datum, which is returned, and what stands behind it."""
        with poutine.trace() as drawn:
            self.draw_shared()
        for random in self.randoms:
            site: Any = drawn.trace.nodes[random.site]
            flips = site["infer"].get(FLIPS)
            if flips is not None:  # which take rows for data where there are as many
                flips = site["infer"][FLIPS] = (*flips[:2], len(next(iter((*args, *kwargs.values())), ())))
            random.put(self, site["value"], flips)
        with poutine.trace() as drawn:
            found = self.guide(*args, **kwargs)
        known: dict[str, Any] = dict(drawn.trace.nodes)
        for (site, read), posterior in zip(self.reads.items(), self.posteriors, strict=True):
            with tracing.plate_of(known[read[0]]), poutine.trace() as own:
                pyro.sample(site, posterior(tracing.side_by_side([known[name] for name in read])))
            known[site] = own.trace.nodes[site]
        return found

    def draw_shared(self) -> None:
        """Draw what all data share."""
        if self.shared is not None:
            poutine.infer_config(self.shared, lambda site: {**site["infer"], SHARED: True})()
