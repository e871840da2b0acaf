"""Pairs whose networks have random weights: under the contract of all recipes, pruned, and on the command line."""

import copy
import inspect
import json
import pickle
from functools import partial

import contract
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from contract import batch_of
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoDelta, AutoLowRankMultivariateNormal, AutoNormal
from pyro.nn import PyroModule, PyroSample
from pyro.optim import Adam
from torch import nn

import pyro_vae as pv
from pyro_vae import cli, tracing
from pyro_vae.nets import VariationalConv2d, VariationalLinear
from pyro_vae.nets.weights import FAMILIES

SHAPE = (1, 8, 8)


def net(family="normal", hidden=(8,)):
    return partial(pv.nets.VariationalMLP, hidden=hidden, family=family)


def bayesian(family="horseshoe", seed=0, **given):
    torch.manual_seed(seed)
    return pv.vae(SHAPE, latent=4, **({"decoder": net(family)} | given))


# ---------------------------------------------------------------------- the contract

DECODERS = {family: partial(pv.vae, latent=4, decoder=net(family)) for family in FAMILIES}
# one draw of the weights cannot stand in a plate of particles, and 3,000 of them, one after the other, take their time
SLOW = (contract.chunks_do_not_change_what_is_computed,)
CHECKS = [check for check in contract.CHECKS if check not in (contract.vectorised_particles, contract.command_line)]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("family", DECODERS)
def test_contract(family, check, tmp_path):
    if check in SLOW and family != "normal":
        pytest.skip("as for the normal family")
    recipe = DECODERS[family]
    check(recipe, tmp_path) if "folder" in inspect.signature(check).parameters else check(recipe)


VARIANTS = {
    "encoder too": partial(pv.vae, SHAPE, 4, decoder=net("horseshoe"), encoder=net("normal")),
    "beta_vae": partial(pv.beta_vae, SHAPE, latent=4, decoder=net(("normal", "horseshoe"))),
    "cvae": partial(pv.cvae, SHAPE, 4, net=net("horseshoe")),
    "m2": partial(pv.m2, SHAPE, 4, net=net("horseshoe")),
    "ladder": partial(pv.hvae, SHAPE, latents=(4, 3), net=net("horseshoe"), hidden=(8,)),
    "bottom-up": partial(pv.hvae, SHAPE, latents=(4, 3), guide="bottom-up", net=net("rectified_normal"), hidden=(8,)),
    "dag_vae": partial(pv.dag_vae, SHAPE, latent=3, net=net(), hidden=(8,)),
    "VampPrior": partial(
        pv.vae, SHAPE, 4, prior=partial(pv.priors.Vamp, pseudo_inputs=3), encoder=net(), decoder=net()
    ),
    "shared prior": partial(pv.vae, SHAPE, 4, prior=pv.priors.Hierarchical, decoder=net()),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant(name, tmp_path):
    """Learns, is copied, dreams, encodes, is measured, saved and read."""
    torch.manual_seed(0)
    pair = VARIANTS[name]()
    batch = batch_of(pair, 20)
    given = {site: value for site, value in batch.items() if site in pair.given}
    programs = pair.trained(pv.infer.minibatch(100))
    guide_trace = pyro.poutine.trace(programs[1]).get_trace(**batch)
    model_trace = pyro.poutine.trace(pyro.poutine.replay(programs[0], trace=guide_trace)).get_trace(**batch)
    shared = tracing.shared_sites(guide_trace)
    assert set(shared) == set(tracing.shared_sites(model_trace)) != set()
    weights = [site["scale"] for trace in (guide_trace, model_trace) for site in tracing.shared_sites(trace).values()]
    assert set(weights) == {0.2 * (4.0 if name == "beta_vae" else 1.0)}
    for other in (pair, copy.deepcopy(pair), pickle.loads(pickle.dumps(pair))):
        before = [p.detach().clone() for p in other.parameters()]
        SVI(*other.trained(pv.infer.minibatch(20)), Adam({"lr": 1e-2}), Trace_ELBO()).step(**batch)
        assert any(not torch.equal(a, b) for a, b in zip(before, other.parameters(), strict=True))
    run = pv.fit(pair, batch, epochs=1, batch_size=10, device="cpu", progress=False)
    report = pv.evaluate(pair, batch, particles=3, draws=5)
    assert np.isfinite([report.elbo, report.log_likelihood, report.shared_kl, *run.history["shared_kl"]]).all()
    assert pair.sample(5, **{k: v[:5] for k, v in given.items()}).shape == (5, *SHAPE)
    assert pair.reconstruct(mean=True, **batch).shape == (20, *SHAPE)
    loaded = pv.load(pair.save(tmp_path / "pair"))
    assert torch.equal(loaded.elbo(seed=0, **batch), pair.elbo(seed=0, **batch))
    names = [layer.name for layer in pv.weights_report(pair, draws=2).layers]
    assert {f"{layer}.weight" for layer in names} <= set(shared)
    assert pv.weight_information(pair, particles=3, codes=2, **batch).shape == (20,)


def test_weights_are_uncertain_in_every_verb():
    """Draws of the weights differ between particles, between calls, and not within one."""
    pair = bayesian("normal")
    x = pair.sample(6, seed=0)
    z = pair.encode(x=x)["z"].mean
    assert not torch.equal(pair.decode({"z": z}, seed=0), pair.decode({"z": z}, seed=1))
    twice = pair.decode({"z": z[:1].expand(2, 4)}, seed=0)
    torch.testing.assert_close(twice[0], twice[1])
    assert not torch.equal(pair.sample(3, seed=0, mean=True), pair.sample(3, seed=1, mean=True))
    # log (1/K) sum_k p(x | z_k, w_k) p(z_k) / q(z_k): at K draws of one w each, more than at one w for all
    assert (pair.log_likelihood(x=x, particles=300, seed=0) > pair.elbo(x=x, particles=300, seed=0)).all()


def test_predictive_of_pyro():
    pair = bayesian("horseshoe")
    x = pair.sample(4, seed=0)
    drawn = pyro.infer.Predictive(pair.model, guide=pair.guide, num_samples=3)(x=x)
    assert drawn["z"].shape == (3, 4, 4)


def test_a_run_that_was_stopped_goes_on_bit_by_bit(tmp_path):
    x = pv.data.load("digits", binarise="threshold").x[:100]
    options = {"batch_size": 40, "device": "cpu", "progress": False}
    whole, first, second = (bayesian("horseshoe", encoder=net("normal")) for _ in range(3))
    pv.fit(whole, x, epochs=4, **options)
    pv.fit(first, x, epochs=2, out=tmp_path / "run", **options)
    pv.fit(second, x, epochs=4, out=tmp_path / "run", resume=True, **options)
    for a, b in zip(whole.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def test_fit_prior_keeps_the_weights():
    """Only what belongs to the prior moves: q of the weights of both networks stays, bit by bit."""
    x = pv.data.load("digits", binarise="threshold").x[:300]
    pair = bayesian("normal", encoder=net())
    pv.fit(pair, x, epochs=20, lr=1e-2, batch_size=50, progress=False)
    better = pv.fit_prior(pair, x, pv.priors.Mixture, epochs=2, progress=False)
    ours, theirs = (p.guide.shared.state_dict() for p in (pair, better))
    assert all(torch.equal(theirs[name], value) for name, value in ours.items())


def test_a_prior_with_classes_of_its_own_still_trains():
    """Where a code is drawn by the score function, closed forms are not asked for."""

    class Classes(PyroModule):
        def __init__(self):
            super().__init__()
            self.scale = PyroSample(dist.HalfNormal(1.0))

        def forward(self):
            k = pyro.sample("k", dist.Categorical(torch.ones(2)))
            return dist.Normal(torch.eye(4)[k], 0.1 + self.scale.unsqueeze(-1)).to_event(1)

    pair = bayesian("normal", prior=Classes())
    pv.fit(pair, pair.sample(10, seed=0), epochs=1, progress=False)


# ---------------------------------------------------------------------- pruning


def closed(pair, layer="likelihood.decoder.net.3", units=(1, 4, 5)):
    """A pair whose horseshoe has closed some units: their scales are next to nothing."""
    shared = pair.guide.shared
    local = shared.posteriors[shared.sites.index(f"{layer}.local_scale")]
    with torch.no_grad():
        local.loc[list(units)] = -20.0 / local.unit
    return pair


def at_means(pair):
    """All posteriors of weights next to points, so that one draw is as good as another."""
    with torch.no_grad():
        for posterior in pair.guide.shared.posteriors:
            posterior.scale.fill_(-20.0)
    return pair


@pytest.mark.parametrize("hidden", [(8,), (6, 8)])
@pytest.mark.parametrize("first", ["normal", "horseshoe", "rectified_normal", "piecewise_normal"])
def test_a_pruned_pair_gives_what_the_larger_gave(first, hidden, tmp_path):
    families = (first, *["horseshoe"] * len(hidden))
    layer = f"likelihood.decoder.net.{2 * len(hidden) + 1}"
    pair = at_means(closed(bayesian(decoder=net(families, hidden)), layer))
    report = pv.weights_report(pair)[layer]
    assert report.remaining == 5
    assert report.kept.tolist() == [True, False, True, True, False, False, True, True]
    small = pv.prune(pair)
    assert pv.weights_report(pair)[layer].units == 8, "the pair itself was pruned"
    assert pv.weights_report(small)[layer].units == 5
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in pair.parameters())
    x = pair.sample(10, seed=0)
    z = pair.encode(x=x)["z"].mean
    torch.testing.assert_close(small.decode({"z": z}), pair.decode({"z": z}), atol=1e-5, rtol=1e-4)
    again = pv.load(small.save(tmp_path / "small"))
    assert torch.equal(again.elbo(x=x, seed=0), small.elbo(x=x, seed=0))
    pv.fit(again, x, epochs=1, progress=False)


def test_what_is_spent_on_closed_units_is_the_rest():
    """KL of the pair = KL of the smaller one + that of the weights that are gone, in closed form for each number."""
    pair = closed(bayesian(decoder=net(("normal", "horseshoe"))))
    small = pv.prune(pair)
    before, after = (pv.infer.shared_kl(p, draws=1) for p in (pair, small))
    gone, kept = [1, 4, 5], [0, 2, 3, 6, 7]
    for layer, dim in (("likelihood.decoder.net.1.weight", 0), ("likelihood.decoder.net.3.weight", 1)):
        q = pair.guide.shared.posteriors[pair.guide.shared.sites.index(layer)]().base_dist
        kl = torch.distributions.kl_divergence(q, dist.Normal(torch.zeros(()), 1.0)).detach()
        assert before[layer] == pytest.approx(float(kl.sum()), rel=1e-4)
        assert after[layer] == pytest.approx(float(kl.index_select(dim, torch.tensor(kept)).sum()), rel=1e-4)
        assert before[layer] - after[layer] == pytest.approx(
            float(kl.index_select(dim, torch.tensor(gone)).sum()), 1e-3
        )


def test_units_of_plain_layers_and_channels_of_convolutions_go_too():
    torch.manual_seed(0)
    decoder = nn.Sequential(
        nn.Linear(4, 6 * 4 * 4),
        nn.Unflatten(1, (6, 4, 4)),
        nn.Conv2d(6, 8, 3, padding=1),
        nn.ReLU(),
        nn.Upsample(scale_factor=2),
        VariationalConv2d(8, 5, 3, padding=1, family="horseshoe"),
        nn.Tanh(),
        VariationalConv2d(5, 1, 3, padding=1, family="horseshoe"),
    )
    pair = bayesian(decoder=decoder)
    first, second = "likelihood.decoder.net.5", "likelihood.decoder.net.7"
    at_means(closed(closed(pair, first, [0, 3]), second, [2]))
    small = pv.prune(pair)
    nets = small.model.likelihood.decoder.net
    assert (nets[2].out_channels, nets[5].shape, nets[7].shape) == (6, (4, 6, 3, 3), (1, 4, 3, 3))
    z = torch.randn(5, 4)
    torch.testing.assert_close(small.decode({"z": z}), pair.decode({"z": z}), atol=1e-5, rtol=1e-4)


def test_a_layer_after_something_that_mixes_units_keeps_them():
    torch.manual_seed(0)
    decoder = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), VariationalLinear(8, 64, "horseshoe"))
    with pytest.raises(ValueError, match=r"^variant: no layer with random weights follows another"):
        pv.prune(bayesian(decoder=decoder))


def test_both_networks_of_a_pair(tmp_path):
    pair = closed(bayesian(decoder=net(("normal", "horseshoe")), encoder=net(("normal", "horseshoe"), (6,))))
    closed(pair, "guide.posterior.encoder.net.3", (0, 2))
    small = pv.prune(pair)
    hidden = [small.recipe.arguments[role].keywords["hidden"] for role in ("encoder", "decoder")]
    assert hidden == [(4,), (5,)]
    x = small.sample(5, seed=0)
    assert torch.equal(pv.load(small.save(tmp_path / "small")).elbo(x=x, seed=0), small.elbo(x=x, seed=0))


def test_a_layer_that_stands_in_two_places_keeps_its_units():
    tied = VariationalLinear(4, 4, "horseshoe")
    decoder = nn.Sequential(nn.Linear(4, 4), tied, nn.ReLU(), tied, nn.ReLU(), VariationalLinear(4, 64, "horseshoe"))
    with pytest.raises(ValueError, match=r"^variant: no layer with random weights follows another"):
        pv.prune(bayesian(decoder=decoder))


FIRST = {
    "groups": lambda: nn.Sequential(
        nn.Unflatten(1, (4, 1, 1)), nn.Conv2d(4, 8, 1, groups=4), VariationalConv2d(8, 64, 1)
    ),
    "another axis": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 1, 4)), nn.Conv2d(1, 8, 1), nn.ReLU(), VariationalLinear(4, 8, "horseshoe")
    ),
    "random in Pyro's way": lambda: nn.Sequential(PyroModule[nn.Linear](4, 8), VariationalLinear(8, 64, "horseshoe")),
}


@pytest.mark.parametrize("name", FIRST)
def test_layers_whose_units_are_not_those_of_the_next_keep_them(name):
    torch.manual_seed(0)
    decoder = FIRST[name]()
    with pytest.raises(ValueError, match=r"^variant: no layer with random weights follows another"):
        pv.prune(bayesian(decoder=decoder))


def test_one_unit_always_remains():
    pair = bayesian()
    report = pv.weights_report(pair, threshold=1e3)
    assert [layer.remaining for layer in report.layers] == [1, 1]
    assert pv.prune(pair, threshold=1e3).sample(2).shape == (2, *SHAPE)


def test_the_size_of_a_unit():
    """sqrt(mean_j E[W_ji^2]), W = V l g: E[V^2] E[l^2] E[g^2] in closed form."""
    pair = bayesian()
    layer = "likelihood.decoder.net.3"
    shared = pair.guide.shared
    v, local, whole = (
        shared.posteriors[shared.sites.index(f"{layer}.{part}")]().base_dist
        if part != "global_scale"
        else shared.posteriors[shared.sites.index(f"{layer}.{part}")]()
        for part in ("weight", "local_scale", "global_scale")
    )
    square = [d.mean.square() + d.variance for d in (v, local, whole)]
    exact = (square[0].mean(0) * square[1] * square[2]).sqrt().detach()
    found = pv.weights_report(pair, draws=2000)[layer].size
    # the common factor g has a relative standard error of about 0.2 / sqrt(2000) in its square
    torch.testing.assert_close(found, exact, rtol=0.02, atol=0)
    assert "8 of 8" in str(pv.weights_report(pair))


# ---------------------------------------------------------------------- other guides, other layers


@pytest.mark.parametrize("guide", [AutoNormal, partial(AutoLowRankMultivariateNormal, rank=3), AutoDelta])
@pytest.mark.parametrize("family", ["normal", "horseshoe"])
def test_automatic_guides(guide, family, tmp_path):
    pair = pv.automatic(bayesian(family), guide)
    x = pair.sample(30, seed=0)
    before = pair.elbo(x=x, particles=50, seed=0).mean()
    pv.fit(pair, x, epochs=30, lr=1e-2, batch_size=10, progress=False)
    assert pair.elbo(x=x, particles=50, seed=0).mean() > before
    again = pv.automatic(bayesian(family, seed=5), guide)
    pv.load(pair.save(tmp_path / "pair"), into=again)
    assert torch.equal(again.elbo(x=x, seed=0), pair.elbo(x=x, seed=0))
    assert pv.weights_report(pair, draws=4).layers[0].units == 4
    with pytest.raises(ValueError, match=r"^variant: an automatic guide draws its weights"):
        pv.prune(pair)


def test_an_automatic_guide_starts_where_the_layers_stand():
    pair = bayesian("normal")
    other = pv.automatic(pair, partial(AutoNormal, init_scale=1e-6))
    ours, theirs = (tracing.shared_sites(p.draw_shared()) for p in (pair, other))
    for site in ours:
        torch.testing.assert_close(theirs[site]["value"], ours[site]["fn"].mean, atol=1e-4, rtol=0)


def test_pyros_own_layers_with_random_weights():
    """What Pyro calls a Bayesian layer, of a user's own prior, with an automatic guide."""
    layer = PyroModule[nn.Linear](4, 64)
    layer.weight = PyroSample(dist.StudentT(3.0, torch.zeros(64, 4), 1.0).to_event(2))
    pair = bayesian(decoder=layer)
    x = pair.sample(20, seed=0)
    run = pv.fit(pair, x, epochs=20, lr=1e-2, progress=False)
    assert run.history["elbo"][-1] > run.history["elbo"][0]
    with pytest.raises(ValueError, match=r"^variant: has no layers with random weights"):
        pv.weights_report(pair)


def test_a_layer_in_both_programs_is_drawn_once():
    shared = VariationalLinear(4, 4)
    torch.manual_seed(0)
    pair = pv.vae(
        (4,), latent=4, encoder=nn.Sequential(shared, nn.Linear(4, 8)), decoder=nn.Sequential(shared, nn.Linear(4, 4))
    )
    x = pair.sample(9, seed=0)
    assert list(tracing.shared_sites(pyro.poutine.trace(pair.guide).get_trace(x=x))) == [
        "likelihood.decoder.net.0.weight",
        "likelihood.decoder.net.0.bias",
    ]
    pv.fit(pair, x, epochs=1, progress=False)


class Several(pv.Story):
    """x = the sum of several looks at one and the same weights, by one layer."""

    def __init__(self):
        super().__init__("model")
        self.layer = VariationalLinear(3, 1, bias=False)

    def forward(self, c, x=None, n=1):
        with pyro.plate("data", len(c)):
            tokens = self.layer(c.unsqueeze(1).expand(-1, 2, 3)).sum(1)
            return pyro.sample("x", dist.Normal(self.layer(c) + tokens, 1.0).to_event(1), obs=x)


class NoCodes(PyroModule):
    def forward(self, c, x=None):
        pass


def test_a_datum_has_one_flip_wherever_it_meets_a_layer():
    """x = 3 W c for each datum: Var = 9 sum_i s_i^2 c_i^2, and not 3 of it, as of three flips on their own."""
    torch.manual_seed(0)
    model = Several()
    pair = pv.Variant(model, pv.completed(model, NoCodes(), c=(3,)), conditions=("c",))
    with torch.no_grad():
        pair.guide.shared.posteriors[0].scale.zero_()
    c, means = torch.ones(50, 3), []
    for _ in range(400):
        guide_trace = pyro.poutine.trace(pair.guide).get_trace(c=c)
        trace = pyro.poutine.trace(pyro.poutine.replay(pair.model, trace=guide_trace)).get_trace(c=c)
        means.append(trace.nodes["x"]["fn"].mean.detach())
    means = torch.stack(means).squeeze(-1)
    assert means.std(1).min() > 0.1, "all data have the same weights: nothing was flipped"
    # 400 draws of 3 numbers, whose signs differ by datum: at least 400 values that are independent
    assert float(means.var()) == pytest.approx(27.0, rel=4 * (2 / 400) ** 0.5)


def test_layers_that_read_pseudo_inputs_are_not_flipped():
    """In a VampPrior the encoder runs on pseudo-inputs too: one and the same weights for them and for each datum."""
    torch.manual_seed(0)
    pair = VARIANTS["VampPrior"]()
    nodes = pyro.poutine.trace(pair.guide).get_trace(x=pair.sample(3)).nodes
    flipped = {name: site["infer"]["flips"] is not None for name, site in nodes.items() if name.endswith(".weight")}
    assert {name.startswith("likelihood.") for name, flip in flipped.items() if flip} == {True}
    assert {name.startswith("guide.") for name, flip in flipped.items() if not flip} == {True}


def test_what_has_run_is_pickled():
    pair = bayesian("horseshoe", encoder=net())
    x = pair.sample(5, seed=0)
    SVI(*pair.trained(pv.infer.minibatch(5)), Adam({}), Trace_ELBO()).step(x=x)
    pyro.poutine.trace(pair.guide).get_trace(x=x)
    again = pickle.loads(pickle.dumps(pair))
    assert torch.equal(again.elbo(x=x, seed=0), pair.elbo(x=x, seed=0))


# ---------------------------------------------------------------------- bad input


class Bare(PyroModule):
    """A story that is no pv.Story."""

    def __init__(self):
        super().__init__("model")
        self.layer = VariationalLinear(2, 3)

    def forward(self, x=None, n=1):
        with pyro.plate("data", n if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1).to_event(1))
            return pyro.sample("x", dist.Normal(self.layer(z), 1).to_event(1), obs=x)


WRONG = {
    "family": (
        lambda: VariationalLinear(2, 3, family="horsehoe"),
        r"^family: unknown 'horsehoe'.*did you mean 'horseshoe'",
    ),
    "families": (
        lambda: bayesian(decoder=net(("normal",))),
        r"^family: expected one, or one for each of 2 layers, found 1",
    ),
    "inside": (lambda: VariationalLinear(0, 3), r"^inside: expected a whole number of at least 1, found 0"),
    "outside": (lambda: VariationalConv2d(1, 2.5, 3), r"^outside: expected a whole number"),
    "scale": (
        lambda: VariationalLinear(2, 3, scale=0.0),
        r"^scale: expected a finite number .*greater than 0, found 0",
    ),
    "kernel": (lambda: VariationalConv2d(1, 2, (3, 3, 3)), r"^kernel_size: expected height and width"),
    "stride": (lambda: VariationalConv2d(1, 2, 3, stride=0), r"^stride: expected a whole number"),
    "padding": (lambda: VariationalConv2d(1, 2, 3, padding=-1), r"^padding: expected a whole number"),
    "width of a decoder": (
        lambda: bayesian(decoder=VariationalLinear(4, 63)),
        r"^decoder: expected \(batch, 1, 8, 8\)",
    ),
    "no story": (lambda: pv.completed(Bare(), nn.Identity()), r"^model: layer\.weight is shared by all data"),
    "size of the data": (
        lambda: SVI(*bayesian(), Adam({}), Trace_ELBO()),
        r"^pair: draws what all data share.*minibatch",
    ),
    "a handler alone": (
        lambda: pv.infer.minibatch(9)(bayesian().model)(n=3),
        r"^minibatch: how many data are at hand is not known",
    ),
    "a stepper of no size": (
        lambda: pv.fit(bayesian(), torch.zeros(4, *SHAPE), objective=pv.infer.SVI(*bayesian().trained(), Adam({}))),
        r"^objective: the pair draws what all data share, of which there are 4; expected",
    ),
    "completed twice": (lambda: pv.completed(bayesian().model, bayesian().guide), r"^model, guide: are a pair already"),
    "an atom": (lambda: pv.automatic(bayesian("rectified_normal")), r"^variant: likelihood.*its prior has an atom"),
    "size": (lambda: pv.infer.minibatch(0), r"^size: expected a whole number of at least 1"),
    "report of a plain pair": (lambda: pv.weights_report(pv.vae(9, 2)), r"^variant: has no layers with random weights"),
    "threshold": (lambda: pv.weights_report(bayesian(), threshold=0), r"^threshold: expected a finite number"),
    "pruning a plain pair": (lambda: pv.prune(pv.vae(9, 2)), r"^variant: has no layers with random weights"),
    "automatic guide of a plain pair": (
        lambda: pv.automatic(pv.vae(9, 2)),
        r"^variant: draws nothing that all data share",
    ),
    "particles": (
        lambda: pv.weight_information(bayesian(), particles=1, x=torch.zeros(2, *SHAPE)),
        r"^particles: expected at least 2 draws",
    ),
    "information of a plain pair": (
        lambda: pv.weight_information(pv.vae(9, 2), x=torch.zeros(2, 9)),
        r"^variant: draws nothing that all data share",
    ),
    "particles side by side": (
        lambda: pv.fit(
            bayesian(), torch.zeros(4, *SHAPE), objective=Trace_ELBO(2, vectorize_particles=True, max_plate_nesting=1)
        ),
        r"shared by all data, and cannot stand in a plate",
    ),
    "IWAE": (lambda: pv.fit(bayesian(), torch.zeros(4, *SHAPE), objective=pv.infer.IWAE(3)), r"shared by all data"),
    "picture of no kind": (lambda: pv.plot.unlike(bayesian(), {}), r"^data: empty; expected kinds of data by name"),
}


@pytest.mark.parametrize("case", WRONG)
def test_bad_input(case):
    call, message = WRONG[case]
    with pytest.raises((ValueError, TypeError), match=message):
        call()


def test_data_of_unknown_length():
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            yield from torch.zeros(4, *SHAPE)

    with pytest.raises(TypeError, match=r"^train: expected a data set of known length, found Stream"):
        pv.fit(bayesian(), Stream(), progress=False)


# ---------------------------------------------------------------------- pictures and the command line


def test_pictures():
    pair = bayesian()
    x = pv.data.load("digits", "test", binarise="threshold").x[:20]
    figure = pv.plot.weights(pv.weights_report(pair))
    assert [ax.get_title() for ax in figure.axes] == [
        "likelihood.decoder.net.1, horseshoe\n4 of 4 units remain",
        "likelihood.decoder.net.3, horseshoe\n8 of 8 units remain",
    ]
    pv.plot.plt.close(figure)
    figure = pv.plot.unlike(pair, {"digits": x, "noise": torch.rand_like(x).round()}, n=3, particles=4)
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["digits", "noise"]
    pv.plot.plt.close(figure)
    with pytest.raises(TypeError, match=r"^report: expected a WeightsReport"):
        pv.plot.weights(pair)


def test_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["--decoder", "VariationalMLP:hidden=(8,),family=(normal,horseshoe)", "--latent", "3", "--no-progress"]
    assert cli.main(["train", "vae", *words, "--epochs", "1", "--out", "run"]) == 2
    assert "decoder: expected NAME or NAME:KEY=VALUE" in capsys.readouterr().err
    words[1] = "VariationalMLP:hidden=(8,),family=horseshoe"
    assert cli.main(["train", "vae", *words, "--epochs", "1", "--out", "run"]) == 0
    assert (tmp_path / "run" / "weights.png").stat().st_size > 100
    capsys.readouterr()
    assert cli.main(["prune", "run"]) == 0
    assert "likelihood.decoder.net.3  horseshoe           8 of 8" in capsys.readouterr().out
    largest = float(pv.weights_report(pv.load("run"))["likelihood.decoder.net.3"].size.max())
    assert cli.main(["prune", "run", "--threshold", str(0.99999 * largest), "--out", "small"]) == 0
    for command in (["evaluate", "small", "--particles", "2", "--json"], ["sample", "small", "-n", "4"]):
        capsys.readouterr()
        assert cli.main(command) == 0
        if command[0] == "evaluate":
            assert json.loads(capsys.readouterr().out)["shared_kl"] > 0
    assert pv.load("small").recipe.arguments["decoder"].keywords["hidden"] == (1,)
    assert cli.main(["prune", "run", "--out", "small"]) == 2
    assert "out: small is not empty" in capsys.readouterr().err
    assert cli.main(["train", "vae", "--epochs", "1", "--no-progress", "--out", "plain"]) == 0
    assert cli.main(["prune", "plain"]) == 2
    assert "has no layers with random weights" in capsys.readouterr().err
