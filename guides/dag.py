"""The inference program of a graph of latents."""

from collections.abc import Mapping, Sequence
from inspect import Parameter, Signature
from typing import Any

import pyro
from pyro.nn import PyroModule
from torch import Tensor, nn


class DAGGuide(PyroModule):
    r"""q(z | x) = prod_i q(z_i | what the exact posterior of z_i depends on, of x and of z_1, ..., z_{i-1})

    In the order of the model, each latent reads those of the earlier latents and of the parts of the data from which
    it is not d-separated by all the others of them. So every dependence of the exact posterior is there, such as
    that between two codes which explain the same data, and none that it has not.

    Sites: the latents, from the roots downwards. The guide takes all parts of the data, by name.

    Args:
        posteriors: for each latent site, in the order in which they are drawn, ``(*reads) -> distribution`` over it.
        reads: for each latent site the parts of the data and the earlier latents that its posterior is given.
        data: the names of the parts.

    Source: Webb et al. 2018, arXiv:1712.00287 (faithful inversion); Stuhlmueller, Taylor & Goodman 2013, NIPS.

    >>> posteriors = {
    ...     "a": DiagonalNormal(torch.nn.Linear(9, 4), 9, 2),
    ...     "b": DiagonalNormal(torch.nn.Bilinear(9, 2, 6), [(9,), (2,)], 3),
    ... }
    >>> guide = DAGGuide(posteriors, reads={"a": ["x"], "b": ["x", "a"]}, data=["x"])
    >>> print(guide.__doc__)
    q(z | x) = q(a | x) q(b | x, a)
    >>> guide(x=torch.zeros(5, 9))["b"].shape
    torch.Size([5, 3])
    """

    def __init__(
        self, posteriors: Mapping[str, nn.Module], reads: Mapping[str, Sequence[str]], data: Sequence[str]
    ) -> None:
        super().__init__("guide")
        self.posteriors = nn.ModuleList(posteriors.values())
        self.reads = {site: tuple(reads[site]) for site in posteriors}
        # the inference of this graph, and what its program takes
        factors = [f"q({site} | {', '.join(read)})" for site, read in self.reads.items()]
        self.__doc__ = f"q(z | x) = {' '.join(factors)}"
        self.__signature__ = Signature([Parameter(part, Parameter.POSITIONAL_OR_KEYWORD) for part in data])

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Draw codes for each datum; returns those of all sites."""
        known: dict[str, Tensor] = dict(self.__signature__.bind(*args, **kwargs).arguments)
        with pyro.plate("data", next(iter(known.values())).shape[0]):
            for (site, read), posterior in zip(self.reads.items(), self.posteriors, strict=True):
                known[site] = pyro.sample(site, posterior(*(known[name] for name in read)))
        return {site: known[site] for site in self.reads}
