"""Distributions as values: what family they are of, and putting together what was computed in parts."""

import inspect
from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import constraints as pyro_constraints
from torch import Tensor, nn
from torch.distributions import constraints, transform_to

# where the field's own distributions are given better errors, and keep their names
ADVISED = ("pyro_vae.distributions.advised", "pyro_vae.likelihoods")


def base(distribution: Any) -> Any:
    """The distribution of one element, under `to_event`, `mask` and `expand`."""
    while hasattr(distribution, "base_dist") and not isinstance(
        distribution, torch.distributions.TransformedDistribution
    ):
        distribution = distribution.base_dist
    return distribution


def family(distribution: Any) -> str:
    """The name under which a distribution is known, be it one of ours with better errors."""
    return next(c.__name__ for c in type(base(distribution)).__mro__ if not c.__module__.startswith(ADVISED))


def is_discrete(distribution: Any) -> bool:
    """Whether the values of a distribution can be counted.

    >>> is_discrete(dist.Bernoulli(torch.tensor([0.1, 0.8])).to_event(1))
    True
    """
    support = getattr(base(distribution), "support", None)  # plates draw from something without one
    return bool(getattr(support, "is_discrete", False))


def innermost(support: Any) -> Any:
    """What the elements of a support are in, under events and mixtures.

    >>> innermost(dist.Normal(torch.zeros(3), 1.0).to_event(1).support)
    Real()
    """
    while hasattr(support, "base_constraint"):  # that of a mixture is its components'
        support = support.base_constraint
    return support


def is_one_hot(support: Any) -> bool:
    """Whether a support holds one-hot vectors.

    >>> is_one_hot(dist.OneHotCategorical(torch.ones(3)).support)
    True
    """
    return innermost(support) is constraints.one_hot


def probabilities(distribution: Any) -> Tensor | None:
    r"""Of each category of each code, (\*batch, codes, categories); None of what is no categories.

    >>> probabilities(dist.Categorical(torch.ones(5, 4)))[0]
    tensor([[0.2500, 0.2500, 0.2500, 0.2500]])
    """
    one = base(distribution)
    if isinstance(one, torch.distributions.Categorical) or is_one_hot(getattr(one, "support", None)):
        p = getattr(one, "probs", None)  # which codes that are drawn one after the other lack
    elif isinstance(one, torch.distributions.Bernoulli):
        p = torch.stack([1 - one.probs, one.probs], -1)
    else:
        p = None
    return None if p is None else p.reshape(*distribution.batch_shape, -1, p.shape[-1])


def masked(distribution: Any, mask: Tensor) -> Any:
    """log p(x_o) = sum_{i in o} log p_i(x_i): the same distribution with the log p of the entries in ``mask`` alone.

    ``mask`` broadcasts to the distribution's batch and event together. Draws and means stay whole.

    Raises:
        TypeError: where the distribution does not factorise over these entries.

    >>> normal = dist.Normal(torch.zeros(2, 3), 1.0).to_event(1)
    >>> masked(normal, torch.tensor([True, False, True])).log_prob(torch.zeros(2, 3))
    tensor([-1.8379, -1.8379])
    """
    if isinstance(distribution, dist.Independent):
        return masked(distribution.base_dist, mask).to_event(distribution.reinterpreted_batch_ndims)
    if isinstance(distribution, dist.MaskedDistribution):
        return masked(distribution.base_dist, mask).mask(distribution._mask)
    if hasattr(distribution, "masked"):
        return distribution.masked(mask)
    if distribution.event_shape:
        raise TypeError(f"{family(distribution)} does not factorise over the entries of its event")
    return distribution.mask(mask)


def inside(distribution: Any) -> Tensor:
    """A value, for each entry or for all of them, that a distribution which :func:`masked` takes can explain.

    >>> inside(dist.Beta(torch.ones(2, 3), 1.0).to_event(1))
    tensor(0.5000)
    """
    if isinstance(distribution, dist.Independent):
        return inside(distribution.base_dist)
    if hasattr(distribution, "inside"):
        return distribution.inside()
    support = innermost(distribution.support)
    zero = _zero(distribution)
    try:
        return transform_to(support)(zero)
    except NotImplementedError:  # discrete supports
        return zero + getattr(support, "lower_bound", 0.0)


def _zero(distribution: Any) -> Tensor:
    """Of the dtype and device of a distribution's parameters, by which it or what it is made of holds tensors."""
    held = [v for v in vars(distribution).values() if isinstance(v, Tensor) and v.is_floating_point()]
    if held:
        return held[0].new_zeros(())
    parts = (v for v in vars(distribution).values() if isinstance(v, torch.distributions.Distribution))
    return next((_zero(part) for part in parts), torch.zeros(()))


def jumps(distribution: Any) -> bool:
    """Whether a density jumps, so that a KL is to be taken in closed form where codes are drawn pathwise."""
    return bool(getattr(base(distribution), "closed_form", False))


def factorises(distribution: Any) -> bool:
    """Whether the units of a distribution's event are independent."""
    return isinstance(distribution, torch.distributions.Independent) and not distribution.base_dist.event_shape


def has_density(distribution: Any) -> bool:
    """Whether a distribution can be scored, and not drawn from alone."""
    return getattr(base(distribution), "has_density", True)


def is_point(distribution: Any) -> bool:
    """Whether a distribution is one point, not the image of a draw that brings its density along.

    >>> is_point(dist.Delta(torch.zeros(3)).to_event(1))
    True
    """
    one = base(distribution)
    return isinstance(one, dist.Delta) and not bool(torch.as_tensor(one.log_density).any())


def bounds(distribution: Any) -> tuple[float, float] | None:
    """The least and the greatest value of a distribution where these are the same for all; None where there are none.

    >>> bounds(dist.Bernoulli(torch.tensor([0.1, 0.8])).to_event(1))
    (0.0, 1.0)
    """
    support = base(distribution).support
    if support in (constraints.boolean, constraints.unit_interval):
        return 0.0, 1.0
    low, high = (getattr(support, name, None) for name in ("lower_bound", "upper_bound"))
    return (float(low), float(high)) if isinstance(low, float | int) and isinstance(high, float | int) else None


def nearest(support: Any, value: Tensor) -> Tensor:
    """A value that a support holds near another, reached by clamping or by a common factor; else the value itself.

    >>> nearest(constraints.nonnegative, torch.tensor([-1.0, 2.0]))
    tensor([0., 2.])
    """
    support = innermost(support)
    if support is pyro_constraints.sphere:
        return nn.functional.normalize(value, dim=-1)
    if support is constraints.simplex:
        return nn.functional.normalize(value.clamp(min=0), p=1, dim=-1)
    for name, sign in (("lower_bound", 1), ("upper_bound", -1)):
        if hasattr(support, name):
            bound = torch.as_tensor(getattr(support, name)).to(value)
            # one that is not itself in the support is kept off by a rounding
            off = sign * torch.finfo(value.dtype).eps * bound.abs().clamp(min=1) * ~support.check(bound)
            value = torch.maximum(value, bound + off) if sign > 0 else torch.minimum(value, bound + off)
    return value


def join(parts: Sequence[Any], dim: int | None = None) -> Any:
    """One distribution whose rightmost batch dimension is that of all ``parts`` in turn.

    ``dim`` is that dimension's place from the left, where it is another.

    Raises:
        TypeError: where the family is not determined by its parameters alone.

    >>> a, b = dist.Normal(torch.zeros(2, 3), 1.0).to_event(1), dist.Normal(torch.ones(4, 3), 2.0).to_event(1)
    >>> join([a, b])
    Independent(Normal(loc: torch.Size([6, 3]), scale: torch.Size([6, 3])), 1)
    """
    first = parts[0]
    if len(parts) == 1:
        return first
    dim = len(first.batch_shape) - 1 if dim is None else dim
    if isinstance(first, dist.Independent):
        return join([p.base_dist for p in parts], dim).to_event(first.reinterpreted_batch_ndims)
    if type(first) is dist.TransformedDistribution and all(p.transforms == first.transforms for p in parts):
        return dist.TransformedDistribution(join([p.base_dist for p in parts], dim), first.transforms)
    names = _constructor(type(first)) & set(first.arg_constraints)
    held = {name for name in names if name in first.__dict__}  # of probs and logits, scale_tril and covariance: one
    names = held or names
    names -= {"probs"} if "logits" in names else set()  # a one-hot one holds neither, and has both
    try:
        if not names or isinstance(first, torch.distributions.TransformedDistribution):
            raise TypeError("not determined by parameters alone")
        joined = {name: torch.cat([_full(p, name) for p in parts], dim) for name in sorted(names)}
        return type(first)(**joined, validate_args=False)
    except (TypeError, ValueError, NotImplementedError) as error:
        family = type(first).__name__
        raise TypeError(f"{family}: cannot be put together from chunks ({error}); pass rows=len(batch)") from None


def _constructor(family: Any) -> set[str]:
    return set(inspect.signature(family.__init__).parameters)


def _full(part: Any, name: str) -> Tensor:
    """A parameter with the batch dimensions of its distribution spelled out."""
    value = getattr(part, name)
    own = part.arg_constraints[name].event_dim
    return value.expand(part.batch_shape + value.shape[value.dim() - own :])
