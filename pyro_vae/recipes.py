"""Recipes: one function per named variant, from networks and choices to a :class:`pyro_vae.Variant`.

The signature of a recipe is the only place where the hyper-parameters of a variant are named.
"""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial, wraps
from pathlib import Path
from typing import Any

from pyro.poutine.messenger import Messenger
from torch import nn
from torch.distributions import Distribution

from pyro_vae import checks, graphs, saving
from pyro_vae.building import Net, PairParts, category, label, vector
from pyro_vae.completing import completed
from pyro_vae.distributions.codes import check_combinations
from pyro_vae.guides import (
    AAEGuide,
    BottomUpGuide,
    CVAEGuide,
    DAGGuide,
    DiscreteGuide,
    JointGuide,
    M2Guide,
    TopDownGuide,
    VAEGuide,
    VQGuide,
)
from pyro_vae.infer import AAE, VAEGAN, Anneal, Baseline, enumerated, relaxed, temper
from pyro_vae.infer.vae_gan import check_features
from pyro_vae.latents import Fixed
from pyro_vae.levels import LevelParts
from pyro_vae.likelihoods import Bernoulli, Normal
from pyro_vae.maps import MapParts
from pyro_vae.models import AAEModel, CVAEModel, DAGModel, HVAEModel, JointModel, VAEModel
from pyro_vae.nets import Discriminator, Strided
from pyro_vae.priors import Categorical, Conditional, PixelCNN, Ring, Sampled, StandardNormal
from pyro_vae.variant import Variant

Recipe = Callable[..., Variant]

RECIPES: dict[str, Recipe] = {}
SQUASHED = partial(Normal, scale=0.2, squashed=True)
ESTIMATORS = ("enumerate", "relaxed", "score", "straight-through")


def recipe(function: Recipe, extends: Recipe | None = None) -> Recipe:
    """Enter a recipe into ``RECIPES``, and let its variants remember how they were built.

    The ``**options`` of a recipe that ``extends`` another are the keywords of that one, in its signature too.
    """
    signature = inspect.signature(function)
    if extends is not None:
        own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        inherited = [p for p in inspect.signature(extends).parameters.values() if p.kind is p.KEYWORD_ONLY]
        signature = signature.replace(parameters=own + inherited)

    @wraps(function)
    def build(*args: Any, **kwargs: Any) -> Variant:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        variant = function(*args, **kwargs)
        variant.recipe = saving.Built(function.__name__, saving.kept(bound.arguments))
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
    prior: Callable[..., Any] = StandardNormal,
    likelihood: Callable[..., nn.Module] = Bernoulli,
    posterior: Callable[..., nn.Module] | None = None,
    net: Net | None = None,
    hidden: Sequence[int] | None = None,
    encoder: nn.Module | Net | None = None,
    decoder: nn.Module | Net | None = None,
) -> Variant:
    r"""p(x, z) = p(z) p(x | z),   by default p(z) = N(z; 0, I),   q(z | x) = N(z; loc(x), diag scale(x)^2)

    Args:
        data_shape: shape of one datum, (channels, height, width) for an image.
        latent: dimensions of the code z.
        prior: p(z): a class of :mod:`pyro_vae.priors`, or a ``functools.partial`` of one, built as ``prior(latent)``;
            or any callable without a ``latent`` that returns a distribution over codes, which may have sample sites of
            its own: the guide then draws them too (:class:`pyro_vae.guides.Amortised`).
        likelihood: built as ``likelihood(decoder, latent, data_shape)``; a class of
            :mod:`pyro_vae.likelihoods`, or a ``functools.partial`` of one.
        posterior: built as ``posterior(encoder, data_shape, latent)``; a class of :mod:`pyro_vae.posteriors` over
            codes, or a ``functools.partial`` of one. By default as the support of the prior has it: diagonal normal,
            rectified normal, von Mises-Fisher on a sphere, or a normal mapped onto another support.
        net: builds encoder and decoder, as ``net(inside, outside)``; a class of :mod:`pyro_vae.nets`.
            By default convolutions for images of more than 1024 values, fully connected layers otherwise.
        hidden: widths of the hidden layers, from the data inwards; by default the net's own.
        encoder: what builds the encoder, where it is another ``net`` than the decoder's; or in place of a built one, a
            module from (batch, \*data_shape) to (batch, 2 * latent), or to what
            :func:`pyro_vae.posteriors.encoder_shape` says of the posterior. A built one reads the features that the
            likelihood names, such as log(1 + x) of counts; one of yours reads the data.
        decoder: likewise, what builds it, such as :class:`pyro_vae.nets.VariationalMLP`; or a module from
            (batch, latent) to (batch, \*data_shape), or to what :func:`pyro_vae.likelihoods.decoder_shape` says of the
            likelihood.

    Raises:
        ValueError: where an argument, or the output of a net of yours, has the wrong shape; where prior and posterior
            do not fit.

    Source: Kingma & Welling 2014, arXiv:1312.6114.

    >>> pair = vae((1, 28, 28), latent=8)
    >>> pair.sample(4).shape
    torch.Size([4, 1, 28, 28])
    """
    parts = PairParts(data_shape, latent, likelihood, prior, posterior, net, hidden, encoder, decoder)
    guide = VAEGuide(parts.posterior)
    model = VAEModel(parts.prior, parts.likelihood)
    parts.check_used()
    return Variant(model, completed(model, guide))


@partial(recipe, extends=vae)
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


@recipe
def cvae(
    data_shape: Sequence[int] | int,
    latent: int = 20,
    *,
    classes: int | None = None,
    condition_shape: Sequence[int] | int | None = None,
    prior: Callable[..., Any] = Conditional,
    likelihood: Callable[..., nn.Module] = Bernoulli,
    posterior: Callable[..., nn.Module] | None = None,
    net: Net | None = None,
    hidden: Sequence[int] | None = None,
    encoder: nn.Module | Net | None = None,
    decoder: nn.Module | Net | None = None,
) -> Variant:
    r"""p(x, z | c) = p(z | c) p(x | z, c),   q(z | x, c) = N(z; loc(x, c), diag scale(x, c)^2)

    The condition c is a class label or a vector, such as an embedding, or a part of an image whose rest is x (see
    :class:`pyro_vae.data.Quadrants`). It is given, never explained: every bound is on log p(x | c).

    Args:
        data_shape: shape of one datum, (channels, height, width) for an image.
        latent: dimensions of the code z.
        classes: how many, where c is a class label, a whole number from 0; 10 where nothing is said. The model then
            draws c uniformly where it is not given.
        condition_shape: shape of c, where it is no label. Such a c must always be given.
        prior: of the code, built as ``prior(latent, net=net, inside=condition_shape)`` where it depends on the
            condition, as :class:`pyro_vae.priors.Conditional`; or as ``prior(latent)`` where z and c are to be
            independent, as :class:`pyro_vae.priors.StandardNormal`; or any callable that returns a distribution, given
            c where it takes an argument.
        likelihood: built as ``likelihood(decoder, [(latent,), condition_shape], data_shape)``; a class of
            :mod:`pyro_vae.likelihoods`, or a ``functools.partial`` of one.
        posterior: built as ``posterior(encoder, [data_shape, condition_shape], latent)``; see :func:`vae`.
        net: builds encoder, decoder and the net of the prior, as ``net(inside, outside)``; a class of
            :mod:`pyro_vae.nets`. Labels are read one-hot; conditions are laid beside the data, for a convolution as
            channels.
        hidden: widths of the hidden layers, from the data inwards; by default the net's own.
        encoder: what builds it, where it is another ``net``; or in place of a built one, a module that takes data
            (batch, \*data_shape) and conditions (batch, \*condition_shape), labels as integers (batch,), to (batch, 2
            * latent).
        decoder: likewise what builds it; or in place of a built one, a module that takes codes (batch, latent) and
            conditions to (batch, \*data_shape), or to what :func:`pyro_vae.likelihoods.decoder_shape` says of the
            likelihood.

    Raises:
        ValueError: where ``classes`` and ``condition_shape`` are both given, where an argument, or the output of a
            net of yours, has the wrong shape.

    Source: Sohn, Lee & Yan 2015, "Learning structured output representation using deep conditional generative
    models", NIPS.

    >>> pair = cvae((1, 28, 28), latent=8, classes=10)
    >>> pair.sample(4, c=[7, 7, 1, 0]).shape
    torch.Size([4, 1, 28, 28])
    """
    if classes is not None and condition_shape is not None:
        raise ValueError("classes, condition_shape: expected one of them; a condition is a label or has a shape")
    c = label(10 if classes is None else classes) if condition_shape is None else vector(condition_shape)
    parts = PairParts(data_shape, latent, likelihood, prior, posterior, net, hidden, encoder, decoder, [c])
    model = CVAEModel(c.density(), parts.prior, parts.likelihood)
    guide = CVAEGuide(parts.posterior)
    parts.check_used()
    return Variant(model, completed(model, guide, c=c.shape), conditions=("c",))


@recipe
def m2(
    data_shape: Sequence[int] | int,
    latent: int = 50,
    *,
    classes: int = 10,
    weight: float = 0.0,
    prior: Callable[..., Any] = StandardNormal,
    likelihood: Callable[..., nn.Module] = Bernoulli,
    posterior: Callable[..., nn.Module] | None = None,
    net: Net | None = None,
    hidden: Sequence[int] | None = None,
    encoder: nn.Module | Net | None = None,
    decoder: nn.Module | Net | None = None,
    classifier: nn.Module | None = None,
) -> Variant:
    r"""p(x, z, c) = p(c) p(z) p(x | z, c),   q(c, z | x) = q(c | x) N(z; loc(x, c), diag scale(x, c)^2)

    The story of :func:`cvae`, whose class labels c are known for some of the data and latent in the others. A batch
    without ``c`` is summed over all classes (:class:`pyro.infer.TraceEnum_ELBO`, which :func:`pyro_vae.fit` takes of
    itself); in data for ``fit`` and ``evaluate`` a label of -1 is one that is missing. Bounds are on log p(x, c)
    where the label is given and on log p(x) where it is not.

    Args:
        data_shape: shape of one datum, (channels, height, width) for an image.
        latent: dimensions of the code z.
        classes: how many; labels are whole numbers from 0.
        weight: of the classification loss of a labelled datum, -log q(c | x), against its ELBO; 0 for none. The alpha
            of the paper is ``weight`` times the number of labelled data.
        prior: of the code, by default independent of c; see :func:`cvae`.
        likelihood, posterior: see :func:`cvae`.
        net: builds encoder, decoder and classifier, as ``net(inside, outside)``; a class of :mod:`pyro_vae.nets`.
        hidden: widths of the hidden layers, from the data inwards; by default the net's own.
        encoder: what builds it, where it is another ``net``; or in place of a built one, a module from data (batch,
            \*data_shape) and labels, integers (batch,), to (batch, 2 * latent).
        decoder: likewise what builds it; or in place of a built one, a module from codes (batch, latent) and labels to
            (batch, \*data_shape), or to what :func:`pyro_vae.likelihoods.decoder_shape` says of the likelihood.
        classifier: in place of a built one, a module from (batch, \*data_shape) to (batch, classes).

    Raises:
        ValueError: where ``weight`` is negative, an argument, or the output of a net of yours, has the wrong shape.

    Source: Kingma, Rezende, Mohamed & Welling 2014, arXiv:1406.5298.

    >>> pair = m2((1, 28, 28), latent=8)
    >>> pair.classify(torch.zeros(3, 1, 28, 28)).shape
    torch.Size([3, 10])
    """
    c = label(classes)
    parts = PairParts(data_shape, latent, likelihood, prior, posterior, net, hidden, encoder, decoder, [c])
    model = CVAEModel(c.density(), parts.prior, parts.likelihood)
    weight = checks.real("weight", weight, least=0)
    guide = M2Guide(parts.classifier(classifier, classes), parts.posterior, weight)
    parts.check_used()
    return Variant(model, completed(model, guide, c=c.shape), labels=("c",))


@recipe
def hvae(
    data_shape: Sequence[int] | int,
    latents: Sequence[int] | Sequence[Sequence[int]] = (32, 16),
    guide: str = "top-down",
    *,
    skip: bool = True,
    prior: Callable[..., Any] | Sequence[Callable[..., Any] | None] = StandardNormal,
    likelihood: Callable[..., nn.Module] = Bernoulli,
    posterior: Callable[..., nn.Module] | Sequence[Callable[..., nn.Module] | None] | None = None,
    net: Net | None = None,
    hidden: Sequence[int] | Sequence[Sequence[int]] | None = None,
) -> Variant:
    r"""p(x, z) = p(z_L) p(z_{L-1} | z_L) ... p(z_1 | z_2) p(x | z_1, ..., z_L)

    A code of codes, in as many levels as there are ``latents``: ``z1`` next to the data, up to ``zL``, whose prior is
    N(0, I). All others are normal with mean and scale from a network of the level above.

    Args:
        data_shape: shape of one datum, (channels, height, width) for an image.
        latents: of each level, from the data upwards, its dimensions, or its shape (channels, height, width) where it
            lies in space: ((4, 14, 14), (8, 7, 7), 16). On the command line, dimensions alone.
        guide: ``"top-down"``, the ladder: q(z_L | x) ... q(z_1 | x, z_2), which multiplies what the features of the
            data say of a level by what the model's own prior says; or ``"bottom-up"``: q(z_1 | x) q(z_2 | z_1) ...,
            for which Pyro's TraceMeanField_ELBO has no right closed forms.
        skip: whether the data see all levels; else p(x | z_1).
        prior: p(z_L), as for :func:`vae`; or a sequence with that of each level, from the data upwards: below the top
            built as ``prior(latent, net=net, inside=latent_above)``, as :class:`pyro_vae.priors.Conditional`, which
            stands for None, or any callable given z_{l+1}. The ladder needs diagonal normals below the top.
        likelihood: built as ``likelihood(decoder, latents, data_shape)``, of one latent's shape without ``skip``; a
            class of :mod:`pyro_vae.likelihoods`, or a ``functools.partial`` of one.
        posterior: built as ``posterior(encoder, inside, latent)`` for each level; a class of
            :mod:`pyro_vae.posteriors` over codes, or a ``functools.partial`` of one; or a sequence with one for each
            level, from the data upwards, None for the default, which follows the prior.
        net: builds all networks, as ``net(inside, outside, hidden=...)``, between shapes of any kind:
            :class:`pyro_vae.nets.MLP`, GatedMLP, or Spatial, convolutions, which is the default where a latent lies in
            space or data are images of more than 1024 values.
        hidden: widths of the hidden layers of every network, from the data inwards; or a sequence of such widths, one
            for each level, whose networks are those between it and what is below it, in both directions.

    Raises:
        ValueError: where there are no levels, a level has no width, ``guide`` is unknown, or an argument does not fit.

    Source: Soenderby et al. 2016, arXiv:1602.02282 (top-down); Rezende, Mohamed & Wierstra 2014, arXiv:1401.4082, and
    Burda, Grosse & Salakhutdinov 2016, arXiv:1509.00519 (bottom-up).

    >>> pair = hvae((1, 28, 28), latents=(32, 16, 8))
    >>> list(pair.encode(x=torch.zeros(2, 1, 28, 28)))
    ['z3', 'z2', 'z1']
    """
    checks.known("guide", guide, ["bottom-up", "top-down"])
    checks.instance("skip", skip, bool)
    parts = LevelParts(data_shape, latents, guide, likelihood, prior, posterior, net, hidden)
    model = HVAEModel(parts.priors, parts.likelihood(skip), skip)
    if guide == "bottom-up":
        return Variant(model, completed(model, BottomUpGuide(parts.chain)))
    parts.check_ladder()
    features, posteriors = zip(*parts.ladder, strict=True)
    return Variant(model, completed(model, TopDownGuide(features, posteriors, parts.priors[:-1])))


@recipe
def dag_vae(
    data_shape: Mapping[str, Sequence[int] | int] | Sequence[int] | int,
    parents: Mapping[str, Sequence[str]] | None = None,
    latent: Mapping[str, int] | int = 8,
    *,
    likelihood: Mapping[str, Callable[..., nn.Module]] | Callable[..., nn.Module] = Bernoulli,
    prior: Mapping[str, Callable[..., Any]] | Callable[..., Any] = StandardNormal,
    posterior: Mapping[str, Callable[..., nn.Module]] | Callable[..., nn.Module] | None = None,
    net: Net | None = None,
    hidden: Sequence[int] | None = None,
) -> Variant:
    r"""p(x, z) = prod_i p(z_i | parents of z_i) prod_j p(x_j | parents of x_j)

    Codes along the arrows of any graph without cycles, a tree for one, and data in one part or several, each explained
    by codes of its own. Roots have the prior N(0, I); all others are normal with mean and scale from a network of their
    parents. The guide draws the codes in the order of the model and gives each what its exact posterior depends on,
    of the data and of the codes before it; ``print`` shows both programs.

    Args:
        data_shape: shape of one datum, whose site is then ``x``; or a mapping from the parts of the data to their
            shapes, such as {"left": (1, 28, 14), "right": (1, 28, 14)}: a batch is then such a mapping.
        parents: a mapping from latent sites and parts of the data to the latent sites that explain them, such as
            {"z1": ["z3"], "z2": ["z3"], "left": ["z1"], "right": ["z2"]}. What has no entry, or an empty one, is a
            root. By default z3 explains z1 and z2, and these all of the data. As options of the command line:
            --parents.z1 z3 --parents.z2 z3 --parents.x z1,z2.
        latent: dimensions of all latent sites, or a mapping from each of them to its dimensions.
        likelihood: built as ``likelihood(decoder, latents, data_shape)``, of the shapes of the parents, of one its
            shape; a class of :mod:`pyro_vae.likelihoods`, a ``functools.partial`` of one, or a mapping from the parts
            of the data to such.
        prior: of the roots, as for :func:`vae`; or a mapping with those of some latent sites: of one with parents built
            as ``prior(latent, net=net, inside=shapes)``, as :class:`pyro_vae.priors.Conditional`, or any callable that
            is given the parents.
        posterior: built as ``posterior(encoder, inside, latent)`` for each latent site; a class of
            :mod:`pyro_vae.posteriors` over codes, or a ``functools.partial`` of one; or a mapping with those of some
            sites. By default it follows the prior.
        net: builds encoders and decoders, as ``net(inside, outside)``; a class of :mod:`pyro_vae.nets`. By default
            convolutions for images of more than 1024 values, fully connected layers otherwise. Several images of one
            size are read side by side as channels, codes as planes. Between codes layers are fully connected.
        hidden: widths of the hidden layers of every network, from the data inwards; by default the net's own.

    Raises:
        ValueError: where the graph has a cycle; a latent explains nothing, or nothing explains a part of the data;
            a part of the data is named as a parent; a name is no identifier, is taken, or is no site; a site has
            no width, or another argument does not fit.

    Source: Webb et al. 2018, arXiv:1712.00287 (the guide); Kingma & Welling 2014, arXiv:1312.6114.

    >>> halves = {"left": (1, 28, 14), "right": (1, 28, 14)}
    >>> pair = dag_vae(halves, parents={"z1": ["z3"], "z2": ["z3"], "left": ["z1"], "right": ["z2"]})
    >>> print(pair.model.__doc__, pair.guide.__doc__, sep="\n")
    p(x, z) = p(z3) p(z1 | z3) p(z2 | z3) p(left | z1) p(right | z2)
    q(z | x) = q(z3 | left, right) q(z1 | left, z3) q(z2 | right, z3)
    >>> pair.sample(4)["left"].shape
    torch.Size([4, 1, 28, 14])
    """
    graph = graphs.read(data_shape, parents, latent)
    parts = graphs.GraphParts(graph, likelihood, prior, posterior, net, hidden)
    model = DAGModel(parts.priors, parts.likelihoods(), graph.parents)
    return Variant(model, completed(model, DAGGuide(parts.posteriors, parts.reads, list(graph.data))))


@recipe
def discrete_vae(
    data_shape: Sequence[int] | int,
    codes: int = 20,
    categories: int = 10,
    estimator: str = "relaxed",
    *,
    temperature: float | Anneal | None = None,
    baseline: str | nn.Module | None = None,
    prior: Callable[..., Any] = Categorical,
    likelihood: Callable[..., nn.Module] = Bernoulli,
    posterior: Callable[..., nn.Module] | None = None,
    net: Net | None = None,
    hidden: Sequence[int] | None = None,
    encoder: nn.Module | Net | None = None,
    decoder: nn.Module | Net | None = None,
) -> Variant:
    r"""p(x, z) = prod_j p(z_j) p(x | z),   z_j one of so many categories,   q(z | x) = prod_j q(z_j | x)

    One story, and four ways to the gradient of its ELBO through a draw that jumps. The model and the bare guide are
    the same for all of them, and every metric is of the discrete codes.

    ====================  ============================================================================================
    ``relaxed``           Gumbel-Softmax: the decoder reads y = softmax((log q + g) / temperature); the KL is that of
                          the codes. Biased, with little variance; see :class:`pyro_vae.infer.relaxed`
    ``straight-through``  the same gradients at one-hot draws
    ``score``             the policy gradient of q, E_q[(r - b) grad log q], r = log p(x, z) - log q(z | x), without
                          bias, of large variance; a baseline b makes it smaller; see :class:`pyro_vae.infer.Baseline`
    ``enumerate``         the sum over all combinations of categories, exact; at most 10,000 of them
    ====================  ============================================================================================

    Args:
        data_shape: shape of one datum, (channels, height, width) for an image.
        codes: how many there are.
        categories: of each code; 2 for binary codes.
        estimator: one of the above.
        temperature: of a relaxation, greater than 0; or a schedule, such as ``pv.infer.Anneal(rate=0.1)``. 0.5 where
            nothing is said.
        baseline: of the score function: ``"none"``, ``"average"``, a decaying one of rewards, or ``"neural"``, which
            has a net of x beside it; or such a net, a module from (batch, \*data_shape) to (batch, 1). The average
            where nothing is said.
        prior: of the codes, built as ``prior((codes, categories))``; :class:`pyro_vae.priors.Categorical`, uniform, or
            anything over one-hot codes.
        likelihood: built as ``likelihood(decoder, (codes, categories), data_shape)``; see :func:`vae`.
        posterior: built as ``posterior(encoder, data_shape, (codes, categories))``.
        net, hidden: see :func:`vae`.
        encoder: what builds it, or a module from (batch, \*data_shape) to (batch, codes * categories).
        decoder: what builds it, or a module from (batch, codes, categories) to what the likelihood takes.

    Raises:
        ValueError: where a temperature is not greater than 0, or ``temperature`` or ``baseline`` is told of an
            estimator that has none; where there are too many combinations to enumerate; where another argument does
            not fit.

    Source: Jang, Gu & Poole 2017, arXiv:1611.01144; Mnih & Gregor 2014, arXiv:1402.0030.

    >>> pair = discrete_vae((1, 28, 28), codes=4, categories=8)
    >>> pair.encode(x=pair.sample(5))["z"].probs.shape
    torch.Size([5, 4, 8])
    """
    latent = (checks.positive_int("codes", codes), checks.several("categories", categories))
    handler = _handler(estimator, temperature, latent)
    if baseline is not None and estimator != "score":
        raise ValueError(f"baseline: expected with estimator='score', found estimator={estimator!r}, which has none")
    parts = PairParts(data_shape, latent, likelihood, prior, posterior, net, hidden, encoder, decoder)
    parts.check_one_hot(independent=isinstance(handler, relaxed))
    guide = DiscreteGuide(parts.posterior, _baseline(parts, baseline) if estimator == "score" else None)
    model = VAEModel(parts.prior, parts.likelihood)
    parts.check_used()
    return Variant(model, completed(model, guide), handler=handler)


def _handler(estimator: str, temperature: float | Anneal | None, latent: tuple[int, int]) -> Messenger | None:
    """Under which a pair with categorical codes is trained by an estimator; None for the score function."""
    relaxes = checks.known("estimator", estimator, ESTIMATORS) in ("relaxed", "straight-through")
    if temperature is not None and not relaxes:
        raise ValueError(f"temperature: expected with a relaxation, found estimator={estimator!r}, which has none")
    if relaxes:
        return relaxed(0.5 if temperature is None else temperature, estimator == "straight-through")
    if estimator == "enumerate":
        check_combinations(*latent, "; use estimator='relaxed' or 'score'")
        return enumerated()
    return None


def _baseline(parts: PairParts, baseline: str | nn.Module | None) -> Baseline | None:
    """What the gradient of the score function is held against."""
    if isinstance(baseline, nn.Module):
        return Baseline(parts.critic(baseline))
    if checks.known("baseline", "average" if baseline is None else baseline, ["none", "average", "neural"]) == "none":
        return None
    return Baseline(parts.critic(None) if baseline == "neural" else None)


@recipe
def joint_vae(
    data_shape: Sequence[int] | int,
    classes: int = 10,
    latent: int = 10,
    estimator: str = "relaxed",
    *,
    temperature: float | Anneal | None = None,
    prior: Callable[..., Any] = StandardNormal,
    likelihood: Callable[..., nn.Module] = Bernoulli,
    posterior: Callable[..., nn.Module] | None = None,
    net: Net | None = None,
    hidden: Sequence[int] | None = None,
    encoder: nn.Module | Net | None = None,
    decoder: nn.Module | Net | None = None,
    classifier: nn.Module | None = None,
) -> Variant:
    r"""p(x, z, c) = p(c) p(z) p(x | z, c),   q(c, z | x) = q(c | x) q(z | x)

    A class c that no label tells, beside a continuous style z. The data decide what the classes are; where labels are
    known, ``evaluate`` reports how well they agree (``clustering``).

    Args:
        data_shape: shape of one datum, (channels, height, width) for an image.
        classes: how many.
        latent: dimensions of the style z.
        estimator: of the gradient through c: ``relaxed``, ``straight-through``, ``score``, or ``enumerate``, the exact
            sum over classes, for which the decoder runs once for each; see :func:`discrete_vae`.
        temperature: see :func:`discrete_vae`.
        prior: of the style, by default independent of c; see :func:`cvae`.
        likelihood, posterior: see :func:`vae`.
        net, hidden: see :func:`vae`; they build encoder, decoder and classifier.
        encoder: what builds it, or a module from (batch, \*data_shape) to (batch, 2 * latent).
        decoder: what builds it, or a module that takes styles (batch, latent) and classes (batch, 1, classes), one-hot,
            to (batch, \*data_shape), or to what :func:`pyro_vae.likelihoods.decoder_shape` says of the likelihood.
        classifier: in place of a built one, a module from (batch, \*data_shape) to (batch, classes).

    Raises:
        ValueError: where an argument, or the output of a net of yours, does not fit.

    Source: Dupont 2018, arXiv:1804.00104; summed over classes, Kingma et al. 2014, arXiv:1406.5298.

    >>> pair = joint_vae((1, 28, 28), classes=10, latent=8)
    >>> pair.encode(x=pair.sample(5))["c"].probs.shape
    torch.Size([5, 1, 10])
    """
    c = category(classes)
    handler = _handler(estimator, temperature, (1, classes))
    parts = PairParts(
        data_shape, latent, likelihood, prior, posterior, net, hidden, encoder, decoder, [c], posterior_reads=False
    )
    model = JointModel(c.density(), parts.prior, parts.likelihood)
    guide = JointGuide(parts.classes(classifier), parts.posterior)
    parts.check_used()
    return Variant(model, completed(model, guide), handler=handler)


@recipe
def vq_vae(
    data_shape: Sequence[int],
    codebook: int = 128,
    width: int = 32,
    *,
    commitment: float = 0.25,
    decay: float = 0.99,
    prior: Callable[..., Any] = PixelCNN,
    likelihood: Callable[..., nn.Module] = Bernoulli,
    net: Net = Strided,
    hidden: Sequence[int] | None = None,
    encoder: nn.Module | Net | None = None,
    decoder: nn.Module | Net | None = None,
) -> Variant:
    r"""p(x, z) = p(z_1) p(z_2 | z_1) ... p(x | e(z)),   q(z_j | x) = [z_j the entry of the codebook nearest to h_j(x)]

    Codes in a map, each the number of a vector in a codebook that all places share. The guide takes the nearest entry,
    gradients pass straight through; the entries follow what they stand for (a moving average), and the dead are
    revived. The prior of the map is learned along with the pair, so that the ELBO, log p(x | z) + log p(z) at the
    guide's code, is a bound, and the pair can be sampled.

    Args:
        data_shape: shape of one image, (channels, height, width).
        codebook: how many entries there are.
        width: dimensions of each.
        commitment: weight of |h - e|^2 in the objective; see :class:`pyro_vae.guides.VQGuide`.
        decay: of the moving averages of the entries; see :class:`pyro_vae.nets.Codebook`.
        prior: of the codes, built as ``prior((height * width, codebook), size=(height, width))``;
            :class:`pyro_vae.priors.PixelCNN`, or :class:`pyro_vae.priors.Categorical`.
        likelihood: built as ``likelihood(decoder, (height * width, codebook), data_shape)``; see :func:`vae`.
        net: builds encoder and decoder, as ``net(inside, outside)``, between images and maps.
        hidden: channels of the stages, from the image inwards, each of which halves it; (64, 64) where nothing is
            said, (32,) for images of less than 16 x 16.
        encoder: what builds it, or a module from (batch, \*data_shape) to (batch, width, height', width').
        decoder: what builds it, or a module from the vectors of a map, (batch, width, height', width'), to what the
            likelihood takes.

    Raises:
        ValueError: where the codebook has fewer than 2 entries; where data are no images, or an argument does not fit.

    Source: van den Oord, Vinyals & Kavukcuoglu 2017, arXiv:1711.00937.

    >>> pair = vq_vae((1, 28, 28), codebook=16, width=8)
    >>> pair.encode(x=pair.sample(5))["z"].mode.shape
    torch.Size([5, 49, 16])
    """
    parts = MapParts(data_shape, codebook, width, decay, likelihood, net, hidden, encoder, decoder)
    model = VAEModel(parts.prior(prior), parts.likelihood)
    guide = VQGuide(parts.encoder, parts.codebook, checks.real("commitment", commitment, least=0))
    return Variant(model, completed(model, guide))


@recipe
def aae(
    data_shape: Sequence[int] | int,
    latent: int = 2,
    *,
    classes: int | None = None,
    weight: float = 100.0,
    classification: float | None = None,
    penalty: float = 1.0,
    discriminator_lr: float = 1e-3,
    prior: Any = None,
    likelihood: Callable[..., nn.Module] = Bernoulli,
    posterior: Callable[..., nn.Module] | None = None,
    net: Net | None = None,
    hidden: Sequence[int] | None = None,
    encoder: nn.Module | Net | None = None,
    decoder: nn.Module | Net | None = None,
    discriminator: nn.Module | Net | None = None,
    classifier: nn.Module | None = None,
) -> Variant:
    r"""maximise E_q[log p(x | z)] - weight KL(q(z) || p(z)),   q(z) = mean_x q(z | x)

    The story and the guide are those of :func:`vae`, and the codes of all data together are held to the prior, which
    need only be sampled, by a discriminator (:class:`pyro_vae.infer.AAE`, which :func:`pyro_vae.fit` takes of itself).

    With ``classes`` p(x, z, c) = p(c) p(z | c) p(x | z),   q(z, c | x) = q(z | x) q(c | z): a mode of the prior for
    each class. In data for ``fit`` and ``evaluate`` a label of -1 is one that is missing; such a datum may have a code
    of any class.

    Args:
        data_shape: shape of one datum, (channels, height, width) for an image.
        latent: dimensions of the code z.
        classes: how many, where the data have labels that are to have codes of their own.
        weight: of the KL of all codes together, in nats per datum.
        classification: weight of the classification loss of a labelled datum, -log q(c | z); 1 where nothing is said.
        penalty: on the slope of the discriminator; see :class:`pyro_vae.infer.Adversarial`.
        discriminator_lr: step size of the discriminator.
        prior: p(z): as for :func:`vae`; or a distribution; or anything with a method ``sample(n)``, which gives n
            codes. With ``classes`` one that is given them, as :class:`pyro_vae.priors.Ring`, which it is where nothing
            is said; else the standard normal.
        posterior: see :func:`vae`; with :class:`pyro_vae.posteriors.Delta` the code of a datum is a point.
        likelihood, net, hidden, encoder, decoder: see :func:`vae`.
        discriminator: what builds it, as ``discriminator(inside, outside)``, or a module from (batch, latent) to
            (batch, 1); with ``classes`` from (batch, latent + classes).
        classifier: in place of a built one, a module from (batch, latent) to (batch, classes).

    Raises:
        ValueError: where the prior cannot be sampled, or not under each class; where the discriminator, or another
            net of yours, has the wrong width; in training, where the prior has parameters, which no game teaches.

    Source: Makhzani et al. 2015, arXiv:1511.05644.

    >>> from pyro_vae.priors import SwissRoll
    >>> pair = aae((1, 8, 8), prior=SwissRoll)
    >>> run = pv.fit(pair, pv.data.load("digits", binarise="threshold"), epochs=1, progress=False)
    >>> pair.sample(4).shape
    torch.Size([4, 1, 8, 8])
    """
    if classes is None and (classifier is not None or classification is not None):
        raise ValueError("classifier, classification: expected with classes=..., found no classes")
    usual = StandardNormal if classes is None else partial(Ring, components=checks.several("classes", classes))
    prior = usual if prior is None else _drawable(prior, latent)
    given = [] if classes is None else [label(classes)]
    parts = PairParts(
        data_shape,
        latent,
        likelihood,
        prior,
        posterior,
        net,
        hidden,
        encoder,
        decoder,
        given,
        posterior_reads=False,
        decoder_reads=False,
    )
    parts.check_drawn()
    stepper = partial(AAE, **_game(weight, penalty, discriminator_lr))
    opponent = parts.discriminator(discriminator, (math.prod(parts.code) + (classes or 0),))
    if classes is not None:
        alpha = checks.real("classification", 1.0 if classification is None else classification, least=0)
        model: nn.Module = AAEModel(given[0].density(), parts.prior, parts.likelihood)
        guide: nn.Module = AAEGuide(parts.posterior, parts.of_codes(classifier, classes), alpha)
    else:
        model, guide = VAEModel(parts.prior, parts.likelihood), VAEGuide(parts.posterior)
    labels = () if classes is None else ("c",)
    parts.check_used()
    return Variant(
        model,
        completed(model, guide, **dict.fromkeys(labels, ())),
        labels=labels,
        stepper=stepper,
        discriminator=opponent,
    )


def _drawable(prior: Any, latent: Sequence[int] | int) -> Any:
    """A prior of an argument that may be a distribution, or anything with a method ``sample``."""
    if isinstance(prior, Distribution):
        if not callable(prior):
            raise TypeError(f"prior: expected a distribution of pyro.distributions, found one of torch: {prior!r:.60}")
        return Fixed(prior)
    if inspect.isclass(prior) or isinstance(prior, nn.Module) or not callable(getattr(prior, "sample", None)):
        return prior
    try:
        return Sampled(latent, prior.sample)
    except Exception as error:  # whatever a class of the user's may raise
        raise ValueError(f"prior: cannot be sampled: {error}") from None


def _game(weight: float, penalty: float, discriminator_lr: float) -> dict[str, Any]:
    """What a pair and its discriminator play for."""
    return {
        "weight": checks.real("weight", weight, least=0),
        "penalty": checks.real("penalty", penalty, least=0),
        "discriminator_lr": checks.real("discriminator_lr", discriminator_lr, above=0),
    }


@recipe
def vae_gan(
    data_shape: Sequence[int] | int,
    latent: int = 20,
    *,
    weight: float = 5.0,
    scale: float = 0.5,
    penalty: float = 0.0,
    discriminator_lr: float = 4e-4,
    prior: Callable[..., Any] = StandardNormal,
    likelihood: Callable[..., nn.Module] = SQUASHED,
    posterior: Callable[..., nn.Module] | None = None,
    net: Net | None = None,
    hidden: Sequence[int] | None = None,
    encoder: nn.Module | Net | None = None,
    decoder: nn.Module | Net | None = None,
    discriminator: nn.Module | Net | None = None,
) -> Variant:
    r"""maximise E_q[log p(f(x) | z)] - KL(q(z | x) || p(z)) - weight (E_q + E_p)[log(1 + exp T(x'))],   x' = E[x | z]

    The story and the guide are those of :func:`vae`; while training, images are compared by features f of a
    discriminator T, which tells those of the decoder from the data (:class:`pyro_vae.infer.VAEGAN`, which
    :func:`pyro_vae.fit` takes of itself). Metrics are of the likelihood p(x | z), for which nothing is trained: a
    sharp image is a poor mean.

    Args:
        data_shape: shape of one datum, (channels, height, width) for an image.
        latent: dimensions of the code z.
        weight: of the adversarial term, in nats per image.
        scale: of the features; the smaller, the more reconstructions count against the KL.
        penalty: on the slope of the discriminator; see :class:`pyro_vae.infer.Adversarial`.
        discriminator_lr: step size of the discriminator.
        prior, posterior, net, hidden, encoder, decoder: see :func:`vae`.
        likelihood: see :func:`vae`; by default a normal around means in (0, 1), of grey or coloured images. The
            discriminator sees its means: of binary images it would know them by their greys.
        discriminator: what builds it, as ``discriminator(inside, outside)``, or a module from (batch, \*data_shape) to
            (batch, 1), with a method ``features``, as :class:`pyro_vae.nets.Discriminator` has; by default one with
            spectral normalisation.

    Raises:
        ValueError: where the discriminator has no features or the wrong width, or another argument does not fit.

    Source: Larsen et al. 2016, arXiv:1512.09300.

    >>> pair = vae_gan((1, 8, 8), latent=4)
    >>> run = pv.fit(pair, pv.data.load("digits"), epochs=1, progress=False)
    >>> pair.sample(4, mean=True).shape
    torch.Size([4, 1, 8, 8])
    """
    parts = PairParts(data_shape, latent, likelihood, prior, posterior, net, hidden, encoder, decoder)
    model = VAEModel(parts.prior, parts.likelihood)
    guide = completed(model, VAEGuide(parts.posterior))
    parts.check_used()
    usual = partial(Discriminator, spectral=True)
    opponent = parts.discriminator(usual if discriminator is None else discriminator, parts.data_shape)
    check_features(opponent)
    scale = checks.real("scale", scale, above=0)
    stepper = partial(VAEGAN, scale=scale, **_game(weight, penalty, discriminator_lr))
    return Variant(model, guide, stepper=stepper, discriminator=opponent)
