"""Hierarchies: exactness, levels held and drawn anew, weights and free bits per level, cures, shapes, bad input."""

import copy
import math
import pickle
from functools import partial

import linear_hierarchy
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO

import pyro_vae as pv
from pyro_vae.infer import FreeBits, WarmUp
from pyro_vae.posteriors import BatchNormNormal, product

DIGITS = pv.data.load("digits", binarise="threshold").x
GUIDES = ["top-down", "bottom-up"]
BOTH = [("top-down", False), ("top-down", True), ("bottom-up", False)]


@pytest.fixture
def x():
    torch.manual_seed(5)
    return linear_hierarchy.evidence().sample((40,))


# ---------------------------------------------------------------------- exactness


@pytest.mark.parametrize(("guide", "skip"), BOTH)
def test_elbo_at_the_exact_posterior_is_the_evidence(guide, skip):
    pair, evidence = linear_hierarchy.pair(guide, skip), linear_hierarchy.evidence(skip)
    torch.manual_seed(0)
    x = evidence.sample((30,))
    for bound in (pair.elbo(x=x), pair.log_likelihood(x=x, particles=3)):
        torch.testing.assert_close(bound, evidence.log_prob(x), rtol=0, atol=1e-10)
    report = pv.evaluate(pair, x, particles=4)
    assert report.elbo == pytest.approx(float(evidence.log_prob(x).mean()), abs=1e-10)


@pytest.mark.parametrize(("guide", "skip"), BOTH)
def test_training_the_guide_reaches_the_evidence(guide, skip):
    pair, evidence = linear_hierarchy.pair(guide, skip), linear_hierarchy.evidence(skip)
    torch.manual_seed(0)
    x = evidence.sample((200,))
    with torch.no_grad():
        for parameter in pair.guide.parameters():
            parameter.mul_(0.8)
    assert float((evidence.log_prob(x) - pair.elbo(x=x)).mean()) > 0.5
    model = copy.deepcopy(pair.model.state_dict())
    optim = torch.optim.Adam(pair.guide.parameters(), lr=0.01)
    svi = pv.infer.SVI(*pair, lambda _: optim)
    for step in range(600):
        optim.param_groups[0]["lr"] = 0.01 * (1 - step / 600)
        svi.step(x=x)
    assert all(torch.equal(value, model[name]) for name, value in pair.model.state_dict().items())
    gap = evidence.log_prob(x) - pair.elbo(x=x, particles=20)
    assert -0.05 < float(gap.mean()) < 0.05


def test_a_product_of_normals_is_their_product():
    z = torch.linspace(-30, 30, 60_001, dtype=torch.float64)
    a, b = dist.Normal(torch.tensor(1.0).double(), 0.7), dist.Normal(torch.tensor(-2.0).double(), 1.9)
    log_product = a.log_prob(z) + b.log_prob(z)
    log_product = log_product - log_product.logsumexp(0) - math.log(float(z[1] - z[0]))
    both = product(*(d.expand([1]).to_event(1) for d in (a, b)))
    torch.testing.assert_close(both.log_prob(z[:, None]), log_product)


@pytest.mark.parametrize("guide", GUIDES)
def test_bounds_of_one_story_lie_below_its_evidence(guide):
    """Whatever the guide, log w averages to p(x): by a guide of a shape of its own and by the prior."""
    torch.manual_seed(0)
    pair = pv.hvae(5, latents=(3, 2, 2), guide=guide, hidden=(8,)).double()
    x = torch.tensor([[0, 1, 0, 1, 1], [1, 1, 0, 0, 1]], dtype=torch.float64)
    mean, error = {}, {}
    for proposal in ("guide", "prior"):
        runs = [pair.log_likelihood(x=x, particles=2000, seed=seed, proposal=proposal).exp() for seed in range(25)]
        mean[proposal], error[proposal] = torch.stack(runs).mean(0), torch.stack(runs).std(0) / 5
    spread = (error["guide"] ** 2 + error["prior"] ** 2).sqrt()
    assert ((mean["guide"] - mean["prior"]).abs() < 4 * spread).all()
    assert (spread < 0.05 * mean["prior"]).all()
    assert (pair.elbo(x=x, particles=2000, seed=0) < mean["guide"].log()).all()


# ---------------------------------------------------------------------- the pair


@pytest.mark.parametrize("guide", GUIDES)
@pytest.mark.parametrize(
    "latents", [(3,), (3, 2), (6, 5, 4, 3, 2), ((2, 4, 4), 3), ((2, 4, 4), (3, 2, 2)), ((1, 3, 5), (2, 2, 2), 4)]
)
def test_levels_of_every_shape(latents, guide):
    torch.manual_seed(0)
    pair = pv.hvae((1, 8, 8), latents=latents, guide=guide, skip=len(latents) % 2 == 0)
    down = [f"z{level}" for level in range(len(latents), 0, -1)]
    assert list(pair.latent_sites()) == down
    q = pair.encode(x=DIGITS[:3])
    assert list(q) == (down if guide == "top-down" else down[::-1])
    for name, latent in zip(reversed(down), latents, strict=True):
        assert q[name].event_shape == (latent if isinstance(latent, tuple) else (latent,))
        assert pair.latent_sites()[name].event_shape == q[name].event_shape
    assert pair.traverse(down[0], [0, 1], [-1.0, 1.0], x=DIGITS[:1]).shape == (2, 2, 1, 8, 8)
    assert f"z{len(latents)}" in str(pair)


def test_the_published_story_of_two_levels():
    """p(z2) p(z1 | z2) p(x | z1, z2): what is drawn depends on what the equation says, and on no more."""
    torch.manual_seed(0)
    for skip in (True, False):
        pair = pv.hvae((1, 8, 8), latents=(4, 3), skip=skip)
        z1, z2 = torch.randn(5, 4), torch.randn(5, 3)
        other = torch.randn(5, 3)
        same = torch.equal(pair.decode({"z1": z1, "z2": z2}), pair.decode({"z1": z1, "z2": other}))
        assert same != skip
        drawn = pyro.poutine.trace(pyro.poutine.condition(pair.model, data={"z2": z2})).get_trace(n=5)
        torch.testing.assert_close(drawn.nodes["z1"]["fn"].mean, pair.model.priors[0](z2).mean)


def test_the_ladder_multiplies_by_the_models_own_prior():
    torch.manual_seed(0)
    pair = pv.hvae((1, 8, 8), latents=(4, 3, 2))
    for other in (pair, copy.deepcopy(pair), pickle.loads(pickle.dumps(pair))):
        assert all(a is b for a, b in zip(other.guide.priors, list(other.model.priors)[:-1], strict=True))
        names = [name for name, _ in other.named_parameters()]
        assert not [name for name in names if name.startswith("guide.priors")]
        assert len(names) == len({id(p) for p in other.parameters()})
        assert not {id(p) for p in other.guide.parameters()} & {id(p) for p in other.model.parameters()}
    z2 = torch.randn(5, 3)
    q = pair.encode(x=DIGITS[:5], held={"z2": z2})["z1"]
    _, d1, *_ = [DIGITS[:5], *(net(DIGITS[:5]) for net in list(pair.guide.features)[:1])]
    with torch.no_grad():
        expected = product(pair.guide.posteriors[0](d1), pair.model.priors[0](z2))
    torch.testing.assert_close(q.mean, expected.mean)
    torch.testing.assert_close(q.base_dist.scale, expected.base_dist.scale)


def test_the_prior_learns_through_both_programs():
    """The gradient of the prior's nets is that of the whole bound, the share that comes through the guide included."""
    torch.manual_seed(0)
    pair = pv.hvae(4, latents=(2, 2), hidden=(3,)).double()
    x = torch.tensor([[0.0, 1, 1, 0], [1, 0, 0, 1]], dtype=torch.float64)
    weight = pair.model.priors[0].net.net[-2].weight

    def loss():
        torch.manual_seed(1)
        return Trace_ELBO().differentiable_loss(pair.model, pair.guide, x=x)

    (gradient,) = torch.autograd.grad(loss(), weight)
    for i, j in ((0, 0), (3, 2)):
        around = []
        for step in (1e-6, -1e-6):
            with torch.no_grad():
                weight[i, j] += step
                around.append(float(loss()))
                weight[i, j] -= step
        assert float(gradient[i, j]) == pytest.approx((around[0] - around[1]) / 2e-6, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("likelihood", [pv.likelihoods.Poisson, partial(pv.likelihoods.Categorical, classes=3)])
@pytest.mark.parametrize("guide", GUIDES)
def test_the_data_are_read_by_the_features_of_their_likelihood(likelihood, guide):
    torch.manual_seed(0)
    x = torch.randint(0, 3, (20, 2, 6, 6)).float()
    for latents in ((3, 2), ((2, 3, 3), 2)):
        pair = pv.hvae((2, 6, 6), latents=latents, guide=guide, likelihood=likelihood)
        run = pv.fit(pair, x, epochs=2, batch_size=5, progress=False)
        assert run.history["elbo"][-1] > run.history["elbo"][0]


def test_large_images_are_read_by_convolutions():
    pair = pv.hvae((3, 33, 20), latents=((4, 16, 10), (4, 8, 5), 6))
    assert any(isinstance(module, torch.nn.Conv2d) for module in pair.modules())
    assert pair.sample(2).shape == (2, 3, 33, 20)
    flat = pv.hvae((3, 33, 20), latents=((4, 16, 10), 6), net=pv.nets.MLP)
    assert not any(isinstance(module, torch.nn.Conv2d) for module in flat.modules())
    assert flat.encode(x=torch.zeros(2, 3, 33, 20))["z1"].event_shape == (4, 16, 10)


def test_hidden_widths_of_each_level():
    def widths(part):
        return [m.out_features for m in part.modules() if isinstance(m, torch.nn.Linear)]

    pair = pv.hvae(10, latents=(4, 2), hidden=((9, 8), (7,)))
    assert widths(pair.guide.features[0]) == [9, 8]
    assert widths(pair.guide.features[1]) == [7]
    assert widths(pair.guide.posteriors[1]) == [4]
    assert widths(pair.model.priors[0]) == [7, 8]  # from z2 to z1: those of the upper level, then loc and s
    assert widths(pair.model.likelihood) == [8, 9, 10]  # towards the data: the widths in reverse
    one, two = pv.vae(10, latent=4, hidden=(9, 8)), pv.hvae(10, latents=(4,), hidden=(9, 8))
    assert widths(one.model.likelihood) == widths(two.model.likelihood)
    assert widths(one.guide) == widths(two.guide)


# ---------------------------------------------------------------------- levels held, levels drawn anew


def test_levels_held_in_samples():
    pair = linear_hierarchy.pair()
    z2 = torch.tensor([[1.0, -2.0]], dtype=torch.float64)
    x = pair.sample(40_000, held={"z2": z2}, seed=0)
    mean = linear_hierarchy.W @ (linear_hierarchy.SLOPE * z2[0] + linear_hierarchy.OFFSET) + linear_hierarchy.B
    spread = linear_hierarchy.W @ torch.diag(linear_hierarchy.SCALE**2) @ linear_hierarchy.W.T
    spread = spread + linear_hierarchy.NOISE**2 * torch.eye(linear_hierarchy.DATA)
    assert ((x.mean(0) - mean) / (spread.diagonal() / 40_000).sqrt()).abs().max() < 4.5
    torch.testing.assert_close(torch.cov(x.T), spread, rtol=0, atol=0.1)
    each = pair.sample(3, held={"z2": z2.expand(3, 2), "z1": torch.eye(3, 2).double()}, mean=True)
    torch.testing.assert_close(each, torch.eye(3, 2).double() @ linear_hierarchy.W.T + linear_hierarchy.B)


def test_levels_drawn_anew_in_reconstructions(x):
    """z1 drawn from p(z1 | z2), z2 from q(z2 | x): less of the datum is left than of its own z1."""
    pair, copies = linear_hierarchy.pair(), x[:1].expand(40_000, -1)
    q2 = pair.encode(x=x[:1])["z2"]
    again = pair.reconstruct(resample=["z1"], x=copies, seed=0)
    mean = linear_hierarchy.SLOPE * q2.mean[0] + linear_hierarchy.OFFSET
    variance = linear_hierarchy.SLOPE**2 * q2.base_dist.scale[0] ** 2 + linear_hierarchy.SCALE**2
    spread = linear_hierarchy.W @ torch.diag(variance) @ linear_hierarchy.W.T
    spread = spread + linear_hierarchy.NOISE**2 * torch.eye(linear_hierarchy.DATA)
    expected = linear_hierarchy.W @ mean + linear_hierarchy.B
    assert ((again.mean(0) - expected) / (spread.diagonal() / 40_000).sqrt()).abs().max() < 4.5
    torch.testing.assert_close(torch.cov(again.T), spread, rtol=0, atol=0.1)
    anew = pair.reconstruct(resample=["z2", "z1"], x=copies, seed=0)
    evidence = linear_hierarchy.evidence()
    assert ((anew.mean(0) - evidence.mean) / (evidence.variance / 40_000).sqrt()).abs().max() < 4.5


def test_levels_held_in_codes(x):
    pair = linear_hierarchy.pair()
    z2 = torch.randn(len(x), 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    q = pair.encode(x=x, held={"z2": z2})
    assert list(q) == ["z1"]
    read = linear_hierarchy.W.T / (linear_hierarchy.W**2).sum(0)[:, None]
    data = linear_hierarchy.NOISE**2 / (linear_hierarchy.W**2).sum(0)
    prior = linear_hierarchy.SCALE**2
    loc = (x - linear_hierarchy.B) @ read.T * prior + (linear_hierarchy.SLOPE * z2 + linear_hierarchy.OFFSET) * data
    torch.testing.assert_close(q["z1"].mean, loc / (prior + data))
    parts = pair.encode(x=x, held={"z2": z2}, rows=16)  # chunks take their share of the codes
    torch.testing.assert_close(parts["z1"].mean, q["z1"].mean)


def test_levels_drawn_anew_in_traversals():
    """With the level below drawn anew a unit of the top moves what it determines, by the same noise at each value."""
    pair = linear_hierarchy.pair()
    x = linear_hierarchy.B[None]
    still = pair.traverse("z2", values=[-1.0, 1.0], x=x)  # x sees z1 alone, which stands
    assert torch.equal(still[:, 0], still[:, 1])
    moved = pair.traverse("z2", values=[-1.0, 1.0], resample=["z1"], seed=3, x=x)
    for unit in range(2):
        step = 2 * linear_hierarchy.SLOPE[unit] * linear_hierarchy.W[:, unit]
        torch.testing.assert_close(moved[unit, 1] - moved[unit, 0], step)
    other = pair.traverse("z2", values=[-1.0, 1.0], resample=["z1"], seed=4, x=x)
    assert not torch.allclose(other, moved)


# ---------------------------------------------------------------------- per-level weights, free bits


def test_weights_and_warm_up_per_level():
    torch.manual_seed(0)
    pair = pv.hvae((1, 8, 8), latents=(6, 4, 2))
    weights = {"z3": WarmUp(epochs=2), "z2": 0.5}
    run = pv.fit(pair, DIGITS[:200], epochs=3, temper=weights, progress=False)
    assert run.history["weight_z3"] == pytest.approx([0.5, 1.0, 1.0])
    assert run.history["weight_z2"] == pytest.approx([0.5] * 3)
    x = DIGITS[:50]
    totals = {}
    for name, handler in {"plain": None, "half": pv.temper({"z2": 0.5}), "none": pv.temper({"z2": 0.0})}.items():
        weighted = pv.Variant(pair.model, pair.guide, handler=handler)
        torch.manual_seed(1)
        totals[name] = Trace_ELBO().loss(*weighted, x=x)
    assert totals["half"] == pytest.approx((totals["plain"] + totals["none"]) / 2, rel=1e-5)
    with pytest.raises(ValueError, match=r"temper: no site 'z4' in the program; it has .*'z1', 'z2', 'z3'"):
        pv.fit(pair, x, epochs=1, temper={"z4": 0.5}, progress=False)


def test_free_bits_per_level():
    torch.manual_seed(0)
    pair = pv.hvae((1, 8, 8), latents=(6, 4))
    x = DIGITS[:50]
    losses = {}
    for nats in (0.0, {"z1": 3.0}, {"z1": 3.0, "z2": 2.0}, 5.0):
        torch.manual_seed(1)
        losses[str(nats)] = FreeBits(nats).objective(pair.model, pair.guide, x=x).item()
    torch.manual_seed(1)
    kl = pv.evaluate(pair, x, particles=200).kl  # of a pair that was not trained: less than the floors
    assert max(kl.values()) < 1
    plain = losses["0.0"]
    both = sum(kl.values())
    floors = {"{'z1': 3.0}": 3 - kl["z1"], "{'z1': 3.0, 'z2': 2.0}": 5 - both, "5.0": 10 - both}
    for nats, more in floors.items():
        assert (losses[nats] - plain) / len(x) == pytest.approx(more, abs=0.1)
    for nats in (0.0, 5.0):  # the way of torch loops: the loss itself, to be differentiated
        torch.manual_seed(1)
        loss = FreeBits(nats).differentiable_loss(pair.model, pair.guide, x=x)
        assert loss.requires_grad
        assert loss.item() == pytest.approx(losses[str(nats)], rel=1e-6)
    run = pv.fit(pair, x, epochs=1, objective=FreeBits({"z2": 0.5}), progress=False)
    assert run.epochs == 1
    with pytest.raises(ValueError, match="nats: expected nats for at least one latent site"):
        FreeBits({})
    with pytest.raises(ValueError, match="FreeBits: nats: no latent site 'z7'"):
        pv.fit(pair, x, epochs=1, objective=FreeBits({"z7": 0.5}), progress=False)
    with pytest.raises(ValueError, match=r"nats: z1: expected .*at least 0, found -1"):
        FreeBits({"z1": -1})


def test_free_bits_where_a_guide_draws_from_the_data_upwards():
    """A closed-form KL at z1 would not average over the z2 that is drawn from the very same z1."""
    pair = linear_hierarchy.pair("bottom-up")
    with torch.no_grad():  # away from the exact posterior
        for parameter in pair.guide.parameters():
            parameter.mul_(0.9)
    torch.manual_seed(0)
    x = linear_hierarchy.evidence().sample((20,))
    truth = -float(pair.elbo(x=x, particles=20_000, seed=1).sum())
    draws = torch.tensor([FreeBits(0.0).loss(pair.model, pair.guide, x=x) for _ in range(600)])
    error = float(draws.std()) / len(draws) ** 0.5
    assert abs(float(draws.mean()) - truth) < 4 * error
    with pytest.warns(UserWarning, match="mean field"), pyro.validation_enabled():
        closed = torch.tensor([TraceMeanField_ELBO().loss(pair.model, pair.guide, x=x) for _ in range(200)])
    assert abs(float(closed.mean()) - truth) > 10 * error


# ---------------------------------------------------------------------- a batch-normalised mean


def test_batch_normalised_means_have_their_deviation():
    torch.manual_seed(0)
    posterior = BatchNormNormal(torch.nn.Linear(9, 6), 9, 3, g=0.7)
    x = torch.randn(500, 9)
    loc = posterior(x).mean
    torch.testing.assert_close(loc.std(0, correction=0), torch.full((3,), 0.7), rtol=0, atol=1e-3)
    torch.testing.assert_close(loc.mean(0), torch.zeros(3), rtol=0, atol=1e-5)
    kl = torch.distributions.kl_divergence(posterior(x), dist.Normal(torch.zeros(3), 1.0).to_event(1))
    assert kl.mean().item() >= 3 * 0.7**2 / 2 - 1e-3
    for _ in range(200):
        posterior(x)  # running averages settle
    posterior.eval()
    torch.testing.assert_close(posterior(x).mean, loc, rtol=0, atol=5e-3)
    torch.testing.assert_close(posterior(x[:7]).mean, posterior(x).mean[:7])  # one datum no longer knows of others
    posterior.train()
    before = posterior.mean.clone()
    torch.testing.assert_close(posterior(x[:1]).mean, loc[:1], rtol=0, atol=5e-3)
    assert torch.equal(posterior.mean, before)
    new = BatchNormNormal(torch.nn.Linear(9, 6), 9, 3, g=0.7)
    trained = new(x).mean
    torch.testing.assert_close(new.eval()(x).mean, trained)  # one batch is enough to know the averages
    in_space = BatchNormNormal(torch.nn.Conv2d(1, 4, 3, padding=1), (1, 5, 5), (2, 5, 5))
    spread = in_space(torch.randn(60, 1, 5, 5)).mean.std(0, correction=0)
    torch.testing.assert_close(spread, torch.full((2, 5, 5), 0.5), rtol=0, atol=1e-3)


@pytest.mark.parametrize("recipe", [pv.vae, pv.cvae, pv.m2, partial(pv.hvae, guide="bottom-up"), pv.hvae])
def test_batch_normalised_means_in_every_variant(recipe, tmp_path):
    torch.manual_seed(0)
    data = {"x": DIGITS[:101], "c": pv.data.load("digits").labels[:101]}
    pair = recipe((1, 8, 8), posterior=partial(BatchNormNormal, g=0.6))
    data = data if pair.given else DIGITS[:101]
    pv.fit(pair, data, epochs=12, batch_size=20, progress=False)  # the last batch has one datum
    q = pair.encode(**(data if pair.given else {"x": data}))
    name = next(iter(q))  # its ancestors are none
    assert float(q[name].mean.std(0).mean()) == pytest.approx(0.6, rel=0.3)
    again = pv.load(pair.save(tmp_path))
    batch = data if pair.given else {"x": data}
    assert torch.equal(again.elbo(seed=0, **batch), pair.elbo(seed=0, **batch))


# ---------------------------------------------------------------------- nets


@pytest.mark.parametrize("inside", [(2, 7, 7), (3, 4, 9), (1, 16, 16), (5,)])
@pytest.mark.parametrize("outside", [(4, 7, 7), (2, 14, 14), (1, 3, 5), (6,)])
@pytest.mark.parametrize("hidden", [(), (4,), (4, 5)])
def test_images_and_vectors_of_any_size_lead_to_each_other(inside, outside, hidden):
    torch.manual_seed(0)
    net = pv.nets.Spatial(inside, outside, hidden)
    x = torch.randn(3, *inside, requires_grad=True)
    y = net(x)
    assert y.shape == (3, *outside)
    y.sum().backward()
    assert (x.grad.flatten(1) != 0).float().mean() > 0.5


def test_an_image_in_another_size():
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    half = pv.nets.Resized((1, 4, 4), (2, 2))(x)
    torch.testing.assert_close(half[0, 0], torch.tensor([[2.5, 4.5], [10.5, 12.5]]))
    torch.testing.assert_close(
        pv.nets.Resized((1, 2, 2), (4, 4))(half), half.repeat_interleave(2, 2).repeat_interleave(2, 3)
    )


# ---------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pv.hvae(9, latents=(4, 0)), r"^latents\[1\]: expected a whole number of at least 1, found 0"),
        (lambda: pv.hvae(9, latents=(4, (2, 0, 3))), r"^latents\[1\]\[1\]: expected a whole number of at least 1"),
        (lambda: pv.hvae(9, latents=()), r"^latents: expected one entry per level, such as \(32, 16\), found \(\)"),
        (lambda: pv.hvae(9, latents=20), r"^latents: expected one entry per level, such as \(32, 16\), found 20"),
        (lambda: pv.hvae(9, latents=(4, 2.5)), r"^latents\[1\]: expected a whole number of at least 1, found 2.5"),
        (lambda: pv.hvae(9, guide="sideways"), r"^guide: unknown 'sideways', expected one of bottom-up, top-down"),
        (lambda: pv.hvae(9, hidden=(4, 0)), r"^hidden\[1\]: expected a whole number of at least 1, found 0"),
        (lambda: pv.hvae(9, hidden=((4,), (0,))), r"^hidden\[1\]\[0\]: expected a whole number of at least 1, found 0"),
        (lambda: pv.hvae(9, hidden=((4,),) * 3), r"^hidden: expected a sequence of widths for each of 2 levels, found"),
        (lambda: pv.hvae(9, hidden=((4,), 4)), r"^hidden: expected a sequence of widths for each of 2 levels, found"),
        (lambda: pv.hvae(9, skip="no"), r"^skip: expected a bool, found str"),
        (lambda: pv.hvae((1, 8, 8), (4, 2), net=pv.nets.Conv), r"^net: from \(2,\) to \(8,\): Conv: expected exactly"),
        (lambda: pv.hvae(9, hidden="400"), r"^hidden: expected widths such as \(400,\)"),
        (lambda: pv.hvae(9, net=lambda inside, outside: None), r"^net: expected one that is built as net\(inside"),
        (lambda: pv.hvae(9, net=torch.nn.Linear(9, 9)), r"^net: expected a class or a function that builds one"),
        (lambda: pv.hvae(9, posterior=3), r"^posterior: expected a class or a function"),
        (lambda: pv.hvae(9, likelihood=3), r"^likelihood: expected a class or a function"),
        (lambda: pv.hvae(0), r"^data_shape: expected a whole number of at least 1, found 0"),
        (lambda: partial(pv.vae, 9)(posterior=partial(BatchNormNormal, g=0.0)), r"^g: expected .* greater than 0"),
        (lambda: pv.nets.Resized((4, 4), (2, 2)), r"^expected \(channels, height, width\)"),
        (lambda: product(dist.Gamma(1.0, 1.0), dist.Normal(0.0, 1.0)), r"^expected two diagonal normals"),
        (lambda: product(*[dist.LogNormal(torch.zeros(2), 1.0).to_event(1)] * 2), r"^expected two diagonal normals"),
    ],
)
def test_what_is_built_wrongly_is_told_by_name(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p, x: p.sample(2, held={"z9": x}), r"^held: the model has no latent site 'z9'; it has \['z1', 'z2'\]"),
        (
            lambda p, x: p.sample(2, held={"z2": p.encode(x=x)["z2"]}),
            r"^held: z2: expected numbers, found .*take its mean",
        ),
        (lambda p, x: p.reconstruct(resample=["z1", "z1"], x=x), r"^resample: 'z1' is there twice"),
        (lambda p, x: p.reconstruct(resample=3, x=x), r"^resample: expected a sequence of latent sites, found 3"),
        (lambda p, x: p.sample(2, held={"z2": torch.zeros(3, 4)}), r"^held: z2: expected 2 codes, or one for all"),
        (lambda p, x: p.sample(2, held={"z2": torch.zeros(2, 9)}), r"^held: z2: expected \(n, 4\) codes"),
        (lambda p, x: p.sample(2, held=torch.zeros(2, 4)), r"^held: expected a mapping"),
        (lambda p, x: p.encode(held={"z9": x}, x=x), r"^held: the guide has no latent site 'z9'"),
        (lambda p, x: p.encode(held={"z2": torch.zeros(2, 4)}, x=x), r"^held: z2: expected 5 codes, one for each"),
        (lambda p, x: p.encode(held={"z2": torch.zeros(5, 3)}, x=x), r"^held: .*"),
        (lambda p, x: p.encode(held=3, x=x), r"^held: expected a mapping"),
        (lambda p, x: p.reconstruct(resample=["z9"], x=x), r"^resample: unknown 'z9', expected one of z1, z2"),
        (lambda p, x: p.reconstruct(resample="z1", x=x), r"^resample: expected a sequence of latent sites"),
        (lambda p, x: p.traverse("z2", resample=["z2"], x=x[:1]), r"^resample: 'z2' is the site that moves"),
        (lambda p, x: p.traverse("z2", resample=["z7"], x=x[:1]), r"^resample: unknown 'z7'"),
        (lambda p, x: p.traverse("z3", x=x[:1]), r"^site: unknown 'z3', expected one of z1, z2"),
    ],
)
def test_what_is_asked_wrongly_is_told_by_name(call, message):
    pair = pv.hvae((1, 8, 8), latents=(6, 4))
    with pytest.raises((ValueError, TypeError), match=message):
        call(pair, DIGITS[:5])
