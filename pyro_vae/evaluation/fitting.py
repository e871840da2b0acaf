"""A guide that serves one datum only: the best q of its family for that datum."""

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer import ELBO, Trace_ELBO, TraceEnum_ELBO
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_factor
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from pyro_vae import families, tracing
from pyro_vae.data.feed import derived
from pyro_vae.distributions import Codes
from pyro_vae.infer import Aggressive, enumerated, relaxed
from pyro_vae.tracing import seeded
from pyro_vae.variant import Variant

COPIES = 32  # draws to a step: four times as many gain a hundredth of a nat
SUMMED = 1000  # combinations of discrete values, for each copy
RISE = 0.2  # of all steps


def apart(variant: Variant) -> Variant:
    """A copy that can be fitted: bare, at rest, its model held and all of its guide free, in a store of its own.

    What both programs hold is the model's: a guide that reads the model's networks cannot move them.
    """
    pair = copy.deepcopy(variant).eval()
    pair.handler = None
    for program, free in ((pair.guide, True), (pair.model, False)):
        for parameter in program.parameters() if isinstance(program, nn.Module) else ():
            if parameter.is_floating_point():
                parameter.requires_grad_(free)
    if pair._store is None:  # functions may have learned in Pyro's global store, which stays as it is
        state = pyro.get_param_store().get_state()
        own = {name: p for name, p in state["params"].items() if "$$$" not in name}  # modules bring theirs along
        pair._store = {
            "params": {name: p.detach().clone().requires_grad_() for name, p in own.items()},
            "constraints": {name: state["constraints"][name] for name in own},
        }
    return pair


def log_weights(pair: Variant, batch: tracing.Batch, particles: int, seed: int) -> Tensor:
    """log p(x, z_k) - log q(z_k | x) of one datum, (particles,); equal seeds give two guides the same noise."""
    parts = [terms.log_weights for _, terms in pair.terms(particles, seed=seed, **batch)]
    return torch.cat(parts)[:, 0].double().cpu()


@contextmanager
def fitted(
    pair: Variant, batch: tracing.Batch, *, steps: int, lr: float, particles: int, seed: int
) -> Iterator[Variant]:
    r"""maximise E_q[log p(x, z) - log q(z | x)] over the guide, for one x

    The guide of a pair from :func:`apart` as long as the context lasts. SVI on copies of the datum, by Adam with a step
    size that rises from 0, so that the first steps do not throw a good q away, and falls to 0 along a cosine. It stays
    as it was where ``particles`` fresh draws find no better ELBO, and where it has no parameters. Factors of a user's
    own are no part of the ELBO, and are left out.
    """
    many = tracing.copied(batch, COPIES)
    loss: ELBO = Trace_ELBO()
    around: list[Messenger] = [poutine.block(hide_fn=site_is_factor)]
    with pair._at_rest(seed), pyro.validation_enabled(False):
        guide, model = tracing.paired(pair.model, pair.guide, many)
        drawn = tracing.latent_sites(guide).values()
        estimator = _estimator([site["fn"] for site in drawn if not site["infer"].get("enumerate")])
        around += [estimator] if estimator is not None else []
        if isinstance(estimator, enumerated) or any(site["infer"].get("enumerate") for site in drawn):
            nesting = tracing.plate_nesting(guide, model)
            loss = TraceEnum_ELBO(max_plate_nesting=nesting, strict_enumeration_warning=False)
    programs = pair.trained(*around)
    # an aggressive phase that ends before the model's first turn
    stepper = Aggressive(*programs, partial(torch.optim.Adam, lr=lr), loss, inner=steps + 1, steps=steps)
    with seeded(seed), tracing.prepared(), pyro.validation_enabled(False):
        stepper.evaluate_loss(**many)  # parameters of functions are known from now on
    if not stepper.guide_parameters:
        yield pair
        return
    # a module that a function finds around it is the caller's own
    before = [(p, p.detach().clone(), p.grad) for p in stepper.parameters]
    try:
        fresh = derived(seed)  # draws that neither the fit nor a report sees
        amortised = log_weights(pair, batch, particles, fresh).mean()
        _fit(stepper, many, steps, seed)
        if not log_weights(pair, batch, particles, fresh).mean() > amortised:
            _put_back(before)
        yield pair
    finally:
        _put_back(before)


def _estimator(drawn: Sequence[Any]) -> Messenger | None:
    """What brings gradients through discrete draws: the sum over all values where it is short, or a relaxation.

    The score function of a single datum would be too noisy to gain anything.
    """
    discrete = [fn for fn in drawn if families.is_discrete(fn) and not fn.has_rsample]
    if not discrete:
        return None
    if all(fn.has_enumerate_support for fn in discrete) and math.prod(map(_values, discrete)) <= SUMMED:
        return enumerated()
    return relaxed(0.5) if all(isinstance(families.base(fn), Codes) for fn in discrete) else None


def _values(fn: Any) -> int:
    """How many values a discrete distribution has."""
    if isinstance(fn, Codes):
        codes, categories = fn.event_shape
        return int(categories**codes)
    return len(fn.enumerate_support(expand=False))


def _fit(stepper: Aggressive, batch: tracing.Batch, steps: int, seed: int) -> None:
    assert stepper.optimizer is not None
    schedule = LambdaLR(
        stepper.optimizer, lambda t: min((t + 1) / (RISE * steps), 1.0) * (1 + math.cos(math.pi * t / steps)) / 2
    )
    with seeded(seed), tracing.prepared(), pyro.validation_enabled(False), torch.enable_grad():
        for _ in range(steps):
            stepper.step(**batch)
            schedule.step()


def _put_back(before: list[tuple[Tensor, Tensor, Tensor | None]]) -> None:
    with torch.no_grad():
        for parameter, value, gradient in before:
            parameter.copy_(value)
            parameter.grad = gradient
