"""Every example in a docstring runs, and what users meet by name has a docstring."""

import doctest
import inspect
import pkgutil
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_vae
from pyro_vae.likelihoods import Bernoulli
from pyro_vae.posteriors import DiagonalNormal
from pyro_vae.priors import StandardNormal

# what an example may use without importing it
COMMON = {"pv": pyro_vae, "torch": torch, "pyro": pyro, "dist": dist, "np": np}
STORIES = {"Bernoulli": Bernoulli, "DiagonalNormal": DiagonalNormal, "StandardNormal": StandardNormal}
FINDER = doctest.DocTestFinder()
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def modules(package: ModuleType = pyro_vae) -> Iterator[ModuleType]:
    """A package and everything below it."""
    yield package
    for info in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        # the path of a checkout's package holds the checkout's root, and so the package once more
        if info.name.rpartition(".")[2] not in ("pyro_vae", "__main__"):
            module = import_module(info.name)
            yield from modules(module) if info.ispkg else (module,)


def examples() -> list[doctest.DocTest]:
    tests = []
    for module in modules():
        stories = STORIES if module.__name__.startswith(("pyro_vae.models", "pyro_vae.guides")) else {}
        tests += FINDER.find(module, globs={**COMMON, **stories, **vars(module)})
    return [test for test in tests if test.examples]


def public(module: str) -> dict[str, Any]:
    """Classes and functions that a module exports, or where it does not say, those that it defines."""
    home = import_module(module)
    own = [n for n, v in vars(home).items() if getattr(v, "__module__", "") == module and n[0] != "_"]
    things = {name: getattr(home, name) for name in getattr(home, "__all__", own)}
    return {n: v for n, v in things.items() if inspect.isclass(v) or inspect.isroutine(v)}


def has_example(thing: Any) -> bool:
    return any(test.examples for test in FINDER.find(thing, thing.__name__))


def need_examples() -> list[Any]:
    """Recipes, priors, likelihoods, posteriors and objectives."""
    things = list(pyro_vae.RECIPES.values())
    for role in ("priors", "likelihoods", "posteriors"):
        things += [v for v in public(f"pyro_vae.{role}").values() if _is(v, torch.nn.Module)]
    return things + [v for v in public("pyro_vae.infer").values() if _is(v, pyro.infer.ELBO)]


def _is(thing: Any, kind: type) -> bool:
    return inspect.isclass(thing) and issubclass(thing, kind)


@pytest.mark.parametrize("example", [pytest.param(e, id=e.name) for e in examples()])
def test_an_example_gives_what_it_shows(example):
    report: list[str] = []
    doctest.DocTestRunner(optionflags=FLAGS).run(example, out=report.append)
    if report:
        pytest.fail("".join(report), pytrace=False)


ROOMS = ["distributions", "infer", "nets", "likelihoods", "posteriors", "priors", "models", "guides"]


@pytest.mark.parametrize("module", ["pyro_vae", *(f"pyro_vae.{room}" for room in ROOMS)])
def test_what_is_exported_has_a_docstring(module):
    things = public(module)
    assert things
    assert [name for name, thing in things.items() if not (thing.__doc__ or "").strip()] == []


@pytest.mark.parametrize("thing", need_examples(), ids=lambda thing: thing.__name__)
def test_parts_of_a_variant_show_an_example(thing):
    assert has_example(thing), f"{thing.__module__}.{thing.__name__} has no >>> example"
