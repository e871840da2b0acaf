"""Our own distributions, against scipy, against mpmath in the tails, and against their own draws."""

import math

import mpmath
import numpy as np
import pyro.distributions as dist
import pytest
import torch
from scipy import integrate, stats

from pyro_vae import checks
from pyro_vae.distributions import (
    ContinuousBernoulli,
    CountNegativeBinomial,
    CountPoisson,
    DiscretizedLogistic,
    DiscretizedLogisticMixture,
    FiniteNormal,
    Levels,
    NumberedCategorical,
    Row,
)

mpmath.mp.dps = 60
EPS = {torch.float32: 2.0**-23, torch.float64: 2.0**-52}
DTYPES = list(EPS)
# both sides of where the series takes over, where it does, the very middle, and logits that saturate probabilities
LOGITS = [0.0, 1e-20, 1e-6, -1e-3, 0.05, 0.1999, 0.2, -0.2001, 1.0, -7.0, 16.0, -40.0, 120.0, 1e4]


def numbers(values):
    return np.array([float(v) for v in values])


# ---------------------------------------------------------------------- continuous Bernoulli


def density(logit, x):
    """log p(x) to 60 digits; logit = 0 is the uniform distribution."""
    logit, x = mpmath.mpf(logit), mpmath.mpf(x)
    return logit * x - mpmath.log(mpmath.expm1(logit) / logit) if logit else mpmath.mpf(0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("logit", LOGITS)
def test_continuous_bernoulli_density_and_gradient(logit, dtype):
    x = torch.tensor([0.0, 1e-3, 0.37, 0.5, 0.99, 1.0], dtype=dtype)
    logits = torch.full_like(x, logit).requires_grad_()
    log_p = ContinuousBernoulli(logits).log_prob(x)
    exact = numbers(density(float(torch.tensor(logit, dtype=dtype)), float(v)) for v in x)
    # two roundings of logit x, and one each of a few numbers of size 1
    bound = 4 * EPS[dtype] * (np.abs(exact) + abs(logit) * torch.minimum(x, 1 - x).numpy() + 1)
    assert (np.abs(log_p.detach().numpy() - exact) <= bound).all()
    (gradient,) = torch.autograd.grad(log_p.sum(), logits)
    big = mpmath.mpf(float(logits[0].detach()))
    mean = 1 / (1 - mpmath.exp(-big)) - 1 / big if big else mpmath.mpf("0.5")
    slope = numbers(mpmath.mpf(float(v)) - mean for v in x)
    # where the series ends, 1 / logit - 1 / (exp(logit) - 1) loses log2(1 / 0.2) digits
    assert np.abs(gradient.numpy() - slope).max() <= 16 * EPS[dtype] / 0.2


@pytest.mark.parametrize("logit", [-30.0, -2.0, 0.0, 0.15, 0.25, 6.0])
def test_continuous_bernoulli_is_normalised_and_has_its_mean(logit):
    d = ContinuousBernoulli(torch.tensor(logit, dtype=torch.float64))

    def p(x):
        return math.exp(d.log_prob(torch.tensor(x, dtype=torch.float64)))

    assert integrate.quad(p, 0, 1)[0] == pytest.approx(1, abs=1e-9)
    assert float(d.mean) == pytest.approx(integrate.quad(lambda x: x * p(x), 0, 1)[0], abs=1e-9)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("logit", LOGITS)
def test_continuous_bernoulli_mean(logit, dtype):
    logits = torch.tensor(logit, dtype=dtype)
    big = mpmath.mpf(float(logits))
    exact = float(1 / (1 - mpmath.exp(-big)) - 1 / big if big else 0.5)
    assert abs(float(ContinuousBernoulli(logits).mean) - exact) <= 16 * EPS[dtype] / 0.2


@pytest.mark.parametrize("logit", [-40.0, -3.0, 0.0, 0.1, 1.0, 12.0])
def test_continuous_bernoulli_draws(logit):
    draws = ContinuousBernoulli(torch.tensor(logit)).sample((20_000,)).double().numpy()
    assert (draws.min() >= 0) & (draws.max() <= 1)
    cdf = (lambda x: x) if logit == 0 else (lambda x: np.expm1(logit * x) / np.expm1(logit))
    assert stats.kstest(draws, cdf).pvalue > 1e-3


def test_torch_is_less_exact_than_ours():
    """Why there is one of our own; where this fails, torch's may do."""
    logit, x = torch.tensor([17.0, 30.0]), torch.tensor([0.9, 0.9])
    exact = numbers(density(float(a), float(b)) for a, b in zip(logit, x, strict=True))
    theirs = dist.ContinuousBernoulli(logits=logit).log_prob(x).numpy()
    ours = ContinuousBernoulli(logit).log_prob(x).numpy()
    assert (np.abs(ours - exact) < 1e-5).all()
    assert (np.abs(theirs - exact) > 0.01).all()


# ---------------------------------------------------------------------- discretised logistic


def levels(bits, dtype=torch.float64):
    return torch.arange(2**bits, dtype=dtype) / (2**bits - 1)


def masses(loc, scale, bits):
    """P of every level, as differences of scipy's distribution function."""
    n = 2**bits - 1
    edges = np.concatenate([[-np.inf], (np.arange(n) + 0.5) / n, [np.inf]])
    return np.diff(stats.logistic.cdf(edges, loc, scale))


def mass(x, loc, scale, bits):
    """log P of one level, to 60 digits."""
    n = 2**bits - 1
    k, loc, scale = round(x * n), mpmath.mpf(loc), mpmath.mpf(scale)

    def cdf(t):
        return 1 / (1 + mpmath.exp(-(t - loc) / scale))

    upper = cdf((k + mpmath.mpf(1) / 2) / n) if k < n else 1
    lower = cdf((k - mpmath.mpf(1) / 2) / n) if k > 0 else 0
    return mpmath.log(upper - lower)


@pytest.mark.parametrize("bits", [1, 2, 5, 8])
@pytest.mark.parametrize(("loc", "scale"), [(0.5, 0.5), (0.3, 0.02), (1.4, 0.2), (-0.1, 2.0), (0.5, 0.001)])
def test_discretised_logistic_against_scipy(loc, scale, bits):
    d = DiscretizedLogistic(*torch.tensor([loc, scale], dtype=torch.float64), bits=bits)
    p = masses(loc, scale, bits)
    own = d.log_prob(levels(bits)).exp().numpy()
    # the ends of a bin are rounded, and come out magnified by 1 / scale
    assert np.abs(own - p).max() < 4 * EPS[torch.float64] * (1 + 1 / scale)
    assert own[p > 1e-5] == pytest.approx(p[p > 1e-5], rel=1e-9)
    assert own.sum() == pytest.approx(1, abs=1e-13)
    assert float(d.mean) == pytest.approx(float((levels(bits).numpy() * p).sum()), abs=1e-13)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("loc", "scale"), [(0.5, 0.01), (-3.0, 0.0005), (30.0, 0.002), (0.2, 500.0), (0.0, 0.0005)])
def test_discretised_logistic_in_the_tails(loc, scale, dtype):
    """log P down to -60,000, where a difference of distribution functions is 0 in any format."""
    loc, scale = torch.tensor(loc, dtype=dtype), torch.tensor(scale, dtype=dtype)
    x = levels(8, dtype)[[0, 1, 100, 254, 255]]
    exact = numbers(mass(float(v), float(loc), float(scale), 8) for v in x)
    own = DiscretizedLogistic(loc, scale, bits=8).log_prob(x).numpy()
    # the bin's ends are rounded, and each comes out magnified by 1 / scale
    bound = 8 * EPS[dtype] * ((1 + abs(float(loc))) / float(scale) + np.abs(exact) + 1)
    assert np.isfinite(own).all()
    assert (np.abs(own - exact) <= bound).all()


def test_discretised_logistic_sums_to_one_in_single_precision():
    loc, scale = torch.rand(50) * 3 - 1, torch.rand(50) * 0.3 + 0.001
    total = DiscretizedLogistic(loc, scale, bits=8).log_prob(levels(8, torch.float32).unsqueeze(-1)).exp().sum(0)
    assert (total - 1).abs().max() < 2e-4  # 256 terms, of rounding 1e-7 magnified by 1 / scale


@pytest.mark.parametrize(("loc", "scale", "bits"), [(0.4, 0.1, 3), (0.9, 0.3, 4), (0.5, 0.01, 4), (0.2, 1.0, 1)])
def test_discretised_logistic_draws(loc, scale, bits):
    n = 20_000
    draws = DiscretizedLogistic(torch.tensor(loc), torch.tensor(scale), bits=bits).sample((n,))
    expected = n * masses(loc, scale, bits)
    found = np.bincount((draws * (2**bits - 1)).round().long().numpy(), minlength=2**bits)
    often = expected > 5
    assert found[~often].sum() < 5 + 5 * expected[~often].sum()
    observed, wanted = found[often], expected[often] * found[often].sum() / expected[often].sum()
    assert stats.chisquare(observed, wanted).pvalue > 1e-3


def mixture(dtype=torch.float64, batch=()):
    logits = torch.tensor([0.3, -1.0, 2.0], dtype=dtype)
    loc, scale = torch.tensor([[0.1, 0.5, 0.8], [0.05, 0.2, 0.01]], dtype=dtype)
    d = DiscretizedLogisticMixture(logits, loc, scale, bits=4)
    return d.expand(batch) if batch else d


def mixture_masses():
    d = mixture()
    parts = [masses(float(a), float(b), 4) for a, b in zip(d.loc, d.scale, strict=True)]
    return d.logits.softmax(-1).numpy() @ np.stack(parts)


def test_mixture_against_scipy():
    d, p = mixture(), mixture_masses()
    own = d.log_prob(levels(4)).exp().numpy()
    assert own == pytest.approx(p, rel=1e-9)
    assert own.sum() == pytest.approx(1, abs=1e-13)
    assert float(d.mean) == pytest.approx(float(levels(4).numpy() @ p), abs=1e-13)


def test_mixture_draws():
    draws = mixture(torch.float32, batch=(2,)).sample((10_000,))
    found = np.bincount((draws.flatten() * 15).round().long().numpy(), minlength=16)
    assert stats.chisquare(found, 20_000 * mixture_masses()).pvalue > 1e-3


def test_levels_take_what_float32_makes_of_bytes():
    bytes_ = torch.arange(256)
    for x in (
        bytes_ / 255,
        bytes_ * (1 / 255),
        (bytes_ / 255).double(),
        bytes_.double() / 255,
        0.5 + (bytes_ / 255 - 0.5),
    ):
        assert Levels(8).check(x).all()
    wrong = torch.tensor([-1 / 255, 256 / 255, 0.5, 0.1, math.nan, math.inf, -math.inf])
    assert not Levels(8).check(wrong).any()
    assert Levels(16).check(torch.arange(2**16) / (2**16 - 1)).all()


# ---------------------------------------------------------------------- rows


def row(batch=(5,)):
    normal = FiniteNormal(torch.randn(*batch, 2).double(), torch.rand(*batch, 2).double() + 0.5)
    category = NumberedCategorical(logits=torch.randn(*batch, 1, 3).double())
    coin = dist.Bernoulli(torch.rand(*batch, 1).double())
    return Row([((3, 0), normal), ((2,), category), ((1,), coin)], ["a", "b", "c", "d"])


def test_a_row_is_its_columns():
    d = row()
    x = d.sample()
    assert x.dtype == torch.float64
    (_, normal), (_, category), (_, coin) = d.parts
    expected = stats.norm.logpdf(x[:, [3, 0]], normal.loc, normal.scale).sum(1)
    expected += np.log(category.probs[torch.arange(5), 0, x[:, 2].long()].numpy())
    expected += stats.bernoulli.logpmf(x[:, 1].numpy(), coin.probs[:, 0].numpy())
    assert d.log_prob(x).numpy() == pytest.approx(expected, rel=1e-9)
    with pytest.raises(NotImplementedError, match="categories have no mean"):
        _ = d.mean
    reals = Row([((1, 0), normal)])
    assert torch.equal(reals.mean, normal.loc.flip(-1))


def test_a_row_draws_each_column_where_it_stands():
    d = row(batch=())
    draws = d.sample((20_000,)).numpy()
    (_, normal), (_, category), (_, coin) = d.parts
    for column, i in ((3, 0), (0, 1)):
        assert (
            stats.kstest(draws[:, column], stats.norm(float(normal.loc[i]), float(normal.scale[i])).cdf).pvalue > 1e-3
        )
    for column, p in ((2, category.probs[0].numpy()), (1, np.array([1 - coin.probs[0], coin.probs[0]]))):
        assert stats.chisquare(np.bincount(draws[:, column].astype(int)), 20_000 * p).pvalue > 1e-3


def test_an_error_names_the_column():
    d = row()
    x = d.sample()
    checks.support(d, x)
    bad = x.clone()
    bad[2, 2] = 3
    with pytest.raises(ValueError, match=r"table, column 'c': 1 of 5 values.*Categorical.*found values from .* to 3"):
        checks.support(d, bad, "table")
    with pytest.raises(ValueError, match=r"x, column 'c': 1 of 5"):
        d.log_prob(bad)
    bad = x.clone()
    bad[:, 3] = math.nan
    with pytest.raises(ValueError, match=r"x, column 'd': 5 of 5 values.*no finite value, 5 of them NaN"):
        d.log_prob(bad)


# ---------------------------------------------------------------------- what all have


MAKE = {
    "continuous Bernoulli": lambda: ContinuousBernoulli(torch.randn(3, 1)),
    "discretised logistic": lambda: DiscretizedLogistic(torch.rand(3, 1), torch.rand(1) + 0.1, bits=8),
    "mixture": lambda: DiscretizedLogisticMixture(torch.randn(3, 1, 4), torch.rand(4), torch.rand(4) + 0.1, bits=8),
    "row": lambda: row((3, 1)),
}


@pytest.mark.parametrize("name", MAKE)
def test_shapes_expand_and_validation(name):
    d = MAKE[name]()
    assert not d.has_rsample
    wide = d.expand(torch.Size([2, 3, 5]))
    assert (d.batch_shape, wide.batch_shape) == ((3, 1), (2, 3, 5))
    assert wide.event_shape == d.event_shape
    x = wide.sample((4,))
    assert x.shape == (4, 2, 3, 5, *d.event_shape)
    torch.testing.assert_close(wide.log_prob(x), d.log_prob(x))
    assert wide.log_prob(x).shape == (4, 2, 3, 5)
    assert wide.support.check(x).all()
    with pytest.raises(ValueError, match="outside the support of"):
        wide.log_prob(x + 0.3 * math.pi)
    assert d.to_event(2).log_prob(x[0, 0, :, :1]).shape == ()


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda v: ContinuousBernoulli(v, validate_args=True), "logits"),
        (lambda v: DiscretizedLogistic(v, torch.ones(1), 8, validate_args=True), "loc"),
        (lambda v: DiscretizedLogistic(torch.ones(1), v, 8, validate_args=True), "scale"),
        (lambda v: DiscretizedLogisticMixture(torch.ones(1), torch.ones(1), v, 8, validate_args=True), "scale"),
    ],
)
def test_parameters_are_validated(make, name):
    with pytest.raises(ValueError, match=f"parameter {name}"):
        make(torch.tensor([math.nan]))


@pytest.mark.parametrize("logit", [0.05, 3.0, 88.5, 89.0, 100.0, 1e3, 1e4])
def test_continuous_bernoulli_mean_has_a_gradient_everywhere(logit):
    """It is the variance, 1 / l^2 - 1 / (2 sinh(l / 2))^2."""
    expected = float(1 / mpmath.mpf(logit) ** 2 - 1 / (2 * mpmath.sinh(mpmath.mpf(logit) / 2)) ** 2)
    for sign in (-1, 1):
        logits = torch.tensor(sign * logit, requires_grad=True)
        ContinuousBernoulli(logits).mean.backward()
        assert float(logits.grad) == pytest.approx(expected, rel=1e-3, abs=1e-9)


@pytest.mark.parametrize("count", [10.0, 1e4, 1e6])
def test_large_counts_keep_their_digits_in_single_precision(count):
    """torch's own log p is off by 0.8 nats at a million."""
    rate = torch.tensor(count)
    found = float(CountPoisson(rate).log_prob(torch.tensor(count)))
    assert found == pytest.approx(stats.poisson.logpmf(count, count), abs=1e-4)
    r = 3.0
    logits = torch.log(rate / r)
    found = float(CountNegativeBinomial(torch.tensor(r), logits=logits).log_prob(torch.tensor(count)))
    assert found == pytest.approx(stats.nbinom.logpmf(count, r, r / (r + count)), abs=1e-4)
