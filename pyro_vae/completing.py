"""The guide of a pair, held against its model, and made to draw what the model draws besides: its priors' own sites,
and what all data share."""

import copy
import inspect
import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoNormal
from pyro.infer.autoguide.initialization import init_to_value
from pyro.nn import PyroModule
from pyro.nn.module import _Context
from torch import Tensor, nn

from pyro_vae import checks, families, tracing
from pyro_vae.guides import Amortised, SharedGuide
from pyro_vae.latents import PROBES, suited
from pyro_vae.nets import MLP
from pyro_vae.posteriors import Classifier, encoder_shape
from pyro_vae.story import Random, Story, randoms
from pyro_vae.variant import Variant

HIDDEN = (64,)  # of the networks of a prior's own sites
HEAVY = ("Cauchy", "HalfCauchy", "Horseshoe")  # without a mean


def completed(model: nn.Module, guide: nn.Module, **given: tuple[int, ...]) -> nn.Module:
    r"""q(theta, z, u | x) = q(theta) q(z | x) q(u | z)

    The guide of a pair, which draws the sites of the model's priors too where these have some of their own, and what
    all data share: the weights of variational layers, in the networks of either program, by the posteriors that the
    layers bring; other attributes that are :class:`pyro.nn.PyroSample` by an automatic guide. Recipes call it; a story
    of your own is completed by it.

    Args:
        model: a :class:`pyro_vae.Story`, which can be called with ``n`` and its conditions alone.
        guide: q(z | x), a module.
        given: the shapes of the conditions, () of a label.

    Raises:
        ValueError: where a posterior and its prior do not speak of the same codes, or a site has no posterior.

    >>> class Regression(pv.Story):
    ...     def __init__(self):
    ...         super().__init__("model")
    ...         self.layer = pv.nets.VariationalLinear(3, 1)
    ...     def forward(self, c, y=None, n=1):
    ...         with pyro.plate("data", len(c)):
    ...             return pyro.sample("y", dist.Normal(self.layer(c), 0.1).to_event(1), obs=y)
    >>> class Nothing(pyro.nn.PyroModule):
    ...     def forward(self, c, y=None):
    ...         pass
    >>> model = Regression()
    >>> guide = completed(model, Nothing(), c=(3,))
    >>> sorted(site for site in pyro.poutine.trace(guide).get_trace(c=torch.zeros(5, 3)).stochastic_nodes)
    ['layer.bias', 'layer.weight']
    """
    if isinstance(guide, Amortised) or (isinstance(model, Story) and model.of_guide):
        raise ValueError(
            "model, guide: are a pair already; complete a copy.deepcopy of the story, and the guide as it was"
        )
    own = list(randoms(model))
    known = {id(random.module) for random in own}
    others = [random for random in randoms(guide, "guide") if id(random.module) not in known]
    everywhere = [*own, *others]
    if everywhere and not isinstance(model, Story):
        raise ValueError(f"model: {everywhere[0].site} is shared by all data, and drawn by a pv.Story alone")
    if isinstance(model, Story):
        model.of_guide = tuple(others)
    states = [module for program in (model, guide) for module in program.modules() if module.training]
    for module in states:
        module.training = False
    try:
        with torch.no_grad(), tracing.seeded(0), pyro.get_param_store().scope():
            like = next(itertools.chain(model.parameters(), model.buffers()), torch.zeros(()))
            zeros = dict(zip(given, checks.zeros(like, given.values(), PROBES), strict=True))
            try:
                with _running(random.module for random in others) as run:
                    drawn = poutine.trace(model).get_trace(n=PROBES, **zeros)
            except RuntimeError as error:  # of two priors with sites of one name
                what = str(error).splitlines()[0]
                if not what.startswith("Multiple sample sites"):
                    raise ValueError(f"model: {what}") from None
                raise ValueError(
                    f"prior: {what}; each site has a name of its own, as in partial(..., site='v')"
                ) from None
            nodes: dict[str, Any] = dict(drawn.nodes)
            # such as the encoder of a mixture of posteriors, which reads pseudo-inputs in the model
            still = [random.site for random in others if random.module in run]
            shared = _shared(model, everywhere, still)
            wanted, _ = tracing.arguments(guide)
            batch = {name: nodes[name]["value"] if name in nodes else zeros[name] for name in wanted}
            tried = Amortised(guide, {}, {}, shared, everywhere)
            inferred = tracing.latent_sites(_inferring(tried, batch))
            _as_new(tried)
            for name, site in inferred.items():
                _check(name, site["fn"], drawn.nodes[name]["fn"])
    finally:
        for module in states:
            module.training = True
    found = [name for name in tracing.latent_sites(drawn) if name not in {*inferred, *batch, *given}]
    if not found and not everywhere:
        return guide
    return Amortised(guide, *_own(nodes, inferred, found), shared, everywhere)


def _inferring(guide: nn.Module, batch: Mapping[str, Tensor]) -> poutine.Trace:
    try:
        return poutine.trace(guide).get_trace(**batch)
    except TypeError as error:  # of a product that is none
        what = " ".join(str(error).split())
        raise ValueError(f"posterior: {what:.200}; below its top a ladder has normals, guide='bottom-up' any") from None


def _check(name: str, q: Any, p: Any) -> None:
    """Each may draw what the other can explain."""
    atoms = [getattr(families.base(d), "has_atoms", False) for d in (q, p)]
    kinds = [families.is_discrete(d) for d in (q, p)]
    drawn = [d.sample((16,)) for d in (q, p)]
    fits = atoms[0] == atoms[1] and kinds[0] == kinds[1] and q.event_shape == p.event_shape
    fits = fits and bool(p.support.check(drawn[0]).all()) and bool(q.support.check(drawn[1]).all())
    if not fits:
        raise ValueError(
            f"posterior: {name}: {families.family(q)} over {q.support} does not fit the prior, "
            f"{families.family(p)} over {p.support}: each must be able to draw what the other can; leave posterior out "
            "and it follows the prior"
        )
    if families.family(q) in HEAVY and families.family(p) not in (*HEAVY, "StudentT"):
        raise ValueError(
            f"posterior: {name}: {families.family(q)} has tails under which E_q[log p] of the prior, "
            f"{families.family(p)}, is infinite; expected a prior with such tails, as pv.priors.Horseshoe or StudentT"
        )


@contextmanager
def _running(modules: Iterable[nn.Module]) -> Iterator[set[nn.Module]]:
    """Which of some modules run in the meantime."""
    run: set[nn.Module] = set()
    hooks = [module.register_forward_hook(lambda module, *_: run.add(module)) for module in set(modules)]
    try:
        yield run
    finally:
        for hook in hooks:
            hook.remove()


def _shared(model: Any, randoms: Iterable[Random], still: Collection[str]) -> nn.Module | None:
    """q(theta): by the posteriors that layers bring, and an automatic guide over what else there is."""
    brought = {random: _brought(random) for random in randoms}
    if not brought:
        return None
    rest = [random.site for random, posterior in brought.items() if posterior is None]
    others = _started(AutoNormal(poutine.block(model.draw_shared, expose=rest))) if rest else None
    return SharedGuide({random.site: q for random, q in brought.items() if q is not None}, others, still)


def _brought(random: Random) -> nn.Module | None:
    return getattr(random.module, "posteriors", {}).get(random.name)


def _started(guide: nn.Module) -> nn.Module:
    """An automatic guide, its parameters made."""
    with torch.no_grad(), tracing.seeded(0), pyro.get_param_store().scope():
        guide()
    return _as_new(guide)


def _as_new(program: nn.Module) -> nn.Module:
    """Pyro takes no part of another module that has run alone."""
    for module in program.modules():
        if isinstance(module, PyroModule):
            module._pyro_context = _Context()
    return program


def automatic(variant: Variant, guide: Callable[..., nn.Module] = AutoNormal) -> Variant:
    r"""q(theta, z | x) = q(theta) q(z | x),   q(theta) an automatic guide of Pyro's

    A copy of a pair in which what all data share, such as random weights, is drawn by an automatic guide in place of
    the posteriors that the layers bring: one that knows of correlations, say. It starts where these stand.

    Args:
        variant: the pair; it stays as it is.
        guide: a class of :mod:`pyro.infer.autoguide`, or a ``functools.partial`` of one.

    Returns:
        The copy, which is saved like any other, and read back with ``pv.load(folder, into=pair)``.

    Raises:
        ValueError: where the pair draws nothing that all data share, or something with an atom (a rectified normal).

    Source: the guides of Pyro; of low rank, Ong, Nott & Smith 2018, arXiv:1701.03208.

    >>> from functools import partial
    >>> from pyro.infer.autoguide import AutoLowRankMultivariateNormal
    >>> pair = pv.vae(9, latent=2, decoder=pv.nets.VariationalMLP(2, 9, hidden=(30,)))
    >>> other = automatic(pair, partial(AutoLowRankMultivariateNormal, rank=5))
    >>> run = pv.fit(other, other.sample(20), epochs=1, progress=False)
    """
    checks.instance("variant", variant, Variant)
    checks.built_by("guide", guide)
    if not variant.shares:
        raise ValueError("variant: draws nothing that all data share, such as the weights of pv.nets.VariationalLinear")
    pair = copy.deepcopy(variant)
    amortised: Any = pair.guide
    for random in amortised.randoms:
        if families.jumps(random.prior):
            raise ValueError(f"variant: {random.site}: its prior has an atom, which no automatic guide can draw")
    with torch.no_grad():
        values = {random.site: tracing.centre(q()) for random in amortised.randoms if (q := _brought(random))}
    takes = "init_loc_fn" in inspect.signature(guide).parameters and "init_loc_fn" not in getattr(guide, "keywords", {})
    settings = {"init_loc_fn": init_to_value(values=values)} if takes else {}
    story: Any = pair.model
    amortised.shared = _started(guide(story.draw_shared, **settings))
    how = {role: getattr(pair, role) for role in ("handler", "stepper", "discriminator")}
    return Variant(pair.model, pair.guide, pair.conditions, pair.labels, **how)


def _own(
    nodes: Mapping[str, Any], inferred: Collection[str], own: Collection[str]
) -> tuple[dict[str, nn.Module], dict[str, tuple[str, ...]]]:
    """Posteriors of a prior's own sites, and what each reads: the code that its prior is of, and those before it."""
    reads: dict[str, tuple[str, ...]] = {}
    before: list[str] = []
    for name in nodes:
        if name in own:
            before.append(name)
        elif name in inferred:
            reads |= {site: (name, *before[:i]) for i, site in enumerate(before)}
            before = []
    if before:
        raise ValueError(f"model: {before[0]}: a latent site that is no prior's, and has no posterior")
    sizes = {name: nodes[name]["value"][0].numel() for name in {*inferred, *own}}
    found = {site: _amortised(site, nodes[site]["fn"], sum(sizes[n] for n in read)) for site, read in reads.items()}
    return found, reads


def _amortised(name: str, prior: Any, inside: int) -> nn.Module:
    """q(u | ...) for a site of a prior's own."""
    if isinstance(prior, torch.distributions.Categorical):
        classes = prior.logits.shape[-1]
        return Classifier(MLP(inside, classes, hidden=HIDDEN), inside, classes)
    family, event = suited(name, prior), tuple(prior.event_shape)
    return family(MLP(inside, encoder_shape(family, event), hidden=HIDDEN), inside, event)
