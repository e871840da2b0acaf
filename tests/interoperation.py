"""Every recipe's programs are Pyro programs: what Pyro does to any model and guide, it does to these.

As in contract.py, each check takes a recipe, and data are the variant's own draws.
"""

import inspect

import pyro
import pytest
import torch
from contract import SHAPE, batch_of
from pyro import poutine
from pyro.infer import MCMC, NUTS, Predictive
from pyro.infer.inspect import get_model_relations
from pyro.ops.stats import effective_sample_size

from pyro_vae import families, tracing


def two_units(recipe):
    """The arguments of a recipe that make every code two numbers, or few categories."""
    sizes = {"latent": {"latent": 2}, "latents": {"latents": (2, 2)}, "codes": {"codes": 2, "categories": 3}}
    sizes["codebook"] = {"codebook": 4, "width": 2, "hidden": (8,)}
    return next(sizes[name] for name in sizes if name in inspect.signature(recipe).parameters)


def make(recipe, seed=0):
    """A small pair with large weights: as it is built, a datum says next to nothing of its code."""
    torch.manual_seed(seed)
    pair = recipe(SHAPE, **two_units(recipe))
    with torch.no_grad():
        for parameter in pair.parameters():
            parameter.mul_(3)
    return pair


def batches(pair, n):
    """A batch that the model dreamt, and the same without its labels where a pair can do without."""
    batch = batch_of(pair, n)
    yield batch
    if pair.labels:
        yield {name: value for name, value in batch.items() if name not in pair.labels}


def scored(program, **arguments):
    trace = poutine.trace(program).get_trace(**arguments)
    trace.compute_log_prob()
    return trace


def log_probs(trace):
    return {name: site["log_prob"] for name, site in tracing.sites(trace).items()}


def condition(recipe):
    """A site is observed at the value that it is given, and nothing else changes."""
    pair = make(recipe)
    for batch in batches(pair, 5):
        drawn = scored(pair.model, **batch)
        values = {name: site["value"] for name, site in tracing.sites(drawn).items()}
        for name in tracing.latent_sites(drawn):
            model = poutine.condition(pair.model, data={name: values[name]})
            trace = scored(poutine.replay(model, trace=drawn), **batch)
            assert trace.nodes[name]["is_observed"]
            assert torch.equal(trace.nodes[name]["value"], values[name])
            torch.testing.assert_close(log_probs(trace), log_probs(drawn))
        whole = scored(poutine.condition(pair.model, data=values), n=5)  # data as well, by no argument
        assert not tracing.latent_sites(whole)
        torch.testing.assert_close(log_probs(whole), log_probs(drawn))


def do(recipe):
    """What is done to a site reaches what depends on it, and is itself no evidence."""
    pair = make(recipe)
    other = tracing.sites(pair.draw(5, 2))
    for batch in batches(pair, 5):
        sites = tracing.sites(poutine.trace(pair.model).get_trace(**batch))
        data = [name for name in batch if name not in pair.given]
        arrows = get_model_relations(pair.model, model_kwargs=batch)["sample_sample"]
        for site in (name for name in sites if name not in data):
            assert any(site in parents for parents in arrows.values())
            value = other[site]["value"]
            done = scored(poutine.do(pair.model, data={site: value}), **batch)
            rest = {name: x for name, x in batch.items() if name != site}
            told = scored(poutine.replay(poutine.condition(pair.model, data={site: value}), trace=done), **rest)
            natural = done.nodes[site]
            assert set(tracing.sites(done)) == set(sites), "the intervention is a site of its own"
            assert natural["is_observed"] == (site in batch)
            assert not torch.equal(natural["value"], value)
            torch.testing.assert_close(natural["log_prob"], natural["fn"].log_prob(natural["value"]))
            for name in set(sites) - {site}:
                torch.testing.assert_close(done.nodes[name]["log_prob"], told.nodes[name]["log_prob"])
            left = scored(poutine.replay(pair.model, trace=done), **batch)  # the same draws, left alone
            for name in data:
                torch.testing.assert_close(tracing.mean(done.nodes[name]["fn"]), tracing.mean(told.nodes[name]["fn"]))
            for name in (name for name, parents in arrows.items() if site in parents):
                assert not torch.allclose(tracing.mean(done.nodes[name]["fn"]), tracing.mean(left.nodes[name]["fn"]))


def prior_predictive(recipe):
    pair = make(recipe)
    sites = tracing.sites(pair.draw(5, 1))
    for batch in batches(pair, 5):
        given = {name: value for name, value in batch.items() if name in pair.given}
        for parallel in (False, True):
            draws = Predictive(pair.model, num_samples=6, parallel=parallel)(n=5, **given)
            for name, site in sites.items():
                assert draws[name].shape == (6, *site["value"].shape)
                same = all(torch.equal(draws[name][0], draw) for draw in draws[name])
                assert same == (name in given), name
            for name, value in given.items():
                assert torch.equal(draws[name][0], value)


def posterior_predictive(recipe):
    """Data drawn anew have the mean of the pair's own reconstructions."""
    many = 1000
    pair = make(recipe)
    for batch in batches(pair, 4):
        with torch.no_grad():
            draws = Predictive(pair.model, guide=pair.guide, num_samples=3)(**batch)
        for site, q in pair.encode(**batch).items():
            assert draws[site].shape == (3, *q.batch_shape, *q.event_shape)
        given = {name: value for name, value in batch.items() if name in pair.given}
        model = poutine.condition(poutine.uncondition(pair.model), data=given)  # it takes conditions back as well
        copies = {name: value.repeat_interleave(many, 0) for name, value in batch.items()}
        means = pair.by_name(pair.reconstruct(mean=True, seed=1, **copies))
        for parallel, number in ((False, 3), (True, many)):
            draws = Predictive(model, guide=pair.guide, num_samples=number, parallel=parallel)(**batch)
            for name in means:
                assert draws[name].shape == (number, *batch[name].shape)
                assert not (draws[name] == batch[name]).flatten(1).all(1).any(), "data came back as they were"
        for name, mean in means.items():
            mean = mean.unflatten(0, (4, many))
            error = draws[name].var(0) / many + mean.var(1) / many
            # 1 in expectation; entries of a datum err together, through its code
            assert (draws[name].mean(0) - mean.mean(1)).square().sum() < 2.5 * error.sum()


def render_model(recipe):
    """The graph has every site in the plate, the observed ones grey."""
    graphviz = pytest.importorskip("graphviz")
    pair = make(recipe)
    for batch in batches(pair, 3):
        for program in (pair.model, pair.guide):
            sites = tracing.sites(poutine.trace(program).get_trace(**batch))
            for options in ({}, {"render_distributions": True}, {"render_params": True}):
                graph = pyro.render_model(program, model_kwargs=batch, **options)
                assert isinstance(graph, graphviz.Digraph)
                plate = graph.source.partition("subgraph cluster_data {")[2].partition("}")[0]
                for name, site in sites.items():
                    colour = "gray" if site["is_observed"] else "white"
                    assert f"{name} [label={name} fillcolor={colour} " in plate
                    assert "render_distributions" not in options or f"{name} ~ " in graph.source


def nuts(recipe):
    """The posterior of one datum's codes without the guide; a class that is not given is summed out.

    Codes that are categories and nothing else leave it nowhere to go. Its moments are held against importance sampling
    from the prior, whose draws need no gradient.
    """
    pair = make(recipe)
    for batch in batches(pair, 1):
        drawn = tracing.latent_sites(scored(pair.model, **batch))
        if all(families.is_discrete(site["fn"]) for site in drawn.values()):
            continue
        pyro.set_rng_seed(0)
        sampler = MCMC(NUTS(pair.model, max_tree_depth=5), num_samples=200, warmup_steps=60, disable_progbar=True)
        sampler.run(**batch)
        draws = sampler.get_samples()
        with torch.no_grad():
            prior = scored(pair.model, **{name: value.repeat_interleave(50_000, 0) for name, value in batch.items()})
        latents = tracing.latent_sites(prior)
        weights = sum(log_prob for name, log_prob in log_probs(prior).items() if name not in latents).softmax(0)
        continuous = {name for name, site in latents.items() if not site["fn"].has_enumerate_support}
        assert set(draws) == continuous
        for name in continuous:
            assert draws[name].shape == (200, *latents[name]["value"][:1].shape)
            agree(draws[name].flatten(1), latents[name]["value"].flatten(1), weights)


def agree(draws, values, weights):
    """Moments of a chain and of values with weights; five standard errors, as a short chain understates its own."""
    w = weights.unsqueeze(-1)
    for power in (1, 2):
        chain, known = draws**power, values**power
        truth = (w * known).sum(0)
        error = chain.var(0) / effective_sample_size(chain[None]) + (w * (known - truth)).square().sum(0)
        assert ((chain.mean(0) - truth).abs() < 5 * error.sqrt()).all()


CHECKS = [condition, do, prior_predictive, posterior_predictive, render_model, nuts]
