"""Two-sample tests: the statistic against double loops and closed forms, the level and the power of the test."""

import itertools
import math

import gaussian
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from pyro import poutine

import pyro_vae as pv
from pyro_vae.evaluation import aggregate_test, two_sample_test
from pyro_vae.evaluation.two_samples import _codes

WIDTHS = (0.1, 0.2, 0.5, 1, 2, 5, 10)


def normal(n, d, seed):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def kernel(x, y, scale, name):
    squared, far = sum((p - q) ** 2 for p, q in zip(x, y, strict=True)), 2 * len(x) * scale**2
    each = [c * far / (c * far + squared) if name == "imq" else math.exp(-squared / (c * far)) for c in WIDTHS]
    return sum(each)


def double_loop(a, b, scale, name):
    """Equation 3 of Gretton et al., term by term."""
    n, m = len(a), len(b)
    first = sum(kernel(a[i], a[j], scale, name) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    second = sum(kernel(b[i], b[j], scale, name) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return first + second - 2 * sum(kernel(x, y, scale, name) for x in a for y in b) / (n * m)


@pytest.mark.parametrize("name", ["imq", "rbf"])
@pytest.mark.parametrize(("n", "m", "d"), [(6, 9, 3), (2, 2, 1), (11, 4, 2)])
def test_the_statistic_against_a_double_loop(name, n, m, d):
    a, b = 1e5 + normal(n, d, n), 1e5 + 3 * normal(m, d, 50 + m)  # far from 0, where squares cancel
    found = two_sample_test(a, b, kernel=name, scale=0.7, permutations=5)
    assert found.mmd2 == pytest.approx(double_loop(a.tolist(), b.tolist(), 0.7, name), abs=1e-8)
    assert (found.n, found.m, found.permutations, found.scale) == (n, m, 5, 0.7)


def test_the_scale_is_the_median_of_both_samples_together():
    a, b = normal(20, 3, 0), 2 * normal(15, 3, 1)
    squared = torch.nn.functional.pdist(torch.cat([a, b])).square()
    expected = (squared.median() / 6).sqrt()
    assert two_sample_test(a, b, permutations=1).scale == pytest.approx(expected.item())
    assert two_sample_test(a, b, permutations=1).mmd2 == pytest.approx(
        two_sample_test(a, b, permutations=1, scale=expected.item()).mmd2
    )
    hardly = torch.zeros(30, 2, dtype=torch.float64)
    hardly[0] = 1.0  # more than half of all pairs are the same
    assert two_sample_test(hardly, hardly, permutations=1).scale > 0
    same = two_sample_test(hardly[1:], hardly[1:])
    assert (same.mmd2, same.p_value) == (0, 1)


def test_the_statistic_has_no_bias_under_normals():
    """E exp(-|x - y|^2 / C) of x - y ~ N(m, v I) is prod_i (C / (C + 2 v))^1/2 exp(-m_i^2 / (C + 2 v))."""
    d, shift, spread, scale = 2, 0.5, 1.5, 1.0

    def expected(m, v):
        far = [c * 2 * d * scale**2 for c in WIDTHS]
        return sum((c / (c + 2 * v)) ** (d / 2) * math.exp(-d * m**2 / (c + 2 * v)) for c in far)

    truth = expected(0, 2.0) + expected(0, 2 * spread**2) - 2 * expected(shift, 1 + spread**2)
    found = []
    for i in range(400):
        a, b = normal(30, d, 2 * i), shift + spread * normal(20, d, 2 * i + 1)
        found.append(two_sample_test(a, b, kernel="rbf", scale=scale, permutations=1).mmd2)
    error = np.std(found) / len(found) ** 0.5
    assert abs(np.mean(found) - truth) < 4 * error < truth / 2


@pytest.mark.parametrize(
    "draw",
    [lambda n, g: torch.randn(n, 2, generator=g), lambda n, g: torch.randn(n, 1, generator=g).tan()],
    ids=["normal", "heavy tails"],
)
def test_the_level_holds_under_the_null(draw):
    generator, repeats = torch.Generator().manual_seed(0), 500
    p = [
        two_sample_test(draw(12, generator), draw(8, generator), permutations=99, seed=i).p_value
        for i in range(repeats)
    ]
    for alpha in (0.05, 0.2, 0.5):
        low, high = scipy.stats.binom.interval(0.9999, repeats, alpha)
        assert low <= sum(value <= alpha for value in p) <= high


def test_the_level_holds_where_values_are_the_same():
    """Ties count as large, so that p <= alpha comes up in a share of at most alpha."""
    generator, repeats = torch.Generator().manual_seed(0), 300
    p = [
        two_sample_test(*torch.randint(2, (2, 10, 1), generator=generator), permutations=99, seed=i).p_value
        for i in range(repeats)
    ]
    assert sum(value <= 0.05 for value in p) <= scipy.stats.binom.interval(0.9999, repeats, 0.05)[1]


@pytest.mark.parametrize(
    "other",
    [lambda b: b + 0.7, lambda b: 2 * b, lambda b: b * torch.tensor([1.0, 0.0]) + b[:, :1] * torch.tensor([0, 1.0])],
)
def test_power_against_a_shift_a_spread_and_a_dependence(other):
    a, b = normal(150, 2, 0), normal(120, 2, 1)
    assert two_sample_test(a, b).p_value > 0.02
    assert two_sample_test(a, other(b)).p_value == 1 / 501


def test_p_is_the_share_of_all_exchanges():
    a, b = normal(4, 1, 0), normal(3, 1, 1) + 1
    both = torch.cat([a, b])
    scale = two_sample_test(a, b, permutations=1).scale
    every = []
    for chosen in itertools.combinations(range(7), 4):
        rest = [i for i in range(7) if i not in chosen]
        every.append(double_loop(both[list(chosen)].tolist(), both[rest].tolist(), scale, "imq"))
    share = np.mean([value >= every[0] - 1e-9 for value in every])
    found = two_sample_test(a, b, permutations=20_000).p_value
    assert abs(found - share) < 4 * (share * (1 - share) / 20_000) ** 0.5 + 1e-4


def test_the_seed_decides_and_generators_are_left_alone():
    a, b = normal(20, 2, 0), normal(20, 2, 1)
    state = torch.get_rng_state()
    one, two, other = (two_sample_test(a, b, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    assert one == two
    assert one.p_value != other.p_value
    assert one.mmd2 == other.mmd2
    assert one.to_dict()["p_value"] == one.p_value
    assert f"p = {one.p_value:.4g}" in str(one)


# ------------------------------------------------------------------ the aggregate posterior


def test_codes_of_an_exact_posterior_are_draws_of_the_prior():
    pair, repeats = gaussian.pair(), 60
    p = [
        aggregate_test(pair, pair.sample(60, seed=100 + i), permutations=99, seed=i, rows=25).p_value
        for i in range(repeats)
    ]
    low, high = scipy.stats.binom.interval(0.9999, repeats, 0.2)
    assert low <= sum(value <= 0.2 for value in p) <= high


def test_codes_that_are_shifted_are_told_from_the_prior():
    pair = gaussian.pair(shift=0.4)
    found = aggregate_test(pair, gaussian.pair().sample(400, seed=1), n=300)
    assert found.p_value == 1 / 501
    assert (found.n, found.m) == (300, 300)
    state = torch.get_rng_state()
    assert aggregate_test(pair, gaussian.pair().sample(400, seed=1), n=300) == found
    assert torch.equal(torch.get_rng_state(), state)


def test_a_prior_that_can_only_be_sampled_will_do():
    pair = pv.vae(
        5, latent=2, prior=pv.priors.Sampled(2, lambda n: 4 + torch.rand(n, 2)), likelihood=pv.likelihoods.Normal
    )
    found = aggregate_test(pair, torch.randn(80, 5), permutations=100)
    assert found.p_value == 1 / 101
    assert found.mmd2 > 1


def conditional(copied):
    """z ~ N(c, 1), x ~ N(z, tiny) under a condition c; the guide reads z off the data, or draws it from N(0, 1)."""

    def model(c, x=None):
        with pyro.plate("data", len(c)):
            z = pyro.sample("z", dist.Normal(c, 1).to_event(1))
            return pyro.sample("x", dist.Normal(z, 1e-3).to_event(1), obs=x)

    def guide(x, c):
        with pyro.plate("data", len(x)):
            pyro.sample("z", (dist.Normal(x, 1e-3) if copied else dist.Normal(0 * x, 1)).to_event(1))

    return pv.Variant(model, guide, conditions=["c"])


def test_under_conditions_both_are_averaged_over_those_of_the_data():
    pair = conditional(copied=True)
    c = 5 * (torch.arange(300) >= 150)[:, None].float()
    x = pair.sample(300, c=c, seed=0)
    assert aggregate_test(pair, {"x": x, "c": c}, n=150).p_value > 0.02
    assert aggregate_test(conditional(copied=False), {"x": x, "c": c}, n=150).p_value == 1 / 501


def test_continuous_sites_are_laid_side_by_side():
    digits = pv.data.load("digits", "test", binarise="dynamic")
    for pair in (pv.hvae((1, 8, 8), latents=(4, 2)), pv.joint_vae((1, 8, 8))):
        assert aggregate_test(pair, digits, n=40, permutations=20).n == 40
    with pytest.raises(ValueError, match="no continuous latent sites"):
        aggregate_test(pv.discrete_vae((1, 8, 8), codes=3, categories=4), digits, n=40)


def test_codes_in_plates_stay_with_their_datum():
    def model():
        with pyro.plate("data", 3, dim=-1):
            pyro.sample("u", dist.Delta(torch.arange(3.0)))
            with pyro.plate("inner", 2, dim=-2):
                value = 10 * torch.arange(2.0)[:, None, None] + torch.arange(3.0)[:, None] + torch.zeros(4)
                pyro.sample("z", dist.Normal(value, 1e-4).to_event(1))

    found = _codes(poutine.trace(model).get_trace())
    assert found["u"].tolist() == [[0], [1], [2]]
    expected = torch.tensor([[d + 10 * i for i in range(2) for _ in range(4)] for d in range(3)])
    torch.testing.assert_close(found["z"].round(), expected.float())


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: two_sample_test(torch.zeros(1, 2), torch.zeros(3, 2)), ValueError, "a: expected 2 or more vectors"),
        (
            lambda: two_sample_test(torch.zeros(3, 2), torch.zeros(3, 1)),
            ValueError,
            "a, b: expected vectors of one length",
        ),
        (lambda: two_sample_test(torch.zeros(3), torch.zeros(3, 1)), ValueError, "a: expected 2 or more vectors"),
        (
            lambda: two_sample_test(torch.zeros(3, 1), torch.ones(3, 1), permutations=0),
            ValueError,
            "permutations: expected",
        ),
        (lambda: two_sample_test(torch.zeros(3, 1), torch.ones(3, 1), scale=-1), ValueError, "scale: expected"),
        (lambda: two_sample_test(torch.zeros(3, 1), torch.ones(3, 1), kernel="x"), ValueError, "kernel: unknown 'x'"),
        (lambda: aggregate_test(torch.zeros(3, 1), torch.ones(3, 1)), TypeError, "variant: expected a Variant"),
        (lambda: aggregate_test(gaussian.pair(), torch.ones(30, 5), n=0), ValueError, "n: expected a whole number"),
        (lambda: aggregate_test(gaussian.pair(), torch.ones(1, 5)), ValueError, "2 or more"),
        (lambda: aggregate_test(conditional(True), torch.ones(9, 1)), ValueError, "c: missing"),
    ],
)
def test_bad_input(call, error, words):
    with pytest.raises(error, match=words):
        call()
