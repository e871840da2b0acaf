"""What stands at a latent site: its prior, and a posterior that suits it."""

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions import constraints as pyro_constraints
from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_vae import checks, families, posteriors, tracing
from pyro_vae.posteriors import DiagonalNormal, Transformed
from pyro_vae.story import Story, randoms

Shape = tuple[int, ...]
Builder = Callable[..., Any]

PROBES = 7  # codes on which a prior is tried; no size that anything else would have


# ---------------------------------------------------------------------- priors


def built_prior(
    name: str, prior: Any, latent: Shape, inside: Sequence[Shape], parts: Mapping[str, Callable[[], Any]]
) -> nn.Module:
    """p(z | what stands above it), of an argument of a recipe.

    What has an argument ``latent`` builds a prior: it is called with the shape of the code, and with those of the
    ``parts`` that it takes too. Anything else is a prior as it is.

    Args:
        name: of the argument, for errors.
        latent: the shape of the code.
        inside: the shapes of what the prior is given, () of a label.
        parts: what a prior may take to be built, each made when it is asked for.

    Raises:
        TypeError, ValueError: where it is none, or is one over codes of another shape.
    """
    if not callable(prior) or hasattr(prior, "log_prob"):
        hint = "; write lambda: ... around it" if hasattr(prior, "log_prob") else ""
        raise TypeError(
            f"{name}: expected a class of pv.priors, or any callable that returns a distribution, found {prior!r:.60}"
            + hint
        )
    takes = () if isinstance(prior, nn.Module) else inspect.signature(prior).parameters
    told = prior.keywords if isinstance(prior, partial) else {}
    made = {part: make() for part, make in parts.items() if part in takes and part not in told}
    built = prior
    try:
        if "latent" in takes:
            built = prior(latent if len(latent) > 1 else latent[0], **made)
        whole = built if isinstance(built, nn.Module) and _arguments(built) >= len(inside) else Own(built)
        found = of(whole, inside, made.get("posterior"))
    except Exception as error:  # whatever a prior of the user's may raise
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise ValueError(f"{name}: {kind}{' '.join(str(error).split('Trace Shapes:')[0].split())}") from error
    if not all(hasattr(found, part) for part in ("log_prob", "event_shape", "expand", "__call__")):
        raise TypeError(f"{name}: expected a callable that returns a distribution, found one that gives {found!r:.60}")
    if tuple(found.event_shape) != latent or tuple(found.batch_shape) not in ((), (1,), (PROBES,)):
        raise ValueError(
            f"{name}: expected a distribution over codes of shape {latent}, found batch {tuple(found.batch_shape)} and "
            f"event {tuple(found.event_shape)}; .to_event(1) makes one event of independent numbers"
        )
    return whole


def needs(prior: Any, *parts: str) -> bool:
    """Whether a prior is built of one of some ``parts`` of the pair."""
    builds = callable(prior) and not isinstance(prior, nn.Module)
    return builds and bool({*parts} & {*inspect.signature(prior).parameters})


class Fixed(nn.Module):
    """A prior that is a distribution as it is; its tensors go where the pair goes."""

    def __init__(self, distribution: Any) -> None:
        super().__init__()
        self.distribution = distribution

    def forward(self, *conditions: Tensor) -> Any:
        """The distribution of one code, which no condition changes."""
        return self.distribution

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Fixed":
        super()._apply(fn, recurse)
        self.distribution = _mapped(self.distribution, fn)
        return self


def _mapped(value: Any, fn: Callable[[Tensor], Tensor]) -> Any:
    """A distribution with all its tensors, and those of what it is made of, seen to."""
    if isinstance(value, Tensor):
        return fn(value)
    if not isinstance(value, torch.distributions.Distribution):
        return value
    new = copy.copy(value)
    new.__dict__.update({name: _mapped(held, fn) for name, held in vars(value).items()})
    return new


class Own(PyroModule):
    """A prior of the user's, given no more than it takes."""

    def __init__(self, prior: Any) -> None:
        super().__init__()
        self.prior, self.takes = prior, _arguments(prior)

    def forward(self, *conditions: Tensor) -> Any:
        """The distribution of one code."""
        return self.prior(*conditions[: self.takes])


def _arguments(prior: Any) -> int:
    """How many things a prior may be given by position."""
    parameters = inspect.signature(prior.forward if isinstance(prior, nn.Module) else prior).parameters.values()
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return 10**6
    by_position = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return sum(p.default in (p.empty, None) for p in by_position)  # any other default is a setting


def of(prior: Callable[..., Any], inside: Sequence[Shape], posterior: nn.Module | None = None) -> Any:
    """The distribution of some codes, or of one that serves all, given zeros; its own sites are drawn and forgotten.

    ``posterior`` is what the prior is made of, where it is; its networks may have random weights.
    """
    return _tried(prior, inside, posterior).nodes["_RETURN"]["value"]


def has_sites(prior: Callable[..., Any], inside: Sequence[Shape]) -> bool:
    """Whether a prior draws sites of its own."""
    return bool(tracing.latent_sites(_tried(prior, inside)))


def _tried(prior: Callable[..., Any], inside: Sequence[Shape], posterior: nn.Module | None = None) -> poutine.Trace:
    like = next(prior.parameters(), torch.zeros(())) if isinstance(prior, nn.Module) else torch.zeros(())
    given = checks.zeros(like, inside, PROBES)
    told = _Told(copy.deepcopy(prior) if isinstance(prior, PyroModule) else prior)  # a PyroModule is of one story only
    told.of_guide = () if posterior is None else tuple(randoms(posterior, "guide"))
    with torch.no_grad(), tracing.seeded(0), poutine.block(), pyro.get_param_store().scope():
        return poutine.trace(told).get_trace(*given)


class _Told(Story):
    """The story of some codes, and no further."""

    def __init__(self, prior: Callable[..., Any]) -> None:
        super().__init__("told")
        self.prior = prior

    def forward(self, *given: Tensor) -> Any:
        with pyro.plate("data", PROBES):
            return self.prior(*given)


# ---------------------------------------------------------------------- posteriors


def suited(name: str, prior: Any) -> Builder:
    """The family of posteriors that a recipe takes where nothing is said: by the support of the prior.

    Raises:
        ValueError: where there is none.
    """
    base, support = families.base(prior), prior.support
    while isinstance(support, constraints.MixtureSameFamilyConstraint):
        support = support.base_constraint
    if getattr(base, "has_atoms", False):
        return posteriors.RectifiedNormal
    if families.is_one_hot(support) and prior.event_dim == 2:
        return posteriors.Categorical
    inner = families.innermost(support)
    if inner is constraints.real:
        return DiagonalNormal
    if inner is pyro_constraints.sphere:
        return posteriors.VonMisesFisher
    if not inner.is_discrete:
        return partial(Transformed, support=support)
    raise ValueError(f"{name}: no posterior is known for {families.family(prior)}, which is discrete")
