"""The audit of a guide: both gaps and the moments of NUTS against closed forms, and a caller who notices nothing."""

import copy
import dataclasses
import json
import math
import random

import gaussian
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence
from torch.utils.data import DataLoader, TensorDataset

import pyro_vae as pv
from pyro_vae.evaluation.audited import Agreement, Audit, Datum, Units
from pyro_vae.evaluation.chains import effective

SMALL = {"n": 1, "particles": 20, "steps": 3, "draws": 0}
SHORT = 0.03  # nats by which a fit may stop short of the best q


def loc_and_scale(guide, x):
    """Of the linear-Gaussian guide."""
    return ((x - guide.c) @ guide.A.T).detach(), guide.s.exp().detach()


def posterior(story, x):
    """p(z | x) in closed form, also where W is any matrix: mean (n, latent) and precision."""
    W, b = story.W.detach(), story.b.detach()
    precision = W.T @ W / gaussian.NOISE**2 + torch.eye(W.shape[1], dtype=W.dtype)
    return (x - b) @ W / gaussian.NOISE**2 @ torch.linalg.inv(precision), precision


def gap(guide, story, x):
    """KL(q(z | x) || p(z | x)) in closed form: log p(x) - ELBO."""
    loc, scale = loc_and_scale(guide, x)
    mean, precision = posterior(story, x)
    return kl_divergence(
        MultivariateNormal(loc, torch.diag(scale**2)), MultivariateNormal(mean, precision_matrix=precision)
    )


def factorised(precision):
    """The KL to a normal of its best factorised approximation, which has the diagonal of its precision."""
    return 0.5 * float(torch.diagonal(precision).log().sum() - torch.logdet(precision))


def assert_near(found, expected, error):
    assert expected - SHORT - 4 * error < found < expected + 4 * error + 1e-3, (found, expected, error)


# ---------------------------------------------------------------------- the gaps


def test_the_gap_is_the_kl_to_a_posterior_that_the_family_holds():
    pair = gaussian.pair(shift=0.4)
    x = pair.sample(5, seed=1)
    found = pv.audit(pair, x, n=2, draws=0)
    assert len(found.rows) == 2
    exact, evidence = gap(pair.guide, pair.model, x), gaussian.evidence(pair.model, x)
    torch.testing.assert_close(exact, evidence - gaussian.elbo(pair.model, pair.guide, x).detach())
    for row, expected, log_p in zip(found.rows, exact.tolist(), evidence.tolist(), strict=False):
        assert expected > 0.8
        assert row.amortisation_gap == pytest.approx(row.optimised_elbo - row.elbo, abs=1e-9)
        assert row.amortisation_gap_error < 0.06
        assert_near(row.amortisation_gap, expected, row.amortisation_gap_error)
        assert row.optimised_elbo == pytest.approx(log_p, abs=SHORT)
        assert row.log_likelihood == pytest.approx(log_p, abs=4 * row.log_likelihood_error + 1e-3)
        assert abs(row.approximation_gap) < SHORT
        assert row.effective_sample_size > 0.97 * found.particles
    assert found.amortisation_gap == pytest.approx(sum(row.amortisation_gap for row in found.rows) / 2)
    assert found.amortisation_gap_error == pytest.approx(
        sum(row.amortisation_gap_error**2 for row in found.rows) ** 0.5 / 2
    )
    assert "encoder" in found.verdicts[0]
    assert found.verdicts[1].endswith("nothing to gain")


def test_there_is_no_gap_at_the_exact_posterior():
    pair = gaussian.pair()
    found = pv.audit(pair, pair.sample(2, seed=1), draws=0, steps=100)
    for row in found.rows:
        assert abs(row.amortisation_gap) < 0.01
        assert abs(row.approximation_gap) < 0.01
    assert [words.endswith("nothing to gain") for words in found.verdicts] == [True, True]


def slanted(shift=0.4):
    """The pair with a W whose posteriors are correlated, so that the family of q does not hold them."""
    pair = gaussian.pair(shift=shift)
    with torch.no_grad():
        pair.model.W.add_(0.7)  # a direction that all codes share
    return pair


def test_the_approximation_gap_is_the_kl_of_the_best_of_the_family():
    pair = slanted()
    x = pair.sample(2, seed=1)
    found = pv.audit(pair, x, draws=0, particles=4000)
    best = factorised(posterior(pair.model, x)[1])
    assert best > 0.3
    for row, whole, log_p in zip(
        found.rows, gap(pair.guide, pair.model, x), gaussian.evidence(pair.model, x), strict=True
    ):
        assert_near(row.amortisation_gap, float(whole) - best, row.amortisation_gap_error)
        assert row.log_likelihood == pytest.approx(float(log_p), abs=4 * row.log_likelihood_error)
        # what the fit stops short of is in this gap
        assert best - 4 * row.approximation_gap_error < row.approximation_gap
        assert row.approximation_gap < best + SHORT + 4 * row.approximation_gap_error
        assert row.approximation_gap == pytest.approx(row.log_likelihood - row.optimised_elbo)
        assert row.effective_sample_size < 0.9 * found.particles
    assert "richer family" in found.verdicts[1]


def test_errors_are_those_of_repeated_audits():
    pair = slanted()
    x = pair.sample(1, seed=1)
    rows = [pv.audit(pair, x, draws=0, particles=200, steps=40, lr=0.1, seed=seed).rows[0] for seed in range(20)]
    for name in ("amortisation_gap", "approximation_gap", "log_likelihood"):
        spread = torch.tensor([getattr(row, name) for row in rows]).std()
        told = sum(getattr(row, f"{name}_error") for row in rows) / len(rows)
        assert 0.5 < told / float(spread) < 2.0, name  # the spread itself is known to a seventh


class Reading(nn.Module):
    """q(z | x) = N(W^T x, exp(s)^2), W the model's own, held without being registered, as a ladder holds priors."""

    def __init__(self, story):
        super().__init__()
        self.held = [story]
        self.s = nn.Parameter(torch.zeros(gaussian.LATENT, dtype=torch.float64))

    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x @ self.held[0].W, self.s.exp()).to_event(1))


def test_what_the_guide_borrows_of_the_model_stays_as_it_is():
    story = gaussian.Story()
    pair = pv.Variant(story, Reading(story))
    x = pair.sample(1, seed=1)
    mean, precision = posterior(story, x)
    loc, exact = (x @ story.W).detach(), torch.diagonal(precision) ** -0.5  # the best scale, wherever the mean is

    def kl(scale):
        return kl_divergence(Independent(Normal(loc, scale), 1), Independent(Normal(mean, exact), 1)).item()

    (row,) = pv.audit(pair, x, draws=0, particles=4000).rows
    assert kl(exact) > 1, "nothing tells whether W moved"
    assert_near(row.amortisation_gap, kl(torch.ones_like(exact)) - kl(exact), row.amortisation_gap_error)


class Conditional(nn.Module):
    """p(z | c) = N(c, I) and the linear-Gaussian likelihood."""

    def __init__(self):
        super().__init__()
        self.story = gaussian.Story()

    def forward(self, x=None, c=None, n=1):
        given = c if x is None else x
        with pyro.plate("data", n if given is None else len(given)):
            c = pyro.sample("c", dist.Normal(torch.zeros(3, dtype=torch.float64), 1).to_event(1), obs=c)
            z = pyro.sample("z", dist.Normal(c, 1).to_event(1))
            loc = z @ self.story.W.T + self.story.b
            return pyro.sample("x", dist.Normal(loc, gaussian.NOISE).to_event(1), obs=x)


class Unconditional(nn.Module):
    """It knows nothing of c, so that one bias is free for each datum."""

    def __init__(self):
        super().__init__()
        self.inference = gaussian.pair().guide

    def forward(self, x, c):
        return self.inference(x)


def test_conditions_pass_along():
    pair = pv.Variant(Conditional(), Unconditional(), conditions=("c",))
    story = pair.model.story
    c = 2 * torch.randn(2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = pair.sample(2, c=c, seed=1)
    found = pv.audit(pair, {"x": x, "c": c}, draws=0)
    _, precision = posterior(story, x)
    # p(z | x, c) = p(z | x) moved by M^-1 c
    moved = c @ torch.linalg.inv(precision)
    kl = 0.5 * torch.einsum("ni,ij,nj->n", moved, precision, moved)
    evidence = gaussian.evidence(story, x - c @ story.W.detach().T)
    for row, expected, log_p in zip(found.rows, kl.tolist(), evidence.tolist(), strict=True):
        assert_near(row.amortisation_gap, expected, row.amortisation_gap_error)
        assert row.log_likelihood == pytest.approx(log_p, abs=SHORT)


def test_weights_and_factors_of_training_are_no_part_of_it():
    pair = gaussian.pair(shift=0.4)
    x = pair.sample(1, seed=1)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(pair.model.W.new_zeros(gaussian.LATENT), 1).to_event(1))
            pyro.factor("extra", -10 * z.sum(-1))
            pyro.sample("x", dist.Normal(z @ pair.model.W.T + pair.model.b, gaussian.NOISE).to_event(1), obs=x)

    class Guide(nn.Module):
        def __init__(self):
            super().__init__()
            self.inference = copy.deepcopy(pair.guide)

        def forward(self, x):
            pyro.factor("more", 50 * self.inference.s.sum(), has_rsample=True)
            return self.inference(x)

    options = {"particles": 200, "steps": 30, "draws": 4, "warmup": 4}
    plain = pv.audit(pair, x, **options)
    assert pv.audit(pv.Variant(pair.model, pair.guide, handler=pv.temper(5.0)), x, **options) == plain
    assert pv.audit(pv.Variant(model, Guide()), x, **options) == plain


def test_what_is_missing_is_summed_out():
    """p(x_o | z) has the rows of W that are observed; its posteriors are correlated."""
    pair = gaussian.pair(shift=0.4)
    x = pair.sample(1, seed=1)
    seen = torch.tensor([True, False, True, True, False])
    holed = x.masked_fill(~seen, torch.nan)
    with pv.infer.observed(x=torch.isfinite):
        (row,) = pv.audit(pair, holed, particles=4000, draws=300, warmup=100).rows
    story = copy.deepcopy(pair.model)
    story.W, story.b = nn.Parameter(story.W[seen].detach()), nn.Parameter(story.b[seen].detach())
    mean, precision = posterior(story, x[:, seen])
    W = story.W.detach()
    covariance = W @ W.T + gaussian.NOISE**2 * torch.eye(len(W), dtype=W.dtype)
    log_p = float(MultivariateNormal(story.b.detach(), covariance).log_prob(x[0, seen]))
    assert row.log_likelihood == pytest.approx(log_p, abs=4 * row.log_likelihood_error)
    best = factorised(precision)
    assert best - 4 * row.approximation_gap_error < row.approximation_gap
    assert row.approximation_gap < best + SHORT + 4 * row.approximation_gap_error
    assert_moments(row.sites["z"], mean[0], torch.linalg.inv(precision).diagonal().sqrt())


def test_a_guide_from_the_data_upwards_reaches_what_its_family_holds():
    """z2 ~ N(0, 1), z1 | z2 ~ N(z2, 1), x | z1 ~ N(z1, 1/4); q(z1 | x) q(z2 | z1) is exact at its best."""

    class Model(nn.Module):
        def forward(self, x=None, n=1):
            with pyro.plate("data", n if x is None else len(x)):
                z2 = pyro.sample("z2", dist.Normal(torch.zeros(1).double(), 1).to_event(1))
                z1 = pyro.sample("z1", dist.Normal(z2, 1).to_event(1))
                return pyro.sample("x", dist.Normal(z1, 0.5).to_event(1), obs=x)

    class Guide(nn.Module):
        def __init__(self):
            super().__init__()
            self.low, self.top = nn.Linear(1, 1).double(), nn.Linear(1, 1).double()
            self.s = nn.Parameter(torch.zeros(2).double())

        def forward(self, x):
            with pyro.plate("data", len(x)):
                z1 = pyro.sample("z1", dist.Normal(self.low(x), self.s[:1].exp()).to_event(1))
                pyro.sample("z2", dist.Normal(self.top(z1), self.s[1:].exp()).to_event(1))

    torch.manual_seed(0)
    x = torch.tensor([[2.0]], dtype=torch.float64)
    found = pv.audit(pv.Variant(Model(), Guide()), x, draws=300, warmup=100)
    (row,) = found.rows
    assert row.amortisation_gap > 0.5
    assert row.optimised_elbo == pytest.approx(Normal(0.0, 2.25**0.5).log_prob(torch.tensor(2.0)).item(), abs=SHORT)
    # the joint of (z1, z2) given x is normal, with this precision
    precision = torch.tensor([[1 / 0.25 + 1, -1], [-1, 2]], dtype=torch.float64)
    mean, sd = torch.linalg.solve(precision, torch.tensor([8.0, 0.0]).double()), precision.inverse().diagonal().sqrt()
    for i, name in enumerate(("z1", "z2")):
        assert_moments(row.sites[name], mean[i : i + 1], sd[i : i + 1])
        units, error = row.sites[name], 5 / found.particles**0.5
        assert units.optimised_mean[0] == pytest.approx(float(mean[i]), abs=error * float(sd[i]) + 0.05)
        assert units.optimised_sd[0] == pytest.approx(float(sd[i]), rel=error + 0.05)


def test_a_fit_that_ends_worse_is_not_kept():
    pair = gaussian.pair()
    (row,) = pv.audit(pair, pair.sample(1, seed=1), draws=0, steps=1, lr=10.0).rows
    assert (row.amortisation_gap, row.amortisation_gap_error) == (0.0, 0.0)
    assert row.optimised_elbo == row.elbo


# ---------------------------------------------------------------------- moments


def assert_moments(units, mean, sd):
    """The chain's, within four standard errors as its effective sample size tells them."""
    for i, ess in enumerate(units.effective_sample_size):
        assert units.r_hat[i] < 1.05
        assert abs(units.mean[i] - float(mean[i])) < 4 * float(sd[i]) / ess**0.5
        assert abs(units.sd[i] / float(sd[i]) - 1) < 4 / (2 * min(ess, 400)) ** 0.5


def test_the_chain_has_the_moments_of_the_posterior():
    pair = gaussian.pair(shift=0.4)
    x = pair.sample(2, seed=1)
    found = pv.audit(pair, x, steps=200, draws=300, warmup=100)
    mean, precision = posterior(pair.model, x)
    sd = torch.diagonal(precision) ** -0.5
    loc, scale = loc_and_scale(pair.guide, x)
    error = 4 / found.particles**0.5
    for i, row in enumerate(found.rows):
        units = row.sites["z"]
        assert_moments(units, mean[i], sd)
        for unit in range(gaussian.LATENT):
            assert units.amortised_mean[unit] == pytest.approx(float(loc[i, unit]), abs=error * float(scale[unit]))
            assert units.amortised_sd[unit] == pytest.approx(float(scale[unit]), rel=error)
    agreement = found.sites["z"]
    assert agreement.converged
    assert agreement.amortised_ratio == pytest.approx(math.exp(0.4), rel=0.1)
    assert agreement.optimised_ratio == pytest.approx(1.0, abs=0.1)
    shift = float(((loc - mean) / sd).square().mean().sqrt())
    assert agreement.amortised_shift == pytest.approx(shift, abs=3 * agreement.noise)
    assert agreement.optimised_shift < 3 * agreement.noise
    assert agreement.noise < 0.1
    words = next(words for words in found.verdicts if words.startswith("z: "))
    assert "means of q are off by" in words
    assert "too wide" in words


def test_summaries_are_means_over_data_and_units():
    def units(mean, sd, q_mean, q_sd, ess, r_hat):
        return Units(mean, sd, q_mean, q_sd, mean, sd, ess, r_hat)

    first = units((0.0, 1.0), (1.0, 2.0), (1.0, 1.0), (2.0, 2.0), (100.0, 50.0), (1.0, 1.01))
    second = units((0.0, 0.0), (1.0, 1.0), (0.0, 3.0), (1.0, 4.0), (200.0, 100.0), (0.99, 1.02))
    found = Agreement.of([first, second], 100)
    assert found.amortised_shift == pytest.approx((10 / 4) ** 0.5)
    assert found.amortised_ratio == pytest.approx(8 / 4)
    assert (found.optimised_shift, found.optimised_ratio) == (0.0, 1.0)
    assert found.noise == pytest.approx(((0.01 + 0.02 + 0.005 + 0.01) / 4 + 0.01) ** 0.5)
    assert (found.effective_sample_size, found.r_hat) == (50.0, 1.02)
    assert found.converged
    assert not dataclasses.replace(found, r_hat=math.nan).converged


def test_effective_draws_are_finite():
    torch.manual_seed(0)
    independent = torch.randn(100, dtype=torch.float64)
    alternating = 10 * (-1.0) ** torch.arange(100) + independent
    constant = torch.zeros(100, dtype=torch.float64)
    found = effective(torch.stack([independent, alternating, constant], -1)[None])
    assert 50 < found[0] <= 200
    assert found[1] == pytest.approx(200)
    assert torch.isnan(found[2])


def test_classes_that_are_latent_are_left_out_of_the_moments():
    pair = pv.m2((1, 8, 8), latent=2, classes=3, hidden=(8,), weight=2.0)
    x = pv.data.load("digits", "test", binarise="threshold").x[:1]
    options = {"particles": 50, "steps": 10, "draws": 10, "warmup": 5}
    found = pv.audit(pair, x, **options)
    assert list(found.rows[0].sites) == ["z"]
    assert found.left_out == {"c": "it is discrete, and NUTS sums over it"}
    assert "c: no moments; it is discrete, and NUTS sums over it" in str(found)
    labelled = pv.audit(pair, {"x": x, "c": torch.tensor([1])}, **options)
    assert not labelled.left_out
    assert labelled.rows[0].log_likelihood < found.rows[0].log_likelihood  # log p(x, c) < log p(x)
    assert pv.audit(pair, {"x": x, "c": torch.tensor([-1])}, **options) == found


def test_a_class_that_the_guide_enumerates_is_fitted():
    """p(c) = 1/2, x | c ~ N(c, 1): the guide's logit has no gradient of its own without the sum over c."""

    class Model(nn.Module):
        def forward(self, x=None, n=1):
            with pyro.plate("data", n if x is None else len(x)):
                c = pyro.sample("c", dist.Bernoulli(torch.tensor(0.5)))
                return pyro.sample("x", dist.Normal(c, 1.0), obs=x)

    class Guide(nn.Module):
        def __init__(self):
            super().__init__()
            self.logit = nn.Parameter(torch.tensor(0.0))

        def forward(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("c", dist.Bernoulli(logits=self.logit.expand(len(x))), infer={"enumerate": "parallel"})

    (row,) = (found := pv.audit(pv.Variant(Model(), Guide()), torch.tensor([3.0]))).rows
    both = [math.log(0.5) + Normal(c, 1.0).log_prob(torch.tensor(3.0)).item() for c in (0.0, 1.0)]
    log_p = float(torch.logsumexp(torch.tensor(both), 0))
    assert row.optimised_elbo == pytest.approx(log_p, abs=SHORT)
    assert_near(row.amortisation_gap, log_p - 0.5 * sum(both) - math.log(2), row.amortisation_gap_error)
    assert (row.sites, list(found.left_out)) == ({}, ["c"])


def test_counts_cannot_be_summed_over():
    class Model(nn.Module):
        def forward(self, x=None, n=1):
            with pyro.plate("data", n if x is None else len(x)):
                k = pyro.sample("k", dist.Poisson(torch.tensor(3.0)))
                return pyro.sample("x", dist.Normal(k, 1.0), obs=x)

    class Guide(nn.Module):
        def __init__(self):
            super().__init__()
            self.log_rate = nn.Parameter(torch.tensor(1.0))

        def forward(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("k", dist.Poisson(self.log_rate.exp().expand(len(x))))

    found = pv.audit(pv.Variant(Model(), Guide()), torch.tensor([6.0]), particles=500, steps=100, draws=20)
    assert found.rows[0].amortisation_gap > 0
    assert found.left_out == {"k": "NUTS cannot sum over k, which is discrete"}
    assert not found.sites


@pytest.mark.parametrize("guide", ["top-down", "bottom-up"])
def test_hierarchies(guide):
    torch.manual_seed(0)
    pair = pv.hvae((1, 8, 8), latents=(3, 2), guide=guide, hidden=(8,))
    before = {name: value.clone() for name, value in pair.state_dict().items()}
    x = pv.data.load("digits", "test", binarise="threshold").x
    found = pv.audit(pair, x, n=1, particles=300, steps=100, draws=10, warmup=5)
    (row,) = found.rows
    assert {name: len(units.mean) for name, units in row.sites.items()} == {"z1": 3, "z2": 2}
    assert row.amortisation_gap > 4 * row.amortisation_gap_error
    assert row.approximation_gap > -4 * row.approximation_gap_error
    assert all(torch.equal(value, before[name]) for name, value in pair.state_dict().items())


# ---------------------------------------------------------------------- functions


def functions(shift):
    """The linear-Gaussian pair around modules, of which its functions tell, and a scale of the guide's own."""
    story, inference = gaussian.pair().model, gaussian.pair(shift=shift).guide

    def model(x=None, n=1):
        pyro.module("story", story)
        return story(x, n)

    def guide(x):
        pyro.module("inference", inference)
        scale = pyro.param("scale", torch.full((3,), 2.0).double(), dist.constraints.positive)
        with pyro.plate("data", len(x)):
            loc = (x - inference.c) @ inference.A.T
            pyro.sample("z", dist.Normal(loc, inference.s.exp() * scale).to_event(1))

    return story, inference, pv.Variant(model, guide)


@pytest.mark.parametrize("trained", [False, True])
def test_functions_are_audited_at_what_they_have_learned(trained):
    story, inference, pair = functions(0.2)
    x = gaussian.pair().sample(64, seed=1)
    if trained:  # in the pair's own store
        pv.fit(pair, x, epochs=1, progress=False)
    else:  # in Pyro's
        pyro.param("scale", torch.full((3,), 1.5).double(), dist.constraints.positive)
        before = pyro.get_param_store().get_state()
    kept = [p.detach().clone() for p in (*story.parameters(), *inference.parameters())]
    for p in (*story.parameters(), *inference.parameters()):
        p.grad = torch.ones_like(p)
    with pair.scope():
        scale = pyro.param("scale").detach().clone()
    (row,) = pv.audit(pair, x, n=1, draws=4, warmup=4).rows
    now = copy.deepcopy(inference)
    with torch.no_grad():
        now.s += scale.log()
    assert_near(row.amortisation_gap, float(gap(now, story, x[:1])), row.amortisation_gap_error)
    for p, value in zip((*story.parameters(), *inference.parameters()), kept, strict=True):
        assert torch.equal(p, value)
        assert torch.equal(p.grad, torch.ones_like(p))
    with pair.scope():
        assert torch.equal(pyro.param("scale"), scale)
    if not trained:
        after = pyro.get_param_store().get_state()
        assert after["params"].keys() == before["params"].keys()
        assert all(after["params"][name] is p for name, p in before["params"].items())


def test_a_guide_without_parameters_has_no_gap():
    def model(x=None, n=1):
        with pyro.plate("data", n if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1).to_event(1))
            return pyro.sample("x", dist.Normal(z, 0.5).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.8 * x, 0.2**0.5).to_event(1))

    found = pv.audit(pv.Variant(model, guide), torch.ones(1, 2), draws=300, warmup=100)
    (row,) = found.rows
    assert (row.amortisation_gap, row.approximation_gap) == (0.0, pytest.approx(0.0, abs=1e-4))
    assert_moments(row.sites["z"], torch.full((2,), 0.8), torch.full((2,), 0.2**0.5))
    assert found.sites["z"].amortised_shift < 4 * found.sites["z"].noise


# ---------------------------------------------------------------------- the caller


class Restless(nn.Module):
    """Batch norm and dropout, and no run of it outside eval mode."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 4))

    def forward(self, x):
        assert not any(module.training for module in self.modules())
        return self.layers(x)


def test_the_caller_notices_nothing():
    pair = pv.vae((1, 8, 8), latent=2, encoder=Restless().eval())
    x = pv.data.load("digits", "test", binarise="threshold").x
    pyro.param("theirs", torch.ones(2), dist.constraints.positive)
    pair.train()
    pair.guide.posterior.encoder.net.layers[3].eval()  # a mode of its own
    parameters = dict(pair.named_parameters())
    first, second, *_ = parameters.values()
    first.requires_grad_(False)
    second.grad = torch.full_like(second, 3.0)

    def everything():
        store = pyro.get_param_store()
        return {
            "weights": {name: value.clone() for name, value in pair.state_dict().items()},
            "gradients": {name: None if p.grad is None else p.grad.clone() for name, p in parameters.items()},
            "trained": [p.requires_grad for p in parameters.values()],
            "modes": [module.training for module in pair.modules()],
            "held": {name: id(value) for name, value in vars(pair).items()},
            "example": pair._example,
            "store": {name: value.detach().clone() for name, value in store.items()},
            "objects": {name: id(value) for name, value in store._params.items()},
            "torch": torch.get_rng_state(),
            "others": (random.getstate(), np.random.get_state()[1].tolist()),  # noqa: NPY002
            "modes of pyro": (pyro.settings.get("validate_poutine"), torch.is_grad_enabled()),
        }

    def same(a, b):
        if isinstance(a, dict):
            return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
        return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b

    before = everything()
    pv.audit(pair, x, n=1, particles=20, steps=5, draws=5, warmup=5)
    after = everything()
    assert [name for name in before if not same(before[name], after[name])] == []


def test_a_frozen_guide_is_fitted_too_and_gradients_may_be_off():
    pair = gaussian.pair(shift=0.4)
    x = pair.sample(1, seed=1)
    options = {"particles": 100, "steps": 20, "draws": 5, "warmup": 5}
    expected = pv.audit(pair, x, **options)
    assert expected.amortisation_gap > 0
    pair.requires_grad_(False)
    with torch.no_grad():
        assert pv.audit(pair, x, **options) == expected


def test_audits_repeat_themselves_under_one_seed():
    pair = gaussian.pair(shift=0.4)
    x = pair.sample(2, seed=1)
    options = {"particles": 50, "steps": 10, "draws": 5, "warmup": 5}
    first = pv.audit(pair, x, **options)
    torch.manual_seed(123)
    assert pv.audit(pair, x, **options) == first
    assert pv.audit(pair, x, seed=1, **options) != first
    assert first.rows[0].sites["z"].mean != first.rows[1].sites["z"].mean


def test_every_kind_of_data_is_taken():
    pair = pv.vae((1, 8, 8), latent=2, hidden=(8,))
    digits = pv.data.load("digits", "test", binarise="dynamic")
    drawn = pv.data.first(digits, 2)["x"]
    expected = pv.audit(pair, digits, **{**SMALL, "n": 2})
    kinds = [drawn, drawn.numpy(), {"x": drawn}, TensorDataset(drawn), DataLoader(TensorDataset(drawn), batch_size=1)]
    for data in kinds:
        assert pv.audit(pair, data, **{**SMALL, "n": 2}) == expected
    assert len(pv.audit(pair, drawn, **{**SMALL, "n": 5}).rows) == 2, "there are no more"


# ---------------------------------------------------------------------- words


def an_audit(**changes):
    units = Units((0.0,), (1.0,), (0.01,), (1.02,), (0.0,), (1.0,), (200.0,), (1.0,))
    row = Datum(-9.0, -8.0, 1.0, 0.1, -7.5, 0.1, 0.5, 0.1, 400.0, {"z": units}, 0)
    site = {name: changes.pop(name) for name in list(changes) if isinstance(changes[name], tuple)}
    row = dataclasses.replace(row, sites={"z": dataclasses.replace(units, **site)}, **changes)
    return Audit((row, row), particles=1000, steps=7, draws=300, left_out={})


def test_the_table_has_a_row_for_each_datum_and_guide():
    words = [" ".join(line.split()) for line in str(an_audit()).splitlines()]
    assert words[0] == "ELBO optimised amortisation gap log p(x) approximation gap effective draws"
    assert words[2] == "1 -9.000 -8.000 1.000 +- 0.100 -7.500 +- 0.100 0.500 +- 0.100 400.0"
    assert words[3] == "nats, 1000 particles; optimised: the guide fitted to each datum alone, in 7 steps"
    assert words[6:8] == ["z amortised 0.01 1.02", "z optimised 0.00 1.00"]
    assert words[9] == "z: an exact q would be off by 0.08; smallest effective sample size 200, largest R-hat 1.000"
    assert "NUTS" not in str(pv.audit(gaussian.pair(), gaussian.pair().sample(1), **SMALL))


VERDICTS = {
    "good": ({}, "z: q has the moments of the posterior"),
    "large gap": ({}, "the amortisation gap is 1.00 +- 0.07 nats on average: a larger encoder, or more training"),
    "no gap": ({"amortisation_gap": 0.13}, "the amortisation gap is 0.13 +- 0.07 nats on average: nothing to gain"),
    "small gap": (
        {"amortisation_gap": 0.04, "amortisation_gap_error": 0.0},
        "the amortisation gap is 0.04 +- 0.00 nats on average: nothing to",
    ),
    "poor family": ({}, "the approximation gap is 0.50 +- 0.07 nats on average: only a richer family of q could"),
    "few draws": ({"effective_sample_size": 3.0}, "log p(x) of data 0, 1 rests on fewer than 20 effective draws"),
    "split chain": (
        {"r_hat": (1.2,)},
        "z: NUTS has NOT CONVERGED, or is too short (smallest effective sample size 200",
    ),
    "constant chain": ({"r_hat": (math.nan,)}, "z: NUTS has NOT CONVERGED"),
    "narrow": ({"amortised_sd": (0.5,)}, "z: q is too narrow, with 0.50 of the posterior's standard deviations"),
    "off": ({"amortised_mean": (2.0,)}, "z: means of q are off by 2.00 standard deviations"),
    "divergences": ({"divergences": 3}, "NUTS met 6 divergences"),
}


@pytest.mark.parametrize("name", VERDICTS)
def test_verdicts(name):
    changes, words = VERDICTS[name]
    found = an_audit(**changes)
    assert any(verdict.startswith(words) for verdict in found.verdicts), found.verdicts
    assert words in str(found)


def test_a_chain_that_is_too_short_says_so():
    pair = gaussian.pair(shift=0.4)
    found = pv.audit(pair, pair.sample(1, seed=1), **{**SMALL, "draws": 8, "warmup": 2})
    assert not found.sites["z"].converged
    assert any(words.startswith("z: NUTS has NOT CONVERGED, or is too short") for words in found.verdicts)


def test_everything_goes_into_json():
    found = an_audit(r_hat=(math.nan,))
    told = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert told["amortisation_gap"] == 1.0
    assert told["rows"][1]["sites"]["z"]["amortised_sd"] == [1.02]
    assert told["rows"][0]["sites"]["z"]["r_hat"] == [None]
    assert told["sites"]["z"]["r_hat"] is None
    assert told["verdicts"] == found.verdicts


# ---------------------------------------------------------------------- bad input

BAD = {
    "n": ({"n": 0}, "n: expected a whole number of at least 1, found 0"),
    "particles": ({"particles": 1}, "particles: expected at least 2, of which an error can be told, found 1"),
    "steps": ({"steps": 0}, "steps: expected a whole number of at least 1, found 0"),
    "lr": ({"lr": 0.0}, "lr: expected a finite number greater than 0, found 0.0"),
    "draws": ({"draws": 3}, "draws: expected at least 4, or 0 for no chain, found 3"),
    "negative draws": ({"draws": -1}, "draws: expected a whole number of at least 1, found -1"),
    "warmup": ({"warmup": 0}, "warmup: expected a whole number of at least 1, found 0"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_settings(name):
    settings, message = BAD[name]
    with pytest.raises(ValueError, match=f"^{message}$"):
        pv.audit(gaussian.pair(), torch.zeros(1, 5), **settings)


def test_bad_data_and_pairs():
    pair = gaussian.pair()
    with pytest.raises(TypeError, match="variant: expected a Variant, found Story"):
        pv.audit(pair.model, torch.zeros(1, 5))
    with pytest.raises(ValueError, match=r"expected data of shape \(batch, 1, 8, 8\), found \(1, 1, 8, 7\)"):
        pv.audit(pv.vae((1, 8, 8)), torch.zeros(1, 1, 8, 7))
    with pytest.raises(ValueError, match="x: holds NaN"):
        pv.audit(pair, torch.full((1, 5), torch.nan))
    with pytest.raises(ValueError, match="5 of 5 values lie outside the support of Bernoulli"):
        pv.audit(pv.vae(5, latent=2), torch.full((1, 5), 0.5))
    with torch.no_grad():
        pair.guide.A[0, 0] = torch.nan
    with pytest.raises(ValueError, match="Expected parameter loc"):
        pv.audit(pair, torch.zeros(1, 5), **SMALL)


@pytest.mark.filterwarnings("ignore:Encountered")
def test_a_fit_that_fails_says_of_which_datum():
    pair = gaussian.pair(shift=0.4)
    before = copy.deepcopy(pair.state_dict())
    with pytest.raises(FloatingPointError, match=r"^audit: datum 0: the loss is "):
        pv.audit(pair, pair.sample(2, seed=1), **{**SMALL, "steps": 5, "lr": 1e4})
    assert all(torch.equal(value, before[name]) for name, value in pair.state_dict().items())
