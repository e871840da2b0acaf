"""The story of a graph of latents."""

from collections.abc import Mapping, Sequence
from inspect import Parameter, Signature
from typing import Any

import pyro
from torch import Tensor, nn

from pyro_vae.story import Story


class DAGModel(Story):
    r"""p(x, z) = prod_i p(z_i | parents of z_i) prod_j p(x_j | parents of x_j)

    Codes that explain each other along the arrows of a graph without cycles, and data in parts, each of which is
    explained by codes of its own. A chain is a hierarchy; in a tree a code tells what several others share.

    Sites: the latents, (batch, \*latent), from the roots downwards; then the parts of the data, (batch, \*data_shape).
    The model takes the parts by name; those that are not given are dreamt, ``n`` of them where none is.

    Args:
        priors: for each latent site, the parents first, ``(*parents) -> distribution`` over it.
        likelihoods: for each part of the data, ``(*parents) -> distribution`` over it.
        parents: for each site the latents that explain it; none of a root.

    Source: Webb et al. 2018, arXiv:1712.00287; Pearl 1988, "Probabilistic reasoning in intelligent systems".

    >>> priors = {"a": StandardNormal(2), "b": pv.priors.Conditional(3, torch.nn.Linear(2, 6), 2)}
    >>> x = Bernoulli(torch.nn.Linear(3, 9), 3, 9)
    >>> model = DAGModel(priors, {"x": x}, parents={"b": ["a"], "x": ["b"]})
    >>> print(model.__doc__)
    p(x, z) = p(a) p(b | a) p(x | b)
    >>> model(n=5)["x"].shape
    torch.Size([5, 9])
    """

    def __init__(
        self,
        priors: Mapping[str, nn.Module],
        likelihoods: Mapping[str, nn.Module],
        parents: Mapping[str, Sequence[str]],
    ) -> None:
        super().__init__("model")
        parts = {**priors, **likelihoods}
        self.parts = nn.ModuleList(parts.values())
        self.data, self.parents = tuple(likelihoods), {site: tuple(parents.get(site, ())) for site in parts}
        # the story of this graph, and what its program takes
        factors = [f"p({site} | {', '.join(above)})" if above else f"p({site})" for site, above in self.parents.items()]
        self.__doc__ = f"p(x, z) = {' '.join(factors)}"
        taken = [*((part, None) for part in self.data), ("n", 1)]
        self.__signature__ = Signature([Parameter(k, Parameter.POSITIONAL_OR_KEYWORD, default=v) for k, v in taken])

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Score the parts of the data that are given, and dream the others; returns all parts."""
        given = self.__signature__.bind(*args, **kwargs).arguments
        n, x = given.pop("n", 1), {part: value for part, value in given.items() if value is not None}
        values: dict[str, Tensor] = {}
        with pyro.plate("data", next(iter(x.values())).shape[0] if x else n):
            for (site, above), part in zip(self.parents.items(), self.parts, strict=True):
                values[site] = pyro.sample(site, part(*(values[name] for name in above)), obs=x.get(site))
        return {part: values[part] for part in self.data}
