"""Parts of a pair or of a training by name: ``NAME``, or ``NAME:KEY=VALUE,...``, as words on a command line."""

import ast
import functools
import inspect
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pyro.infer
import torch
from torch.optim import lr_scheduler

from pyro_vae import checks, infer, likelihoods, nets, posteriors, priors

NETS = ("net", "encoder", "decoder", "discriminator")
BUILDERS = ("likelihood", "posterior", *NETS, "prior", "lr_schedule")  # called later, with what only the training knows
# by whoever calls them
FILLED_IN = ("decoder", "encoder", "posterior", "latent", "data_shape", "net", "inside", "outside", "optimizer", "size")
GIVEN_BY_FIT = ("model", "guide", "optim", "discriminator", "discriminator_optim", "clip")
PARTS = (*BUILDERS, "objective", "temper", "temperature")
OBJECTIVES = (pyro.infer, "Trace_ELBO TraceMeanField_ELBO TraceGraph_ELBO TraceEnum_ELBO RenyiELBO")
STEPPERS = "AAE FactorVAE VAEGAN"  # which fit tells the pair and the optimiser
SCHEDULES = (
    lr_scheduler,
    "ConstantLR CosineAnnealingLR CosineAnnealingWarmRestarts ExponentialLR LinearLR MultiStepLR OneCycleLR "
    "PolynomialLR ReduceLROnPlateau StepLR",
)


def made(name: str, value: Any) -> Any:
    """What the value of any option stands for: a part where the option names one, a weight, or lists; else itself."""
    if name == "parents":
        return {site: words.split(",") for site, words in value.items()}
    if name not in PARTS or not isinstance(value, str):
        return value
    if name in ("temper", "temperature"):
        with suppress(ValueError):
            return float(value)
    made = part(name, value)
    if name == "lr_schedule":
        _try(value, made)
    return made


def _try(words: str, schedule: Callable[..., Any]) -> None:
    """Two steps of a schedule, so that bad settings are told before training."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    try:
        tried = schedule(optimizer)
        for _ in range(2):
            optimizer.step()
            tried.step(*[0.0] * isinstance(tried, lr_scheduler.ReduceLROnPlateau))
    except Exception as error:  # each schedule has its own ways to fail
        raise ValueError(f"lr_schedule: {words}: {error!r}") from None


def choices(option: str) -> dict[str, Any]:
    """The classes that an option may name, by name."""
    if option == "objective":
        return _named(*OBJECTIVES) | _named(infer, f"AnalyticKL DIP FreeBits IWAE MMD TotalCorrelation {STEPPERS}")
    if option == "temper":
        return _named(infer, "Cyclical WarmUp")
    if option == "temperature":
        return _named(infer, "Anneal")
    if option == "lr_schedule":
        return _named(*SCHEDULES)
    if option in NETS:  # those that recipes can build from two shapes
        return {n: c for n, c in _named(nets).items() if {"inside", "hidden"} <= {*inspect.signature(c).parameters}}
    if option in ("prior", "posterior"):  # of a code; of a class label there is nothing to choose
        named = _named(priors) if option == "prior" else _named(posteriors)
        return {n: c for n, c in named.items() if "latent" in inspect.signature(c).parameters and not _lacks(c)}
    # what a table's columns are is told by the table
    given = {n: c for n, c in _named(likelihoods).items() if "decoder" in inspect.signature(c).parameters}
    return {name: likelihood for name, likelihood in given.items() if name != "Columns"}


def _named(module: Any, names: str = "") -> dict[str, Any]:
    found = {name: getattr(module, name) for name in names.split() or module.__all__}
    return {name: thing for name, thing in found.items() if inspect.isclass(thing)}


def part(option: str, words: str) -> Callable[..., Any]:
    """What an option's words stand for.

    Raises:
        ValueError: where the name or a setting is unknown, or a setting cannot be read.

    >>> part("likelihood", "Normal:scale=learned").keywords
    {'scale': 'learned'}
    >>> part("temper", "WarmUp:epochs=10")
    WarmUp(epochs=10, to=1.0)
    """
    name, _, told = words.partition(":")
    known = choices(option)
    chosen = known[checks.known(option, name, known)]
    settings = _settings(option, words, told)
    takes = {n: p for n, p in inspect.signature(chosen).parameters.items() if n not in (*FILLED_IN, *GIVEN_BY_FIT)}
    for key in settings:
        if key not in takes:
            raise ValueError(f"{option}: {name} takes no {key!r}; it takes {', '.join(takes) or 'nothing'}")
    lacks = [name for name in _lacks(chosen) if name not in settings]
    if lacks:
        raise ValueError(f"{option}: {name} needs {lacks[0]!r}, as in {name}:{lacks[0]}=...")
    if option in BUILDERS or name in STEPPERS.split():
        return functools.partial(chosen, **settings) if settings else chosen
    return chosen(**settings)


def spelt(builder: Any) -> str:
    """The words that stand for a builder.

    >>> spelt(functools.partial(likelihoods.Normal, scale=0.2, squashed=True))
    'Normal:scale=0.2,squashed=True'
    """
    if not isinstance(builder, functools.partial):
        return builder.__name__
    return f"{builder.func.__name__}:" + ",".join(f"{key}={value}" for key, value in builder.keywords.items())


def _lacks(chosen: Any) -> list[str]:
    """What has to be told of a part."""
    parameters = inspect.signature(chosen).parameters.items()
    return [name for name, p in parameters if p.default is p.empty and name not in (*FILLED_IN, *GIVEN_BY_FIT)]


def _settings(option: str, words: str, told: str) -> dict[str, Any]:
    """Numbers, tuples and words; nothing is evaluated."""
    try:
        call: Any = ast.parse(f"f({told})", mode="eval").body
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name)):
            raise ValueError("brackets that close too early")
        if call.args or any(k.arg is None for k in call.keywords):
            raise ValueError("settings are KEY=VALUE")
        values = {str(k.arg): k.value for k in call.keywords}
        return {key: v.id if isinstance(v, ast.Name) else ast.literal_eval(v) for key, v in values.items()}
    except (SyntaxError, ValueError):
        raise ValueError(f"{option}: expected NAME or NAME:KEY=VALUE,..., found {words!r}") from None
