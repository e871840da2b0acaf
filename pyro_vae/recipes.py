"""Recipes: one function per named variant, from networks and choices to a :class:`pyro_vae.Variant`.

The signature of a recipe is the only place where the hyper-parameters of a variant are named.
"""

import functools
import inspect
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from pyro_vae import checks, likelihoods, saving
from pyro_vae.guides import VAEGuide
from pyro_vae.infer import temper
from pyro_vae.likelihoods import Bernoulli
from pyro_vae.models import VAEModel
from pyro_vae.nets import MLP, Conv
from pyro_vae.posteriors import DiagonalNormal
from pyro_vae.priors import StandardNormal
from pyro_vae.variant import Variant

Recipe = Callable[..., Variant]
Net = Callable[..., nn.Module]

RECIPES: dict[str, Recipe] = {}


def recipe(function: Recipe, extends: Recipe | None = None) -> Recipe:
    """Enter a recipe into ``RECIPES``, and let its variants remember how they were built.

    The ``**options`` of a recipe that ``extends`` another are the keywords of that one, in its signature too.
    """
    signature = inspect.signature(function)
    if extends is not None:
        own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        inherited = [p for p in inspect.signature(extends).parameters.values() if p.kind is p.KEYWORD_ONLY]
        signature = signature.replace(parameters=own + inherited)

    @functools.wraps(function)
    def build(*args: Any, **kwargs: Any) -> Variant:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        variant = function(*args, **kwargs)
        variant.recipe = saving.Built(function.__name__, dict(bound.arguments))
        return variant

    build.__signature__ = signature  # type: ignore[attr-defined]
    build.extends = extends  # type: ignore[attr-defined]  # where its other arguments are described
    RECIPES[function.__name__] = build
    return build


def load(folder: str | Path, into: Variant | None = None) -> Variant:
    """Rebuild the pair that :meth:`Variant.save` wrote, or fill ``into`` where it was no recipe's.

    Raises:
        FileNotFoundError: where the folder holds no saved pair.
        ValueError: where a file is damaged, foreign or newer, or its weights belong to another pair.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> pair = load(vae(9, latent=2).save(folder))
    >>> pair.recipe.arguments["latent"]
    2
    """
    folder = Path(folder)
    config = saving.read_config(folder)
    if into is None:
        if config.get("recipe") is None:
            why = config.get("why", "the pair was no recipe's")
            raise ValueError(
                f"{folder}: cannot be rebuilt from its configuration ({why}); use pv.load(folder, into=variant)"
            )
        checks.known(f"{folder / saving.CONFIG}: recipe", config["recipe"], RECIPES)
        try:
            into = RECIPES[config["recipe"]](**{k: saving.decode(v) for k, v in config["arguments"].items()})
        except (TypeError, ValueError, KeyError) as error:
            raise ValueError(f"{folder / saving.CONFIG}: arguments that {config['recipe']} refuses: {error}") from None
    saving.read_weights(into, folder)
    return into


@recipe
def vae(
    data_shape: Sequence[int] | int,
    latent: int = 20,
    *,
    likelihood: Callable[..., nn.Module] = Bernoulli,
    net: Net | None = None,
    hidden: Sequence[int] | None = None,
    encoder: nn.Module | None = None,
    decoder: nn.Module | None = None,
) -> Variant:
    r"""p(x, z) = N(z; 0, I) p(x | z),   q(z | x) = N(z; loc(x), diag scale(x)^2)

    Args:
        data_shape: shape of one datum, (channels, height, width) for an image.
        latent: dimensions of the code z.
        likelihood: built as ``likelihood(decoder, latent, data_shape)``; a class of
            :mod:`pyro_vae.likelihoods`, or a ``functools.partial`` of one.
        net: builds encoder and decoder, as ``net(inside, outside)``; a class of :mod:`pyro_vae.nets`.
            By default convolutions for images of more than 1024 values, fully connected layers otherwise.
        hidden: widths of the hidden layers, from the data inwards; by default the net's own.
        encoder: in place of a built one, a module from (batch, \*data_shape) to (batch, 2 * latent). A built one
            reads the features that the likelihood names, such as log(1 + x) of counts; one of yours reads the data.
        decoder: in place of a built one, a module from (batch, latent) to (batch, \*data_shape), or to what
            :func:`pyro_vae.likelihoods.decoder_shape` says of the likelihood.

    Raises:
        ValueError: where an argument, or the output of a net of yours, has the wrong shape.

    Source: Kingma & Welling 2014, arXiv:1312.6114.

    >>> pair = vae((1, 28, 28), latent=8)
    >>> pair.sample(4).shape
    torch.Size([4, 1, 28, 28])
    """
    data_shape = checks.shape("data_shape", data_shape)
    latent = checks.positive_int("latent", latent)
    checks.built_by("likelihood", likelihood)
    if net is not None:
        checks.built_by("net", net)
    if encoder is not None and decoder is not None and (net is not None or hidden is not None):
        raise ValueError("net, hidden: encoder and decoder are both given, so that no net is built")
    if encoder is None:
        encoder = _encoder(net, hidden, likelihood, data_shape, (2 * latent,))
    if decoder is None:
        decoder = _decoder(net, hidden, likelihood, (latent,), data_shape)
    model = VAEModel(StandardNormal(latent), likelihood(decoder, latent, data_shape))
    guide = VAEGuide(DiagonalNormal(encoder, data_shape, latent))
    return Variant(model, guide)


@functools.partial(recipe, extends=vae)
def beta_vae(data_shape: Sequence[int] | int, beta: float = 4.0, latent: int = 20, **options: Any) -> Variant:
    r"""maximise E_q[log p(x | z)] - beta KL(q(z | x) || p(z))

    The story and the guide are those of :func:`vae`, whose ``options`` are taken; training weighs the KL.

    Raises:
        ValueError: where ``beta`` is negative or not finite.

    Source: Higgins et al. 2017, "beta-VAE", ICLR; beta < 1 trades rate for distortion the other way,
    Alemi et al. 2018, arXiv:1711.00464.

    >>> beta_vae((1, 28, 28), beta=2.0).handler
    temper(2.0)
    """
    pair = vae(data_shape, latent, **options)
    return Variant(pair.model, pair.guide, handler=temper(checks.real("beta", beta, least=0)))


def _encoder(
    net: Net | None,
    hidden: Sequence[int] | None,
    likelihood: Callable[..., Any],
    data_shape: tuple[int, ...],
    outside: tuple[int, ...],
) -> nn.Module:
    """From the data, as their likelihood lets them be read, to ``outside``."""
    features = likelihoods.features(likelihood, data_shape)
    inside = data_shape if features is None else features.outside
    built = _net(net, hidden, inside, outside, data_shape)
    return built if features is None else nn.Sequential(features, built)


def _decoder(
    net: Net | None,
    hidden: Sequence[int] | None,
    likelihood: Callable[..., Any],
    inside: tuple[int, ...],
    data_shape: tuple[int, ...],
) -> nn.Module:
    """From ``inside`` to what the likelihood of the data asks for."""
    outside = likelihoods.decoder_shape(likelihood, data_shape)
    return _net(net, hidden, inside, outside, data_shape, outwards=True)


def _net(
    net: Net | None,
    hidden: Sequence[int] | None,
    inside: tuple[int, ...],
    outside: tuple[int, ...],
    data: tuple[int, ...],
    outwards: bool = False,
) -> nn.Module:
    """A net that suits the data, from them or ``outwards`` to them; ``hidden`` is told from the data inwards."""
    large = len(data) == 3 and math.prod(data) > 1024 and min(data[1:]) >= 8
    build = net or (Conv if large else MLP)
    if hidden is None:
        return build(inside, outside)
    hidden = checks.shape("hidden", hidden)
    # a convolution counts from the image in both directions
    return build(inside, outside, hidden=hidden[::-1] if outwards and build is not Conv else hidden)
