"""Graphs of latents: who reads whom, exact posteriors in closed form, data in parts, bad graphs."""

import inspect
import json
import pickle
import random
from functools import partial

import matplotlib.pyplot as plt
import networkx
import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Predictive, Trace_ELBO
from pyro.optim import Adam
from torch import nn

import pyro_vae as pv
from pyro_vae import cli, graphs, tracing
from pyro_vae.infer import IWAE, FreeBits, observed
from pyro_vae.likelihoods import Bernoulli, Normal, Poisson
from pyro_vae.nets import MLP, Conv
from pyro_vae.posteriors import bounded_scale

EXACT = {"atol": 1e-9, "rtol": 0}
NOISE = 0.6
HALVES = {"left": (1, 8, 4), "right": (1, 8, 4)}
TREE = {"z1": ["z3"], "z2": ["z3"], "left": ["z1"], "right": ["z2"]}
VECTORS = {"left": 2, "right": 2}

GRAPHS = {
    "chain": (2, {"z1": ["z2"], "x": ["z1"]}),
    "two causes": (2, {"x": ["z1", "z2"]}),
    "tree": (VECTORS, TREE),
    "diamond": (3, None),
}


def random_graph(seed):
    """Two parts of the data under four latents, any graph between these in which each leads to the data."""
    draw = random.Random(seed)
    latents = ["a", "b", "c", "d"]
    parents = {site: draw.sample(latents[:i], draw.randint(0, i)) for i, site in enumerate(latents) if i}
    parents |= {part: draw.sample(latents, draw.randint(1, 2)) for part in VECTORS}
    named = {above for parts in parents.values() for above in parts}
    parents["right"] += [site for site in latents if site not in named and site not in parents["right"]]
    keys = list(parents)
    draw.shuffle(keys)
    return VECTORS, {key: parents[key] for key in keys}


RANDOM = {f"random {seed}": random_graph(seed) for seed in range(12)}
EVERY = GRAPHS | RANDOM


def halves(n=40):
    x = pv.data.load("digits", binarise="threshold").x[:n]
    return {"left": x[..., :4], "right": x[..., 4:]}


def small(seed=0, **options):
    torch.manual_seed(seed)
    return pv.dag_vae(HALVES, **{"parents": TREE, "latent": {"z1": 2, "z2": 3, "z3": 4}, "hidden": (16,)} | options)


# ---------------------------------------------------------------------- who reads whom


READS = {
    "chain": {"z2": ["x"], "z1": ["x", "z2"]},
    "two causes": {"z1": ["x"], "z2": ["x", "z1"]},
    "tree": {"z3": ["left", "right"], "z1": ["left", "z3"], "z2": ["right", "z3"]},
    "diamond": {"z3": ["x"], "z1": ["x", "z3"], "z2": ["x", "z3", "z1"]},
}


@pytest.mark.parametrize("name", READS)
def test_a_latent_reads_what_its_posterior_depends_on(name):
    reads = graphs.read(*GRAPHS[name], 1).reads()
    assert {site: list(names) for site, names in reads.items()} == READS[name]
    assert list(reads) == list(READS[name])


@pytest.mark.parametrize("name", EVERY)
def test_what_is_not_read_is_d_separated_and_what_is_read_is_not(name):
    graph = graphs.read(*EVERY[name], 1)
    arrows = networkx.DiGraph([(above, site) for site, parents in graph.parents.items() for above in parents])
    known = set(graph.data)
    for site, reads in graph.reads().items():
        apart = {o for o in known if networkx.is_d_separator(arrows, {site}, {o}, known - {o})}
        assert set(reads) == known - apart
        known.add(site)


def test_parents_come_first_and_the_order_is_that_of_the_mapping():
    assert list(graphs.read(4, {"x": ["b", "a"]}, 1).latents) == ["b", "a"]
    assert list(graphs.read(4, {"b": ["a"], "a": ["c"], "x": ["b"]}, 1).latents) == ["c", "a", "b"]
    assert list(graphs.read(4, {"x": ["b", "a"], "a": []}, 1).latents) == ["b", "a"]
    for shape, parents in RANDOM.values():
        order = list(graphs.read(shape, parents, 1).parents)
        assert order[-2:] == ["left", "right"]
        assert all(order.index(above) < order.index(site) for site in parents for above in parents[site])


def test_a_graph_of_many_latents_is_read_at_once():
    names = [f"z{i}" for i in range(300)]
    parents = {site: names[max(i - 3, 0) : i] for i, site in enumerate(names) if i} | {"x": names[-3:]}
    reads = graphs.read(4, parents, 1).reads()
    assert set(reads["z100"]) == {"x", "z97", "z98", "z99"}


def test_both_programs_say_what_they_are():
    shown = str(small())
    assert "p(x, z) = p(z3) p(z1 | z3) p(z2 | z3) p(left | z1) p(right | z2)\n" in shown
    assert "q(z | x) = q(z3 | left, right) q(z1 | left, z3) q(z2 | right, z3)\n" in shown


# ---------------------------------------------------------------------- exact posteriors


def linear(shape, parents, seed=0):
    """A pair of linear maps with noise between latents of one dimension, in double precision."""
    torch.manual_seed(seed)
    likelihood = partial(Normal, scale=NOISE)
    pair = pv.dag_vae(shape, parents, 1, likelihood=likelihood, net=partial(MLP, hidden=())).double()
    for part in pair.model.parts:
        for layer in layers(part):
            nn.init.normal_(layer.weight)
            nn.init.normal_(layer.bias, std=0.3)
            if isinstance(part, pv.priors.Conditional):
                nn.init.zeros_(layer.weight[1])  # the scale depends on nothing
    return pair.requires_grad_(False)


def layers(module):
    return [m for m in module.modules() if isinstance(m, nn.Linear)]


class Joint:
    """The normal distribution of all sites of a linear pair: site = mean + loading @ noise."""

    def __init__(self, pair):
        trace = tracing.sites(pair.draw(1))
        widths = {site: trace[site]["value"].numel() for site in pair.model.parents}
        ends = torch.tensor(list(widths.values())).cumsum(0).tolist()
        self.at = {site: list(range(end - widths[site], end)) for site, end in zip(widths, ends, strict=True)}
        self.mean, loading = (torch.zeros(*shape, dtype=torch.float64) for shape in (ends[-1:], 2 * ends[-1:]))
        for (site, above), part in zip(pair.model.parents.items(), pair.model.parts, strict=True):
            here, width = self.at[site], widths[site]
            up = [i for name in above for i in self.at[name]]
            scale = torch.full((width,), NOISE if site in pair.arguments else 1.0, dtype=torch.float64)
            for layer in layers(part):
                self.mean[here] = layer.weight[:width] @ self.mean[up] + layer.bias[:width]
                loading[here] = layer.weight[:width] @ loading[up]
                if site not in pair.arguments:
                    scale = bounded_scale(layer.bias[width:])
            loading[here, here] += scale
        self.covariance = loading @ loading.T

    def of(self, *sites):
        rows = [i for site in sites for i in self.at[site]]
        return self.mean[rows], self.covariance[rows][:, rows]

    def given(self, site, names):
        """E[site | names] = W names + b, and the covariance that is left."""
        (m, C), (m_up, C_up) = self.of(site), self.of(*names)
        rows, columns = self.at[site], [i for name in names for i in self.at[name]]
        cross = self.covariance[rows][:, columns]
        W = torch.linalg.solve(C_up, cross.T).T
        return W, m - W @ m_up, C - W @ cross.T

    def evidence(self, data):
        mean, covariance = self.of(*data)
        x = torch.cat(list(data.values()), -1)
        return torch.distributions.MultivariateNormal(mean, covariance).log_prob(x)


def set_guide(posterior, W, b, scale):
    (layer,) = layers(posterior)
    layer.weight.zero_()
    layer.weight[0] = W[0]
    layer.bias.copy_(torch.stack([b[0], 7 * torch.atanh(scale.log() / 7)]))


def exact(pair, but=()):
    """The closed-form conditionals of the model put into its guide, ``but`` for some of the sites that it reads."""
    joint = Joint(pair)
    for (site, names), posterior in zip(pair.guide.reads.items(), pair.guide.posteriors, strict=True):
        W, b, left = joint.given(site, [name for name in names if name not in but])
        read = torch.tensor([name not in but for name in names for _ in joint.at[name]])
        whole = torch.zeros(1, len(read), dtype=torch.float64)
        whole[:, read] = W
        set_guide(posterior, whole, b, left[0, 0].sqrt())
    return joint


def drawn(pair, n=30):
    return pair.by_name(pair.sample(n, seed=1))


@pytest.mark.parametrize("name", EVERY)
def test_elbo_at_the_exact_posterior_is_the_evidence(name):
    pair = linear(*EVERY[name])
    joint, x = exact(pair), drawn(pair)
    torch.testing.assert_close(pair.elbo(**x), joint.evidence(x), **EXACT)
    torch.testing.assert_close(pair.log_likelihood(particles=3, **x), joint.evidence(x), **EXACT)


@pytest.mark.parametrize("name", EVERY)
def test_the_guide_reads_all_that_a_regression_finds_and_nothing_else(name):
    pair = linear(*EVERY[name])
    joint, known = Joint(pair), list(pair.arguments)
    for site, reads in pair.guide.reads.items():
        W, _, _ = joint.given(site, known)
        ends = [0, *torch.tensor([len(joint.at[o]) for o in known]).cumsum(0).tolist()]
        weights = {o: W[0, a:b].abs().max() for o, a, b in zip(known, ends, ends[1:], strict=False)}
        assert {o for o, weight in weights.items() if weight > 1e-9} == set(reads)
        known.append(site)


def test_a_guide_that_ignores_the_other_cause_stays_below_the_evidence():
    pair = linear(*GRAPHS["two causes"])
    joint, x = Joint(pair), drawn(pair)
    mean, covariance = joint.of("z1", "z2", "x")
    cross = covariance[:2, 2:]
    W = torch.linalg.solve(covariance[2:, 2:], cross.T).T
    left = covariance[:2, :2] - W @ cross.T
    intercept, precision = mean[:2] - W @ mean[2:], torch.linalg.inv(left)
    for i, posterior in enumerate(pair.guide.posteriors):  # no product q(z1 | x) q(z2 | x) is nearer to p(z1, z2 | x)
        row = nn.functional.pad(W[i : i + 1], (0, i))
        set_guide(posterior, row, intercept[i : i + 1], precision[i, i].rsqrt())
    gap = -0.5 * torch.log(1 - left[0, 1] ** 2 / (left[0, 0] * left[1, 1]))
    assert gap > 0.1
    runs = torch.stack([(joint.evidence(x) - pair.elbo(particles=200, seed=s, **x)).mean() for s in range(20)])
    assert abs(runs.mean() - gap) < 4 * runs.std() / len(runs) ** 0.5
    exact(pair)
    torch.testing.assert_close(pair.elbo(**x), joint.evidence(x), **EXACT)


def test_a_part_that_is_hidden_is_imputed_from_the_others():
    pair = linear(*GRAPHS["tree"])
    joint, x = exact(pair, but=["right"]), drawn(pair, 3)  # p(z | left) = p(z3 | left) p(z1 | left, z3) p(z2 | z3)
    many = {"left": x["left"].repeat(500, 1), "right": torch.full_like(x["right"], torch.nan).repeat(500, 1)}
    with observed(right=torch.isfinite):
        torch.testing.assert_close(pair.elbo(**many), joint.evidence({"left": many["left"]}), **EXACT)
        whole = pair.impute(mean=True, seed=0, **many)
    assert torch.equal(whole["left"], many["left"])
    W, b, _ = joint.given("right", ["left"])
    means = whole["right"].unflatten(0, (500, 3))
    assert ((means.mean(0) - (x["left"] @ W.T + b)).abs() < 4.5 * means.std(0) / 500**0.5).all()


# ---------------------------------------------------------------------- programs of parts


def test_programs_take_the_parts_by_name_and_by_place():
    pair, x = small(), halves(6)
    assert pair.arguments == ["left", "right"]
    assert tracing.required(pair.guide) == ["left", "right"]
    assert tracing.required(pair.model) == []
    assert str(inspect.signature(pair.model)) == "(left=None, right=None, n=1)"
    for again in (pair, pickle.loads(pickle.dumps(pair))):
        named, placed = (
            poutine.trace(poutine.replay(again.model, trace=poutine.trace(again.guide).get_trace(*args, **kwargs)))
            for args, kwargs in (((), x), (tuple(x.values()), {}))
        )
        assert set(named.get_trace(**x).nodes) == set(placed.get_trace(*x.values()).nodes)
        assert str(inspect.signature(again.guide)) == "(left, right)"
    svi = SVI(*pair, Adam({"lr": 1e-2}), Trace_ELBO())
    losses = [svi.step(*x.values()) for _ in range(60)]
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])
    for wrong in ({"up": x["left"]}, {"z1": torch.zeros(6, 2)}):
        with pytest.raises(TypeError, match="unexpected keyword"):
            pair.model(**wrong)
    with pytest.raises(TypeError, match="missing a required argument: 'right'"):
        pair.guide(left=x["left"])


def test_parts_that_are_not_given_are_dreamt():
    pair, x = small(), halves(6)
    trace = poutine.trace(pair.model).get_trace(left=x["left"])
    assert trace.nodes["left"]["is_observed"]
    assert not trace.nodes["right"]["is_observed"]
    assert trace.nodes["_RETURN"]["value"]["left"] is x["left"]
    assert trace.nodes["right"]["value"].shape == (6, 1, 8, 4)
    assert {part: tuple(value.shape) for part, value in pair.model(n=3).items()} == {
        part: (3, *shape) for part, shape in HALVES.items()
    }
    with pytest.raises(ValueError, match="right: missing; the guide needs it"):
        pair.elbo(left=x["left"])
    with pytest.raises(ValueError, match="lengths"):
        pair.elbo(left=x["left"], right=x["right"][:3])


def test_predictive_draws_every_part():
    pair, x = small(), halves(6)
    for parallel in (False, True):
        prior = Predictive(pair.model, num_samples=3, parallel=parallel)(n=5)
        assert {site: tuple(value.shape) for site, value in prior.items()} == {
            "z3": (3, 5, 4), "z1": (3, 5, 2), "z2": (3, 5, 3), "left": (3, 5, 1, 8, 4), "right": (3, 5, 1, 8, 4),
        }  # fmt: skip
        new = Predictive(poutine.uncondition(pair.model), guide=pair.guide, num_samples=4, parallel=parallel)(**x)
        assert new["right"].shape == (4, 6, 1, 8, 4)


def test_verbs_of_a_pair_whose_data_have_parts():
    pair, x = small(), halves(6)
    for draw in (pair.sample(6), pair.sample(6, mean=True), pair.reconstruct(**x)):
        assert {part: tuple(value.shape[1:]) for part, value in draw.items()} == HALVES
    codes = pair.encode(ancestors="mean", **x)
    assert {site: tuple(q.event_shape) for site, q in codes.items()} == {"z3": (4,), "z1": (2,), "z2": (3,)}
    decoded = pair.decode({site: q.mean for site, q in codes.items()})
    assert decoded["left"].shape == x["left"].shape
    assert pair.elbo(**x).shape == pair.log_likelihood(particles=3, **x).shape == (6,)
    assert pair.interpolate(x, x, steps=3)["right"].shape == (3, 6, 1, 8, 4)
    moved = pair.traverse("z1", units=[0, 1], values=[-2, 0, 2], **{part: value[:1] for part, value in x.items()})
    assert moved["left"].shape == (2, 3, 1, 8, 4)
    assert not torch.equal(moved["left"][0, 0], moved["left"][0, 2])
    assert torch.equal(moved["right"][0, 0], moved["right"][0, 2])  # which z1 does not explain
    report = pv.evaluate(pair, x, particles=2)
    assert list(report.kl) == ["z3", "z1", "z2"]
    assert report.dimensions == 64
    for figure in (
        pv.plot.samples(pair, 4),
        pv.plot.reconstructions(pair, x, 3),
        pv.plot.traversals(pair, x, site="z2"),
        pv.plot.latents(pair, x, site="z3"),
    ):
        plt.close(figure)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temper": {"z3": 0.5, "z1": pv.infer.WarmUp(epochs=1)}},
        {"objective": FreeBits(0.1, per="unit")},
        {"objective": FreeBits(0.1)},
        {"objective": IWAE(3)},
    ],
    ids=["elbo", "temper", "free units", "free sites", "iwae"],
)
def test_fit_on_parts(options):
    pair, x = small(), halves()
    before = pair.elbo(particles=50, seed=0, **x).mean()
    run = pv.fit(pair, x, validation=x, epochs=8, batch_size=10, lr=5e-3, progress=False, **options)
    assert run.epochs == 8
    assert pair.elbo(particles=50, seed=0, **x).mean() > before + 5


def test_a_weight_of_an_unknown_site_is_refused():
    with pytest.raises(ValueError, match="z4"):
        pv.fit(small(), halves(), epochs=1, temper={"z4": 0.5}, progress=False)


def test_fit_where_whole_parts_are_missing():
    pair, x = small(), halves()
    holed = {part: value.clone() for part, value in x.items()}
    holed["left"][:10], holed["right"][10:20, :, :4] = torch.nan, torch.nan
    with observed(left=torch.isfinite, right=torch.isfinite):
        pv.fit(pair, holed, epochs=2, batch_size=16, progress=False)
        whole = pair.impute(particles=5, seed=0, **holed)
        report = pv.evaluate(pair, holed, particles=2)
    assert report.dimensions == 64 - (10 * 32 + 10 * 16) / 40
    for part, value in whole.items():
        assert torch.equal(value[~holed[part].isnan()], holed[part][~holed[part].isnan()])
        assert not value.isnan().any()


# ---------------------------------------------------------------------- what they are built of


def test_parts_of_different_kinds():
    shapes = {"count": (5,), "image": (3, 24, 24), "row": (6,)}
    likelihoods = {"image": Bernoulli, "count": Poisson, "row": partial(Normal, scale=0.5)}
    parents = {"image": ["z"], "count": ["z", "y"], "row": ["y"]}
    pair = pv.dag_vae(shapes, parents, likelihood=likelihoods)
    x = pair.sample(4, seed=0)
    assert torch.isfinite(pair.elbo(**x)).all()
    assert pair.guide.reads == {"z": ("image", "count", "row"), "y": ("count", "row", "z")}
    convolves = [any(isinstance(m, Conv) for m in posterior.modules()) for posterior in pair.guide.posteriors]
    assert convolves == [True, False]  # numbers are planes beside the image
    many = x | {"count": x["count"] + 1000}
    assert pair.encode(**many)["z"].mean.abs().max() < 20  # counts are read as log(1 + x)


def test_what_is_no_plane_is_read_as_one_vector():
    pair = pv.dag_vae({"image": (3, 24, 24), "matrix": (2, 3)}, {"image": ["z"], "matrix": ["z"]}, latent=2)
    assert not [m for m in pair.guide.modules() if isinstance(m, Conv)]
    assert [m for m in pair.model.modules() if isinstance(m, Conv)]
    x = {"image": torch.ones(3, 3, 24, 24), "matrix": torch.ones(3, 2, 3)}
    assert torch.isfinite(pair.elbo(**x)).all()


@pytest.mark.parametrize(("other", "convolves"), [((1, 33, 33), True), ((2, 33, 33), True), ((1, 33, 40), False)])
def test_images_of_one_size_are_read_side_by_side(other, convolves):
    pair = pv.dag_vae({"a": (1, 33, 33), "b": other}, {"a": ["z"], "b": ["z", "y"]}, latent=2)
    x = pair.sample(2, seed=0)
    assert torch.isfinite(pair.elbo(**x)).all()
    found = [[m for m in posterior.modules() if isinstance(m, Conv)] for posterior in pair.guide.posteriors]
    assert list(map(bool, found)) == [convolves, convolves or bool(found[1])]
    if not convolves:
        with pytest.raises(ValueError, match="z: expected images of one size"):
            pv.dag_vae({"a": (1, 33, 33), "b": other}, {"a": ["z"], "b": ["z", "y"]}, latent=2, net=Conv)


def test_hidden_layers_are_told_from_the_data_inwards():
    pair = pv.dag_vae(9, {"z1": ["z2"], "x": ["z1"]}, latent={"z1": 2, "z2": 3}, hidden=(7, 5))

    def widths(module):
        return [(m.in_features, m.out_features) for m in layers(module)]

    assert [widths(part) for part in pair.model.parts] == [[], [(3, 5), (5, 7), (7, 4)], [(2, 5), (5, 7), (7, 9)]]
    assert [widths(part) for part in pair.guide.posteriors] == [[(9, 7), (7, 5), (5, 6)], [(12, 7), (7, 5), (5, 4)]]


def test_one_latent_is_a_vae():
    torch.manual_seed(0)
    one = pv.dag_vae((1, 8, 8), {"x": ["z"]}, latent=3)
    assert [tuple(p.shape) for p in one.parameters()] == [tuple(p.shape) for p in pv.vae((1, 8, 8), 3).parameters()]


def test_a_graph_is_saved_with_the_pair(tmp_path):
    parents = {site: list(above) for site, above in TREE.items()}
    likelihoods = {"left": Bernoulli, "right": partial(Normal, scale=0.5)}
    pair = small(parents=parents, likelihood=likelihoods, net=MLP)
    parents["z1"].append("z4")  # which is the caller's to change
    again = pv.load(pair.save(tmp_path / "pair"))
    assert again.recipe.name == pair.recipe.name
    assert repr(again) == repr(pair)
    for name in ("data_shape", "parents", "latent"):
        assert again.recipe.arguments[name] == pair.recipe.arguments[name]
    x = halves(5)
    assert torch.equal(again.elbo(seed=0, **x), pair.elbo(seed=0, **x))
    config = json.loads((tmp_path / "pair" / "config.json").read_text())
    assert config["arguments"]["parents"] == {"mapping": TREE}


def test_a_graph_in_words(tmp_path, capsys):
    words = ["train", "dag_vae", "--parents.z1", "top", "--parents.x", "z1,top", "--latent", "2", "--epochs", "1"]
    run = str(tmp_path / "run")
    assert cli.main([*words, "--no-progress", "--out", run]) == 0
    assert "q(z | x) = q(top | x) q(z1 | x, top)" in capsys.readouterr().out
    assert pv.load(run).recipe.arguments["parents"] == {"z1": ("top",), "x": ("z1", "top")}
    assert cli.main(["train", "dag_vae", "--parents.x", "z1,", "--out", str(tmp_path / "other")]) == 2
    assert "identifiers such as z1, found ''" in capsys.readouterr().err


# ---------------------------------------------------------------------- bad input


def dag(data_shape=4, parents=None, latent=1, **options):
    return pv.dag_vae(data_shape, parents, latent, **options)


CASES = {
    "cycle": (lambda: dag(4, {"a": ["b"], "b": ["c"], "c": ["a"], "x": ["a"]}), r"parents: a cycle, (\w) -> .* -> \1;"),
    "taken by default": (lambda: pv.dag_vae({"z1": 4}), "data_shape: 'z1' is a latent site of the graph that is taken"),
    "own parent": (lambda: dag(4, {"a": ["a"], "x": ["a"]}), "parents: a: its own parent"),
    "nothing explains": (lambda: dag(VECTORS, {"left": ["a"]}), "parents: right: nothing explains this part of the"),
    "no parents": (lambda: dag(4, {"x": []}), "parents: x: nothing explains"),
    "no graph": (lambda: dag(4, {}), "parents: x: nothing explains"),
    "misspelt part": (lambda: dag({"left": 4}, {"Left": ["a"]}), "left: nothing explains.*did you mean it by 'Left'?"),
    "data as parent": (lambda: dag(VECTORS, {"left": ["a"], "right": ["left"]}), "right: 'left' is a part of the data"),
    "data above a latent": (lambda: dag(4, {"a": ["x"], "x": ["b"]}), "parents: a: 'x' is a part of the data"),
    "explains nothing": (lambda: dag(4, {"b": ["a"], "x": ["a"]}), r"parents: b: explains nothing; .* the data \(x\)"),
    "named, explains nothing": (lambda: dag(4, {"b": [], "x": ["a"]}), "parents: b: explains nothing"),
    "twice": (lambda: dag(4, {"x": ["a", "b", "a"]}), "parents: x: 'a' is there twice"),
    "string": (lambda: dag(4, {"x": "ab"}), r"parents: x: expected a sequence of .* found 'ab'; .* \['ab'\]"),
    "set": (lambda: dag(4, {"x": {"a", "b"}}), "parents: x: expected a sequence of latent sites, found {"),
    "no mapping": (lambda: dag(4, [("x", "a")]), "parents: expected a mapping such as"),
    "no identifier": (lambda: dag(4, {"x": ["z 1"]}), "parents: x: expected names of sites, .* found 'z 1'"),
    "no name": (lambda: dag(4, {"x": ["a"], 3: ["a"]}), "parents: expected names of sites, .* found 3"),
    "keyword": (lambda: dag(4, {"x": ["lambda"]}), "parents: x: .* found 'lambda'"),
    "n": (lambda: dag(4, {"x": ["n"]}), "parents: x: 'n' is the argument that says how many"),
    "plate": (lambda: dag({"data": 4}, {"data": ["a"]}), "data_shape: 'data' is the plate of the data"),
    "taken": (lambda: dag({"seed": 4}, {"seed": ["a"]}), "data_shape: 'seed': programs and verbs have an argument"),
    "part no identifier": (lambda: dag({"left half": 4}), "data_shape: expected names .* found 'left half'"),
    "no parts": (lambda: dag({}), "data_shape: expected a shape, or a shape for each part .* found an empty mapping"),
    "part without width": (lambda: dag({"left": (1, 0)}), r"data_shape\['left'\]\[1\]: .* at least 1, found 0"),
    "no width": (lambda: dag(latent=0), "latent: expected a whole number of at least 1, found 0"),
    "site without width": (lambda: dag(latent={"z1": 2, "z2": 0, "z3": 1}), r"latent\['z2'\]: .* at least 1, found 0"),
    "width of a stranger": (lambda: dag(4, {"x": ["top"]}, {"Top": 2}), "latent: unknown 'Top', .* mean 'top'"),
    "width of data": (lambda: dag(latent={"z1": 1, "z2": 1, "z3": 1, "x": 1}), "latent: unknown 'x', expected one"),
    "width missing": (lambda: dag(latent={"z1": 2, "z2": 2}), "latent: z3: missing; expected an entry for each"),
    "likelihood of a stranger": (
        lambda: dag({"left": 4}, likelihood={"right": Normal}),
        "likelihood: unknown 'right', expected one of left",
    ),
    "likelihood missing": (lambda: dag(VECTORS, likelihood={"left": Normal}), "likelihood: right: missing"),
    "hidden": (lambda: dag(hidden=(0,)), r"hidden\[0\].*found 0"),
    "image too small": (lambda: dag((1, 7, 9), net=Conv), "x: Conv: expected an image of at least 8 x 8"),
    "setting of a likelihood": (lambda: dag(likelihood=partial(Normal, scale=-1)), "x: scale: .* found -1"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_bad_graphs(name):
    wrong, message = CASES[name]
    with pytest.raises(ValueError, match=message):
        wrong()


def test_what_builds_no_likelihood():
    with pytest.raises(TypeError, match=r"likelihood\['right'\]: expected a class or a function"):
        dag(VECTORS, likelihood={"left": Normal, "right": "normal"})
    with pytest.raises(TypeError, match="net: expected a class or a function"):
        dag(net="conv")


def test_no_part_may_have_the_name_of_a_setting():
    verbs = [verb for name, verb in vars(pv.Variant).items() if inspect.isfunction(verb) and name[0] != "_"]
    settings = set()
    for function in [*verbs, observed.__init__, Trace_ELBO.loss, FreeBits.loss, IWAE.loss]:
        *told, last = inspect.signature(function).parameters.values()
        if last.kind is last.VAR_KEYWORD and last.name in ("batch", "masks", "kwargs"):
            settings |= {p.name for p in told if p.kind is not p.VAR_POSITIONAL}
    assert {"self", "seed", "fill", "guide"} <= settings
    assert not settings - graphs.TAKEN, "enter them into graphs.TAKEN"


def test_a_graph_renders_its_arrows():
    pytest.importorskip("graphviz")
    found = pyro.render_model(small().model, model_kwargs=halves(3)).source
    for site, parents in TREE.items():
        for above in parents:
            assert f"{above} -> {site}" in found
