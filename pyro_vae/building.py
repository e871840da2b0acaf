"""What recipes have in common: networks that suit the data, the prior and the likelihood, and the parts around them."""

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import nn
from torch.distributions import OneHotCategorical

from pyro_vae import checks, families, likelihoods, posteriors
from pyro_vae.distributions import Codes
from pyro_vae.latents import PROBES, built_prior, has_sites, needs, of, suited
from pyro_vae.nets import MLP, Conv, Discriminator, FlattenBatch, GatedMLP, Joined, OneHot, VariationalMLP
from pyro_vae.nets.features import Features
from pyro_vae.nets.joined import joint
from pyro_vae.posteriors import Classifier, DiagonalNormal, encoder_shape, twice
from pyro_vae.priors import Categorical, Classes, Given
from pyro_vae.tracing import seeded

Net = Callable[..., nn.Module]
Part = Features | tuple[int, ...]  # what a net reads: by its features, or by its shape where it is taken as it is


READS_MORE = (
    "prior: a mixture of posteriors (Vamp) needs a guide whose posterior is a function of the data alone; here that of "
    "{1} reads {0}"
)


@dataclass(frozen=True)
class Condition:
    """A condition: its density, the shape of its values, () of a label, and how nets read it."""

    density: Callable[[], nn.Module]
    shape: tuple[int, ...]
    read: Callable[[], Part]


def label(classes: int) -> Condition:
    """A class label, uniform over its classes."""
    return Condition(partial(Classes, classes), (), partial(OneHot, (), classes))


def vector(shape: Sequence[int] | int) -> Condition:
    """A vector, or anything else with a shape, without a density."""
    shape = checks.shape("condition_shape", shape)
    return Condition(partial(Given, shape), shape, lambda: shape)


def category(classes: int) -> Condition:
    """A class that is drawn, one-hot."""
    shape = (1, checks.several("classes", classes))
    return Condition(partial(Categorical, shape), shape, lambda: shape)


class Nets:
    """Networks of the kind, and with the hidden layers, that a recipe was asked for."""

    def __init__(self, net: Net | None, hidden: Sequence[int] | None) -> None:
        if net is not None:
            checks.built_by("net", net)
        self._net = net
        self._hidden = None if hidden is None else checks.shape("hidden", hidden)
        self._used = False

    def check_used(self) -> None:
        """Raise where what was said of the networks has built none."""
        if not self._used and (self._net is not None or self._hidden is not None):
            raise ValueError("net, hidden: encoder and decoder are given, so that no net is built")

    def _reading(
        self, parts: list[Part], outside: tuple[int, ...], data: tuple[int, ...], build: Net | None = None
    ) -> nn.Module:
        """A net that reads ``data``, the first of the parts, and what is laid beside them."""
        build = build or self._suited(data)
        first = parts[0]
        shape = first.outside if isinstance(first, Features) else first
        if len(parts) == 1:
            built = self._built(build, shape, outside)
            return nn.Sequential(first, built) if isinstance(first, Features) else built
        image = len(shape) == 3 and not _flattens(build)
        return Joined(self._built(build, joint(parts, image=image), outside), parts, image=image)

    def _telling(
        self, parts: list[Part], outside: tuple[int, ...], data: tuple[int, ...], build: Net | None = None
    ) -> nn.Module:
        """A net from codes, and what is laid beside them, to ``outside``, which tells of ``data``."""
        return self._outwards(build or self._suited(data), parts, outside)

    def _leading(self, parts: list[Part], outside: tuple[int, ...]) -> nn.Module:
        """A net from codes to another code."""
        return self._outwards(self._flat(), parts, outside)

    def _outwards(self, build: Net, parts: list[Part], outside: tuple[int, ...]) -> nn.Module:
        built = self._built(build, joint(parts, image=False), outside, outwards=True)
        return Joined(built, parts) if len(parts) > 1 else built

    def _suited(self, data: tuple[int, ...]) -> Net:
        return self._net or (Conv if large(data) else MLP)

    def _flat(self) -> Net:
        """The net between vectors."""
        return self._net if self._net is not None and _flattens(self._net) else MLP

    def _built(
        self, build: Net, inside: tuple[int, ...], outside: tuple[int, ...], outwards: bool = False
    ) -> nn.Module:
        """A net from ``inside`` to ``outside``; ``hidden`` is told from the data inwards."""
        self._used = True
        if self._hidden is None:
            return build(inside, outside)
        return build(inside, outside, hidden=outward(build, self._hidden) if outwards else self._hidden)


class PairParts(Nets):
    """The parts that recipes have in common, built from the arguments that they share; each is built once."""

    def __init__(
        self,
        data_shape: Sequence[int] | int,
        latent: Sequence[int] | int,
        likelihood: Callable[..., Any],
        prior: Any,
        posterior: Callable[..., nn.Module] | None,
        net: Net | None,
        hidden: Sequence[int] | None,
        encoder: nn.Module | Net | None,
        decoder: nn.Module | Net | None,
        given: Sequence[Condition] = (),
        *,
        posterior_reads: bool = True,
        decoder_reads: bool = True,
    ) -> None:
        """``posterior_reads`` and ``decoder_reads`` tell whether these read what is given, as the prior does."""
        self.data_shape = checks.shape("data_shape", data_shape)
        self.code = checks.latent(latent)
        self.latent = self.code if len(self.code) > 1 else self.code[0]
        checks.built_by("likelihood", likelihood)
        if posterior is not None:
            checks.built_by("posterior", posterior)
        for name, given_net in (("encoder", encoder), ("decoder", decoder)):
            if given_net is not None and not isinstance(given_net, nn.Module):
                checks.built_by(name, given_net)
        self._likelihood, self._prior, self._posterior = likelihood, prior, posterior
        self._encoder, self._decoder, self._given = encoder, decoder, given
        self._read = given if posterior_reads else ()
        self._told = given if decoder_reads else ()
        super().__init__(net, hidden)

    @cached_property
    def posterior(self) -> nn.Module:
        """q(z | x, given), of an encoder of the user's or of a built one."""
        family, encoder, given = self._posterior or self._suited_posterior(), self._encoder, self._read
        if not isinstance(encoder, nn.Module):
            parts = [self._data(), *(c.read() for c in given)]
            encoder = self._reading(parts, encoder_shape(family, self.latent), self.data_shape, encoder)
        inside = [self.data_shape, *(c.shape for c in given)] if given else self.data_shape
        return family(encoder, inside, self.latent)

    def _suited_posterior(self) -> Callable[..., nn.Module]:
        if needs(self._prior, "posterior", "net"):  # normal, and built after the encoder
            return DiagonalNormal
        return suited("prior", of(self.prior, [c.shape for c in self._given]))

    def classifier(self, classifier: nn.Module | None, classes: int) -> nn.Module:
        """q(c | x)."""
        classifier = classifier or self._reading([self._data()], (classes,), self.data_shape)
        return Classifier(classifier, self.data_shape, classes)

    def classes(self, classifier: nn.Module | None) -> nn.Module:
        """q(c | x), one-hot."""
        (c,) = self._given
        classifier = classifier or self._reading([self._data()], c.shape[1:], self.data_shape)
        checks.net("classifier", classifier, [self.data_shape], c.shape[1:])
        return posteriors.Categorical(classifier, self.data_shape, c.shape)

    def check_one_hot(self, *, independent: bool) -> None:
        """Raise where the prior is none of categorical codes, or not of independent ones where these are asked for."""
        prior = of(self.prior, [c.shape for c in self._given])
        if independent and not isinstance(families.base(prior), Codes | OneHotCategorical):
            raise ValueError(
                f"prior: a relaxation needs independent codes, such as those of pv.priors.Categorical, found "
                f"{families.family(prior)}; use estimator='score' or 'enumerate'"
            )
        if not families.is_one_hot(prior.support):
            raise ValueError(
                f"prior: expected one over one-hot codes, such as pv.priors.Categorical, found {families.family(prior)}"
            )

    def of_codes(self, classifier: nn.Module | None, classes: int) -> nn.Module:
        """q(c | z)."""
        return Classifier(classifier or MLP(self.code, classes, hidden=(64,)), self.code, classes)

    def check_drawn(self) -> None:
        """Raise where the prior cannot be drawn from, or not under every class."""
        prior, (c,) = self.prior, self._given or (None,)
        classes = [] if c is None else [c.density()().enumerate_support()]
        n = len(classes[0]) if classes else PROBES
        if has_sites(prior, [] if c is None else [c.shape]):
            raise ValueError("prior: expected one without sample sites of its own, which no discriminator sees")
        try:
            with torch.no_grad(), seeded(0), poutine.block(), pyro.plate("data", n):
                found = prior(*classes)
                drawn = found.sample()
        except Exception as error:  # whatever a prior of the user's may raise
            under = f" under each of {n} classes" if classes else ""
            raise ValueError(f"prior: cannot be sampled{under}: {' '.join(str(error).split())}") from None
        if not torch.isfinite(drawn).all():
            raise ValueError("prior: expected finite draws, found NaN or infinite ones")
        if classes and tuple(found.batch_shape[-1:]) != (n,):
            raise ValueError(
                f"prior: expected one that is given the class, such as pv.priors.Ring, found {families.family(found)}, "
                "which is the same for all classes"
            )

    def discriminator(self, discriminator: nn.Module | Net | None, shape: tuple[int, ...]) -> nn.Module:
        """One number, from samples of a shape."""
        if not isinstance(discriminator, nn.Module):
            build = discriminator or Discriminator
            checks.built_by("discriminator", build)
            discriminator = build(shape, (1,))
        checks.net("discriminator", discriminator, [shape], (1,))
        return discriminator

    def critic(self, critic: nn.Module | None) -> nn.Module:
        """One number for each datum."""
        critic = critic or self._reading([self._data()], (1,), self.data_shape)
        checks.net("baseline", critic, [self.data_shape], (1,))
        return FlattenBatch(critic, self.data_shape, ())

    @cached_property
    def likelihood(self) -> nn.Module:
        """p(x | z, given)."""
        code, decoder = self.code, self._decoder
        if not isinstance(decoder, nn.Module):
            outside = likelihoods.decoder_shape(self._likelihood, self.data_shape)
            decoder = self._telling([code, *(c.read() for c in self._told)], outside, self.data_shape, decoder)
        latent = [code, *(c.shape for c in self._told)] if self._told else self.latent
        return self._likelihood(decoder, latent, self.data_shape)

    @cached_property
    def prior(self) -> nn.Module:
        """p(z | given), its net built where it takes one."""
        inside = [c.shape for c in self._given]
        parts: dict[str, Callable[[], Any]] = {"posterior": self._read_alone, "bounds": self._bounds}
        parts["data_shape"] = lambda: self.data_shape
        if self._given and not inside[0]:
            parts["classes"] = lambda: len(self._given[0].density()().enumerate_support())
        if self._given:
            parts |= {"net": self._conditional, "inside": lambda: inside[0]}
        return built_prior("prior", self._prior, self.code, inside, parts)

    def _conditional(self) -> nn.Module:
        """A net from the condition to the parameters of a normal prior."""
        (given,) = self._given
        part, outside = given.read(), twice(self.code)
        if len(given.shape) == 3:
            return self._reading([part], outside, given.shape)
        if given.shape:
            return self._built(self._flat(), joint([part], image=False), outside)
        return Joined(MLP(joint([part], image=False), outside, hidden=()), [part])  # of a label, a table

    def _read_alone(self) -> nn.Module:
        """The posterior, for a prior that is made of it."""
        if self._read:
            raise ValueError(READS_MORE.format("x and c", "z"))
        return self.posterior

    def _bounds(self) -> tuple[float, float] | None:
        with torch.no_grad():
            return families.bounds(of(self.likelihood, [self.code, *(c.shape for c in self._told)]))

    def _data(self) -> Part:
        """How a net reads the data: as they are, or as their likelihood lets them be read."""
        return likelihoods.features(self._likelihood, self.data_shape) or self.data_shape


def outward(build: Net, hidden: tuple[int, ...]) -> tuple[int, ...]:
    """The hidden layers of a net that leads towards the data, told from the data inwards."""
    return hidden if build is Conv else hidden[::-1]  # a Conv counts from the image in both directions


def bounds(likelihood: Callable[..., Any], data_shape: tuple[int, ...]) -> tuple[float, float] | None:
    """The least and the greatest value of data under a likelihood; None where they may be any real numbers."""
    outside = likelihoods.decoder_shape(likelihood, data_shape)
    return families.bounds(of(likelihood(nn.Linear(1, math.prod(outside)), 1, data_shape), [(1,)]))


def large(data_shape: tuple[int, ...]) -> bool:
    """Whether data are images that are better read by convolutions."""
    return len(data_shape) == 3 and math.prod(data_shape) > 1024 and min(data_shape[1:]) >= 8


def _flattens(build: Net) -> bool:
    """Whether a net lays an image out as a vector before anything else."""
    built = build.func if isinstance(build, partial) else build
    return inspect.isclass(built) and issubclass(built, MLP | GatedMLP | VariationalMLP)
