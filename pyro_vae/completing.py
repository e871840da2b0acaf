"""The guide of a pair, held against its model, and made to draw what the model's priors draw for themselves."""

from collections.abc import Collection, Mapping
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule
from pyro.nn.module import _Context
from torch import Tensor, nn

from pyro_vae import checks, families, tracing
from pyro_vae.guides import Amortised
from pyro_vae.latents import PROBES, suited
from pyro_vae.nets import MLP
from pyro_vae.posteriors import Classifier, encoder_shape

HIDDEN = (64,)  # of the networks of a prior's own sites
HEAVY = ("Cauchy", "HalfCauchy", "Horseshoe")  # without a mean


def completed(model: nn.Module, guide: nn.Module, **given: tuple[int, ...]) -> nn.Module:
    """The guide of a pair, which draws the sites of the model's priors too where these have some of their own.

    ``given`` has the shapes of the conditions, () of a label.

    Raises:
        ValueError: where a posterior and its prior do not speak of the same codes, or a site has no posterior.
    """
    states = [module for program in (model, guide) for module in program.modules() if module.training]
    for module in states:
        module.training = False
    try:
        with torch.no_grad(), tracing.seeded(0), pyro.get_param_store().scope():
            like = next(model.parameters(), torch.zeros(()))
            zeros = dict(zip(given, checks.zeros(like, given.values(), PROBES), strict=True))
            try:
                drawn = poutine.trace(model).get_trace(n=PROBES, **zeros)
            except RuntimeError as error:  # of two priors with sites of one name
                what = str(error).splitlines()[0]
                raise ValueError(
                    f"prior: {what}; each site has a name of its own, as in partial(..., site='v')"
                ) from None
            nodes: dict[str, Any] = dict(drawn.nodes)
            shared = list(tracing.shared_sites(drawn))
            wanted, _ = tracing.arguments(guide)
            batch = {name: nodes[name]["value"] for name in wanted}
            inferred = tracing.latent_sites(_inferring(guide, batch))
            for name, site in inferred.items():
                _check(name, site["fn"], drawn.nodes[name]["fn"])
    finally:
        for module in states:
            module.training = True
    found = [name for name in tracing.latent_sites(drawn) if name not in {*inferred, *batch, *given}]
    if not found and not shared:
        return guide
    return Amortised(guide, *_own(nodes, inferred, found), _automatic(model, shared, zeros))


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


def _automatic(model: nn.Module, shared: list[str], zeros: Mapping[str, Tensor]) -> nn.Module | None:
    """q(theta), an automatic guide over what all data share."""
    if not shared:
        return None
    guide = AutoNormal(poutine.block(model, expose=shared))
    with tracing.seeded(0), pyro.get_param_store().scope():
        guide(n=PROBES, **zeros)  # which makes its parameters
    for module in guide.modules():  # Pyro takes no part of another module that has run alone
        if isinstance(module, PyroModule):
            module._pyro_context = _Context()
    return guide


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
