"""What Variant does for pairs of a user's own: functions, plain modules, several sites, nested plates."""

import copy
import functools

import gaussian
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from pyro.nn import PyroModule, PyroParam
from pyro.optim import Adam
from torch import nn
from torch.optim.lr_scheduler import StepLR

import pyro_vae as pv


def function_pair():
    """Two plain functions whose parameters live in pyro.param; the optimum has loc = mean of x."""

    def model(x=None, n=1):
        loc = pyro.param("loc", torch.zeros(2))
        with pyro.plate("data", n if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(loc, 1).to_event(1))
            return pyro.sample("x", dist.Normal(z, 0.5).to_event(1), obs=x)

    def guide(x):
        weight = pyro.param("weight", torch.tensor(0.5))
        scale = pyro.param("scale", torch.tensor(1.0), constraint=dist.constraints.positive)
        shift = pyro.param("shift", torch.zeros(2))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(weight * x + shift, scale).to_event(1))

    return pv.Variant(model, guide)


def evidence(x, loc):
    return dist.Normal(loc, (1 + 0.25) ** 0.5).to_event(1).log_prob(x)


def data(mean):
    return mean + torch.randn(400, 2, generator=torch.Generator().manual_seed(2)) * 1.25**0.5


def test_pairs_of_functions_train_in_stores_of_their_own():
    pairs = {mean: function_pair() for mean in (2.0, -3.0)}
    for mean, pair in pairs.items():
        pv.fit(pair, data(mean), epochs=40, batch_size=50, lr=3e-2, progress=False)
    for mean, pair in pairs.items():
        x = data(mean)
        best = evidence(x, x.mean(0)).mean()
        assert float(pair.elbo(x=x, particles=50, seed=0).mean()) == pytest.approx(float(best), abs=0.05)
        assert pair.sample(2000, seed=1).mean(0) == pytest.approx(x.mean(0), abs=0.15)
    assert not list(pyro.get_param_store().keys())


def test_pairs_of_functions_train_on_a_schedule():
    """Their optimiser is there before the first step, though only running them creates parameters."""
    run = pv.fit(
        function_pair(),
        data(0.0),
        epochs=3,
        lr=1e-2,
        lr_schedule=functools.partial(StepLR, step_size=1, gamma=0.1),
        progress=False,
    )
    assert run.history["lr"] == pytest.approx([1e-2, 1e-3, 1e-4])
    svi = pv.infer.SVI(*function_pair(), functools.partial(torch.optim.SGD, lr=1.0))
    svi.evaluate_loss(x=data(0.0))
    assert [float(p.detach().sum()) for p in svi.parameters] == pytest.approx([0.5, 0.0, 0.0, 0.0])  # nothing moved


def test_pairs_of_functions_have_no_parameters_to_hand_out():
    pair = function_pair()
    pv.fit(pair, data(0.0), epochs=1, progress=False)
    for act in (pair.parameters, lambda: pair.to("cpu"), lambda: pair.save("nowhere")):
        with pytest.raises(TypeError, match=r"pyro.param inside plain functions.*as modules"):
            list(act())
    with pytest.raises(TypeError, match="plain functions"):
        function_pair().save("nowhere")
    with pytest.raises(TypeError, match="plain functions"):
        pv.fit(function_pair(), data(0.0), epochs=1, out="nowhere", progress=False)


def test_functions_trained_in_the_global_store_are_seen_by_the_verbs():
    pair, x = function_pair(), data(2.0)
    svi = SVI(*pair, Adam({"lr": 3e-2}), Trace_ELBO())
    for _ in range(400):
        svi.step(x=x)
    best = evidence(x, x.mean(0)).mean()
    assert float(pair.elbo(x=x, particles=50, seed=0).mean()) == pytest.approx(float(best), abs=0.05)


def test_best_weights_of_functions_are_kept():
    pair = function_pair()
    run = pv.fit(pair, data(2.0), validation=data(-2.0), epochs=6, batch_size=50, lr=0.1, progress=False)
    assert run.best_epoch < 6
    assert float(pair.elbo(x=data(-2.0), particles=20, seed=0).mean()) > run.history["validation_elbo"][-1]


def test_plain_modules_learn_under_stock_svi_pair_after_pair():
    target = gaussian.pair()
    x = target.sample(256, seed=0)
    first = gaussian.pair(exact=False)
    for pair in (copy.deepcopy(first), first, copy.deepcopy(gaussian.pair(exact=False))):
        svi = SVI(*pair, Adam({"lr": 2e-2}), Trace_ELBO())
        for _ in range(400):
            svi.step(x=x)
        assert float((gaussian.evidence(target.model, x) - pair.elbo(x=x, particles=20, seed=0)).mean()) < 0.15


class Pyroic(PyroModule):
    """A guide with constrained parameters and a PyroModule inside."""

    def __init__(self):
        super().__init__()
        self.inner = PyroModule[nn.Linear](5, 3)
        self.scale = PyroParam(torch.ones(3), constraint=dist.constraints.positive)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.inner(x), self.scale).to_event(1))


def test_nested_pyro_modules_with_constrained_parameters():
    x = gaussian.pair().sample(256, seed=0).float()
    story = gaussian.Story().float()
    for run_before in (False, True):
        guide = Pyroic()
        if run_before:
            guide(x)  # a module that has run under a name of its own may still become part of a pair
        pair = pv.Variant(story, guide)
        before = float(pair.elbo(x=x, particles=10, seed=0).mean())
        pv.fit(pair, x, epochs=10, lr=2e-2, batch_size=32, progress=False)
        assert float(pair.elbo(x=x, particles=10, seed=0).mean()) > before + 0.5
        assert set(dict(pair.guide.named_parameters())) == {"inner.weight", "inner.bias", "scale_unconstrained"}


def test_iterating_gives_the_programs_as_trained():
    pair = pv.beta_vae((4,), beta=3.0, latent=2)
    model, guide = pair
    x = pair.sample(5)
    guide_trace = poutine.trace(guide).get_trace(x=x)
    model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(x=x)
    assert guide_trace.nodes["z"]["scale"] == 3.0
    assert model_trace.nodes["z"]["scale"] == 3.0
    assert model_trace.nodes["x"]["scale"] == 1.0
    assert poutine.trace(pair.model).get_trace(x=x).nodes["z"]["scale"] == 1.0


@pytest.mark.parametrize("beta", [0, 0.0])
def test_a_beta_of_zero_is_a_beta_of_zero(beta):
    pair = pv.beta_vae((4,), beta=beta, latent=2)
    x = pair.sample(50, seed=0)
    run = pv.fit(pair, x, epochs=30, lr=1e-2, progress=False)
    assert run.history["kl_z"][-1] > run.history["kl_z"][0]  # nothing holds the code to its prior
    plain = pv.Variant(pair.model, pair.guide)
    loss = pyro.infer.TraceMeanField_ELBO()
    torch.manual_seed(0)
    reconstruction = -loss.loss(*pair, x=x) / 50
    assert reconstruction > float(plain.elbo(x=x, seed=0).mean())


def trio():
    """Two latents, one the parent of the other, two data sites, one of them under an inner plate."""

    class Model(nn.Module):
        def forward(self, x=None, y=None, n=1):
            size = n if x is None else len(x)
            with pyro.plate("data", size, dim=-1):
                z2 = pyro.sample("z2", dist.Normal(torch.zeros(2), 1).to_event(1))
                z1 = pyro.sample("z1", dist.Normal(z2.sum(-1), 1.0))
                pyro.sample("x", dist.Normal(z1.unsqueeze(-1) + z2, 0.5).to_event(1), obs=x)
                with pyro.plate("repeats", 3, dim=-2):
                    pyro.sample("y", dist.Normal(z1, 1.0), obs=None if y is None else y.movedim(-1, -2))

    class Guide(nn.Module):
        def forward(self, x, y):
            with pyro.plate("data", len(x), dim=-1):
                z2 = pyro.sample("z2", dist.Normal(0.5 * x, 0.7).to_event(1))
                pyro.sample("z1", dist.Normal(z2.sum(-1) * 0.5 + y.mean(-1) * 0.3, 0.6))

    return pv.Variant(Model(), Guide())


def by_hand(x, y, particles, seed):
    """The log-weights of trio, written out."""
    torch.manual_seed(seed)
    normal = torch.distributions.Normal
    q2 = normal(0.5 * x, 0.7)
    z2 = q2.sample((particles,))
    q1 = normal(z2.sum(-1) * 0.5 + y.mean(-1) * 0.3, 0.6)
    z1 = q1.sample()
    log_p = normal(0, 1).log_prob(z2).sum(-1) + normal(z2.sum(-1), 1).log_prob(z1)
    log_p += normal(z1.unsqueeze(-1) + z2, 0.5).log_prob(x).sum(-1) + normal(z1.unsqueeze(-1), 1).log_prob(y).sum(-1)
    return (log_p - q2.log_prob(z2).sum(-1) - q1.log_prob(z1)).logsumexp(0) - torch.log(torch.tensor(particles))


def test_nested_latents_several_data_sites_and_inner_plates():
    pair = trio()
    x, y = torch.randn(6, 2), torch.randn(6, 3)
    estimate = pair.log_likelihood(x=x, y=y, particles=200_000, rows=300_000, seed=0)
    torch.testing.assert_close(estimate, by_hand(x, y, 200_000, 1), atol=0.03, rtol=0)
    report = pv.evaluate(pair, {"x": x, "y": y}, particles=50)
    assert set(report.kl) == {"z1", "z2"}
    assert report.units == {"z1": 1, "z2": 2}
    codes = pair.encode(x=x, y=y)
    assert codes["z2"].event_shape == (2,)
    assert codes["z1"].batch_shape == (6,)
    mean = pair.encode(x=x, y=y, ancestors="mean")["z1"].mean
    torch.testing.assert_close(mean, 0.25 * x.sum(-1) + 0.3 * y.mean(-1))
    assert torch.equal(codes["z1"].mean, pair.encode(x=x, y=y)["z1"].mean)  # one seeded draw of the ancestors
    draws = pair.sample(4)
    assert draws["x"].shape == (4, 2)
    assert set(pair.reconstruct(x=x, y=y)) == {"x", "y"}


def test_several_data_sites_and_inner_plates_train():
    pair = trio()
    scale = nn.Parameter(torch.tensor(3.0))
    pair.guide.scale = scale

    def guide(x, y):
        with pyro.plate("data", len(x), dim=-1):
            z2 = pyro.sample("z2", dist.Normal(0.5 * x, scale.exp()).to_event(1))
            pyro.sample("z1", dist.Normal(z2.sum(-1) * 0.5 + y.mean(-1) * 0.3, 0.6))

    pair.guide.forward = guide
    data = {"x": torch.randn(40, 2), "y": torch.randn(40, 3)}
    run = pv.fit(pair, data, epochs=5, batch_size=8, lr=0.1, progress=False)
    assert run.history["elbo"][-1] > run.history["elbo"][0] + 1
    assert set(run.history) >= {"kl_z1", "kl_z2"}


def test_conditions_add_nothing_to_the_bounds():
    def model(x=None, c=None, n=1):
        with pyro.plate("data", n if c is None else len(c)):
            c = pyro.sample("c", dist.Normal(torch.zeros(2), 1).to_event(1), obs=c)
            z = pyro.sample("z", dist.Normal(c, 1).to_event(1))
            return pyro.sample("x", dist.Normal(z, 0.5).to_event(1), obs=x)

    def guide(x, c):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.8 * x + 0.2 * c, 0.2**0.5).to_event(1))

    pair = pv.Variant(model, guide, conditions=("c",))
    c, x = torch.randn(20, 2), torch.randn(20, 2)
    expected = dist.Normal(c, 1.25**0.5).to_event(1).log_prob(x)
    torch.testing.assert_close(pair.elbo(x=x, c=c), expected, atol=1e-4, rtol=0)
    draws = pair.sample(5000, c=torch.tensor([[3.0, -1.0]]), seed=0)
    assert draws.mean(0) == pytest.approx(torch.tensor([3.0, -1.0]), abs=0.08)
    assert torch.is_tensor(pair.reconstruct(x=x, c=c))


def test_a_model_without_n_is_sampled_once_a_batch_has_been_seen():
    full = gaussian.pair()

    def model(x):
        full.model(x=x)

    pair = pv.Variant(model, full.guide)
    with pytest.raises(ValueError, match="without a batch"):
        pair.sample(3)
    assert "once a batch has been seen" in str(pair)
    x = full.sample(4, seed=0)
    pair.elbo(x=x)
    draws = pair.sample(4000, seed=0)
    W = full.model.W.detach()
    spread = torch.cov(draws.T) - (W @ W.T + gaussian.NOISE**2 * torch.eye(gaussian.DATA))
    assert spread.abs().max() < 0.3
    assert "latent" in str(pair)


def test_open_arguments_are_taken_by_name():
    inner = gaussian.pair()

    @functools.wraps(lambda **batch: None)
    def model(**batch):
        return inner.model(**batch)

    pair = pv.Variant(model, inner.guide)
    x = inner.sample(4, seed=0)
    torch.testing.assert_close(pair.elbo(x=x, seed=0), inner.elbo(x=x, seed=0))
    assert pair.reconstruct(x=x).shape == x.shape


def test_verbs_leave_mode_gradients_and_random_state_alone():
    pair = pv.vae((4,), latent=2)
    x = pair.sample(5)
    pair.train()
    state = torch.get_rng_state()
    pair.sample(2, seed=1), pair.elbo(x=x, seed=1), pair.encode(x=x), pair.reconstruct(x=x, seed=1)
    assert torch.equal(state, torch.get_rng_state())
    assert pair.training
    assert torch.is_grad_enabled()
    assert all(p.grad is None for p in pair.parameters())


def test_evaluation_moves_no_weights():
    pair = pv.vae((4,), latent=2)
    x = pair.sample(50)
    pv.fit(pair, x, epochs=2, progress=False)
    before = pair.snapshot()
    pv.evaluate(pair, x, particles=5)
    pair.log_likelihood(x=x)
    assert all(torch.equal(before[k], v) for k, v in pair.snapshot().items())


def test_interpolation_and_traversal_decode_what_they_say():
    pair = pv.vae((4,), latent=3)
    a, b = pair.sample(2, seed=0), pair.sample(2, seed=1)
    codes = [pair.encode(x=x)["z"].mean for x in (a, b)]
    path = pair.interpolate(a, b, steps=5)
    torch.testing.assert_close(path[0], pair.decode({"z": codes[0]}))
    torch.testing.assert_close(path[4], pair.decode({"z": codes[1]}))
    torch.testing.assert_close(path[1], pair.decode({"z": 0.75 * codes[0] + 0.25 * codes[1]}))
    grid = pair.traverse("z", units=[2, 0], values=[-2.0, 2.0], x=a[:1])
    moved = codes[0][:1].clone()
    moved[0, 0] = 2.0
    torch.testing.assert_close(grid[1, 1], pair.decode({"z": moved})[0])


def test_print_shows_equation_sites_shapes_and_counts():
    text = str(pv.vae((1, 4, 4), latent=3, hidden=(5,)))
    for part in ("p(x, z) = p(z) p(x | z)", "q(z | x)", "z     latent  (3,)", "x     data    (1, 4, 4)"):
        assert part in text
    assert f"model {3 * 5 + 5 + 5 * 16 + 16}, guide {16 * 5 + 5 + 5 * 6 + 6}" in text


def test_frozen_parameters_stay():
    pair = pv.vae((4,), latent=2)
    for p in pair.guide.parameters():
        p.requires_grad_(False)
    before = pair.snapshot()
    with pytest.warns(UserWarning, match="was not registered in the param store"):
        pv.fit(pair, pair.sample(20), epochs=1, progress=False)
    after = pair.snapshot()
    assert all(torch.equal(before[k], after[k]) for k in before if k.startswith("guide"))
    assert not all(torch.equal(before[k], after[k]) for k in before if k.startswith("model"))


def test_functions_keep_the_precision_of_their_data():
    inner = gaussian.pair()  # in double precision

    def model(x=None, n=1):
        return inner.model(x=x, n=n)

    pair = pv.Variant(model, lambda x: inner.guide(x=x))
    x = inner.sample(20, seed=0)
    torch.testing.assert_close(pair.elbo(x=x), gaussian.evidence(inner.model, x), atol=1e-9, rtol=0)
    assert pair.log_likelihood(x=x.numpy(), particles=3).dtype == torch.float64
    assert pair.reconstruct(x=x).dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bool, torch.int64, torch.float64, torch.float16])
def test_data_of_any_type_become_what_the_pair_computes_in(dtype):
    pair = pv.vae((4,), latent=2)
    x = (torch.rand(6, 4) > 0.5).float()
    assert torch.equal(pair.elbo(x=x.to(dtype), seed=0), pair.elbo(x=x, seed=0))


class Methods(nn.Module):
    """Model and guide as methods of one module, as in Pyro's own example of a VAE."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))
        self.decoder = nn.Linear(2, 4)

    def model(self, x=None, n=1):
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", n if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(self.decoder.weight.new_zeros(2), 1).to_event(1))
            return pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)

    def guide(self, x):
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", len(x)):
            loc, s = self.encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, s.exp()).to_event(1))


@pytest.mark.parametrize("ours", [True, False])
def test_methods_of_one_module_pair_after_pair(ours, tmp_path):
    x = torch.randn(64, 4) * 2 + 3
    for _ in range(2):
        whole = Methods()
        pair = pv.Variant(whole.model, whole.guide)
        before = float(pair.elbo(x=x, seed=0).mean())
        if ours:
            pv.fit(pair, x, epochs=20, batch_size=16, lr=2e-2, progress=False)
        else:
            svi = SVI(*pair, Adam({"lr": 2e-2}), Trace_ELBO())
            for _ in range(80):
                svi.step(x=x)
        assert float(pair.elbo(x=x, seed=0).mean()) > before + 5
        assert pair.elbo(x=x[:1]).shape == (1,)  # batch norm is at rest
        pair.save(tmp_path)
        other = Methods()
        filled = pv.load(tmp_path, into=pv.Variant(other.model, other.guide))
        assert torch.equal(filled.elbo(x=x, seed=0), pair.elbo(x=x, seed=0))


def test_functions_under_a_stepper_are_seen_by_the_verbs():
    for make in (
        lambda pair: pv.infer.SVI(*pair, lambda p: torch.optim.Adam(p, lr=3e-2)),
        lambda pair: SVI(*pair, Adam({"lr": 3e-2}), Trace_ELBO()),
    ):
        pyro.clear_param_store()
        pair = function_pair()
        run = pv.fit(pair, data(2.0), objective=make(pair), epochs=20, batch_size=50, progress=False)
        assert run.history["elbo"][-1] > run.history["elbo"][0] + 0.2
        assert run.history["elbo"][-1] == pytest.approx(run.history["objective"][-1], abs=0.3)


def test_a_parameter_that_is_not_contiguous_learns():
    """Pyro's store would hold a contiguous copy of it, and train that."""
    x = gaussian.pair().sample(64, seed=0)
    for train in ("stock", "fit"):
        pair = gaussian.pair(exact=False)
        before = pair.model.W.detach().clone()
        if train == "fit":
            pv.fit(pair, x, epochs=2, lr=1e-2, progress=False)
        else:
            SVI(*pair, Adam({"lr": 1e-2}), Trace_ELBO()).step(x=x)
        assert not torch.equal(before, pair.model.W)


def test_an_optional_argument_that_is_never_passed_is_latent():
    def model(x=None, c=None, n=1):
        with pyro.plate("data", n if x is None else len(x)):
            c = pyro.sample("c", dist.Normal(0.0, 1.0), obs=c)
            return pyro.sample("x", dist.Normal(c, 0.5), obs=x)

    def guide(x, c=None):
        with pyro.plate("data", len(x)):
            pyro.sample("c", dist.Normal(0.8 * x, 0.2**0.5))

    pair = pv.Variant(model, guide)
    x = torch.randn(5)
    pair.elbo(x=x)
    assert pair.sample(3).shape == (3,)
    assert pair.traverse("c", values=[0.0, 1.0], x=x[:1]).flatten().tolist() == pytest.approx([0.0, 1.0])
    assert "c     latent" in str(pair)


def test_errors_name_what_was_passed_and_spare_the_table_of_shapes():
    pair = pv.vae((1, 4, 4), latent=2)
    x = torch.zeros(6, 1, 4, 4)
    for act in (lambda: pair.elbo(x=x[:, 0]), lambda: pv.fit(pair, x[:, 0], epochs=1), lambda: pair.elbo(x=x + 0.5)):
        with pytest.raises(ValueError, match=r"^(train: )?(Error while|expected data of shape)") as caught:
            act()
        assert "Trace Shapes" not in str(caught.value)
