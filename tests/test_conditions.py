"""Conditions and labels: bounds in closed form, verbs, data of which few are labelled, bad input."""

import math

import conditional
import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO
from pyro.optim import Adam
from torch.utils.data import DataLoader, TensorDataset

import pyro_vae as pv
from pyro_vae.data.feed import batches
from pyro_vae.data.labels import few
from pyro_vae.infer import IWAE, FreeBits
from pyro_vae.nets import FlattenBatch, Joined, OneHot

TRUTH = conditional.Truth()
EXACT = {"atol": 1e-9, "rtol": 0}
# the standard deviation of each entry of x given c
NOISY = ((TRUTH.W**2 * TRUTH.d**2).sum(-1) + conditional.NOISE**2).sqrt()


@pytest.fixture
def vectors():
    c = torch.randn(50, conditional.WIDTH, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return {"x": conditional.vector_pair().sample(50, seed=3, c=c), "c": c}


@pytest.fixture
def labelled():
    c = torch.arange(60) % conditional.WIDTH
    return {"x": conditional.class_pair().sample(60, seed=3, c=c), "c": c}


def one_hot(c):
    return torch.nn.functional.one_hot(c, conditional.WIDTH).double()


# ---------------------------------------------------------------------- bounds


def test_elbo_at_the_exact_posterior_is_the_evidence_under_the_condition(vectors, labelled):
    torch.testing.assert_close(conditional.vector_pair().elbo(**vectors), TRUTH.evidence(**vectors), **EXACT)
    evidence = TRUTH.evidence(labelled["x"], one_hot(labelled["c"]))
    torch.testing.assert_close(conditional.class_pair().elbo(**labelled), evidence, **EXACT)


def test_a_condition_adds_nothing_and_a_label_its_prior(labelled):
    given, explained = conditional.class_pair(), conditional.semi_supervised()
    difference = explained.elbo(**labelled) - given.elbo(**labelled)
    torch.testing.assert_close(difference, torch.full_like(difference, -math.log(conditional.WIDTH)), **EXACT)


def test_the_estimate_from_the_prior_is_the_evidence_within_its_error(vectors):
    pair = conditional.vector_pair(shift=5.0)  # a guide that would be of no use
    few_data = {name: value[:10] for name, value in vectors.items()}
    runs = [pair.log_likelihood(particles=2000, proposal="prior", seed=s, **few_data).exp() for s in range(20)]
    weights = torch.stack(runs)
    error = weights.std(0) / len(weights) ** 0.5
    assert ((weights.mean(0) - TRUTH.evidence(**few_data).exp()).abs() < 4.5 * error).all()


def test_a_wrong_guide_is_below_the_evidence_by_its_divergence(vectors):
    shift = 0.3
    _, scale = TRUTH.posterior(**vectors)
    gap = 0.5 * (shift / scale).square().sum(-1)
    draws = torch.stack([conditional.vector_pair(shift).elbo(seed=s, particles=50, **vectors) for s in range(20)])
    error = draws.mean(1).std() / len(draws) ** 0.5
    assert abs(draws.mean() - (TRUTH.evidence(**vectors) - gap).mean()) < 4 * error


def brute_force(x, logits):
    """sum_c q(c | x) (log p(x, c) - log q(c | x))"""
    log_q = logits.log_softmax(-1)
    return (log_q.exp() * (TRUTH.joint(x) - log_q)).sum(-1)


def arbitrary(x):
    return torch.stack([x[..., 0], -x[..., 1], 0.5 * x[..., 2]], -1)


@pytest.mark.parametrize("logits", [arbitrary, TRUTH.joint], ids=["arbitrary", "exact"])
def test_enumeration_of_the_classes_is_the_sum_over_them(labelled, logits):
    x = labelled["x"]
    pair = conditional.semi_supervised(logits)
    loss = TraceEnum_ELBO(max_plate_nesting=1).loss(*pair, x=x)
    assert -loss == pytest.approx(float(brute_force(x, logits(x)).sum()), abs=1e-8)
    if logits is not arbitrary:
        assert -loss == pytest.approx(float(TRUTH.joint(x).logsumexp(-1).sum()), abs=1e-8)


def test_gradients_of_the_enumerated_bound_are_those_of_the_sum(labelled):
    x = labelled["x"]
    weight = torch.tensor([0.3, -0.2, 0.7], dtype=torch.float64, requires_grad=True)
    pair = conditional.semi_supervised(lambda x: arbitrary(x) * weight)
    TraceEnum_ELBO(max_plate_nesting=1).differentiable_loss(*pair, x=x).backward()
    found, weight.grad = weight.grad, None
    (-brute_force(x, arbitrary(x) * weight)).sum().backward()
    torch.testing.assert_close(found, weight.grad, atol=1e-7, rtol=0)


def test_bounds_without_labels_are_of_the_marginal(labelled):
    evidence = TRUTH.joint(labelled["x"]).logsumexp(-1)
    torch.testing.assert_close(conditional.semi_supervised().elbo(x=labelled["x"]), evidence, **EXACT)
    pair = conditional.semi_supervised(arbitrary)
    runs = [pair.log_likelihood(x=labelled["x"], particles=400, seed=s) - evidence for s in range(20)]
    weights = torch.stack(runs).exp()
    error = weights.std(0) / len(weights) ** 0.5
    assert ((weights.mean(0) - 1).abs() < 4.5 * error).all()


OBJECTIVES = [
    Trace_ELBO(),
    TraceEnum_ELBO(max_plate_nesting=1, strict_enumeration_warning=False),
    FreeBits(0.0),
    IWAE(2),
]


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: type(o).__name__)
def test_the_classification_loss_is_trained_and_left_out_of_metrics(labelled, objective):
    plain, taught = conditional.semi_supervised(arbitrary), conditional.semi_supervised(arbitrary, weight=3.0)
    wrong = -arbitrary(labelled["x"]).log_softmax(-1).gather(-1, labelled["c"][:, None]).sum()
    loss = getattr(objective, "objective", objective.loss)
    losses = []
    for pair in (plain, taught):
        torch.manual_seed(0)
        losses.append(torch.as_tensor(loss(*pair, **labelled), dtype=torch.float64).item())
    assert losses[1] - losses[0] == pytest.approx(3 * float(wrong), rel=1e-9)
    assert torch.equal(plain.elbo(seed=0, **labelled), taught.elbo(seed=0, **labelled))


# ---------------------------------------------------------------------- verbs


def test_classify_by_the_model_is_bayes_rule(labelled):
    exact = TRUTH.joint(labelled["x"]).softmax(-1)
    for pair in (conditional.class_pair(), conditional.semi_supervised(arbitrary)):
        torch.testing.assert_close(pair.classify(labelled["x"], by="model"), exact, **EXACT)
    guessed = conditional.semi_supervised(arbitrary).classify(labelled["x"])
    torch.testing.assert_close(guessed, arbitrary(labelled["x"]).softmax(-1), **EXACT)


def test_transfer_keeps_the_code_and_changes_the_condition(vectors, labelled):
    other = vectors["c"].flip(0)
    loc, _ = TRUTH.posterior(**vectors)
    moved = conditional.vector_pair().transfer({"c": other}, **vectors)
    torch.testing.assert_close(moved, TRUTH.mean(loc, other), **EXACT)
    loc, _ = TRUTH.posterior(labelled["x"], one_hot(labelled["c"]))
    expected = TRUTH.mean(loc, one_hot(torch.full((60,), 2)))
    for pair in (conditional.class_pair(), conditional.semi_supervised()):
        torch.testing.assert_close(pair.transfer({"c": 2}, **labelled), expected, **EXACT)


def test_transfer_without_a_label_starts_from_the_likeliest_class(labelled):
    x = labelled["x"]
    likeliest = TRUTH.joint(x).argmax(-1)
    loc, _ = TRUTH.posterior(x, one_hot(likeliest))
    moved = conditional.semi_supervised().transfer({"c": 1}, x=x)
    torch.testing.assert_close(moved, TRUTH.mean(loc, one_hot(torch.ones(60, dtype=torch.long))), **EXACT)


def test_samples_under_a_condition_have_its_moments():
    c = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
    x = conditional.vector_pair().sample(20_000, seed=0, c=c[None])
    loc = TRUTH.mean(TRUTH.prior_mean(c), c)
    assert ((x.mean(0) - loc).abs() < 5 * x.std(0) / 20_000**0.5).all()


def test_samples_of_a_labelled_pair_are_held_or_drawn():
    pair = conditional.semi_supervised()
    assert pair.sample(5, seed=0).shape == (5, conditional.DATA)
    means = pair.sample(9000, seed=0, c=2).mean(0)
    expected = TRUTH.mean(TRUTH.prior_mean(one_hot(torch.tensor(2))), one_hot(torch.tensor(2)))
    error = NOISY / 9000**0.5
    assert ((means - expected).abs() < 5 * error).all()
    drawn = pair.draw(3000, seed=0).nodes["c"]["value"]
    assert drawn.bincount(minlength=3).min() > 900


def test_interpolation_between_classes_has_no_class_between(labelled):
    pair = conditional.semi_supervised()
    x = labelled["x"][:2]
    path = pair.interpolate(x[:1], x[1:], steps=5)
    z, c = pair.encode(ancestors="mean", x=x)["z"].mean, pair.encode(x=x)["c"].mode
    steps = torch.linspace(0, 1, 5, dtype=torch.float64)[:, None]
    codes = z[0] + steps * (z[1] - z[0])
    classes = torch.where(steps[:, 0] > 0.5, c[1], c[0])
    torch.testing.assert_close(path[:, 0], TRUTH.mean(codes, one_hot(classes)), **EXACT)


def test_labels_come_in_every_whole_dtype(labelled):
    pair = conditional.class_pair()
    expected = pair.elbo(seed=0, **labelled)
    for c in (
        labelled["c"].int(),
        labelled["c"].to(torch.uint8),
        labelled["c"].double(),
        labelled["c"].tolist(),
        labelled["c"].numpy(),
    ):
        assert torch.equal(pair.elbo(seed=0, x=labelled["x"], c=c), expected)


# ---------------------------------------------------------------------- recipes


def test_conditions_of_every_shape_are_built_trained_and_saved(tmp_path):
    generator = torch.Generator().manual_seed(0)
    cases = {
        "label": ((1, 8, 8), {"classes": 3}, torch.arange(20) % 3),
        "vector": ((1, 8, 8), {"condition_shape": 5}, torch.randn(20, 5, generator=generator)),
        "image beside a table": ((6,), {"condition_shape": (1, 4, 4)}, torch.rand(20, 1, 4, 4, generator=generator)),
        "label of a large image": ((1, 33, 40), {"classes": 3}, torch.arange(20) % 3),
        "large image of a large image": ((1, 33, 40), {"condition_shape": (2, 33, 40)}, torch.rand(20, 2, 33, 40)),
        "vector of a large image": ((1, 33, 40), {"condition_shape": 5}, torch.randn(20, 5, generator=generator)),
        "independent": ((1, 8, 8), {"classes": 3, "prior": pv.priors.StandardNormal}, torch.arange(20) % 3),
    }
    for name, (shape, options, c) in cases.items():
        pair = pv.cvae(shape, 2, **options)
        batch = {"x": torch.bernoulli(torch.full((20, *shape), 0.5), generator=generator), "c": c}
        pv.fit(pair, batch, epochs=1, device="cpu", progress=False)
        again = pv.load(pair.save(tmp_path / name))
        assert torch.equal(again.elbo(seed=0, **batch), pair.elbo(seed=0, **batch)), name
        assert pair.sample(4, c=c[:4]).shape == (4, *shape)
        assert "condition" in str(pair)


@pytest.mark.parametrize("likelihood", ["Normal", "Poisson", "NegativeBinomial", "ContinuousBernoulli", "StudentT"])
def test_every_kind_of_data_can_be_conditioned(likelihood):
    for recipe in (pv.cvae, pv.m2):
        pair = recipe(4, 2, likelihood=getattr(pv.likelihoods, likelihood), classes=3)
        x = torch.ones(6, 4)
        bounds = [pair.elbo(x=x, c=torch.full((6,), k), seed=0) for k in range(3)]
        assert not torch.allclose(bounds[0], bounds[1])  # the condition reaches the likelihood, or the guide
        means = [pair.decode({"z": torch.zeros(6, 2)}, c=k) for k in range(2)] if likelihood != "StudentT" else [0, 1]
        assert torch.as_tensor(means[0] != means[1]).any()
        assert pair.classify(x, by="model").shape == (6, 3)


def test_a_condition_that_decides_everything_is_learned():
    """x is the condition: the likelihood has to read it, and the bound comes near 0 nats."""
    c = torch.eye(8)[torch.arange(400) % 8]
    pair = pv.cvae(8, 2, condition_shape=8, hidden=(32,))
    pv.fit(pair, {"x": c, "c": c}, epochs=40, lr=1e-2, device="cpu", progress=False)
    assert pair.elbo(x=c, c=c, particles=10).mean() > -0.2


def test_networks_of_ones_own_take_data_and_condition():
    class Encoder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.table = torch.nn.Embedding(3, 4)
            self.out = torch.nn.Linear(8, 4)

        def forward(self, x, c):
            return self.out(torch.cat([x, self.table(c)], -1))

    class Decoder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.table = torch.nn.Embedding(3, 2)
            self.out = torch.nn.Linear(4, 4)

        def forward(self, z, c):
            return self.out(torch.cat([z, self.table(c)], -1))

    for recipe in (pv.cvae, pv.m2):
        pair = recipe(4, 2, classes=3, encoder=Encoder(), decoder=Decoder())
        batch = {"x": torch.ones(6, 4), "c": torch.arange(6) % 3}
        pv.fit(pair, batch, epochs=1, device="cpu", progress=False)
        assert pair.sample(6, c=batch["c"]).shape == (6, 4)
    pv.fit(pair, {"x": torch.ones(6, 4)}, epochs=1, device="cpu", progress=False)  # enumerated


def test_broadcast_inputs_give_what_a_loop_gives():
    net = Joined(torch.nn.Linear(4 + 3, 2), [(4,), OneHot((), 3)])
    flat = FlattenBatch(net, [(4,), ()], (2,))
    x, c = torch.randn(5, 4), torch.arange(3)[:, None]
    together = flat(x, c)
    assert together.shape == (3, 5, 2)
    for k in range(3):
        torch.testing.assert_close(together[k], net(x, torch.full((5,), k)))


def test_a_convolution_reads_a_label_as_planes():
    net = Joined(torch.nn.Conv2d(1 + 3, 1, 1, bias=False), [(1, 5, 6), OneHot((), 3)], image=True)
    x = torch.randn(2, 1, 5, 6)
    weight = net.net.weight[0, :, 0, 0]
    expected = weight[0] * x + torch.stack([weight[1], weight[3]])[:, None, None, None]
    torch.testing.assert_close(net(x, torch.tensor([0, 2])), expected)


# ---------------------------------------------------------------------- data of which few are labelled


def digits(labelled=None, part="train"):
    return pv.data.load("digits", part, binarise="threshold", labelled=labelled)


def test_few_labels_are_as_many_of_each_class():
    labels = digits(100).labels
    assert labels[labels >= 0].bincount().tolist() == [10] * 10
    assert (labels == -1).sum() == len(labels) - 100
    truth = digits().labels
    assert torch.equal(labels[labels >= 0], truth[labels >= 0])
    assert not torch.equal(labels, pv.data.load("digits", binarise="threshold", labelled=100, seed=1).labels)


@pytest.mark.parametrize("kind", ["mapping", "data", "loader"])
def test_batches_with_and_without_labels_mix(kind):
    data = digits(100)
    pair = pv.m2((1, 8, 8), 2)
    mapping = {"x": data.x, "c": data.labels}
    source = {
        "mapping": mapping,
        "data": data,
        "loader": DataLoader(TensorDataset(*mapping.values()), batch_size=64, shuffle=True),
    }[kind]
    feed = batches(pair, source, 64, None)
    whole = torch.cat([data.x.flatten(1), data.labels[:, None].float()], 1)
    weights = {}
    for parts in feed.epoch(0):
        for weight, batch in parts:
            assert "c" not in batch or (batch["c"] >= 0).all()
            c = batch.get("c", torch.full((len(batch["x"]),), -1.0))
            for row in torch.cat([batch["x"].flatten(1), c[:, None].float()], 1).tolist():
                weights[tuple(row)] = weights.get(tuple(row), 0.0) + weight
    times = {}
    for row in whole.tolist():
        times[tuple(row)] = times.get(tuple(row), 0) + 1
    labelled = {row for row in weights if row[-1] >= 0}
    assert weights.keys() == times.keys()
    assert sum(weights[row] for row in labelled) == pytest.approx(100)  # once in an epoch, on average
    times_used = [weights[row] / times[row] for row in labelled]
    assert max(times_used) - min(times_used) < 0.2
    assert all(weights[row] == times[row] for row in weights.keys() - labelled)
    fixed = [
        torch.cat([b["x"].flatten(1), b.get("c", torch.full((len(b["x"]),), -1.0))[:, None]], 1) for b in feed.fixed()
    ]
    assert sorted(torch.cat(fixed).tolist()) == sorted(whole.tolist())


def test_a_step_on_both_kinds_has_the_gradient_of_their_weighted_mean(labelled):
    pair = conditional.semi_supervised(weight=2.0)
    extra = {name: value[:12] for name, value in labelled.items()}
    parts = [(0.25, extra), (0.5, {"x": labelled["x"][12:]})]
    svi = pv.infer.SVI(*pair, torch.optim.SGD, TraceEnum_ELBO(max_plate_nesting=1, strict_enumeration_warning=False))
    before = [p.detach().clone() for p in pair.parameters()]
    svi.optimizer.param_groups[0]["lr"] = 1.0
    torch.manual_seed(0)
    loss = svi.step_together(parts)
    moved = [b - p.detach() for b, p in zip(before, pair.parameters(), strict=True)]
    other = conditional.semi_supervised(weight=2.0)
    torch.manual_seed(0)
    losses = [weight * svi.loss.differentiable_loss(*other, **batch) for weight, batch in parts]
    (sum(losses) / (0.25 * 12 + 0.5 * 48)).backward()
    assert loss == pytest.approx(sum(losses).item())
    for found, p in zip(moved, other.parameters(), strict=True):
        expected = torch.zeros_like(p) if p.grad is None else p.grad
        torch.testing.assert_close(found, expected, atol=1e-9, rtol=0)


def test_a_few_labels_teach_the_classes_of_all(tmp_path):
    torch.manual_seed(0)
    pair = pv.m2((1, 8, 8), latent=8, weight=20.0, hidden=(128,))
    run = pv.fit(
        pair,
        digits(100),
        validation=digits(part="validation"),
        epochs=10,
        batch_size=64,
        lr=3e-3,
        out=tmp_path / "run",
        device="cpu",
        progress=False,
    )
    assert {"kl_c", "kl_z"} <= set(run.history)
    report = pv.evaluate(pair, digits(part="test"), particles=5)
    assert report.labelled == 270
    assert report.accuracy > 0.7
    assert "accuracy" in str(report)
    by_model = pair.classify(digits(part="test").x, by="model", particles=10).argmax(-1)
    assert (by_model == digits(part="test").labels).float().mean() > 0.6
    assert pv.evaluate(pair, digits(part="test").x, particles=5).accuracy is None


def test_plain_svi_takes_batches_with_and_without_labels():
    pyro.clear_param_store()
    pair = pv.m2((1, 8, 8), latent=4, weight=1.0)
    svi = SVI(*pair, Adam({"lr": 1e-2}), TraceEnum_ELBO(max_plate_nesting=1, strict_enumeration_warning=False))
    data = digits()
    first = [svi.step(x=data.x[:64]), svi.step(x=data.x[:64], c=data.labels[:64])]
    for _ in range(40):
        last = [svi.step(x=data.x[:64]), svi.step(x=data.x[:64], c=data.labels[:64])]
    assert last[0] < 0.8 * first[0]
    assert last[1] < 0.8 * first[1]


def test_few_data_without_labels_come_by_again():
    data = digits()
    labels = data.labels.clone()
    labels[:7] = -1
    pair = pv.m2((1, 8, 8), 2)
    feed = batches(pair, {"x": data.x, "c": labels}, 64, None)
    assert feed.steps == -(-1250 // 64)
    for parts in feed.epoch(0):
        assert [sorted(batch) for _, batch in parts] == [["x"], ["c", "x"]]
        assert all(len(batch["x"]) <= 64 for _, batch in parts)


def test_data_in_their_own_order_keep_it():
    x = torch.arange(6.0)[:, None].expand(6, 4)
    feed = batches(pv.m2((4,), 2, likelihood=pv.likelihoods.Normal), {"x": x, "c": [-1, 0, -1, 1, -1, 2]}, 2, None)
    found = torch.cat([batch["x"][:, 0] for batch in feed.fixed()])
    assert (found // 2).tolist() == [0, 0, 1, 1, 2, 2]  # slice after slice; within one, by kind


def test_the_curve_of_a_training_is_of_both_kinds(tmp_path):
    data = digits()
    labels = data.labels.clone()
    labels[::2] = -1
    run = pv.fit(pv.m2((1, 8, 8), 2), {"x": data.x, "c": labels}, epochs=1, device="cpu", progress=False)
    assert run.history["kl_c"][0] > 0


def test_a_stepper_of_another_kind_cannot_weigh():
    pyro.clear_param_store()
    pair = pv.m2((1, 8, 8), 2)
    loss = TraceEnum_ELBO(max_plate_nesting=1, strict_enumeration_warning=False)
    svi = SVI(*pair, Adam({"lr": 1e-3}), loss)
    with pytest.raises(ValueError, match=r"^objective: SVI takes one batch at a time"):
        pv.fit(pair, digits(100), objective=svi, epochs=1, progress=False)
    loader = DataLoader(TensorDataset(digits(100).x, digits(100).labels), batch_size=600)
    pv.fit(pair, loader, objective=svi, epochs=1, device="cpu", progress=False)


def test_pictures_of_data_of_which_few_are_labelled():
    pair, data = pv.m2((1, 8, 8), 2), digits(100)
    for figure in (
        pv.plot.reconstructions(pair, data, 3),
        pv.plot.latents(pair, data),
        pv.plot.transfers(pair, data, [1, 2], n=3),
    ):
        plt.close(figure)


class Graded(torch.nn.Module):
    """p(x, z, a, c | u) with two labels and a condition without a density; a is a coin."""

    def __init__(self):
        super().__init__()
        self.W = torch.nn.Parameter(torch.tensor([1.0, -2.0, 0.5]))

    def model(self, x=None, u=None, a=None, c=None, n=1):
        pyro.module("graded", self)
        with pyro.plate("data", len(x) if x is not None else len(u) if u is not None else n):
            u = pyro.sample("u", pv.priors.Given(1)(), obs=u)
            a = pyro.sample("a", dist.Bernoulli(torch.sigmoid(u[..., 0])), obs=a)
            c = pyro.sample("c", dist.Categorical(torch.ones(3)), obs=c)
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            loc = z + u + self.W[c.long()][..., None] + 2 * a[..., None]
            return pyro.sample("x", dist.Normal(loc, 0.5).to_event(1), obs=x)

    def guide(self, x, u, a=None, c=None):
        pyro.module("graded", self)
        with pyro.plate("data", len(x)):
            if a is None:
                a = pyro.sample("a", dist.Bernoulli(torch.sigmoid(x[..., 0])), infer={"enumerate": "parallel"})
            if c is None:
                c = pyro.sample("c", dist.Categorical(logits=x * self.W), infer={"enumerate": "parallel"})
            residual = x - u - self.W[c.long()][..., None] - 2 * a[..., None]
            pyro.sample("z", dist.Normal(residual / 1.25, 0.2**0.5).to_event(1))


def test_two_labels_of_which_one_is_a_coin_beside_a_vector():
    graded = Graded()
    pair = pv.Variant(graded.model, graded.guide, conditions=("u",), labels=("a", "c"))
    generator = torch.Generator().manual_seed(0)
    x, u = torch.randn(40, 1, generator=generator), torch.randn(40, 1, generator=generator)
    a, c = torch.arange(40) % 3 - 1, torch.arange(40) % 4 - 1
    pv.fit(pair, {"x": x, "u": u, "a": a, "c": c}, epochs=1, batch_size=16, device="cpu", progress=False)
    assert pair.classify({"x": x, "u": u}, site="a").shape == (40, 2)
    torch.testing.assert_close(pair.classify({"x": x, "u": u}, site="a")[:, 1], torch.sigmoid(x[:, 0]))
    known = {"x": x, "u": u, "c": torch.zeros(40)}
    found = pair.classify(known, site="a", by="model")
    W = graded.W.detach()
    joint = [
        dist.Bernoulli(torch.sigmoid(u[:, 0])).log_prob(torch.tensor(k))
        + dist.Normal(u[:, 0] + W[0] + 2 * k, 1.25**0.5).log_prob(x[:, 0])
        for k in (0.0, 1.0)
    ]
    torch.testing.assert_close(found, torch.stack(joint, -1).softmax(-1), atol=1e-4, rtol=0)
    report = pv.evaluate(pair, {"x": x, "u": u, "a": (a > 0).long(), "c": c.clamp(min=0)}, particles=3)
    assert report.labelled == 80


@pytest.mark.parametrize("kind", [torch.long, torch.bool, torch.uint8, torch.float64])
def test_attributes_come_in_every_dtype(kind):
    pair = pv.cvae((4,), 2, condition_shape=5)
    c = torch.ones(3, 5)
    expected = pair.elbo(x=X, c=c, seed=0)
    assert torch.equal(pair.elbo(x=X, c=c.to(kind), seed=0), expected)
    assert pair.sample(3, c=c.to(kind)).shape == (3, 4)


def test_discrete_codes_are_interpolated_by_a_jump():
    class Binary(torch.nn.Module):
        def model(self, x=None, n=1):
            with pyro.plate("data", n if x is None else len(x)):
                z = pyro.sample("z", dist.Bernoulli(torch.full((4,), 0.5)).to_event(1))
                return pyro.sample("x", dist.Normal(z, 0.1).to_event(1), obs=x)

        def guide(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Bernoulli(torch.sigmoid(5 * (x - 0.5))).to_event(1))

    programs = Binary()
    pair = pv.Variant(programs.model, programs.guide)
    path = pair.interpolate(torch.zeros(1, 4), torch.ones(1, 4), steps=4)
    assert path[:, 0, 0].tolist() == [0, 0, 1, 1]
    assert pair.traverse("z", units=[1], values=[0, 1], x=torch.ones(1, 4))[0, :, 1].tolist() == [0, 1]


def test_a_guide_that_takes_less_than_the_model():
    def model(x, y, c):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", pv.priors.Given(1)(), obs=c)
            z = pyro.sample("z", dist.Normal(c, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)
            pyro.sample("y", dist.Normal(z, 1.0).to_event(1), obs=y)

    def guide(x, c):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x + c, 1.0).to_event(1))

    q = pv.Variant(model, guide, conditions=("c",)).encode(x=torch.ones(3, 1), c=torch.ones(3, 1))["z"]
    assert q.mean.tolist() == [[2.0]] * 3


# ---------------------------------------------------------------------- parts of images


def test_quadrants_are_the_parts_of_one_image():
    image = torch.arange(2 * 1 * 4 * 6, dtype=torch.float32).reshape(2, 1, 4, 6)
    places = {1: image[..., 2:, :3], 2: image[..., :, :3], 3: None}
    for given, expected in places.items():
        data = pv.data.Quadrants(pv.data.Data(image), given)
        part = pv.data.first(data)
        assert data.shape == (24 - 6 * given,)
        assert data.condition_shape == (6 * given,)
        if expected is not None:
            assert torch.equal(part["c"], expected.flatten(1))
        else:
            assert torch.equal(part["x"], image[..., 2:, 3:].flatten(1))
        assert torch.equal(data.join(**part), image)


def test_both_parts_come_from_one_draw():
    data = pv.data.load("digits", "test", binarise="dynamic", quadrants=2)
    part = pv.data.first(data)
    image = data.join(**part)
    assert set(image.unique().tolist()) == {0.0, 1.0}
    grey = pv.data.load("digits", "test").x
    assert not image[grey == 0].any()
    assert image[grey == 1].all()
    drawn = data.drawn(3)
    assert torch.equal(pv.data.first(drawn)["x"], pv.data.first(drawn)["x"])
    assert isinstance(drawn, pv.data.Quadrants)


def test_half_an_image_is_completed():
    load = lambda part: pv.data.load("digits", part, binarise="threshold", quadrants=2)  # noqa: E731
    train, test = load("train"), load("test")
    torch.manual_seed(0)
    pair = pv.cvae(train.shape, 4, condition_shape=train.condition_shape)
    alone = pv.vae(train.shape, 4)
    for trained in (pair, alone):
        data = train if trained is pair else pv.data.first(train)["x"]
        pv.fit(trained, data, epochs=8, batch_size=64, lr=3e-3, device="cpu", progress=False)
    part = pv.data.first(test)
    told = pair.log_likelihood(particles=50, seed=0, **part).mean()
    assert told > alone.log_likelihood(particles=50, seed=0, x=part["x"]).mean() + 0.5
    figure = pv.plot.completions(pair, test, n=5, draws=2)
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["given", "completed", "completed", "data"]
    plt.close(figure)


def test_a_picture_of_one_code_under_every_class():
    data = digits(part="test")
    for pair in (pv.cvae((1, 8, 8), 2), pv.m2((1, 8, 8), 2)):
        figure = pv.plot.transfers(pair, data, range(10), n=3)
        assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ["x", *map(str, range(10))]
        plt.close(figure)


# ---------------------------------------------------------------------- bad input

PAIRS = {
    "label": lambda: pv.cvae((4,), 2, classes=3),
    "vector": lambda: pv.cvae((4,), 2, condition_shape=5),
    "m2": lambda: pv.m2((4,), 2, classes=3),
    "vae": lambda: pv.vae((4,), 2),
}
X = torch.ones(3, 4)
BAD = {
    "label out of range in a verb": ("label", lambda p: p.elbo(x=X, c=[0, 1, 3]), r"^c: 1 of 3 values .*such as 3"),
    "label out of range for the guide": ("label", lambda p: p.encode(x=X, c=[0, 1, 3]), r"^c: 1 of 3 values"),
    "label out of range at sampling": ("label", lambda p: p.sample(3, c=7), r"^c: 3 of 3 values .*0 to classes - 1"),
    "label below the range": ("label", lambda p: p.elbo(x=X, c=[0, -1, 1]), r"^c: 1 of 3 values .*such as -1"),
    "label that is no whole number": (
        "label",
        lambda p: p.elbo(x=X, c=[0.5, 1, 1]),
        r"^c: 1 of 3 values .*such as 0.5",
    ),
    "label out of range in fit": (
        "label",
        lambda p: pv.fit(p, {"x": X, "c": torch.tensor([0, 1, 9])}, progress=False),
        r"^train: c: 1 of 3 values .*such as 9",
    ),
    "one-hot labels": ("label", lambda p: p.elbo(x=X, c=torch.eye(3)), r"^c: expected values of shape \(batch\)"),
    "label out of range for m2": ("m2", lambda p: p.elbo(x=X, c=[0, 1, 3]), r"^c: 1 of 3 values"),
    "condition of the wrong width": (
        "vector",
        lambda p: p.elbo(x=X, c=torch.zeros(3, 4)),
        r"^c: expected values of shape \(batch, 5\), found \(3, 4\)",
    ),
    "condition of the wrong width at sampling": (
        "vector",
        lambda p: p.sample(3, c=torch.zeros(3, 4)),
        r"^c: expected values of shape \(batch, 5\), found \(3, 4\)",
    ),
    "condition of the wrong width in fit": (
        "vector",
        lambda p: pv.fit(p, {"x": X, "c": torch.zeros(3, 4)}, progress=False),
        r"^train: c: expected values of shape \(batch, 5\), found \(3, 4\)",
    ),
    "condition that is not finite": (
        "vector",
        lambda p: p.elbo(x=X, c=torch.full((3, 5), math.nan)),
        r"^c: holds NaN or infinite values",
    ),
    "no condition at sampling": ("vector", lambda p: p.sample(3), r"^c: missing; it has no density .*c="),
    "no condition in a verb": ("vector", lambda p: p.elbo(x=X), r"^c: missing; the guide needs it, as in c="),
    "no condition in fit": (
        "vector",
        lambda p: pv.fit(p, X, progress=False),
        r"^train: c: missing; the guide needs it",
    ),
    "labels of another length": ("label", lambda p: p.elbo(x=X, c=[0, 1]), r"^batch: sites of different lengths"),
    "labels of another length in fit": (
        "m2",
        lambda p: pv.fit(p, {"x": X, "c": torch.tensor([0, 1])}, progress=False),
        r"^train: sites of different lengths",
    ),
    "labels of another length at sampling": (
        "label",
        lambda p: p.sample(3, c=[0, 1]),
        r"^c: expected values for 3",
    ),
    "missing labels in a verb": ("m2", lambda p: p.elbo(x=X, c=[0, -1, 1]), r"^c: negative labels are missing ones"),
    "another condition": ("label", lambda p: p.sample(3, d=1), r"^d: not a condition of this pair"),
    "a condition of a pair without any": ("vae", lambda p: p.sample(3, c=1), r"^c: not a condition of this pair"),
    "classes of a pair without any": ("vae", lambda p: p.classify(X), r"^classify: the pair has no classes"),
    "classes of a vector": ("vector", lambda p: p.classify(X), r"^classify: the guide takes 'c' as given"),
    "another class": ("m2", lambda p: p.classify(X, site="d"), r"^site: unknown 'd', expected one of c"),
    "classes that the guide is told": ("label", lambda p: p.classify(X), r"^classify: the guide takes 'c' as given"),
    "another way to classify": ("m2", lambda p: p.classify(X, by="mdel"), r"^by: unknown 'mdel'.*did you mean 'model'"),
    "another proposal": ("m2", lambda p: p.log_likelihood(x=X, proposal="p"), r"^proposal: unknown 'p'"),
    "transfer to nothing": ("m2", lambda p: p.transfer({}, x=X), r"^to: expected new values of some of"),
    "transfer to no class": ("m2", lambda p: p.transfer({"c": 5}, x=X), r"^c: 1 of 1 values"),
    "codes outside their support": (
        "m2",
        lambda p: p.decode({"z": torch.zeros(1, 2), "c": torch.tensor([5.0])}),
        r"^latents: c: 1 of 1 values",
    ),
}


@pytest.mark.parametrize("case", BAD, ids=str)
def test_what_is_given_wrongly_is_told_by_name(case):
    name, call, message = BAD[case]
    with pytest.raises(ValueError, match=message) as error:
        call(PAIRS[name]())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: pv.cvae(4, classes=3, condition_shape=5), r"^classes, condition_shape: expected one"),
        (lambda: pv.cvae(4, classes=1), r"^classes: expected at least 2, found 1"),
        (lambda: pv.cvae(4, condition_shape=0), r"^condition_shape: expected a whole number of at least 1, found 0"),
        (lambda: pv.cvae(4, 2, encoder=torch.nn.Linear(4, 4)), r"^encoder: fails on .*\(2, 4\) and \(2\)"),
        (lambda: pv.cvae(4, 2, decoder=torch.nn.Bilinear(2, 1, 4)), r"^decoder: fails on"),
        (lambda: pv.cvae((1, 33, 40), condition_shape=(1, 20, 20)), r"^expected images of one size"),
        (lambda: pv.m2(4, classes=1), r"^classes: expected at least 2"),
        (lambda: pv.m2(4, weight=-1), r"^weight: expected a finite number of at least 0"),
        (lambda: pv.m2(4, classifier=torch.nn.Linear(4, 7)), r"^classifier: expected \(batch, 10\)"),
        (
            lambda: pv.Variant(lambda x=None, n=1: 0, lambda x: 0, labels=("c",)),
            r"^labels: the model takes no argument",
        ),
        (lambda: few(None, 10, 0), r"^labelled: the data have no labels"),
        (
            lambda: few(torch.arange(10), 11, 0),
            r"^labelled: expected a multiple of .* 10, found 11",
        ),
        (lambda: few(torch.arange(10), 20, 0), r"^labelled: class 0 has 1 data"),
        (lambda: pv.data.load("digits", quadrants=4), r"^given: expected 1 to 3 quadrants"),
        (lambda: pv.data.Quadrants(pv.data.Data(torch.zeros(3, 4)), 1), r"^given: expected images"),
    ],
)
def test_what_is_built_wrongly_is_told_by_name(build, message):
    with pytest.raises(ValueError, match=message):
        build()
    with pytest.raises(TypeError, match=r"^labels: expected a tuple of site names"):
        pv.Variant(lambda x=None, c=None, n=1: 0, lambda x: 0, labels="c")
