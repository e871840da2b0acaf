"""Pyro's own handlers, Predictive, render_model and NUTS, on every recipe and where the answer is known."""

import importlib.util
import re
from functools import partial
from html import unescape
from pathlib import Path

import gaussian
import interoperation
import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import MCMC, NUTS, Predictive
from pyro.ops.stats import effective_sample_size

import pyro_vae as pv

ROOT = Path(__file__).parents[1]
IMAGES = (1, 8, 8)


@pytest.mark.parametrize("check", interoperation.CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("recipe", pv.RECIPES.values(), ids=list(pv.RECIPES))
def test_interoperation(recipe, check):
    check(recipe)


def test_nuts_finds_the_exact_posterior():
    pair = gaussian.pair()
    x = pair.sample(1, seed=3)
    A, centre, log_scale = gaussian.exact_posterior(pair.model)
    sampler = MCMC(NUTS(pair.model), num_samples=300, warmup_steps=100, disable_progbar=True)
    sampler.run(x=x)
    z = sampler.get_samples()["z"][:, 0]
    loc, scale = A @ (x[0] - centre), log_scale.exp()
    n = effective_sample_size(z[None])
    assert ((z.mean(0) - loc).abs() < 4 * scale / n.sqrt()).all()
    square = (z - loc) ** 2
    error = square.std(0) / effective_sample_size(square[None]).sqrt()
    assert ((square.mean(0) - scale**2).abs() < 4 * error).all()


@pytest.fixture
def completion():
    """A pair whose condition is a vector, which has no density, and a batch."""
    pair = interoperation.make(partial(pv.cvae, condition_shape=5))
    c = torch.randn(4, 5)
    return pair, {"x": pair.sample(4, seed=0, c=c), "c": c}


def test_a_condition_without_a_density_is_given_throughout(completion):
    pair, batch = completion
    draws = Predictive(pair.model, num_samples=3, parallel=True)(c=batch["c"])
    assert draws["x"].shape == (3, 4, *IMAGES)
    assert torch.equal(draws["c"], batch["c"].expand(3, 4, 5))
    model = poutine.condition(poutine.uncondition(pair.model), data={"c": batch["c"]})
    draws = Predictive(model, guide=pair.guide, num_samples=3, parallel=True)(**batch)
    assert not (draws["x"] == batch["x"]).flatten(1).all(1).any()
    trace = poutine.trace(poutine.do(pair.model, data={"c": batch["c"].flip(0)})).get_trace(**batch)
    torch.testing.assert_close(trace.nodes["z"]["fn"].mean, pair.model.prior(batch["c"].flip(0)).mean)


def test_nuts_under_a_condition_without_a_density(completion):
    pair, batch = completion
    sampler = MCMC(NUTS(pair.model), num_samples=5, warmup_steps=5, disable_progbar=True)
    sampler.run(**{name: value[:1] for name, value in batch.items()})
    assert sampler.get_samples()["z"].shape == (5, 1, 2)


def edges(graph):
    return set(re.findall(r"(\w+) -> (\w+)", graph.source))


CONDITIONAL = {("c", "z"), ("c", "x"), ("z", "x")}
ARROWS = {"vae": {("z", "x")}, "beta_vae": {("z", "x")}, "cvae": CONDITIONAL, "m2": CONDITIONAL - {("c", "z")}}
ARROWS |= {"aae": {("z", "x")}, "vae_gan": {("z", "x")}}
ARROWS["hvae"] = {("z2", "z1"), ("z1", "x"), ("z2", "x")}
ARROWS |= {"discrete_vae": {("z", "x")}, "vq_vae": {("z", "x")}, "joint_vae": {("z", "x"), ("c", "x")}}
ARROWS["dag_vae"] = {("z3", "z1"), ("z3", "z2"), ("z1", "x"), ("z2", "x")}


@pytest.mark.parametrize("name", ARROWS)
def test_an_arrow_wherever_a_site_depends_on_another(name):
    pytest.importorskip("graphviz")
    pair = pv.RECIPES[name](IMAGES)
    batch = interoperation.batch_of(pair, 3)
    assert edges(pyro.render_model(pair.model, model_kwargs=batch)) == ARROWS[name]


def test_a_condition_without_a_density_is_drawn_like_any(completion):
    pytest.importorskip("graphviz")
    pair, batch = completion
    graph = pyro.render_model(pair.model, model_kwargs=batch)
    assert edges(graph) == CONDITIONAL
    assert "c [label=c fillcolor=gray " in graph.source


def test_what_is_observed_in_some_batches_is_half_grey():
    pytest.importorskip("graphviz")
    pair = pv.m2(IMAGES, latent=2)
    found = pyro.render_model(pair.model, model_kwargs=list(interoperation.batches(pair, 3)))
    assert 'c [label=c fillcolor="gray:white"' in found.source
    unlabelled = interoperation.batch_of(pair, 3)
    del unlabelled["c"]
    assert edges(pyro.render_model(pair.guide, model_kwargs=unlabelled)) == {("c", "z")}


def test_the_pictures_in_docs_are_of_these_programs():
    pytest.importorskip("graphviz")
    spec = importlib.util.spec_from_file_location("graphs", ROOT / "benchmarks" / "graphs.py")
    graphs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(graphs)
    found = graphs.graphs()
    pictures = {path.stem.removeprefix("graph_"): path for path in (ROOT / "docs").glob("graph_*.svg")}
    assert set(pictures) == set(found), "python benchmarks/graphs.py --out docs"
    for name, graph in found.items():
        titles = re.findall(r"<title>(.*?)</title>", pictures[name].read_text())
        arrows = {tuple(unescape(title).split("->")) for title in titles if "&gt;" in title}
        assert arrows == edges(graph), name
        nodes = set(re.findall(r"(\w+) \[label=\w+ fillcolor", graph.source))
        assert nodes == {t for t in titles if "&gt;" not in t and not t.startswith("cluster_")}
