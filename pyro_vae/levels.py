"""What a hierarchy is built of: priors, posteriors and nets, level by level from the data upwards."""

import inspect
import math
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from itertools import pairwise
from typing import Any

from torch import nn

from pyro_vae import checks, likelihoods
from pyro_vae.building import READS_MORE, Net, Part, bounds, large, outward
from pyro_vae.latents import built_prior, has_sites, needs, of, suited
from pyro_vae.nets import MLP, FlattenBatch, Joined, Resized, Spatial
from pyro_vae.nets.joined import joint
from pyro_vae.posteriors import DiagonalNormal, encoder_shape, twice
from pyro_vae.priors import Conditional, StandardNormal

WIDTH = 256  # of features that have no place in an image


class LevelParts:
    """The parts of a hierarchy, built from the arguments of a recipe."""

    def __init__(
        self,
        data_shape: Sequence[int] | int,
        latents: Sequence[Any],
        guide: str,
        likelihood: Callable[..., Any],
        prior: Any,
        posterior: Any,
        net: Net | None,
        hidden: Sequence[Any] | None,
    ) -> None:
        self.data_shape, self.latents = checks.shape("data_shape", data_shape), _latents(latents)
        self._guide, levels = guide, len(self.latents)
        self._prior = [*_each("prior", prior, levels, [None] * (levels - 1))]
        self._posterior = [*_each("posterior", posterior, levels, [posterior] * (levels - 1))]
        name = "posterior[{}]" if isinstance(posterior, Sequence) else "posterior"
        built = {name.format(i): family for i, family in enumerate(self._posterior) if family is not None}
        for name, part in {"likelihood": likelihood, **built}.items():
            checks.built_by(name, part)
        if net is not None:
            checks.built_by("net", net)
        in_space = large(self.data_shape) or any(len(latent) == 3 for latent in self.latents)
        self._likelihood = likelihood
        self._net: Net = net or (Spatial if in_space else MLP)
        self._in_space = getattr(self._net, "func", self._net) is Spatial  # a partial of it too
        self._hidden = _hidden(hidden, self._net, len(self.latents))

    @cached_property
    def priors(self) -> list[nn.Module]:
        """p(z_l | z_{l+1}), and p(z_L)."""
        found: list[nn.Module] = []
        for level, ((latent, above), hidden) in enumerate(zip(pairwise(self.latents), self._hidden[1:], strict=True)):
            net = partial(self._built, above, twice(latent), outward(self._net, hidden))
            prior = self._prior[level] or Conditional
            found.append(
                built_prior(f"prior[{level}]", prior, latent, [above], {"net": net, "inside": partial(tuple, above)})
            )
        parts = {"posterior": self._top, "data_shape": lambda: self.data_shape}
        parts["bounds"] = partial(bounds, self._likelihood, self.data_shape)
        return [*found, built_prior("prior", self._prior[-1] or StandardNormal, self.latents[-1], [], parts)]

    def _top(self) -> nn.Module:
        """q(z_L | x), for a prior that is made of it."""
        if self._guide == "top-down":
            features, posteriors = zip(*self.ladder, strict=True)
            return nn.Sequential(*features, posteriors[-1])
        if len(self.latents) > 1:
            raise ValueError(READS_MORE.format(f"z{len(self.latents) - 1}", f"z{len(self.latents)}"))
        return self.chain[0]

    def _family(self, level: int, *, ladder: bool = False) -> Callable[..., nn.Module]:
        """The family of q(z_l | ...), by default as the prior has it."""
        prior, top = self._prior[level], level == len(self.latents) - 1
        if self._posterior[level] is not None or prior is None or needs(prior, "posterior", "net"):
            return self._posterior[level] or DiagonalNormal
        if ladder and not top:  # which multiplies normals
            return DiagonalNormal
        return suited("prior", of(self.priors[level], self.latents[level + 1 : level + 2]))

    def likelihood(self, skip: bool) -> nn.Module:
        """p(x | z_1, ..., z_L), or p(x | z_1)."""
        codes = self.latents if skip else self.latents[:1]
        sizes = [latent[1:] for latent in codes if len(latent) == 3]
        image = bool(sizes) and self._in_space
        largest = max(sizes, key=math.prod, default=())
        parts: list[Part] = [
            Resized(latent, largest) if image and len(latent) == 3 and latent[1:] != largest else latent
            for latent in codes
        ]
        outside = likelihoods.decoder_shape(self._likelihood, self.data_shape)
        inside = joint(parts, image=image) if len(codes) > 1 else codes[0]
        built = self._built(inside, outside, outward(self._net, self._hidden[0]))
        decoder = Joined(built, parts, image=image) if len(codes) > 1 else built
        return self._likelihood(decoder, codes if len(codes) > 1 else codes[0], self.data_shape)

    def check_ladder(self) -> None:
        """Raise where a prior that the ladder multiplies by draws sites of its own, which it cannot share."""
        for level, (prior, above) in enumerate(zip(self.priors[:-1], self.latents[1:], strict=True)):
            if self._prior[level] is not None and has_sites(prior, [above]):
                raise ValueError(f"prior[{level}]: has sites of its own, which below the top needs guide='bottom-up'")

    @cached_property
    def ladder(self) -> list[tuple[nn.Module, nn.Module]]:
        """d_{l-1} -> d_l and q(z_l | d_l), for the guide from the top downwards."""
        found: list[tuple[nn.Module, nn.Module]] = []
        below, inside, read = self._data()
        for level, (latent, hidden) in enumerate(zip(self.latents, self._hidden, strict=True)):
            layers, outside = list(read), inside
            if hidden:
                in_space = len(latent) == 3 and self._in_space
                outside = (hidden[-1], *latent[1:]) if in_space else (WIDTH if self._in_space else hidden[-1],)
                layers += [self._built(inside, outside, hidden[:-1]), nn.ReLU()]
            family = self._family(level, ladder=True)
            head = self._built(outside, encoder_shape(family, latent), ())
            found.append((FlattenBatch(nn.Sequential(*layers), below, outside), family(head, outside, latent)))
            below, inside, read = outside, outside, []
        return found

    @cached_property
    def chain(self) -> list[nn.Module]:
        """q(z_l | z_{l-1}), for the guide from the data upwards."""
        found: list[nn.Module] = []
        below, inside, read = self._data()
        for level, (latent, hidden) in enumerate(zip(self.latents, self._hidden, strict=True)):
            family = self._family(level)
            net = self._built(inside, encoder_shape(family, latent), hidden)
            found.append(family(nn.Sequential(*read, net), below, latent))
            below, inside, read = latent, latent, []
        return found

    def _built(self, inside: tuple[int, ...], outside: tuple[int, ...], hidden: tuple[int, ...]) -> nn.Module:
        with checks.plainly(f"net: from {inside} to {outside}: "):
            return self._net(inside, outside, hidden=hidden)

    def _data(self) -> tuple[tuple[int, ...], tuple[int, ...], list[nn.Module]]:
        """The shape of the data, that of the features by which they are read, and the net that gives these."""
        features = likelihoods.features(self._likelihood, self.data_shape)
        return self.data_shape, features.outside if features else self.data_shape, [features] if features else []


def _latents(latents: Any) -> list[tuple[int, ...]]:
    if not isinstance(latents, Sequence) or isinstance(latents, str) or not latents:
        raise ValueError(f"latents: expected one entry per level, such as (32, 16), found {latents!r}")
    return [checks.latent(latent, f"latents[{i}]") for i, latent in enumerate(latents)]


def _each(name: str, value: Any, levels: int, below: list[Any]) -> list[Any]:
    """An argument for each level, from the data upwards: a sequence of as many, or one for the top and ``below``."""
    if not isinstance(value, Sequence):
        return [*below, value]
    if len(value) != levels:
        raise ValueError(f"{name}: expected one for the top level, or one for each of {levels}, found {len(value)}")
    return list(value)


def _hidden(hidden: Any, net: Net, levels: int) -> list[tuple[int, ...]]:
    """The hidden layers of each level: the same for all, one sequence per level, or the net's own."""
    parameters = inspect.signature(net).parameters
    if "hidden" not in parameters:
        raise ValueError("net: expected one that is built as net(inside, outside, hidden=...), found no such argument")
    hidden = parameters["hidden"].default if hidden is None else hidden
    if not isinstance(hidden, Sequence) or isinstance(hidden, str):
        raise ValueError(f"hidden: expected widths such as (400,), or such widths for each level, found {hidden!r}")
    if not any(isinstance(widths, Sequence) for widths in hidden):
        return [tuple(checks.positive_int(f"hidden[{i}]", width) for i, width in enumerate(hidden))] * levels
    if len(hidden) != levels or not all(isinstance(widths, Sequence) for widths in hidden):
        raise ValueError(f"hidden: expected a sequence of widths for each of {levels} levels, found {hidden!r:.60}")
    return [
        tuple(checks.positive_int(f"hidden[{i}][{j}]", width) for j, width in enumerate(widths))
        for i, widths in enumerate(hidden)
    ]
