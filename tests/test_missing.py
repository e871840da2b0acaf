"""Missing data: log p(x_o) against closed forms, nothing from what is hidden, and every place where data go in."""

import contextlib
import json
import math
import warnings
from functools import partial

import gaussian
import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO
from sklearn.datasets import load_wine
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import pyro_vae as pv
from pyro_vae import cli, families, storage, tracing
from pyro_vae.distributions import Row
from pyro_vae.infer import IWAE, SVI, FreeBits, observed
from pyro_vae.likelihoods import Columns, Normal, decoder_shape

AWAY = -99.0  # what tells a guide that an entry is hidden


class Exact(nn.Module):
    """p(z | x_o) of the linear-Gaussian story, whatever is hidden."""

    def __init__(self, story):
        super().__init__()
        self.W, self.b = story.W.detach(), story.b.detach()

    def forward(self, x):
        there = (x != AWAY).double()
        precision = torch.eye(gaussian.LATENT).double() + (self.W.T * there.unsqueeze(-2)) @ self.W / gaussian.NOISE**2
        right = ((there * (x - self.b)) @ self.W / gaussian.NOISE**2).unsqueeze(-1)
        loc = torch.linalg.solve(precision, right).squeeze(-1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.MultivariateNormal(loc, precision_matrix=precision))


def exact():
    story = gaussian.Story()
    return pv.Variant(story, Exact(story))


def joint(story):
    W = story.W.detach()
    return story.b.detach(), W @ W.T + gaussian.NOISE**2 * torch.eye(gaussian.DATA, dtype=W.dtype)


def evidence(story, x, mask):
    """log N(x_o; b_o, (W W^T + s^2 I)_oo) of each datum."""
    b, cov = joint(story)
    found = []
    for row, o in zip(x, mask, strict=True):
        found.append(dist.MultivariateNormal(b[o], cov[o][:, o]).log_prob(row[o]) if o.any() else 0.0)
    return torch.tensor(found, dtype=x.dtype)


def conditional(story, x, mask):
    """Mean and covariance of x_h given x_o, of one datum."""
    b, cov = joint(story)
    gain = torch.linalg.solve(cov[mask][:, mask], cov[mask][:, ~mask]).T
    return b[~mask] + gain @ (x - b)[mask], cov[~mask][:, ~mask] - gain @ cov[mask][:, ~mask]


def check_moments(draws, mean, cov):
    """Of Gaussian draws, within five of their standard errors."""
    variance = cov.diagonal()
    assert ((draws.mean(0) - mean).abs() < 5 * (variance / len(draws)).sqrt()).all()
    error = ((variance[:, None] * variance + cov**2) / len(draws)).sqrt()
    assert ((torch.cov(draws.T) - cov).abs() < 5 * error).all()


def hide(x, mask):
    return x.masked_fill(~mask, torch.nan)


@pytest.fixture
def x():
    return gaussian.pair().sample(20, seed=3)


@pytest.fixture
def mask(x):
    found = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) > 0.4
    found[0], found[1] = False, True
    return found


# ---------------------------------------------------------------------- bounds


@pytest.mark.parametrize("particles", [1, 5])
@pytest.mark.parametrize("rows", [None, 1, 7, 10])
def test_at_the_exact_posterior_every_bound_is_the_evidence_of_what_is_observed(x, mask, particles, rows):
    pair = exact()
    expected = evidence(pair.model, x, mask)
    for given, way in ((x, mask), (hide(x, mask), torch.isfinite), (x.where(mask, -1e3), lambda v: v != -1e3)):
        with observed(fill=AWAY, x=way):
            torch.testing.assert_close(pair.elbo(x=given, particles=particles, rows=rows), expected)
            torch.testing.assert_close(pair.log_likelihood(x=given, particles=particles, rows=rows), expected)
    with observed(fill=AWAY, x=mask[2]):
        found = pair.elbo(x=x, particles=particles, rows=rows)
    torch.testing.assert_close(found, evidence(pair.model, x, mask[2].expand_as(mask)))


def test_importance_sampling_from_another_guide_reaches_the_evidence(x, mask):
    pair = gaussian.pair()
    with torch.no_grad():
        pair.guide.s += 0.7  # wider than any posterior of less data
    with observed(fill=pair.model.b.detach(), x=mask):
        bounds = torch.stack([pair.log_likelihood(x=x, particles=4000, seed=s) for s in range(10)])
    error = bounds.std(0) / 10**0.5
    assert ((bounds.mean(0) - evidence(pair.model, x, mask)).abs() < 5 * error + 1e-3).all()
    assert error.max() < 0.05


def test_a_report_is_of_what_is_observed(x, mask):
    pair = exact()
    with observed(fill=AWAY, x=torch.isfinite):
        report = pv.evaluate(pair, hide(x, mask), particles=4, batch_size=6)
        loader = pv.evaluate(pair, DataLoader(TensorDataset(hide(x, mask)), batch_size=8), particles=4)
    assert report.log_likelihood == pytest.approx(float(evidence(pair.model, x, mask).mean()))
    assert report.dimensions == pytest.approx(float(mask.sum(1).double().mean()))
    assert report.bits_per_dimension == pytest.approx(-report.log_likelihood / report.dimensions / math.log(2))
    assert loader.log_likelihood == pytest.approx(report.log_likelihood)
    assert 0 < report.mutual_information <= math.log(20)
    assert pv.evaluate(gaussian.pair(), x, particles=2).dimensions == gaussian.DATA


def flat():
    """x ~ N(z, 0.25 I) by a network that knows one batch dimension, and its posterior given what is observed."""

    def model(x=None, n=1):
        with pyro.plate("data", n if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1).to_event(1))
            return pyro.sample("x", dist.Normal(nn.Flatten()(z.unsqueeze(-1)), 0.5).to_event(1), obs=x)

    def guide(x):
        there = x != AWAY
        with pyro.plate("data", len(x)):
            q = dist.Normal(torch.where(there, 0.8 * x, 0.0), torch.where(there, 0.2**0.5, 1.0))
            pyro.sample("z", q.to_event(1))

    return pv.Variant(model, guide)


def in_plates():
    """The same story with parts of each datum under a plate of their own, to the left of the data."""

    def model(x=None, n=1):
        with pyro.plate("data", n if x is None else len(x), dim=-1), pyro.plate("parts", 2, dim=-2):
            z = pyro.sample("z", dist.Normal(torch.tensor(0.0), 1.0))
            return pyro.sample("x", dist.Normal(z, 0.5), obs=None if x is None else x.T)

    def guide(x):
        there = x.T != AWAY
        with pyro.plate("data", len(x), dim=-1), pyro.plate("parts", 2, dim=-2):
            pyro.sample("z", dist.Normal(torch.where(there, 0.8 * x.T, 0.0), torch.where(there, 0.2**0.5, 1.0)))

    return pv.Variant(model, guide)


def test_terms_that_stand_still_leave_nothing_on_the_stack(x, mask):
    pair = exact()
    with observed(fill=AWAY, x=mask):
        terms = pair.terms(x=x, rows=6)
        next(terms)
    with observed(fill=AWAY, x=mask):
        terms.close()
        torch.testing.assert_close(pair.elbo(x=x), evidence(pair.model, x, mask))


@pytest.mark.parametrize("pair", [flat, in_plates])
@pytest.mark.parametrize("particles", [1, 5])
def test_pairs_as_people_write_them(pair, particles):
    x = torch.randn(10, 2)
    mask = torch.rand(10, 2) > 0.5
    expected = torch.where(mask, dist.Normal(0.0, 1.25**0.5).log_prob(x), 0.0).sum(1)
    # chunks of 5 with 2 copies are as long as the mask, and none of its business
    for rows in (None, 2, 5, 10):
        with observed(fill=AWAY, x=mask):
            torch.testing.assert_close(pair().elbo(x=x, particles=particles, rows=rows), expected)
            torch.testing.assert_close(pair().log_likelihood(x=x, particles=2, rows=rows), expected)
    with observed(fill=AWAY, x=torch.isfinite):
        whole = pair().impute(x=hide(x, mask), particles=3, rows=4)
        report = pv.evaluate(pair(), hide(x, mask), particles=particles)
    assert torch.equal(whole[mask], x[mask])
    assert torch.isfinite(whole).all()
    assert report.log_likelihood == pytest.approx(float(expected.mean()), abs=1e-5)


def test_nothing_hidden_changes_nothing(x):
    pair, all_of_it = gaussian.pair(shift=0.4), torch.ones(gaussian.DATA, dtype=torch.bool)
    plain, report = pair.elbo(x=x, seed=0, particles=3), pv.evaluate(pair, x, particles=3)
    for way in (all_of_it, torch.isfinite):
        with observed(x=way):
            assert torch.equal(pair.elbo(x=x, seed=0, particles=3), plain)
            assert pv.evaluate(pair, x, particles=3) == report
            trained = state(fitted(pair, x))
        assert all(torch.equal(a, b) for a, b in zip(trained, state(fitted(pair, x)), strict=True))


def fitted(pair, x, **options):
    with pyro.get_param_store().scope():
        copy = pv.Variant(gaussian.Story(), gaussian.Inference())
        copy.load_state_dict(pair.state_dict())
        pv.fit(copy, x, epochs=2, batch_size=8, progress=False, **options)
    return copy


def state(pair):
    return list(pair.state_dict().values())


def test_hidden_values_reach_nothing(x, mask):
    pair, other = gaussian.pair(shift=0.4), x.clone()
    other[~mask] = torch.tensor([math.inf, math.nan, 1e300]).repeat(100)[: int((~mask).sum())].double()
    found = []
    for given in (x, other):
        with observed(fill=0.3, x=mask):
            bounds = pair.elbo(x=given, seed=0), pair.log_likelihood(x=given, seed=0)
            codes = pair.encode(x=given)["z"].mean, pair.reconstruct(x=given, seed=0), pair.impute(x=given, seed=0)
            svi = SVI(*pair, torch.optim.Adam)
            torch.manual_seed(0)
            svi.gradients(x=given)
        found.append([*bounds, *codes, *(p.grad.clone() for p in pair.parameters())])
    assert all(torch.equal(a, b) and torch.isfinite(a).all() for a, b in zip(*found, strict=True))
    shared = mask[2]
    unlike = torch.where(shared, x, 1e300 * x)
    with observed(x=shared):
        a, b = fitted(pair, x), fitted(pair, unlike)
    assert all(torch.equal(p, q) for p, q in zip(state(a), state(b), strict=True))


# ---------------------------------------------------------------------- objectives


def smaller(pair, keep):
    """The pair of the first columns alone."""
    less = pv.Variant(gaussian.Story(), gaussian.Inference())
    with torch.no_grad():
        less.model.W.set_(pair.model.W[:keep].clone())
        less.model.b.set_(pair.model.b[:keep].clone())
        less.guide.A.set_(pair.guide.A[:, :keep].clone())
        less.guide.c.set_(pair.guide.c[:keep].clone())
        less.guide.s.copy_(pair.guide.s)
    return less


def losses_and_gradients(pair, loss, **batch):
    for p in pair.parameters():
        p.grad = None
    torch.manual_seed(0)
    value = loss.loss_and_grads(*pair, **batch)
    return value, {name: p.grad for name, p in pair.named_parameters()}


@pytest.mark.parametrize(
    "loss",
    [
        Trace_ELBO(),
        Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1),
        TraceMeanField_ELBO(),
        TraceEnum_ELBO(max_plate_nesting=1, strict_enumeration_warning=False),
        IWAE(particles=7),
        FreeBits(0.6, per="unit"),
    ],
    ids=lambda loss: type(loss).__name__,
)
def test_objectives_and_gradients_are_those_of_the_smaller_model(x, loss):
    pair, keep = gaussian.pair(shift=0.4), 3
    mask = torch.arange(gaussian.DATA) < keep
    with torch.no_grad():
        pair.guide.c[keep:] = 0.0  # a fill of 0 then adds nothing to the code
    value, gradient = losses_and_gradients(smaller(pair, keep), loss, x=x[:, :keep])
    for given, way in ((x, mask), (hide(x, mask), torch.isfinite), (x, mask.expand_as(x))):
        with observed(x=way):
            found, full = losses_and_gradients(pair, loss, x=given)
        assert found == pytest.approx(value)
        for name in ("model.W", "model.b", "guide.s"):
            part = full[name][:keep]
            torch.testing.assert_close(part, gradient[name])
        assert not full["model.W"][keep:].any()
        torch.testing.assert_close(full["guide.A"][:, :keep], gradient["guide.A"])
        assert all(torch.isfinite(g).all() for g in full.values())


def test_enumerated_sites_see_what_is_observed():
    def model(x):
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(torch.ones(2) / 2), infer={"enumerate": "parallel"})
            means = torch.tensor([[-1.0, 0.0, 1.0], [2.0, 1.0, 0.0]])[k]
            pyro.sample("x", dist.Normal(means, 1.0).to_event(1), obs=x)

    x = torch.randn(6, 3)
    mask = torch.rand(6, 3) > 0.4
    means = torch.tensor([[[-1.0, 0.0, 1.0]], [[2.0, 1.0, 0.0]]])
    each = torch.where(mask, dist.Normal(means, 1.0).log_prob(x), 0.0).sum(-1)
    expected = (each.logsumexp(0) - math.log(2)).sum()
    loss = TraceEnum_ELBO(max_plate_nesting=1)
    assert loss.loss(observed(x=mask)(model), lambda x: None, x) == pytest.approx(-float(expected), rel=1e-6)


def test_plain_svi_in_all_three_ways(x, mask):
    def steps(around, given, *programs):
        pyro.clear_param_store()
        torch.manual_seed(0)
        with pyro.get_param_store().scope():
            svi = pyro.infer.SVI(*programs, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO())
            for part in torch.arange(20).split(5):
                with around(part):
                    yield svi.step(given[part])

    def anew():
        return gaussian.pair(shift=0.4)

    context = list(steps(lambda part: observed(fill=0.2, x=torch.isfinite), hide(x, mask), *anew()))
    by_batch = list(steps(lambda part: observed(fill=0.2, x=mask[part]), x, *anew()))
    pair = anew()
    handler = observed(fill=0.2, x=torch.isfinite)
    decorated = list(steps(lambda part: warnings.catch_warnings(), hide(x, mask), *map(handler, pair)))
    assert context == by_batch == decorated
    assert len(set(context)) == 4


def test_one_program_under_its_mask(x, mask):
    pair = gaussian.pair()
    trace = pyro.poutine.trace(observed(x=mask)(pair.model)).get_trace(x)
    trace.compute_log_prob()
    loc = trace.nodes["z"]["value"] @ pair.model.W.T + pair.model.b
    by_hand = torch.where(mask, dist.Normal(loc, gaussian.NOISE).log_prob(x), 0.0).sum(1)
    torch.testing.assert_close(trace.nodes["x"]["log_prob"], by_hand)
    for way, given in ((mask, x), (torch.isfinite, hide(x, mask))):
        read = observed(fill=0.7, x=way)(lambda x: x)
        assert torch.equal(read(x=given), torch.where(mask, x, 0.7))
        assert torch.equal(read(given), torch.where(mask, x, 0.7))
    both = pv.Variant(*(observed(fill=AWAY, x=mask[2])(program) for program in (exact().model, exact().guide)))
    torch.testing.assert_close(both.elbo(x=x, rows=6), evidence(pair.model, x, mask[2].expand_as(mask)))
    assert both.arguments == ["x"]


def test_draws_under_a_mask_are_whole(x, mask):
    pair = gaussian.pair()
    with observed(x=torch.isfinite):
        assert torch.equal(pair.sample(5, seed=0), gaussian.pair().sample(5, seed=0))
        assert torch.isfinite(pair.reconstruct(x=hide(x, mask))).all()
        assert torch.isfinite(pair.interpolate(hide(x, mask)[:2], x[:2])).all()
    assert torch.isfinite(pair.sample(5)).all()


def test_a_story_that_cannot_dream_is_asked_on_an_example():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1).to_event(1))
            pyro.sample("x", dist.Normal(z, 0.5).to_event(1), obs=x)

    pair = pv.Variant(model, normal().guide)
    with observed(x=torch.isfinite):
        assert pair.elbo(x=NAN).shape == (4,)
        assert torch.isfinite(pair.sample(3)).all()
    assert torch.isfinite(pair.sample(3)).all()


def test_fit_follows_nan_through_shuffles_and_loaders(x, mask):
    pair = gaussian.pair(shift=0.4)
    data = hide(x, mask)
    with observed(x=torch.isfinite):
        runs = [fitted(pair, data, seed=1), fitted(pair, {"x": data}, seed=1), fitted(pair, data.numpy(), seed=1)]
        loaded = fitted(pair, DataLoader(TensorDataset(data), batch_size=6, shuffle=True), validation=data)
        table = pv.compare({"pair": pair}, data, test=data, seeds=2, particles=3, epochs=1, progress=False)
    assert all(torch.equal(p, q) for run in runs[1:] for p, q in zip(state(runs[0]), state(run), strict=True))
    assert all(torch.isfinite(p).all() for p in state(loaded))
    assert all(math.isfinite(report.elbo) for report in table.rows[0].reports)


def test_data_are_checked_before_training_without_a_run_of_the_pair_on_each_batch(x, mask, monkeypatch):
    pair, runs = gaussian.pair(shift=0.4), []
    paired = tracing.paired
    monkeypatch.setattr(tracing, "paired", lambda *args: runs.append(len(args[2]["x"])) or paired(*args))
    counts = []
    for data in (hide(x, mask)[1:], x[1:]):
        runs.clear()
        with observed(x=torch.isfinite), pytest.raises(InterruptedError):
            pv.fit(pair, data, epochs=1, batch_size=2, objective=Stops(), progress=False)
        counts.append(len(runs))
    assert counts[0] == counts[1] < 5


class Stops:
    """A stepper that takes no step."""

    def step(self, **batch):
        raise InterruptedError

    def evaluate_loss(self, **batch):
        return 0.0


def test_later_batches_are_checked_in_spite_of_holes():
    x = torch.full((64, 2), 0.5)
    x[::2, 0], x[1::2, 1] = torch.nan, torch.nan
    x[0] = torch.nan
    below = x.clone()
    below[61, 0] = -3.0
    built = partial(pv.vae, 2, latent=2, hidden=(4,), likelihood=pv.likelihoods.ContinuousBernoulli)
    with observed(x=torch.isfinite):
        pv.fit(built(), x, epochs=1, batch_size=10, progress=False)
        with pytest.raises(ValueError, match=r"train: x: 1 of 8 values lie outside .* such as -3"):
            pv.fit(built(), below, epochs=1, batch_size=10, progress=False)


class Share(dist.ContinuousBernoulli):
    advice = "expected shares"


def test_functions_of_the_data_are_checked_by_the_program_where_the_first_are_hidden():
    def model(x=None, n=1):
        with pyro.plate("data", n if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1).to_event(1))
            return pyro.sample("x", Share(logits=z).to_event(1), obs=None if x is None else x / 255)

    pair = pv.Variant(model, normal().guide)
    x = torch.full((8, 2), 200.0)
    x[:4] = torch.nan
    with observed(x=torch.isfinite), pytest.raises(InterruptedError):
        pv.fit(pair, x, epochs=1, batch_size=4, objective=Stops(), progress=False)


OTHER_FILLS = {
    "a number": ({"fill": 50.0}, r"fill of x: the run in .* has 0 on average, \w+, found 50 on average, \w+$"),
    "the same in another order": ({"fill": [-1.0, 0, 1, 0, 0]}, "fill of x: .* 0 on average, .* 0 on average"),
    "none": (None, r"fill of x: .* has 0 on average, \w+, found none"),
    "another mask": ({"x": lambda x: torch.isfinite(x) & (torch.arange(5) != 3)}, "train: .* has 20 data"),
}


@pytest.mark.parametrize("name", OTHER_FILLS)
def test_a_run_that_read_other_fills_or_masks_is_not_resumed(name, x, tmp_path):
    def go_on(options, epochs):
        handler = contextlib.nullcontext() if options is None else observed(**{"x": torch.isfinite, **options})
        with handler:
            return pv.fit(gaussian.pair(), x, epochs=epochs, out=tmp_path, resume=True, progress=False)

    options, message = OTHER_FILLS[name]
    go_on({"fill": 0.0}, 1)
    with pytest.raises(ValueError, match=f"resume: {message}"):
        go_on(options, 2)
    assert go_on({"fill": [0.0]}, 2).epochs == 2


def test_a_run_without_holes_is_told_by_no_fill(x, tmp_path):
    pv.fit(gaussian.pair(), x, epochs=1, out=tmp_path, progress=False)
    settings = storage.read_state(tmp_path / "checkpoint.safetensors")["settings"]
    assert not [name for name in settings if "fill" in name]


# ---------------------------------------------------------------------- imputation


def test_imputed_means_and_draws_are_those_of_the_conditional(x, mask):
    pair, n = gaussian.pair(), 4000
    with torch.no_grad():
        pair.guide.s += 0.7
    one, o = x[5], torch.tensor([True, False, True, True, False])
    mean, cov = conditional(pair.model, one, o)
    many = hide(one, o).expand(n, -1)
    with observed(fill=pair.model.b.detach(), x=torch.isfinite):
        means = pair.impute(x=many[:200], particles=300, mean=True, seed=0)
        draws = pair.impute(x=many, particles=200, seed=1)
    assert torch.equal(draws[:, o], many[:, o])
    error = means[:, ~o].std(0) / 200**0.5
    assert ((means[:, ~o].mean(0) - mean).abs() < 5 * error + 2e-3).all()
    assert error.max() < 0.02
    check_moments(draws[:, ~o], mean, cov)


def test_one_particle_of_the_exact_posterior_is_a_draw(x):
    pair, n, o = exact(), 4000, torch.tensor([True, True, False, False, True])
    mean, cov = conditional(pair.model, x[7], o)
    with observed(fill=AWAY, x=o):
        draws = pair.impute(x=x[7].expand(n, -1), seed=0)[:, ~o]
        again = pair.impute(x=x[7].expand(n, -1), seed=0)[:, ~o]
    assert torch.equal(draws, again)
    check_moments(draws, mean, cov)


def test_digits_with_holes_are_learned_and_filled():
    data = pv.data.load("digits", binarise="threshold")
    generator = torch.Generator().manual_seed(0)
    holes = {part: torch.rand(n, 1, 8, 8, generator=generator) < 0.3 for part, n in (("train", 1257), ("test", 270))}
    train = data.x.masked_fill(holes["train"], torch.nan)
    whole = pv.data.load("digits", "test", binarise="threshold").x
    fill = train.nanmean(0)
    pair = pv.vae((1, 8, 8), latent=8, hidden=(128,))
    with observed(fill=fill, x=torch.isfinite):
        test = whole.masked_fill(holes["test"], torch.nan)
        before = pv.evaluate(pair, test, particles=5)
        run = pv.fit(pair, train, epochs=30, lr=5e-3, progress=False)
        after = pv.evaluate(pair, test, particles=5)
        means = pair.impute(x=test, particles=50, mean=True, seed=0)
        draws = pair.impute(x=test, particles=20, seed=0)
    assert run.history["elbo"][-1] > run.history["elbo"][0] + 3  # of the first epoch
    assert after.log_likelihood > before.log_likelihood + 10
    assert torch.equal(means[~holes["test"]], whole[~holes["test"]])
    assert set(draws.unique().tolist()) == {0.0, 1.0}

    def error(guess):
        return float((guess - whole)[holes["test"]].square().mean())

    assert error(means) < 0.85 * error(fill.expand_as(whole))


def test_two_sites_and_their_masks():
    def model(x=None, y=None, n=1):
        with pyro.plate("data", n if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1).to_event(1))
            x = pyro.sample("x", dist.Normal(z, 0.5).to_event(1), obs=x)
            return x, pyro.sample("y", dist.Poisson(z.exp()).to_event(1), obs=y)

    def guide(x, y):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.8 * x, 0.2**0.5).to_event(1))

    pair, x, y = pv.Variant(model, guide), torch.randn(5, 2), torch.tensor([[0.0, 3.0]] * 5)
    mask = torch.tensor([True, False])
    with observed(x=torch.isfinite), observed(y=mask):
        one = pair.impute(x=x, y=y, seed=0)
        (_, terms), *_ = pair.terms(x=x, y=y, seed=0)
    assert torch.equal(one["x"], x)
    assert torch.equal(one["y"][:, 0], y[:, 0])
    assert (one["y"][:, 1] == one["y"][:, 1].round()).all()
    (_, whole), *_ = pair.terms(x=x, y=y, seed=0)
    assert torch.equal(terms.data["x"], whole.data["x"])
    assert (terms.data["y"] > whole.data["y"]).all()
    with observed(y=mask, x=mask):
        (_, same), *_ = pair.terms(x=x, y=y, seed=0)
    with observed(y=mask), observed(x=mask), observed(x=torch.tensor([True, True])):
        (_, nested), *_ = pair.terms(x=x, y=y, seed=0)
    assert torch.equal(same.log_weights, nested.log_weights)


# ---------------------------------------------------------------------- likelihoods

SETTINGS = {"Categorical": {"classes": 3}, "Columns": {"columns": ["real", "binary", 3, "count", "real", "binary"]}}
LIKELIHOODS = [n for n in pv.likelihoods.__all__ if hasattr(getattr(pv.likelihoods, n), "decoder_shape")]


def elements(fn, x):
    """log p of each entry, by hand."""
    if isinstance(fn, Row):
        found = torch.empty(x.shape)
        for positions, part in fn.parts:
            found[:, list(positions)] = part.log_prob(x[:, list(positions)])
        return found
    return fn.base_dist.log_prob(x)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_likelihoods_are_masked_exactly(name):
    settings = SETTINGS.get(name, {})
    shape = (6,) if name == "Columns" else (2, 3)
    built = partial(getattr(pv.likelihoods, name), **settings)
    decoder = nn.Linear(2, math.prod(decoder_shape(built, shape)))
    likelihood = built(decoder, 2, shape)
    z = torch.randn(7, 2)
    x = likelihood(z).sample()
    mask = torch.rand(x.shape) > 0.4

    def story(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", likelihood(z), obs=x)

    expected = torch.where(mask, elements(likelihood(z), x), 0.0).flatten(1).sum(1)
    decoder.zero_grad()
    expected.sum().backward()
    gradient = [p.grad.clone() for p in likelihood.parameters() if p.grad is not None]
    likelihood.zero_grad()
    with pyro.validation_enabled():
        for hidden in (math.nan, math.inf, -1e30):
            with observed(x=mask):
                trace = pyro.poutine.trace(story).get_trace(x.masked_fill(~mask, hidden))
            trace.compute_log_prob()
            torch.testing.assert_close(trace.nodes["x"]["log_prob"], expected)
    trace.nodes["x"]["log_prob"].sum().backward()
    found = [p.grad for p in likelihood.parameters() if p.grad is not None]
    for a, b in zip(found, gradient, strict=True):
        assert torch.isfinite(a).all()
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    "base",
    [
        dist.Gamma(torch.tensor([2.0, 3.0]), 1.0),
        dist.Beta(torch.tensor([2.0, 3.0]), 1.5),
        dist.LogNormal(torch.zeros(2), 1.0),
        dist.Uniform(torch.tensor([3.0, 4.0]), 5.0),
        dist.Geometric(torch.tensor([0.3, 0.4])),
        dist.Pareto(torch.tensor([3.0, 4.0]), 2.0),
        dist.MixtureSameFamily(dist.Categorical(torch.ones(2, 3)), dist.Gamma(torch.ones(2, 3) + 1, 1.0)),
        dist.Normal(torch.zeros(2), 1.0).mask(torch.tensor([True, False])),
    ],
    ids=lambda base: families.family(base),
)
def test_other_families_are_masked_exactly(base):
    fn = base.to_event(1)
    x = torch.tensor([4.0, 4.5]) if isinstance(base, dist.Uniform | dist.Pareto) else fn.sample()
    for o in ([True, False], [False, True], [False, False]):
        o = torch.tensor(o)
        with observed(x=o), pyro.validation_enabled():
            trace = pyro.poutine.trace(lambda o=o: pyro.sample("x", fn, obs=hide(x, o)[None])).get_trace()
        trace.compute_log_prob()
        torch.testing.assert_close(trace.nodes["x"]["log_prob"], torch.where(o, base.log_prob(x), 0.0).sum()[None])


def test_a_row_knows_values_of_each_column():
    row = Row([((0, 2), dist.Gamma(torch.ones(5, 2), 1.0)), ((1,), dist.Uniform(torch.full((5, 1), 3.0), 4.0))])
    value = row.inside()
    assert value.shape == (5, 3)
    assert row.support.check(value).all()
    assert Row([((0,), dist.Bernoulli(torch.full((5, 1), 0.5)))]).inside().shape == (1,)


def scattered(**where):
    """Columns whose supports are told by numbers, by tensors or not at all."""
    one = torch.full((5, 1), 0.5, **where)
    three = one[..., None].expand(5, 1, 3)
    mixture = dist.MixtureSameFamily(dist.Categorical(three), dist.Gamma(three, 1.0))
    parts = [dist.Uniform(one, one + 1), dist.Normal(one, 1.0), dist.Bernoulli(one), dist.Poisson(one), mixture]
    parts += [dist.LogNormal(one, 1.0), dist.Beta(one, one).mask(one > 0), dist.Categorical(logits=one[..., None])]
    return Row([((i,), part) for i, part in enumerate(parts)])


@pytest.mark.parametrize("where", [{"dtype": torch.float64}, {"device": "meta"}])
def test_values_of_each_column_are_where_its_parameters_are(where):
    with pyro.validation_enabled(False):  # which looks at values, of which the meta device has none
        row = scattered(**where)
    cells = [families.inside(part) for _, part in row.parts]
    one = torch.empty(0, **where)
    assert {(cell.dtype, cell.device) for cell in cells} == {(one.dtype, one.device)}
    value = row.inside()
    assert (value.shape, value.dtype, value.device) == ((5, 8), one.dtype, one.device)


# ---------------------------------------------------------------------- bad input


def pair_of(fn):
    def model(x=None, n=1):
        with pyro.plate("data", n if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1).to_event(1))
            return pyro.sample("x", fn(z), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 1.0).to_event(1))

    return pv.Variant(model, guide)


def normal():
    return pair_of(lambda z: dist.Normal(z, 0.5).to_event(1))


def with_condition():
    def model(x=None, c=None, n=1):
        with pyro.plate("data", n if c is None else len(c)):
            c = pyro.sample("c", dist.Normal(torch.zeros(2), 1).to_event(1), obs=c)
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1).to_event(1))
            return pyro.sample("x", dist.Normal(z + c, 0.5).to_event(1), obs=x)

    def guide(x, c):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x - c, 1.0).to_event(1))

    return pv.Variant(model, guide, conditions=("c",))


def under(handler, act):
    with handler:
        return act()


def elbo(handler, pair=None, x=None):
    return under(handler, lambda: (pair or normal()).elbo(x=torch.zeros(4, 2) if x is None else x))


NAN = torch.tensor([[1.0, torch.nan]] * 4)
MVN = partial(dist.MultivariateNormal, covariance_matrix=torch.eye(2))
LEARNS = partial(pv.vae, 2, latent=2, hidden=(4,), likelihood=Normal)
PER_DATUM = torch.ones(4, 2, dtype=torch.bool)
LOADER = DataLoader(TensorDataset(torch.zeros(4, 2)), batch_size=4, shuffle=True)

REFUSED = {
    "no mask": (lambda: observed(fill=1.0), "observed: expected a mask of a data site"),
    "mask of floats": (
        lambda: observed(x=torch.ones(2)),
        "observed: x: expected a mask of torch.bool, True where observed, found torch.float32",
    ),
    "mask of text": (lambda: observed(x="all"), "observed: x: expected a boolean mask or a function, found str"),
    "function of floats": (
        lambda: elbo(observed(x=lambda x: x * 1.0)),
        "observed: x: expected a mask of torch.bool, .* found torch.float32",
    ),
    "fill of text": (lambda: observed("zero", x=torch.isfinite), "observed: fill: expected numbers, found str"),
    "fill of nan": (lambda: observed(math.nan, x=torch.isfinite), "observed: fill: expected finite numbers"),
    "fill too long": (
        lambda: elbo(observed(torch.zeros(3), x=torch.isfinite), x=NAN),
        r"observed: fill: x needs a number or numbers that broadcast to \(2,\), found \(3,\)",
    ),
    "mask of another shape": (
        lambda: elbo(observed(x=torch.ones(3, dtype=torch.bool))),
        r"observed: x: expected a mask of shape \(2,\) or \(4, 2\), found \(3,\)",
    ),
    "mask of other data": (
        lambda: elbo(observed(x=torch.ones(7, 2, dtype=torch.bool))),
        "observed: x: a mask of 7 data, found a batch of 4; .* mark hidden entries as NaN",
    ),
    "fit under a mask of all data": (
        lambda: under(observed(x=PER_DATUM), lambda: pv.fit(LEARNS(), torch.zeros(4, 2), epochs=1)),
        r"observed: x: a mask of 4 data.*mark hidden entries as NaN, x.masked_fill\(~mask, torch.nan\), and use "
        r"observed\(x=torch.isfinite\)",
    ),
    "fit of a loader under a mask of all data": (
        lambda: under(observed(x=PER_DATUM), lambda: pv.fit(LEARNS(), LOADER, epochs=1)),
        "observed: x: a mask of 4 data.*mark hidden entries as NaN",
    ),
    "evaluation under a mask of all data": (
        lambda: under(observed(x=PER_DATUM), lambda: pv.evaluate(normal(), LOADER)),
        "observed: x: a mask of 4 data.*mark hidden entries as NaN",
    ),
    "NaN where the mask says observed": (
        lambda: elbo(observed(x=torch.tensor([True, True])), x=NAN),
        "observed: x: holds NaN or infinite values where the mask says observed",
    ),
    "unknown site": (
        lambda: elbo(observed(x=torch.isfinite, y=torch.isfinite)),
        r"observed: no site 'y' in the program; it has \['x', 'z'\]",
    ),
    "latent site": (lambda: elbo(observed(z=torch.isfinite)), "observed: the site 'z' is latent"),
    "latent site of a program": (
        lambda: observed(z=torch.isfinite)(normal().model)(torch.zeros(4, 2)),
        "observed: the site 'z' is latent",
    ),
    "condition": (
        lambda: under(observed(c=torch.isfinite), lambda: with_condition().elbo(x=NAN[:, :1], c=NAN)),
        "observed: c: a condition, which is given whole",
    ),
    "entries that depend on each other": (
        lambda: elbo(observed(x=torch.isfinite), pair_of(MVN), NAN),
        "observed: x: MultivariateNormal does not factorise over the entries of its event, so that none can be left "
        "out; use a likelihood whose entries are independent",
    ),
    "one-hot vectors": (
        lambda: elbo(observed(x=torch.isfinite), pair_of(lambda z: dist.OneHotCategorical(logits=z)), NAN),
        "observed: x: OneHotCategorical does not factorise",
    ),
    "vectors in an event": (
        lambda: observed(x=torch.isfinite)(lambda x: pyro.sample("x", MVN(torch.zeros(3, 2)).to_event(1), obs=x))(
            torch.zeros(1, 3, 2)
        ),
        "observed: x: MultivariateNormal does not factorise",
    ),
    "fill that whole numbers cannot hold": (
        lambda: observed(0.5, x=torch.tensor([True, False]))(lambda x: x)(torch.ones(4, 2, dtype=torch.long)),
        "observed: fill: expected what x, of torch.int64, can hold, found 0.5; pass x.float",
    ),
    "elbo of a site of another name": (
        lambda: elbo(observed(x=torch.isfinite), renamed(), NAN),
        r"^x: the model observes no site of that name; it observes \['y'\]$",
    ),
    "impute a site of another name": (
        lambda: under(observed(x=torch.isfinite, y=torch.isfinite), lambda: renamed().impute(x=NAN)),
        r"^x: the model observes no site of that name; it observes \['y'\]$",
    ),
    "fit of a site of another name": (
        lambda: under(observed(x=torch.isfinite), lambda: pv.fit(renamed(), NAN, epochs=1)),
        r"^train: x: the model observes no site of that name; it observes \['y'\]$",
    ),
    "values of another shape": (
        lambda: observed(x=torch.isfinite)(normal().model)(torch.zeros(4, 1)),
        r"x: expected values of shape \(4, 2\), found \(4, 1\)",
    ),
    "a function that loses NaN": (
        lambda: elbo(observed(x=torch.isfinite), lossy(), NAN),
        "x: the model observes a function of it that loses NaN",
    ),
    "every entry hidden": (
        lambda: under(observed(x=torch.isnan), lambda: pv.evaluate(normal(), torch.zeros(4, 2))),
        "data: every entry is hidden; expected masks that are True where data are observed",
    ),
    "impute outside": (
        lambda: normal().impute(x=NAN),
        "x: holds NaN or infinite values; drop or fill in the missing data, or say which are there with "
        "pv.infer.observed",
    ),
    "impute nothing": (
        lambda: under(observed(x=torch.isfinite), lambda: normal().impute(x=torch.zeros(4, 2))),
        "impute: every entry is observed; mark hidden ones as NaN",
    ),
    "impute particles": (lambda: normal().impute(x=NAN, particles=0), "particles: .*found 0"),
    "impute another function": (
        lambda: under(observed(x=torch.isfinite), lambda: doubled().impute(x=NAN)),
        "x: the model observes a function of its argument, which cannot be imputed",
    ),
    "impute means of classes": (
        lambda: under(observed(x=torch.isfinite), lambda: coded().impute(x=NAN - 1, mean=True)),
        "mean: x, Categorical, has no mean; use draws",
    ),
    "no program": (lambda: observed(x=torch.isfinite)(3), "not callable"),
    # without the handler
    "elbo of NaN": (lambda: normal().elbo(x=NAN), "x: holds NaN or infinite values.*pv.infer.observed"),
    "fit of NaN": (lambda: pv.fit(LEARNS(), NAN, epochs=1), "train: x: 4 of 8 values.*NaN.*pv.infer.observed"),
    "evaluation of NaN": (lambda: pv.evaluate(normal(), NAN), "x: holds NaN or infinite values"),
    "encode NaN": (lambda: normal().encode(x=NAN), "x: holds NaN or infinite values"),
}


def lossy():
    pair = normal()
    return pv.Variant(lambda x=None, n=1: pair.model(None if x is None else (x > 0).float(), n), pair.guide)


def renamed():
    pair = normal()

    def model(x=None, n=1):
        with pyro.plate("data", n if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1).to_event(1))
            return pyro.sample("y", dist.Normal(z, 0.5).to_event(1), obs=x)

    return pv.Variant(model, pair.guide)


def doubled():
    pair = normal()
    return pv.Variant(lambda x=None, n=1: pair.model(None if x is None else 2 * x, n), pair.guide)


def coded():
    return pair_of(lambda z: dist.Categorical(logits=z.unsqueeze(-1).expand(*z.shape, 3)).to_event(1))


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_gets_one_line(name):
    act, message = REFUSED[name]
    with pytest.raises((ValueError, TypeError), match=message) as error:
        act()
    assert "\n" not in str(error.value) or name == "no program"


def test_whole_numbers_are_filled_with_whole_ones():
    read = observed([7, 8], x=torch.tensor([True, False]))(lambda x: x)
    assert read(torch.ones(2, 2, dtype=torch.long)).tolist() == [[1, 8], [1, 8]]


def test_a_site_of_another_name_under_its_own_mask():
    expected = under(observed(x=torch.isfinite), lambda: normal().elbo(x=NAN, seed=0))
    found = under(observed(x=torch.isfinite, y=torch.isfinite), lambda: renamed().elbo(x=NAN, seed=0))
    assert torch.equal(found, expected)


def test_conditions_go_in_whole():
    pair, c = with_condition(), torch.ones(4, 2)
    with observed(x=torch.isfinite):
        bound = pair.elbo(x=NAN, c=c, seed=0)
        assert pair.sample(4, c=c).shape == (4, 2)
        whole = pair.impute(x=NAN, c=c, particles=3)
    assert bound.shape == (4,)
    assert torch.equal(whole[:, 0], NAN[:, 0])
    with observed(x=torch.isfinite):  # which by itself gives no data
        assert pair.sample(4, c=c).shape == (4, 2)


# ---------------------------------------------------------------------- tables


def wine(holes=0.2):
    frame = load_wine(as_frame=True).frame
    frame["target"] = np.array(["red", "rose", "white"])[frame["target"]]
    frame["strong"] = frame["alcohol"] > 13
    return frame.mask(np.random.default_rng(0).random(frame.shape) < holes)


def test_a_table_keeps_its_missing_cells():
    holed, whole = wine(), wine(0.0)
    table = pv.data.load(holed, "all", missing=True)
    assert np.array_equal(table.x.isnan().numpy(), holed.isna().to_numpy())
    same = {name: column.kind for name, column in pv.data.load(whole, "all").columns.items()}
    assert {name: column.kind for name, column in table.columns.items()} == same
    settings = table.settings()
    assert settings["mean"][0] == pytest.approx(holed["alcohol"].mean(), rel=1e-5)
    assert settings["std"][0] == pytest.approx(holed["alcohol"].std(ddof=0), rel=1e-5)
    back = table.to_frame(table.x)
    assert np.array_equal(back.isna().to_numpy(), holed.isna().to_numpy())
    assert back["target"].dropna().tolist() == holed["target"].dropna().tolist()
    np.testing.assert_allclose(back["proline"], holed["proline"])
    parts = [pv.data.load(holed, part, missing=True) for part in ("train", "validation", "test")]
    assert sum(len(part.x) for part in parts) == 178
    assert parts[0].columns == table.columns


def test_moments_pass_over_what_is_missing_as_numpy_does():
    frame = pd.DataFrame({"a": [1e8, np.nan, 1e8 + 64, 1e8 + 640], "b": [np.nan, 0.5, 2.0, np.nan]})
    table = pv.data.load(frame, "all", missing=True)
    found = table.moments()
    x = table.x.double().numpy()
    np.testing.assert_allclose(found["mean"], np.nanmean(x, 0))
    np.testing.assert_allclose(found["std"], np.nanstd(x, 0))


def test_files_with_missing_cells(tmp_path):
    (tmp_path / "t.csv").write_text("n,code,name,flag\n1,01,NA,True\n,02,x,\n3,,y,False\n2,01,,True\n")
    kinds = {"code": "categorical", "name": "categorical"}
    table = pv.data.load(tmp_path / "t.csv", "all", columns=kinds, missing=True)
    assert {name: column.values for name, column in table.columns.items()} == {
        "n": (1, 2, 3),
        "code": ("01", "02"),
        "name": ("NA", "x", "y"),  # a name there, as of Namibia
        "flag": (False, True),
    }
    assert table.x.isnan().sum(0).tolist() == [1, 1, 1, 1]
    again = pv.data.load(tmp_path / "t.csv", "all", columns=table.schema(), missing=True)
    assert torch.equal(again.x.nan_to_num(-1), table.x.nan_to_num(-1))
    (tmp_path / "u.csv").write_text("zip,a\n1,1\n,2\n2,2\n")
    numbers = pv.data.load(tmp_path / "u.csv", "all", columns={"zip": "categorical"}, missing=True)
    assert numbers.columns["zip"].values == (1, 2)


BAD_TABLES = {
    "not asked for": ("a,b\n1,x\n2,\n3,y\n", {}, "column 'b': missing in 1 of 3 rows; drop .* missing=True"),
    "nothing there": ("a,b\n1,\n2,\n3,\n", {"missing": True}, "column 'b': missing in 3 of 3 rows; drop it"),
    "constant else": ("a,b\n1,x\n2,\n3,x\n", {"missing": True}, "column 'b': holds the one value 'x'; drop it"),
    "zeros before": ("a\n01\n\n02\n", {"missing": True}, "t.csv: "),
}


@pytest.mark.parametrize("name", BAD_TABLES)
def test_bad_tables_get_one_line(name, tmp_path):
    text, options, message = BAD_TABLES[name]
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        pv.data.load(tmp_path / "t.csv", "all", **options)
    assert "\n" not in str(error.value)


def test_only_tables_have_missing_cells():
    with pytest.raises(ValueError, match="missing: for a table, found a named set"):
        pv.data.load("digits", missing=True)


def test_a_part_without_a_column_says_so():
    frame = pd.DataFrame({"a": [0.5, 1.5, 2.5, np.nan], "b": [1.5, 0.5, 1.0, 2.0]})
    table = pv.data.load(frame, "all", missing=True)
    part = pv.data.Table(table.x[3:], table.columns)
    with pytest.raises(ValueError, match="moments: column 'a': missing in all 1 rows of this part"):
        part.settings()


def test_a_guide_reads_of_missing_cells_what_is_no_category_and_else_the_mean():
    cells = {"a": [0.5, 2.5, None], "b": ["x", None, "y"], "c": ["u", "v", "w"], "d": [12.0, None, 3.0]}
    table = pv.data.load(pd.DataFrame(cells), "all", columns={"d": "count"}, missing=True)
    assert table.fill() == [1.5, 0.5, -1.0, 7.5]
    assert json.loads(json.dumps(table.fill())) == table.fill()
    read = Columns.features((4,), **table.settings())
    with observed(fill=table.fill(), x=torch.isfinite):
        seen = read(tracing.filled({"x": torch.full((1, 4), torch.nan)})["x"])[0]
    torch.testing.assert_close(seen, torch.tensor([0.0, 0.5, 0.0, 0.0, 0.0, math.log(8.5)]))


def test_wine_with_missing_cells_is_learned_and_filled():
    train, test = (pv.data.load(wine(), part, missing=True) for part in ("train", "test"))
    settings = train.settings()
    pair = pv.vae(train.shape, latent=3, hidden=(32,), likelihood=partial(Columns, **settings))
    with observed(fill=train.fill(), x=torch.isfinite):
        before = pv.evaluate(pair, test, particles=20)
        pv.fit(pair, train, epochs=40, lr=5e-3, progress=False)
        after = pv.evaluate(pair, test, particles=20)
        rows = pair.impute(x=train.x, particles=10, seed=0)
    assert after.log_likelihood > before.log_likelihood + 5
    filled, there = train.to_frame(rows), ~train.x.isnan()
    assert not filled.isna().to_numpy().any()
    assert torch.equal(rows[there], train.x[there])
    assert set(filled["target"]) == {"red", "rose", "white"}


def test_the_command_line_trains_on_missing_cells(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    wine().to_csv("wine.csv", index=False)

    def run(*words):
        code = cli.main([str(word) for word in words])
        return code, *capsys.readouterr()

    quick = ("--hidden", "8", "--latent", "2", "--epochs", "2", "--no-progress")
    code, _, error = run("train", "--data", "wine.csv", *quick, "--out", "a")
    assert (code, "missing in" in error) == (2, True)
    code, printed, error = run("train", "--data", "wine.csv", "--missing", *quick, "--out", "a")
    assert (code, error) == (0, "")
    assert "latents.png" in printed
    code, printed, error = run("evaluate", "a", "--particles", 3, "--json")
    assert (code, error) == (0, "")
    test = pv.data.load("wine.csv", "test", missing=True)
    fill = pv.data.load("wine.csv", missing=True).fill()
    assert fill[-2:] == [-1.0, pytest.approx(0.5, abs=0.1)]  # of three classes, and of strong and weak
    with observed(fill=fill, x=torch.isfinite):
        assert json.loads(printed) == pv.evaluate(pv.load("a"), test, particles=3).to_dict()
    assert run("train", "--resume", "a", "--epochs", 3, "--no-progress")[::2] == (0, "")
    assert run("plot", "a", "latents")[::2] == (0, "")
    code, printed, error = run("sample", "a", "--n", 3, "--out", "-")
    assert (code, error, len(printed.splitlines())) == (0, "", 4)
