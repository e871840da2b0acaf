"""Categorical codes: their distribution, the exact ELBO, and four estimators of its gradient held against it."""

import copy
import csv
import itertools
import math
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO
from scipy import stats
from test_resume import assert_same, state
from torch import nn
from torch.distributions import kl_divergence
from torch.nn.functional import binary_cross_entropy_with_logits, one_hot

import pyro_vae as pv
from pyro_vae import families, saving, storage
from pyro_vae.distributions import Codes, PointCodes, RelaxedCodes
from pyro_vae.infer import SVI, AnalyticKL, Anneal, Baseline, enumerated, relaxed

SHAPE, CODES, CATEGORIES = (1, 4, 4), 2, 3
ESTIMATORS = ("enumerate", "relaxed", "score", "straight-through")
ERRORS = 4.5  # standard errors that a mean may be away; of a few hundred numbers one in a thousand seeds has one beyond


def tiny(estimator="relaxed", **options):
    """A pair of which everything can be summed, with codes that matter."""
    torch.manual_seed(1)
    sizes = {"codes": CODES, "categories": CATEGORIES, "hidden": (5,)} | options
    pair = pv.discrete_vae(SHAPE, estimator=estimator, **sizes).double()
    with torch.no_grad():
        for p in pair.parameters():
            p.mul_(2.5)
    return pair


def binary(n=3):
    return (torch.rand(n, *SHAPE) > 0.5).double()


def datum():
    """One under which most of the guide's numbers have a gradient."""
    torch.manual_seed(103)
    return binary(1)


def support(codes=CODES, categories=CATEGORIES):
    """All combinations, one after the other."""
    return [torch.eye(categories).double()[list(k)] for k in itertools.product(range(categories), repeat=codes)]


def probability(z, p):
    """Of a combination, p the probabilities of each code."""
    return (z * p).sum(-1).prod(-1)


def exact_elbo(pair, x, weight=1.0):
    """sum_z q(z | x) (log p(x | z) + weight log p(z) / q(z | x)), one combination after the other"""
    q, p = pair.guide.posterior(x).probs, pair.model.prior().probs
    total = 0.0
    for z in support(*q.shape[-2:]):
        log_p_x = pair.model.likelihood(z.expand(len(x), -1, -1)).log_prob(x)
        cost = probability(z, q).log() - probability(z, p).log()
        total = total + probability(z, q) * (log_p_x - weight * cost)
    return total


def assert_mean(draws, wanted, most):
    """The mean of draws is ``wanted``, by an error, of most of its length at most, that is small enough to tell."""
    draws = draws.detach().double()
    error = draws.std(0) / len(draws) ** 0.5
    assert error.norm() < most * torch.as_tensor(wanted).norm()
    gap = (draws.mean(0) - wanted).abs()
    assert (gap < ERRORS * error + 1e-9).all(), (gap / error).max()


# ---------------------------------------------------------------------- the distribution


def logits(*batch, codes=CODES, categories=CATEGORIES):
    return (2 * torch.randn(*batch, codes, categories)).double()


@pytest.mark.parametrize(("codes", "categories"), [(1, 2), (1, 5), (2, 3), (5, 2), (3, 4)])
def test_the_probabilities_of_all_codes_sum_to_one(codes, categories):
    d = Codes(logits(4, codes=codes, categories=categories))
    z = d.enumerate_support()
    assert z.shape == (categories**codes, 4, codes, categories)
    assert len(torch.unique(z[:, 0].flatten(1), dim=0)) == categories**codes
    torch.testing.assert_close(d.log_prob(z).exp().sum(0), torch.ones(4).double())
    wanted = torch.stack([probability(one, d.probs) for one in support(codes, categories)])
    torch.testing.assert_close(d.log_prob(z).exp(), wanted)  # in the order of the numbers of the categories


def test_codes_are_pyros_one_hot_categories_as_one_event():
    given = logits(4)
    ours, theirs = Codes(given), dist.OneHotCategorical(logits=given).to_event(1)
    z = ours.sample((10,))
    assert ours.batch_shape == theirs.batch_shape
    assert ours.event_shape == theirs.event_shape
    for d in (ours, theirs):
        torch.testing.assert_close(d.log_prob(z), theirs.log_prob(z))
        torch.testing.assert_close(d.entropy(), theirs.entropy())
        torch.testing.assert_close(d.mean, theirs.mean)
        torch.testing.assert_close(d.variance, theirs.variance)
        torch.testing.assert_close(d.mode, theirs.mode)
    torch.testing.assert_close(ours.probs, theirs.base_dist.probs)


def test_logits_may_be_off_by_a_constant_of_each_code():
    given = logits(4)
    z = Codes(given).sample()
    shifted = Codes(given + 100 * torch.randn(4, CODES, 1))
    torch.testing.assert_close(shifted.log_prob(z), Codes(given).log_prob(z))


@pytest.mark.parametrize("kind", [Codes, partial(RelaxedCodes, temperature=0.3)])
def test_moments_are_sums_over_the_support(kind):
    q, p = kind(logits(4)), kind(logits())
    z = torch.stack(support())[:, None].expand(-1, 4, -1, -1)
    mass, other = (torch.stack([probability(one, d.probs) for one in support()]) for d in (q, p))
    entropy = -(mass * mass.log()).sum(0)
    torch.testing.assert_close(q.entropy(), entropy)
    torch.testing.assert_close(kl_divergence(q, p), -entropy - mass.T @ other.log())
    mean = torch.einsum("kb,kbjc->bjc", mass, z)
    torch.testing.assert_close(q.mean, mean)
    torch.testing.assert_close(q.variance, torch.einsum("kb,kbjc->bjc", mass, (z - mean) ** 2))
    assert torch.equal(q.mode, z[mass.argmax(0), range(4)])


def test_a_category_may_be_impossible():
    d = Codes(torch.tensor([[0.0, -math.inf], [1.0, 2.0]]).double())
    assert d.entropy().item() == pytest.approx(stats.bernoulli(1 / (1 + math.e)).entropy())
    assert (d.sample((500,))[:, 0, 0] == 1).all()
    assert kl_divergence(d, Codes(torch.zeros(2, 2).double())).isfinite()
    assert d.log_prob(torch.eye(2).double()[[1, 0]]) < -1e300


def test_draws_come_as_often_as_they_should():
    """Within 4.5 standard errors, of 30,000 draws, for each of the 9 combinations."""
    d, n = Codes(logits(2)), 30_000
    z = d.sample((n,))
    assert z.dtype == torch.float64
    assert not z.requires_grad
    for one in support():
        p = probability(one, d.probs)
        share = (z == one).all(-1).all(-1).double().mean(0)
        assert ((share - p).abs() < ERRORS * (p * (1 - p) / n).sqrt()).all()


def test_the_gradient_of_log_p_is_that_of_the_logits_alone():
    """d log p(z) / d logits = z - p"""
    given = logits(4).requires_grad_()
    d = Codes(given)
    z = d.sample().requires_grad_()
    by_logits, by_code = torch.autograd.grad(d.log_prob(z).sum(), [given, z], allow_unused=True)
    torch.testing.assert_close(by_logits, (z - d.probs).detach())
    assert by_code is None


@pytest.mark.parametrize("kind", [Codes, partial(RelaxedCodes, temperature=0.3, straight_through=True)])
def test_expanded_codes_are_the_same_codes_more_often(kind):
    d = kind(logits(4))
    wide = d.expand((5, 4))
    assert type(wide) is type(d)
    assert (wide.batch_shape, wide.event_shape) == ((5, 4), (CODES, CATEGORIES))
    assert getattr(wide, "temperature", None) == getattr(d, "temperature", None)
    assert getattr(wide, "straight_through", None) == getattr(d, "straight_through", None)
    z = wide.sample()
    assert z.shape == (5, 4, CODES, CATEGORIES)
    assert not torch.equal(z[0], z[1])
    z = Codes(d.logits).sample((5,))
    torch.testing.assert_close(wide.log_prob(z), d.log_prob(z))
    torch.testing.assert_close(wide.entropy(), d.entropy().expand(5, 4))


def test_the_support_has_a_dimension_of_its_own():
    d = Codes(logits(5, 4))
    assert d.enumerate_support().shape == (9, 5, 4, CODES, CATEGORIES)
    few = d.enumerate_support(expand=False)
    assert few.shape == (9, 1, 1, CODES, CATEGORIES)
    assert torch.equal(few.expand(9, 5, 4, -1, -1), d.enumerate_support())
    assert Codes(logits()).enumerate_support().shape == (9, CODES, CATEGORIES)
    assert few.dtype == torch.float64


def test_chunks_of_codes_are_put_together():
    given = logits(5)
    points = one_hot(given.argmax(-1), CATEGORIES).double()
    for kind, value in ((Codes, given), (PointCodes, points)):
        whole = families.join([kind(value[:2]), kind(value[2:3]), kind(value[3:])])
        assert type(whole) is kind
        torch.testing.assert_close(whole.probs, kind(value).probs)


def test_a_code_at_a_point_costs_nothing_there_and_keeps_its_gradient():
    value = one_hot(torch.tensor([[0, 2]]), CATEGORIES).double().requires_grad_()
    q = PointCodes(value)
    z = q.expand((3,)).rsample((2,))
    assert z.shape == (2, 3, CODES, CATEGORIES)
    assert torch.equal(z, value.expand_as(z))
    assert torch.equal(q.log_prob(z), torch.zeros(2, 3).double())
    assert torch.autograd.grad(z.sum(), value)[0].tolist() == torch.full_like(value, 6.0).tolist()
    assert not q.sample().requires_grad
    assert q.log_prob(torch.eye(CATEGORIES).double()[[0, 1]]) < -1e300
    p = Codes(logits())
    torch.testing.assert_close(kl_divergence(q, p)[0], -p.log_prob(value[0]))


@pytest.mark.parametrize(("codes", "categories"), [(4, 10), (13, 2)])
def test_as_many_as_ten_thousand_combinations_can_be_enumerated(codes, categories):
    z = Codes(torch.zeros(codes, categories)).enumerate_support()
    assert len(z) == categories**codes <= 10_000


@pytest.mark.parametrize("temperature", [0.2, 1.0, 3.0])
def test_relaxed_draws_are_gumbel_softmax(temperature):
    """Of two categories T log(y_1 / y_2) - log(q_1 / q_2) is logistic;   argmax y ~ q, at any temperature"""
    d = RelaxedCodes(torch.tensor([[0.3, -0.9]]).double(), temperature)
    y = d.rsample((20_000,))[:, 0]
    noise = temperature * (y[:, 0].log() - y[:, 1].log()) - 1.2
    noise = noise[noise.isfinite()]
    assert len(noise) > 19_990
    assert stats.kstest(noise.numpy(), stats.logistic.cdf).pvalue > 1e-3
    d, n = RelaxedCodes(logits(), temperature), 20_000
    y = d.rsample((n,))
    torch.testing.assert_close(y.sum(-1), torch.ones(n, CODES).double())
    share = one_hot(y.argmax(-1), CATEGORIES).double().mean(0)
    assert ((share - d.probs).abs() < ERRORS * (d.variance / n).sqrt()).all()


def test_a_relaxed_draw_is_scored_as_the_code_that_it_stands_for():
    """log q - log p of a draw from q = KL(q || p),   whichever draw it is;   of a code it is log p"""
    q, p = RelaxedCodes(logits(4), 0.5, validate_args=True), RelaxedCodes(logits(), 0.7, validate_args=True)
    for y in (q.rsample(), q.rsample((3,)), q.sample()):
        difference = q.log_prob(y) - p.log_prob(y)
        torch.testing.assert_close(difference, kl_divergence(q, p).expand_as(difference))
    z = Codes(q.logits).sample()
    torch.testing.assert_close(p.log_prob(z), Codes(p.logits).log_prob(z))


# ---------------------------------------------------------------------- the exact ELBO


def enumerate_loss(pair, x, *handlers):
    return TraceEnum_ELBO(max_plate_nesting=1).differentiable_loss(*pair.trained(*handlers), x=x)


def slopes(loss, pair):
    return torch.autograd.grad(loss, list(pair.parameters()))


@pytest.mark.parametrize("prior", [pv.priors.Categorical, partial(pv.priors.Categorical, learned=True)])
def test_the_enumerated_bound_is_the_sum_over_codes_and_so_is_its_gradient(prior):
    pair, x = tiny("enumerate", prior=prior), binary()
    loss, wanted = enumerate_loss(pair, x), -exact_elbo(pair, x).sum()
    torch.testing.assert_close(loss, wanted)
    for found, slope in zip(slopes(loss, pair), slopes(wanted, pair), strict=True):
        torch.testing.assert_close(found, slope)
        assert slope.abs().max() > 1e-3


def test_the_exact_bound_is_right_by_its_own_words():
    """Of the likelihood and prior nothing is used but numbers: this one test knows them."""
    pair, x = tiny("enumerate"), binary()
    q = pair.guide.posterior.encoder(x).reshape(-1, CODES, CATEGORIES).softmax(-1)
    total = torch.zeros(3).double()
    for k in itertools.product(range(CATEGORIES), repeat=CODES):
        mass = q[:, 0, k[0]] * q[:, 1, k[1]]
        z = torch.eye(CATEGORIES).double()[list(k)].expand(3, -1, -1)
        fit = -binary_cross_entropy_with_logits(pair.model.likelihood.decoder(z), x, reduction="none").sum((1, 2, 3))
        total += mass * (fit - CODES * math.log(CATEGORIES) - mass.log())
    torch.testing.assert_close(exact_elbo(pair, x), total)


def test_one_site_of_many_codes_is_as_good_as_many_sites_of_one():
    pair, x = tiny("enumerate"), binary()

    def model(x):
        with pyro.plate("data", len(x)):
            sites = [dist.OneHotCategorical(logits=torch.zeros(CATEGORIES).double()) for _ in range(CODES)]
            z = torch.broadcast_tensors(*(pyro.sample(f"z{j}", fn) for j, fn in enumerate(sites)))
            pyro.sample("x", pair.model.likelihood(torch.stack(z, -2)), obs=x)

    def guide(x):
        given = pair.guide.posterior.encoder(x).reshape(-1, CODES, CATEGORIES)
        with pyro.plate("data", len(x)):
            for j in range(CODES):
                fn = dist.OneHotCategorical(logits=given[:, j])
                pyro.sample(f"z{j}", fn, infer={"enumerate": "parallel"})

    loss = enumerate_loss(pair, x)
    wanted = TraceEnum_ELBO(max_plate_nesting=1).differentiable_loss(model, guide, x=x)
    torch.testing.assert_close(loss, wanted)
    for found, slope in zip(slopes(loss, pair), slopes(wanted, pair), strict=True):
        torch.testing.assert_close(found, slope)


def test_the_gradient_of_the_enumerated_bound_is_a_finite_difference():
    pair, x, h = tiny("enumerate"), binary(), 1e-6
    weight = pair.guide.posterior.encoder.net[1].weight
    (slope,) = torch.autograd.grad(enumerate_loss(pair, x), weight)
    for at in ((0, 0), (2, 7), (4, 15)):
        ends = []
        for step in (h, -2 * h):
            with torch.no_grad():
                weight[at] += step
            ends.append(enumerate_loss(pair, x).item())
        with torch.no_grad():
            weight[at] += h
        assert (ends[0] - ends[1]) / (2 * h) == pytest.approx(slope[at].item(), abs=1e-5)


def test_a_weight_on_the_kl_weighs_the_enumerated_kl_alone():
    pair, x = tiny("enumerate"), binary()
    found = enumerate_loss(pair, x, pv.temper(0.3))
    torch.testing.assert_close(found, -exact_elbo(pair, x, weight=0.3).sum())


def test_what_is_hidden_of_a_datum_is_left_out_of_the_sum():
    pair, x = tiny("enumerate"), binary()
    x[:, :, 2:] = torch.nan
    filled = x.nan_to_num(0.0)
    q = pair.guide.posterior(filled).probs
    total = 0.0
    for z in support():
        given = pair.model.likelihood.decoder(z.expand(3, -1, -1))[:, :, :2]
        fit = -binary_cross_entropy_with_logits(given, filled[:, :, :2], reduction="none").sum((1, 2, 3))
        total = total + probability(z, q) * (fit - CODES * math.log(CATEGORIES) - probability(z, q).log())
    with pv.infer.observed(x=torch.isfinite):
        torch.testing.assert_close(enumerate_loss(pair, x), -total.sum())


def evidence(pair, x):
    p = pair.model.prior().probs
    fits = [pair.model.likelihood(z.expand(len(x), -1, -1)).log_prob(x) + probability(z, p).log() for z in support()]
    return torch.stack(fits).logsumexp(0)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_metrics_are_of_the_discrete_codes_whatever_trains_them(estimator):
    """E[elbo] = sum over codes, within 4.5 standard errors;   log_likelihood -> log p(x)"""
    pair, x = tiny(estimator), binary()
    draws = torch.stack([pair.elbo(x=x.repeat(100, 1, 1, 1), seed=s).reshape(100, 3) for s in range(5)]).flatten(0, 1)
    assert_mean(draws, exact_elbo(pair, x), most=0.05)
    bound = pair.log_likelihood(x=x, particles=20_000, seed=0)
    torch.testing.assert_close(bound, evidence(pair, x).detach(), atol=0.05, rtol=0)
    assert (bound > exact_elbo(pair, x)).all()
    values = poutine.trace(pair.guide).get_trace(x=x).nodes["z"]["value"]
    assert set(values.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(values.sum(-1), torch.ones(3, CODES).double())


def test_the_information_in_the_codes_is_what_the_sum_over_them_says():
    """I = mean_n KL(q(z | x_n) || mean_m q(z | x_m)), within 4.5 of the reported standard errors"""
    pair, x = tiny(), binary(40)
    q = pair.guide.posterior(x).probs.detach()
    mass = torch.stack([probability(z, q) for z in support()], 1)
    wanted = torch.xlogy(mass, mass / mass.mean(0)).sum(1).mean()
    report = pv.evaluate(pair, x, particles=20)
    assert 0 < report.mutual_information_error < 0.1
    assert abs(report.mutual_information - wanted) < ERRORS * report.mutual_information_error


# ---------------------------------------------------------------------- gradients


def of_guide(pair):
    return [p for name, p in pair.guide.named_parameters() if "baseline" not in name]


def exact_slope(pair, x):
    """The gradient of minus the exact ELBO of a datum in the numbers of the guide."""
    return torch.cat([s.flatten() for s in torch.autograd.grad(-exact_elbo(pair, x).sum(), of_guide(pair))])


def gradients(pair, objective, x, runs):
    """Draws of the gradient of the mean loss of a batch; the baseline, if there is one, follows in the meantime."""
    found = []
    for _ in range(runs):
        pair.zero_grad()
        objective.loss_and_grads(*pair, x=x)
        found.append(torch.cat([p.grad.flatten() for p in of_guide(pair)]) / len(x))
    return torch.stack(found)


@pytest.mark.parametrize(
    ("objective", "baseline"),
    [
        (Trace_ELBO(), "none"),
        (Trace_ELBO(), "average"),
        (TraceGraph_ELBO(), "none"),
        (TraceGraph_ELBO(), "average"),
        (TraceGraph_ELBO(), "neural"),
        (TraceGraph_ELBO(num_particles=2), "average"),
    ],
    ids=lambda v: v if isinstance(v, str) else f"{type(v).__name__} {v.num_particles}",
)
def test_the_score_function_has_the_mean_of_the_exact_gradient(objective, baseline):
    """120 numbers, each the mean over 60 batches of 800 copies of one datum, within 4.5 standard errors."""
    pair, one = tiny("score", baseline=baseline), datum()
    draws = gradients(pair, objective, one.expand(800, -1, -1, -1), runs=60)
    assert_mean(draws, exact_slope(pair, one), most=0.1)


def test_the_enumerated_gradient_has_no_noise():
    pair, one = tiny("enumerate"), datum()
    (found,) = gradients(pair, TraceEnum_ELBO(max_plate_nesting=1), one, runs=1)
    torch.testing.assert_close(found, exact_slope(pair, one))


def test_a_relaxation_is_biased_and_less_so_as_it_cools():
    """|mean gradient - exact gradient| falls from temperature to temperature, by more than 4.5 standard errors."""
    one = datum()
    bias, error = [], []
    for temperature in (2.0, 1.0, 0.5, 0.2):
        pair = tiny("relaxed", temperature=temperature)
        draws = gradients(pair, Trace_ELBO(), one.expand(2000, -1, -1, -1), runs=25)
        bias.append((draws.mean(0) - exact_slope(pair, one)).norm().item())
        error.append((draws.var(0).sum() / len(draws)).sqrt().item())
    for hot, cold, a, b in zip(bias, bias[1:], error, error[1:], strict=False):
        assert hot - cold > ERRORS * (a + b), (bias, error)
    assert error == sorted(error)  # what is won in bias is paid in noise


def learned_a_little(steps=120):
    """A pair, its critic of x, and data."""
    x = pv.data.load("digits", binarise="threshold").x[:50]
    torch.manual_seed(0)
    pair = pv.discrete_vae((1, 8, 8), codes=3, categories=4, estimator="score", baseline="neural", hidden=(16,))
    svi = SVI(*pair, partial(torch.optim.Adam, lr=2e-2), TraceGraph_ELBO())
    with pyro.validation_enabled(False):
        for _ in range(steps):
            svi.step(x=x)
    return pair, x


def test_baselines_take_away_variance():
    """Of the gradient at a pair that has learned a little: the average most of it, and the critic of x more."""
    pair, x = learned_a_little()
    spread = {}
    for name, baseline in {"none": None, "average": Baseline(), "neural": pair.guide.baseline}.items():
        model, posterior = copy.deepcopy((pair.model, pair.guide.posterior))
        other = pv.Variant(model, pv.guides.DiscreteGuide(posterior, baseline))
        with pyro.validation_enabled(False):
            spread[name] = float(gradients(other, TraceGraph_ELBO(), x, 45)[5:].var(0).sum())
    factors = {name: spread["none"] / value for name, value in spread.items()}
    print("variance without a baseline / with:", {name: round(f, 1) for name, f in factors.items()})
    assert factors["average"] > 3
    assert factors["neural"] > 1.2 * factors["average"]


def test_the_baseline_is_a_decaying_average_of_rewards():
    """a_1 = mean r_1,   a <- 0.7 a + 0.3 mean r,   r = log p(x, z) - log q(z | x), batches of any size"""
    pair, objective = tiny("score"), TraceGraph_ELBO()
    pair.guide.baseline = Baseline(decay=0.7).double()
    average = None
    for seed, n in enumerate((3, 1, 7, 3, 20)):
        x = binary(n)
        torch.manual_seed(seed)
        objective.loss_and_grads(*pair, x=x)
        torch.manual_seed(seed)
        z = pair.guide.posterior(x).sample()
        cost = probability(z, pair.guide.posterior(x).probs).log() - probability(z, pair.model.prior().probs).log()
        reward = (pair.model.likelihood(z).log_prob(x) - cost).mean().item()
        average = reward if average is None else 0.7 * average + 0.3 * reward
        assert pair.guide.baseline.average.item() == pytest.approx(average)
    assert pair.guide.baseline.steps == 5


def test_the_average_follows_what_the_critic_leaves():
    """a <- a + (1 - decay) mean (r - a - net(x)),   and the net goes down the gradient of (r - b)^2"""
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 1)).double()
    baseline, x, rewards = Baseline(net, decay=0.6).double(), binary(4), torch.randn(3, 4).double()
    average = 0.0
    for i, reward in enumerate(rewards):
        net.zero_grad()
        b = baseline(x)
        torch.testing.assert_close(b, average + net(x)[:, 0])
        (reward - b).square().sum().backward()
        left = reward - b.detach()
        torch.testing.assert_close(net[1].weight.grad[0], -2 * left @ x.flatten(1))
        average += (0.4 if i else 1.0) * left.mean()
        torch.testing.assert_close(baseline.average, average)


def test_a_last_batch_of_one_is_trained():
    pair, x = tiny("score", baseline="neural"), binary(5)
    assert pv.fit(pair, x, batch_size=4, epochs=2, progress=False).epochs == 2
    assert pair.guide.baseline.steps == 4


def test_looking_at_a_baseline_moves_nothing():
    pair, x = tiny("score", baseline="neural"), binary()
    before = pair.snapshot()
    pair.elbo(x=x)
    SVI(*pair, torch.optim.Adam, TraceGraph_ELBO()).evaluate_loss(x=x)
    assert_same(pair.snapshot(), before)


def test_a_reward_that_is_not_finite_does_not_spoil_the_average():
    baseline = Baseline()
    (torch.tensor([math.nan]) - baseline(torch.zeros(1, 2))).square().sum().backward()
    assert baseline.average == 0


# ---------------------------------------------------------------------- relaxation


@pytest.mark.parametrize("estimator", ["relaxed", "straight-through"])
def test_relaxed_bounds_have_the_kl_of_the_codes_under_every_objective(estimator):
    """-loss = log p(x | y) - sum_j sum_k q_jk log(q_jk K), for the same noise"""
    pair, x = tiny(estimator, temperature=0.7), binary()
    torch.manual_seed(3)
    y = pair.trained()[1](x=x)
    assert (y.max() < 1) == (estimator == "relaxed")
    q = pair.guide.posterior.encoder(x).reshape(-1, CODES, CATEGORIES).softmax(-1)
    kl = (q * (q * CATEGORIES).log()).sum((1, 2))
    wanted = -(pair.model.likelihood(y).log_prob(x) - kl).sum()
    by_hand = slopes(wanted, pair)
    for objective in (Trace_ELBO(), TraceMeanField_ELBO(), AnalyticKL(), TraceGraph_ELBO()):
        torch.manual_seed(3)
        loss = objective.loss(*pair, x=x)
        assert loss == pytest.approx(wanted.item())
        pair.zero_grad()
        torch.manual_seed(3)
        objective.loss_and_grads(*pair, x=x)
        for p, slope in zip(pair.parameters(), by_hand, strict=True):
            torch.testing.assert_close(p.grad, slope)


def test_straight_through_draws_are_codes_with_the_gradients_of_relaxed_ones():
    """z = onehot(argmax y) + y - stop(y),   dz = dy,   y = softmax((log q + g) / T), with the same noise g"""
    given, weights = logits(5).requires_grad_(), torch.randn(5, CODES, CATEGORIES).double()
    torch.manual_seed(2)
    y = RelaxedCodes(given, 0.7).rsample()
    torch.manual_seed(2)
    z = RelaxedCodes(given, 0.7, straight_through=True).rsample()
    assert torch.equal(z, one_hot(y.argmax(-1), CATEGORIES).double())
    by_hand = one_hot(y.argmax(-1), CATEGORIES) + y - y.detach()
    decode = nn.Sequential(nn.Linear(CATEGORIES, 4), nn.Tanh()).double()
    for loss in (lambda v: (v * weights).sum(), lambda v: decode(v).square().sum()):
        (found,), (wanted,) = (torch.autograd.grad(loss(v), given, retain_graph=True) for v in (z, by_hand))
        torch.testing.assert_close(found, wanted)
    (found,) = torch.autograd.grad((z * weights).sum(), given)
    (wanted,) = torch.autograd.grad((y * weights).sum(), given)  # of what is linear they are those of y
    torch.testing.assert_close(found, wanted)


def test_straight_through_trains_with_the_gradient_at_the_code():
    pair, x = tiny("straight-through", temperature=0.7), binary()
    torch.manual_seed(3)
    soft = RelaxedCodes(pair.guide.posterior(x).logits, 0.7).rsample()
    hard = one_hot(soft.argmax(-1), CATEGORIES) + soft - soft.detach()
    kl = kl_divergence(pair.guide.posterior(x), pair.model.prior())
    wanted = -(pair.model.likelihood(hard).log_prob(x) - kl).sum()
    torch.manual_seed(3)
    loss = Trace_ELBO().differentiable_loss(*pair, x=x)
    torch.testing.assert_close(loss, wanted)
    for found, slope in zip(slopes(loss, pair), slopes(wanted, pair), strict=True):
        torch.testing.assert_close(found, slope)


@pytest.mark.parametrize("particles", [1, 3])
def test_a_weight_on_the_kl_weighs_the_relaxed_kl_alone(particles):
    """Which is that of the codes, whatever is drawn."""
    pair, x = tiny("relaxed"), binary()
    objective = Trace_ELBO(num_particles=particles, vectorize_particles=particles > 1, max_plate_nesting=1)
    losses = []
    for weight in (0.0, 0.25, 1.0):
        torch.manual_seed(0)
        losses.append(objective.loss(*pair.trained(pv.temper(weight)), x=x))
    kl = kl_divergence(pair.guide.posterior(x), pair.model.prior()).sum().item()
    assert losses[2] - losses[0] == pytest.approx(kl)
    assert losses[1] - losses[0] == pytest.approx(kl / 4)


def test_a_learned_prior_learns_under_a_relaxation():
    """d KL(q || p) / d logits of p = p - q, summed over data"""
    pair, x = tiny("relaxed", prior=partial(pv.priors.Categorical, learned=True)), binary()
    Trace_ELBO().loss_and_grads(*pair, x=x)
    prior = pair.model.prior
    wanted = (prior().probs - pair.guide.posterior(x).probs).sum(0)
    torch.testing.assert_close(prior.logits.grad, wanted)


# ---------------------------------------------------------------------- programs of one's own


def own(*sites, handler=None, scored=None):
    """x ~ N(the sum of the numbers of the first latent site, 1);   in the model sites are those ``scored``"""

    def model(x):
        with pyro.plate("data", len(x)):
            z, *_ = [pyro.sample(f"z{i}", fn) for i, fn in enumerate(scored or sites)]
            pyro.sample("x", dist.Normal(total(z, sites[0]), 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            for i, fn in enumerate(sites):
                pyro.sample(f"z{i}", fn)

    return pv.Variant(model, guide, handler=handler)


def total(z, fn):
    return z.reshape(*z.shape[: z.dim() - fn.event_dim], -1).sum(-1, keepdim=True).float()


X = torch.zeros(4, 1)
UNIFORM = Codes(torch.zeros(2, 3))


def test_relaxed_takes_pyros_one_hot_codes_too():
    q, p = torch.randn(2, 3), torch.randn(2, 3)
    losses = []
    for kind in (Codes, lambda v: dist.OneHotCategorical(logits=v).to_event(1)):
        torch.manual_seed(0)
        losses.append(Trace_ELBO().loss(*own(kind(q), scored=[kind(p)], handler=relaxed(0.5)), x=X))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    fit = 4 * dist.Normal(0.0, 1.0).log_prob(torch.tensor(2.0))  # two codes, each of which sums to one
    wanted = 4 * kl_divergence(Codes(q), Codes(p)) - fit
    assert losses[0] == pytest.approx(wanted.item(), rel=1e-5)


def test_a_mask_within_a_site_outlives_its_relaxation():
    """KL of the data that are not masked alone."""
    q, p, mask = torch.randn(2, 3), torch.randn(2, 3), torch.tensor([True, False, False, True])
    sites = [Codes(q).expand((4,)).mask(mask)], [Codes(p).expand((4,)).mask(mask)]
    found = Trace_ELBO().loss(*own(*sites[0], scored=sites[1], handler=relaxed(0.5)), x=X)
    fit = 4 * dist.Normal(0.0, 1.0).log_prob(torch.tensor(2.0))
    wanted = 2 * kl_divergence(Codes(q), Codes(p)) - fit
    assert found == pytest.approx(wanted.item(), rel=1e-5)


def test_continuous_sites_are_left_alone():
    pair = own(dist.Normal(torch.zeros(3), 1).to_event(1), UNIFORM)
    for handler in (relaxed(0.5), enumerated()):
        guide = pair.trained(handler)[1]
        with poutine.enum(first_available_dim=-2):
            nodes = poutine.trace(guide).get_trace(x=X).nodes
        assert isinstance(nodes["z0"]["fn"].base_dist, dist.Normal)
        assert nodes["z0"]["value"].shape == (4, 3)


@pytest.mark.parametrize(
    "site", [dist.Categorical(torch.ones(4)), dist.Bernoulli(torch.tensor(0.3)), dist.OneHotCategorical(torch.ones(4))]
)
def test_one_site_per_code_can_be_enumerated(site):
    pair = own(site, handler=enumerated())
    loss = TraceEnum_ELBO(max_plate_nesting=1).loss(*pair, x=X)
    values = site.enumerate_support()
    fits = dist.Normal(total(values, site)[..., 0], 1.0).log_prob(torch.tensor(0.0))
    mass = site.log_prob(values).exp()
    assert loss == pytest.approx(-4 * (mass * fits).sum().item(), rel=1e-5)


ENUMERATE = TraceEnum_ELBO(max_plate_nesting=1)
REFUSED = {
    "sampled instead": (own(UNIFORM, handler=enumerated()), Trace_ELBO(), "enumerated: the site 'z0' was sampled"),
    "sampled by another": (
        own(UNIFORM, handler=enumerated()),
        TraceGraph_ELBO(),
        "the objective does not enumerate; expected pyro.infer.TraceEnum_ELBO",
    ),
    "many coins": (
        own(dist.Bernoulli(torch.full((5,), 0.5)).to_event(1), handler=enumerated()),
        ENUMERATE,
        r"the values of Bernoulli at the site 'z0', of event shape \(5,\), cannot be enumerated, and would be sampled",
    ),
    "independent codes": (
        own(dist.OneHotCategorical(torch.ones(2, 3)).to_event(1), handler=enumerated()),
        ENUMERATE,
        "expected pv.distributions.Codes, or one site per code",
    ),
    "many sites": (
        own(*[Codes(torch.zeros(4, 4))] * 2, handler=enumerated()),
        ENUMERATE,
        "65,536 combinations of values up to the site 'z1', more than the 10,000",
    ),
    "a large site": (
        own(Codes(torch.zeros(14, 2)), handler=enumerated()),
        ENUMERATE,
        "14 codes of 2 categories have 16,384 combinations",
    ),
    "relaxed numbers": (
        own(dist.Categorical(torch.ones(4)), handler=relaxed()),
        Trace_ELBO(),
        "relaxed: the site 'z0' is Categorical of event shape",
    ),
    "relaxed coins": (
        own(dist.Bernoulli(torch.full((5,), 0.5)).to_event(1), handler=relaxed()),
        Trace_ELBO(),
        "relaxed: the site 'z0' is Bernoulli",
    ),
    "a single code": (
        own(dist.OneHotCategorical(torch.ones(3)), handler=relaxed()),
        Trace_ELBO(),
        r"expected in guide and prior pv\.distributions\.Codes, or OneHot",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_enumerated_or_relaxed_is_not_sampled_silently(name):
    pair, objective, words = REFUSED[name]
    with pytest.raises(ValueError, match=words):
        objective.loss(*pair, x=X)


PIXELS = partial(pv.priors.PixelCNN, size=(2, 2), hidden=4, layers=2)


def autoregressive(estimator):
    torch.manual_seed(1)
    pair = pv.discrete_vae(SHAPE, codes=4, categories=2, estimator=estimator, prior=PIXELS, hidden=(5,)).double()
    return pair, binary()


def test_codes_under_an_autoregressive_prior_are_enumerated():
    """sum_z q(z | x) (log p(x | z) + log p(z) - log q(z | x)), p(z) from its conditionals"""
    pair, x = autoregressive("enumerate")
    q, total = pair.guide.posterior(x).probs, 0.0
    for z in support(4, 2):
        log_p_x = pair.model.likelihood(z.expand(3, -1, -1)).log_prob(x)
        log_p = (z * pair.model.prior.conditionals(z).logits).sum()
        total = total + probability(z, q) * (log_p_x + log_p - probability(z, q).log())
    torch.testing.assert_close(enumerate_loss(pair, x), -total.sum())
    assert pv.fit(pair, x, epochs=1, progress=False).epochs == 1


@pytest.mark.parametrize("estimator", ["score", "enumerate"])
def test_codes_under_an_autoregressive_prior_are_trained(estimator):
    pair, x = autoregressive(estimator)
    assert pair.elbo(x=x).shape == (3,)
    assert pv.fit(pair, x, epochs=1, progress=False).epochs == 1


@pytest.mark.parametrize("estimator", ["relaxed", "straight-through"])
def test_codes_under_an_autoregressive_prior_have_no_relaxation(estimator):
    with pytest.raises(ValueError, match=r"prior: a relaxation needs independent codes, .* found AutoregressiveCodes"):
        Trace_ELBO().loss(*autoregressive(estimator)[0], x=binary())


# ---------------------------------------------------------------------- training


def digits(n=150):
    return pv.data.load("digits", binarise="threshold").x[:n]


def small(estimator="relaxed", **options):
    torch.manual_seed(0)
    return pv.discrete_vae((1, 8, 8), codes=2, categories=4, estimator=estimator, hidden=(8,), **options)


def fit(pair, x=None, **options):
    settings = {"epochs": 2, "batch_size": 50, "progress": False, "lr": 1e-2}
    return pv.fit(pair, digits() if x is None else x, **settings | options)


ANNEALS = {"falls": Anneal(rate=0.1), "ends": Anneal(rate=1.0, start=2.0, least=0.3), "stays": Anneal(rate=0.0)}


@pytest.mark.parametrize("name", ANNEALS)
def test_the_temperature_follows_its_schedule(name):
    """max(least, start exp(-rate t)), t the epochs so far, fractions of the three steps included"""
    anneal = ANNEALS[name]
    pair, seen = small(temperature=anneal), []

    class Spy(Trace_ELBO):
        def loss_and_grads(self, *args, **kwargs):
            seen.append(pair.handler.now)
            return super().loss_and_grads(*args, **kwargs)

    run = fit(pair, epochs=3, objective=Spy())
    wanted = [max(anneal.least, anneal.start * math.exp(-anneal.rate * (i + 1) / 3)) for i in range(9)]
    assert seen == pytest.approx(wanted)
    assert run.history["temperature"] == pytest.approx(wanted[2::3])


def test_a_constant_temperature_needs_no_column():
    assert "temperature" not in fit(small(temperature=0.7)).history
    assert "temperature" not in fit(small("enumerate")).history


def test_a_cold_relaxation_is_scored_at_its_temperature():
    pair = small(temperature=Anneal(rate=1.0, least=0.01))
    draws = {}
    for epoch in (0.0, 10.0):
        pair.handler.epoch = epoch
        draws[epoch] = pair.trained()[1](x=digits()).max(-1).values.mean()
    assert draws[10.0] > 0.99 > draws[0.0] + 0.1


RUNS = {
    "annealed": {"temperature": Anneal(rate=0.3)},
    "average": {"estimator": "score", "baseline": "average"},
    "neural": {"estimator": "score", "baseline": "neural"},
    "enumerated": {"estimator": "enumerate"},
}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_that_stopped_goes_on_bit_by_bit(name, tmp_path):
    x = digits()
    for folder, stops in (("whole", [4]), ("parts", [1, 3, 4])):
        for epochs in stops:
            pair = small(**RUNS[name])
            fit(pair, x, epochs=epochs, validation=x[:50], out=tmp_path / folder, resume=True)
    assert_same(state(tmp_path / "parts"), state(tmp_path / "whole"))
    rows = list(csv.DictReader((tmp_path / "parts" / "metrics.csv").read_text().splitlines()))
    assert ("temperature" in rows[0]) == (name == "annealed")
    if name in ("average", "neural"):
        assert (
            storage.read_state(tmp_path / "parts" / "checkpoint.safetensors")["variant"]["guide.baseline.steps"] == 12
        )


def test_another_schedule_is_another_run(tmp_path):
    fit(small(temperature=Anneal(rate=0.3)), epochs=1, out=tmp_path)
    with pytest.raises(ValueError, match="another"):
        fit(small(temperature=Anneal(rate=0.2)), out=tmp_path, resume=True)


DEFAULTS = {
    "score": ({"baseline": "none"}, "Trace_ELBO("),
    "score average": ({}, "TraceGraph_ELBO("),
    "score neural": ({"baseline": "neural"}, "TraceGraph_ELBO("),
    "enumerate": ({}, "TraceEnum_ELBO("),
    "relaxed": ({}, "Trace_ELBO("),
    "straight-through": ({}, "Trace_ELBO("),
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_fit_takes_the_objective_that_an_estimator_needs(name, tmp_path):
    options, objective = DEFAULTS[name]
    fit(small(name.split(maxsplit=1)[0], **options), epochs=1, out=tmp_path)
    settings = storage.read_state(tmp_path / "checkpoint.safetensors")["settings"]
    assert settings["objective"].startswith(objective)


@pytest.mark.parametrize("objective", [Trace_ELBO(), TraceGraph_ELBO(), AnalyticKL()])
def test_an_objective_that_does_not_enumerate_is_refused_before_training(objective, monkeypatch):
    monkeypatch.setattr(SVI, "step", lambda *_, **__: pytest.fail("trained"))
    with pytest.raises(
        ValueError, match=r"^train: enumerated: the site 'z' was sampled, as the objective does not enum"
    ):
        fit(small("enumerate"), objective=objective)


@pytest.mark.parametrize("name", DEFAULTS)
def test_every_estimator_learns(name):
    pair = small(name.split(maxsplit=1)[0], **DEFAULTS[name][0])
    history = fit(pair, epochs=12).history
    assert history["elbo"][-1] > history["elbo"][0] + 2
    assert 1 <= history["perplexity_z"][-1] <= 4
    assert 0 <= history["active_z"][-1] <= 2


SAVED = {
    **{estimator: {"estimator": estimator} for estimator in ESTIMATORS},
    "critic": {"estimator": "score", "baseline": "neural"},
    "no baseline": {"estimator": "score", "baseline": "none"},
    "annealed": {"temperature": Anneal(rate=0.1)},
    "learned prior": {"prior": partial(pv.priors.Categorical, learned=True)},
}


@pytest.mark.parametrize("name", SAVED)
def test_a_pair_comes_back_from_its_folder(name, tmp_path):
    pair, x = small(**SAVED[name]), digits(50)
    fit(pair, x, epochs=1)
    again = pv.load(pair.save(tmp_path))
    assert repr(again.handler) == repr(pair.handler)
    assert saving.config(again.recipe) == saving.config(pair.recipe)
    assert_same(again.snapshot(), pair.snapshot())
    assert torch.equal(again.elbo(x=x, seed=0), pair.elbo(x=x, seed=0))
    assert fit(again, x, epochs=1).history["elbo"] == fit(pair, x, epochs=1).history["elbo"]


def test_a_critic_of_ones_own_is_trained():
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 1))
    before = net[1].weight.clone()
    fit(small("score", baseline=net), epochs=1)
    assert not torch.equal(net[1].weight, before)


# ---------------------------------------------------------------------- bad input

DISCRETE = partial(pv.discrete_vae, SHAPE)
BAD = {
    "temperature 0": (
        partial(DISCRETE, temperature=0),
        r"^temperature: expected a finite number greater than 0, found 0",
    ),
    "temperature -1": (partial(DISCRETE, temperature=-1), "^temperature: expected .* greater than 0, found -1"),
    "temperature nan": (partial(DISCRETE, temperature=math.nan), "^temperature: expected .* greater than 0, found nan"),
    "temperature hot": (partial(DISCRETE, temperature="hot"), "^temperature: expected .* greater than 0, found 'hot'"),
    "temperature of a score": (
        partial(DISCRETE, estimator="score", temperature=0.5),
        "^temperature: expected with a relaxation, found estimator='score', which has none",
    ),
    "temperature of a sum": (
        partial(DISCRETE, 2, 2, estimator="enumerate", temperature=0.5),
        "^temperature: expected with a relaxation, found estimator='enumerate'",
    ),
    "baseline of a relaxation": (
        partial(DISCRETE, baseline="average"),
        "^baseline: expected with estimator='score', found estimator='relaxed', which has none",
    ),
    "baseline none of a relaxation": (partial(DISCRETE, baseline="none"), "^baseline: expected with estimator='score'"),
    "unknown baseline": (
        partial(DISCRETE, estimator="score", baseline="averge"),
        "^baseline: unknown 'averge', expected one of average, neural, none; did you mean 'average'?",
    ),
    "number for a baseline": (
        partial(DISCRETE, estimator="score", baseline=3),
        "^baseline: unknown 3, expected one of average, neural, none",
    ),
    "wide critic": (  # found when it is first run, if not here
        partial(DISCRETE, estimator="score", baseline=nn.Sequential(nn.Flatten(), nn.Linear(16, 2))),
        r"^baseline: expected \(batch",
    ),
    "critic of vectors": (
        partial(DISCRETE, estimator="score", baseline=nn.Linear(16, 1)),
        r"^baseline: fails on an input of shape \(2, 1, 4, 4\)",
    ),
    "unknown estimator": (
        partial(DISCRETE, estimator="enumerat"),
        "^estimator: unknown 'enumerat', expected one of enumerate, relaxed, score, straight-through; did you mean",
    ),
    "number for an estimator": (partial(DISCRETE, estimator=3), "^estimator: unknown 3"),
    "no codes": (partial(DISCRETE, codes=0), "^codes: expected a whole number of at least 1, found 0"),
    "half a code": (partial(DISCRETE, codes=1.5), "^codes: expected a whole number of at least 1, found 1.5"),
    "one category": (partial(DISCRETE, categories=1), "categories.* expected .*at least 2"),
    "no category": (partial(DISCRETE, categories=0), "^categories: expected a whole number"),
    "too many to enumerate": (
        partial(DISCRETE, codes=20, categories=10, estimator="enumerate"),
        r"20 codes of 10 categories have about 10\^20 combinations, more than the 10,000 that can be summed over; use "
        "estimator='relaxed' or 'score'",
    ),
    "a few too many": (
        partial(DISCRETE, codes=14, categories=2, estimator="enumerate"),
        "have 16,384 combinations, more than the 10,000 .* use estimator='relaxed' or 'score'",
    ),
    "too large a support": (Codes(torch.zeros(5, 10)).enumerate_support, "5 codes of 10 categories have 100,000"),
    "prior over other codes": (
        partial(DISCRETE, codes=4, categories=3, prior=pv.priors.StandardNormal),
        "prior",
    ),
    "prior of another shape": (
        partial(DISCRETE, prior=lambda: Codes(torch.zeros(3, 3))),
        r"^prior: expected a distribution over codes of shape \(20, 10\), found batch \(\) and event \(3, 3\)",
    ),
    "map of another size": (
        partial(DISCRETE, 4, 3, "score", prior=partial(pv.priors.PixelCNN, size=(2, 3))),
        r"^prior: size: expected .*a map of 4 places, found \(2, 3\)",
    ),
    "codes of one number": (partial(pv.priors.Categorical, 5), r"^latent: expected \(codes, categories\)"),
    "rising temperature": (partial(Anneal, rate=-1), "^Anneal: rate: expected a finite number of at least 0, found -1"),
    "least 0": (partial(Anneal, rate=1, least=0), "^Anneal: least: expected a finite number greater than 0, found 0"),
    "start 0": (partial(Anneal, rate=1, start=0), "^Anneal: start: expected a finite number greater than 0, found 0"),
    "relaxed at 0": (partial(relaxed, 0), "^temperature: expected a finite number greater than 0, found 0"),
    "relaxed by a word": (partial(relaxed, "cold"), "^temperature: expected a finite number"),
    "decay 1": (partial(Baseline, decay=1), r"^decay: expected a number in \[0, 1\), found 1"),
    "decay -1": (partial(Baseline, decay=-1), "^decay: expected a finite number of at least 0, found -1"),
    "one dimension": (partial(Codes, torch.zeros(3)), r"^logits: expected \(..., codes, categories\), found \(3,\)"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_told_of(name):
    call, words = BAD[name]
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_a_relaxed_distribution_needs_a_temperature(temperature):
    """As its words say; from the recipe none comes here."""
    with pytest.raises(ValueError, match="temperature"):
        RelaxedCodes(torch.zeros(2, 3), temperature)


def test_straight_through_is_a_yes_or_no():
    with pytest.raises(TypeError, match=r"^straight_through: expected a bool, found str"):
        relaxed(0.5, straight_through="yes")


CODES_REFUSED = {
    "soft": (torch.full((3, CODES, CATEGORIES), 1 / 3), "3 of 3 values lie outside the support of Codes"),
    "none": (torch.zeros(3, CODES, CATEGORIES), "a code is one-hot: torch.nn.functional.one_hot"),
    "all": (torch.ones(1, CODES, CATEGORIES), "1 of 1 values lie outside the support of Codes"),
    "nan": (torch.full((1, CODES, CATEGORIES), math.nan), "6 of them NaN or infinite"),
    "numbers": (torch.zeros(3, CODES), r"expected \(n, 2, 3\) codes, found \(3, 2\)"),
    "more categories": (torch.zeros(3, CODES, 4), r"expected \(n, 2, 3\) codes, found \(3, 2, 4\)"),
}


@pytest.mark.parametrize("name", CODES_REFUSED)
def test_codes_that_are_none_are_not_decoded(name):
    value, words = CODES_REFUSED[name]
    with pytest.raises(ValueError, match=f"^latents: z: .*{words}"):
        tiny().decode({"z": value})


def test_a_value_that_is_no_code_has_no_density():
    with pytest.raises(ValueError, match=r"z: 1 of 1 values lie outside the support of Codes"):
        Codes(torch.zeros(2, 3), validate_args=True).log_prob(torch.full((2, 3), 1 / 3))


def test_a_copy_of_a_relaxed_draw_is_not_scored():
    d = RelaxedCodes(torch.zeros(2, 3), 0.5, validate_args=True)
    y = d.rsample()
    for again in (y.clone(), y[:], 1 * y):
        with pytest.raises(
            ValueError, match="no longer know which distribution they were drawn from; a copy of a draw"
        ):
            d.log_prob(again)
