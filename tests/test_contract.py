"""Every recipe against the contract."""

import inspect

import contract
import pytest

import pyro_vae as pv


@pytest.mark.parametrize("check", contract.CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("recipe", pv.RECIPES.values(), ids=list(pv.RECIPES))
def test_contract(recipe, check, tmp_path):
    check(recipe, tmp_path) if "folder" in inspect.signature(check).parameters else check(recipe)


def test_the_named_recipes_are_registered():
    assert {"vae", "beta_vae"} <= set(pv.RECIPES)
    assert pv.RECIPES["vae"] is pv.vae
    assert pv.RECIPES["beta_vae"] is pv.beta_vae
