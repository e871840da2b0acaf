"""Graphs of latents: sites and their parents read from a plain mapping, what a guide has to read, and the parts."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property, partial
from graphlib import CycleError, TopologicalSorter
from itertools import permutations
from keyword import iskeyword
from typing import Any

from torch import nn

from pyro_vae import checks, likelihoods
from pyro_vae.building import READS_MORE, Net, Nets, Part, bounds
from pyro_vae.latents import built_prior, needs, of, suited
from pyro_vae.posteriors import DiagonalNormal, encoder_shape, twice
from pyro_vae.priors import Conditional, StandardNormal

Shape = tuple[int, ...]
Parents = dict[str, tuple[str, ...]]

PLATE = "data"  # of every story; Pyro knows plates and sites by one set of names
# what programs, objectives and the verbs of a pair take by name beside the data
TAKEN = {"self", "model", "guide", "ancestors", "fill", "held", "mean", "particles", "proposal", "resample", "rows"}
TAKEN |= {"partly", "seed", "site", "to", "units", "values"}


@dataclass(frozen=True)
class Graph:
    """Latent sites and parts of the data with their shapes, and the parents of each, which come before it."""

    latents: dict[str, Shape]
    data: dict[str, Shape]
    parents: Parents

    @property
    def shapes(self) -> dict[str, Shape]:
        """Of every site."""
        return {**self.latents, **self.data}

    def reads(self) -> Parents:
        """For each latent what its exact posterior depends on, of the data (images first) and of the earlier latents.

        That is all from which it is not d-separated by the others of them. As each latent leads to the data, it is all
        that is reached over later latents in the moral graph, where those that explain a site together are neighbours.
        """
        neighbours: dict[str, set[str]] = {site: set() for site in self.parents}
        for site, parents in self.parents.items():
            for one, other in permutations((site, *parents), 2):
                neighbours[one].add(other)
        known, found = sorted(self.data, key=lambda part: len(self.data[part]) != 3), {}
        for site in self.latents:
            reached, front = {site}, [site]
            while front:
                new = neighbours[front.pop()] - reached
                reached |= new
                front += new.difference(known)
            found[site] = tuple(name for name in known if name in reached)
            known.append(site)
        return found


def read(
    data_shape: Mapping[str, Any] | Sequence[int] | int,
    parents: Mapping[str, Sequence[str]] | None,
    latent: Mapping[str, int] | int,
) -> Graph:
    """The graph that the arguments of a recipe tell.

    Raises:
        ValueError: where it is none: see :func:`pyro_vae.dag_vae`.
    """
    data = _data(data_shape)
    told = _told(data, parents)
    try:
        order = list(TopologicalSorter(told).static_order())
    except CycleError as error:
        cycle = " -> ".join(error.args[1])
        raise ValueError(f"parents: a cycle, {cycle}; expected a graph in which no site explains itself") from None
    _check_explaining(order, told, data)
    sites = [site for site in order if site not in data]
    widths = each("latent", latent, sites)
    named = isinstance(latent, Mapping)
    latents: dict[str, Shape] = {
        site: (checks.positive_int(f"latent[{site!r}]" if named else "latent", width),)
        for site, width in widths.items()
    }
    return Graph(latents, data, {site: told.get(site, ()) for site in (*sites, *data)})


def each(name: str, value: Any, sites: Iterable[str]) -> dict[str, Any]:
    """An argument for each of some sites: told by a mapping, or the same for all.

    Raises:
        ValueError: where a mapping names another site, or lacks one.
    """
    sites = list(sites)
    if not isinstance(value, Mapping):
        return dict.fromkeys(sites, value)
    for site in value:
        checks.known(name, site, sites)
    for site in sites:
        if site not in value:
            raise ValueError(f"{name}: {site}: missing; expected an entry for each of {', '.join(sites)}")
    return {site: value[site] for site in sites}


def _some(name: str, value: Any, sites: Iterable[str]) -> dict[str, Any]:
    """An argument for those sites of which something is told: by a mapping, or for all."""
    if isinstance(value, Mapping):
        for site in value:
            checks.known(name, site, sites)
        return dict(value)
    return {} if value is None else dict.fromkeys(sites, value)


def _data(data_shape: Any) -> dict[str, Shape]:
    """The parts of the data."""
    if not isinstance(data_shape, Mapping):
        return {"x": checks.shape("data_shape", data_shape)}
    if not data_shape:
        raise ValueError("data_shape: expected a shape, or a shape for each part of the data, found an empty mapping")
    for part in data_shape:
        _check_name("data_shape", part)
        if part in TAKEN:
            raise ValueError(
                f"data_shape: {part!r}: programs and verbs have an argument of that name, beside the data; expected "
                "another name"
            )
    return {part: checks.shape(f"data_shape[{part!r}]", shape) for part, shape in data_shape.items()}


def _told(data: Mapping[str, Shape], parents: Any) -> Parents:
    """The parents of each site of which something is told; by default a root, two codes below it, and the data."""
    if parents is None:
        parents = {"z1": ("z3",), "z2": ("z3",)} | dict.fromkeys(data, ("z1", "z2"))
        taken = {"z1", "z2", "z3"} & set(data)
        if taken:
            raise ValueError(f"data_shape: {min(taken)!r} is a latent site of the graph that is taken without parents")
    if not isinstance(parents, Mapping):
        raise ValueError(f"parents: expected a mapping such as {{'z1': ['z2'], 'x': ['z1']}}, found {parents!r:.60}")
    for site, above in parents.items():
        _check_name("parents", site)
        if not isinstance(above, Sequence) or isinstance(above, str):
            hint = f"; write [{above!r}]" if isinstance(above, str) else ""
            raise ValueError(f"parents: {site}: expected a sequence of latent sites, found {above!r:.60}{hint}")
        for i, parent in enumerate(above):
            _check_name(f"parents: {site}", parent)
            if parent == site:
                raise ValueError(f"parents: {site}: its own parent; expected other sites")
            if parent in data:
                raise ValueError(
                    f"parents: {site}: {parent!r} is a part of the data, which explains nothing; expected latent sites"
                )
            if parent in above[:i]:
                raise ValueError(f"parents: {site}: {parent!r} is there twice")
    for part in data:
        if not parents.get(part):
            close = get_close_matches(part, [site for site in parents if site not in data], 1)
            hint = f"; did you mean it by {close[0]!r}?" if close else ""
            raise ValueError(
                f"parents: {part}: nothing explains this part of the data; expected latent sites, as in "
                f"{{{part!r}: ['z1']}}{hint}"
            )
    return {site: tuple(above) for site, above in parents.items()}


def _check_name(argument: str, name: Any) -> None:
    if not isinstance(name, str) or not name.isidentifier() or iskeyword(name):
        raise ValueError(f"{argument}: expected names of sites, Python identifiers such as z1, found {name!r:.60}")
    if name in (PLATE, "n"):
        what = "the plate of the data" if name == PLATE else "the argument that says how many data to draw"
        raise ValueError(f"{argument}: {name!r} is {what}; expected another name")


def _check_explaining(order: Sequence[str], told: Parents, data: Iterable[str]) -> None:
    """Raise where a latent leads to no part of the data: nothing could be learned of it."""
    leading = set(data)
    for site in reversed(order):  # what it explains comes first
        if site in leading:
            leading.update(told.get(site, ()))
    for site in order:
        if site not in leading:
            raise ValueError(
                f"parents: {site}: explains nothing; expected a path from every latent site to the data "
                f"({', '.join(data)})"
            )


class GraphParts(Nets):
    """The parts of a pair along a graph, built from the arguments of a recipe."""

    def __init__(
        self,
        graph: Graph,
        likelihood: Mapping[str, Callable[..., Any]] | Callable[..., Any],
        prior: Any,
        posterior: Any,
        net: Net | None,
        hidden: Sequence[int] | None,
    ) -> None:
        self._graph, self._likelihoods = graph, each("likelihood", likelihood, graph.data)
        for part, built in self._likelihoods.items():
            checks.built_by(f"likelihood[{part!r}]" if isinstance(likelihood, Mapping) else "likelihood", built)
        self._prior = _some("prior", prior, graph.latents)
        self._posterior = _some("posterior", posterior, graph.latents)
        for site, family in self._posterior.items():
            checks.built_by(f"posterior[{site!r}]" if isinstance(posterior, Mapping) else "posterior", family)
        if not isinstance(prior, Mapping):  # which stands at the roots
            self._prior = {site: told for site, told in self._prior.items() if not graph.parents[site]}
        self.reads = graph.reads()
        self._found: dict[str, nn.Module] = {}  # posteriors, of which a prior may want one before its turn
        super().__init__(net, hidden)

    @cached_property
    def priors(self) -> dict[str, nn.Module]:
        """p(z_i | parents), by default N(0, I) at the roots."""
        return {site: self._prior_of(site, latent) for site, latent in self._graph.latents.items()}

    def likelihoods(self) -> dict[str, nn.Module]:
        """p(x_j | parents)."""
        return {part: self._likelihood(part, shape) for part, shape in self._graph.data.items()}

    @cached_property
    def posteriors(self) -> dict[str, nn.Module]:
        """q(z_i | what it reads)."""
        return {site: self._inferred(site) for site in self._graph.latents}

    def _prior_of(self, site: str, latent: Shape) -> nn.Module:
        above = self._shapes(self._graph.parents[site])
        prior = self._prior.get(site, Conditional if above else StandardNormal)
        parts: dict[str, Callable[[], Any]] = {
            "posterior": partial(self._read_alone, site),
            "data_shape": lambda: self._graph.data[self.reads[site][0]],
            "bounds": lambda: bounds(self._likelihoods[self.reads[site][0]], self._graph.data[self.reads[site][0]]),
        }
        if above:
            parts |= {"net": partial(self._leading, [*above], twice(latent)), "inside": partial(list, above)}
        return built_prior(f"prior: {site}", prior, latent, above, parts)

    def _read_alone(self, site: str) -> nn.Module:
        """q(z_i | x), for a prior that is made of it."""
        if len(self.reads[site]) > 1:
            raise ValueError(READS_MORE.format(" and ".join(self.reads[site]), site))
        return self._inferred(site)

    def _family(self, site: str) -> Callable[..., nn.Module]:
        """The family of q(z_i | ...), by default as the prior has it."""
        prior = self._prior.get(site)
        if site in self._posterior or prior is None or needs(prior, "posterior", "net"):
            return self._posterior.get(site, DiagonalNormal)
        return suited(f"prior: {site}", of(self.priors[site], self._shapes(self._graph.parents[site])))

    def _likelihood(self, part: str, shape: Shape) -> nn.Module:
        likelihood, above = self._likelihoods[part], self._shapes(self._graph.parents[part])
        with checks.plainly(f"{part}: "):
            decoder = self._telling([*above], likelihoods.decoder_shape(likelihood, shape), shape)
            return likelihood(decoder, above if len(above) > 1 else above[0], shape)

    def _inferred(self, site: str) -> nn.Module:
        if site not in self._found:
            names, latent = self.reads[site], self._graph.latents[site]
            inside, parts = self._shapes(names), [self._read(name) for name in names]
            with checks.plainly(f"{site}: "):
                family = self._family(site)
                encoder = self._reading(parts, encoder_shape(family, latent), _looked_at(inside))
                self._found[site] = family(encoder, inside if len(inside) > 1 else inside[0], latent[0])
        return self._found[site]

    def _shapes(self, sites: Iterable[str]) -> list[Shape]:
        return [self._graph.shapes[site] for site in sites]

    def _read(self, name: str) -> Part:
        """How a net reads a site: a part of the data as its likelihood lets it be read, codes as they are."""
        shape = self._graph.shapes[name]
        likelihood = self._likelihoods.get(name)
        return (likelihood and likelihoods.features(likelihood, shape)) or shape


def _looked_at(inside: Sequence[Shape]) -> Shape:
    """The image by which a net is chosen: convolutions read images of one size, beside which numbers are planes."""
    images = [shape for shape in inside if len(shape) == 3]
    alike = len({shape[1:] for shape in images}) == 1 and all(len(shape) in (1, 3) for shape in inside)
    return max(images, key=math.prod) if alike else ()
