"""Likelihoods: densities against scipy, draws against densities, any shape, bad data, and training end to end."""

import json
import math
import resource
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyro
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats
from sklearn.datasets import load_sample_image
from torch import nn

import pyro_vae as pv
from pyro_vae import checks, tracing
from pyro_vae.likelihoods import (
    Bernoulli,
    Categorical,
    Columns,
    ContinuousBernoulli,
    DiscretizedLogistic,
    DiscretizedLogisticMixture,
    Laplace,
    NegativeBinomial,
    Normal,
    Poisson,
    StudentT,
    decoder_shape,
    features,
)
from pyro_vae.nets import MLP, ByColumn, Conv, Log1p, OneHot, Standardise

EPS = {torch.float32: 2.0**-23, torch.float64: 2.0**-52}
TABLE = {"age": "real", "smoker": "binary", "town": 4, "visits": "count", "weight": "real", "sex": "binary"}
UNITS = {"mean": (40.0, None, None, None, -3.0, None), "std": (15.0, None, None, None, 0.2, None)}


def build(likelihood, data_shape, dtype=torch.float64):
    """A likelihood whose code is what the decoder gives, with learned settings away from where they start."""
    built = likelihood(nn.Identity(), decoder_shape(likelihood, data_shape), data_shape).to(dtype)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=dtype) * 0.7)
    return built


def exp_within(s, bound=7.0):
    return np.exp(bound * np.tanh(s / bound))


# ---------------------------------------------------------------------- densities, in numpy and scipy
# Each takes the likelihood, the parameters (k, *data_shape) of one datum as numpy has them, and gives a frozen
# distribution of scipy's over the elements, or the logarithms of the probabilities of values in a row.


def width(likelihood):
    log_scale = getattr(likelihood, "log_scale", None)
    return likelihood.fixed_scale if log_scale is None else exp_within(log_scale.detach().double().numpy())


def standardised(likelihood, m):
    if likelihood.units is None:
        return m, width(likelihood)
    mean, std = (b.double().numpy() for b in (likelihood.units.mean, likelihood.units.std))
    return mean + std * m, std * width(likelihood)


def student(likelihood, s):
    learned = getattr(likelihood, "log_df", None)
    df = likelihood.fixed_df if learned is None else 1 + 4 * exp_within(learned.detach().double().numpy(), 3.0)
    return stats.t(df, *standardised(likelihood, s[0]))


def negative_binomial(log_rate, log_r):
    r, rate = exp_within(log_r), exp_within(log_rate, 14.0)
    return stats.nbinom(r, r / (r + rate))


class Grey:
    """The continuous Bernoulli, from exp(l x) and its integral over [0, 1]."""

    def __init__(self, l_):
        self.l = l_

    def logpdf(self, x):
        return self.l * x - np.log(np.expm1(self.l) / self.l)

    def mean(self):
        return 1 / (1 - np.exp(-self.l)) - 1 / self.l

    def std(self):
        return np.sqrt(1 / self.l**2 - 1 / (4 * np.sinh(self.l / 2) ** 2))


class Table:
    """Elements that take few values, from the probabilities of each, in the last dimension."""

    def __init__(self, values, p):
        self.values, self.p = values, p / p.sum(-1, keepdims=True)

    def logpmf(self, x):
        k = np.abs(x[..., None] - self.values).argmin(-1)
        p = np.broadcast_to(self.p, (*k.shape, len(self.values)))
        return np.log(np.take_along_axis(p, k[..., None], -1)[..., 0])

    def mean(self):
        return self.p @ self.values

    def std(self):
        return np.sqrt(self.p @ self.values**2 - self.mean() ** 2)


def bins(m, s, bits):
    n = 2**bits - 1
    edges = np.concatenate([[-np.inf], (np.arange(n) + 0.5) / n, [np.inf]])
    return np.diff(stats.logistic.cdf(edges, (1 + m[..., None]) / 2, exp_within(s[..., None]) / 2))


def mixture(likelihood, s, components):
    parts = s.reshape(3, components, *s.shape[1:])
    weights = special.softmax(parts[0], 0)[..., None]
    n = 2**likelihood.bits
    return Table(np.arange(n) / (n - 1), (weights * bins(parts[1], parts[2], likelihood.bits)).sum(0))


@dataclass
class Case:
    likelihood: object
    scipy: object
    spread: float = 1.0  # of the parameters, so that scipy's own arithmetic holds

    @property
    def shape(self):
        return (2, 3)


CASES = {
    "Bernoulli": Case(Bernoulli, lambda d, s: stats.bernoulli(special.expit(s[0]))),
    "ContinuousBernoulli": Case(ContinuousBernoulli, lambda d, s: Grey(s[0]), 3.0),
    "Normal": Case(Normal, lambda d, s: stats.norm(*standardised(d, s[0]))),
    "Normal, learned, per column": Case(
        partial(Normal, scale="learned", mean=(1.0, -200.0, 3e4), std=(0.01, 7.0, 1e3)),
        lambda d, s: stats.norm(*standardised(d, s[0])),
    ),
    "Laplace": Case(partial(Laplace, scale=0.3), lambda d, s: stats.laplace(*standardised(d, s[0]))),
    "Laplace, learned, per row": Case(
        partial(Laplace, scale="learned", mean=((1.0,), (50.0,)), std=3.0),
        lambda d, s: stats.laplace(*standardised(d, s[0])),
    ),
    "StudentT": Case(partial(StudentT, df=3, scale=0.7), student),
    "StudentT, learned": Case(partial(StudentT, df="learned", scale="learned", std=20.0), student),
    "Categorical": Case(
        partial(Categorical, classes=4), lambda d, s: Table(np.arange(4), special.softmax(s, 0).transpose(1, 2, 0))
    ),
    "Poisson": Case(Poisson, lambda d, s: stats.poisson(exp_within(s[0], 14.0)), 2.0),
    "NegativeBinomial": Case(
        NegativeBinomial, lambda d, s: negative_binomial(s[0], d.log_r.detach().double().numpy()), 2.0
    ),
    "DiscretizedLogistic": Case(
        partial(DiscretizedLogistic, bits=5), lambda d, s: Table(np.arange(32) / 31, bins(s[0], s[1], 5))
    ),
    "DiscretizedLogistic, bytes": Case(
        DiscretizedLogistic, lambda d, s: Table(np.arange(256) / 255, bins(s[0], s[1], 8))
    ),
    "DiscretizedLogisticMixture": Case(
        partial(DiscretizedLogisticMixture, bits=6, components=3), lambda d, s: mixture(d, s, 3)
    ),
}


def scored(case, dtype):
    """Draws under given parameters, their log p, and scipy's."""
    likelihood = build(case.likelihood, case.shape, dtype)
    z = (torch.randn(decoder_shape(case.likelihood, case.shape)) * case.spread).to(dtype)
    reference = case.scipy(likelihood, z.double().numpy().reshape(-1, *case.shape))
    d = likelihood(z.unsqueeze(0))
    x = d.sample((400,))
    log_p = getattr(reference, "logpmf", None) or reference.logpdf
    return d.log_prob(x).detach().double().squeeze(-1).numpy(), log_p(x.double().squeeze(1).numpy()), x, reference


@pytest.mark.parametrize("name", CASES)
def test_density_against_scipy(name):
    own, exact, x, _ = scored(CASES[name], torch.float64)
    assert x.unique().numel() > 1
    assert own == pytest.approx(exact.sum((-1, -2)), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("name", CASES)
def test_density_in_single_precision(name):
    """Few roundings of the largest numbers on the way: log p, x log(rate), log x!, x / std and 1 / scale."""
    case = CASES[name]
    own, exact, x, reference = scored(case, torch.float32)
    values = x.double().squeeze(1).numpy()
    size = 1 + np.abs(exact)
    if hasattr(reference, "dist"):
        size = size + np.abs(reference.mean() / reference.std())
        if isinstance(reference.dist, stats.rv_discrete):
            size = size + values * (1 + np.log1p(values)) + reference.mean()
        else:
            size = size * (1 + np.abs((values - reference.mean()) / reference.std()))
    elif "Discretized" in name:
        size = size + 2 * math.exp(3 * case.spread)
    bound = 16 * EPS[torch.float32] * size.sum((-1, -2))
    assert (np.abs(own - exact.sum((-1, -2))) <= bound).all()


@pytest.mark.parametrize("name", CASES)
def test_draws_and_mean_agree_with_the_density(name):
    case = CASES[name]
    torch.manual_seed(5)
    likelihood = build(case.likelihood, case.shape, torch.float32)
    z = torch.randn(decoder_shape(case.likelihood, case.shape)) * case.spread
    reference = case.scipy(likelihood, z.double().numpy().reshape(-1, *case.shape))
    d = likelihood(z.unsqueeze(0))
    n = 20_000
    draws = d.sample((n,)).squeeze(1).double().numpy()
    found, spread = draws.mean(0), reference.std()
    # the mean of n draws errs by std / sqrt(n); six elements, and now and then a heavy tail
    assert (np.abs(found - reference.mean()) < 5 * spread / math.sqrt(n)).all()
    if "Categorical" in name:
        for k, p in zip(draws.reshape(n, -1).T, reference.p.reshape(-1, 4), strict=True):
            assert stats.chisquare(np.bincount(k.astype(int), minlength=4), n * p).pvalue > 1e-3
        assert tracing.mean(d) is None
    else:
        mean = tracing.mean(d).squeeze(0).detach().double().numpy()
        assert np.abs(mean - reference.mean()).max() <= 1e-5 * (1 + np.abs(reference.mean())).max()


@pytest.mark.parametrize("z", [-1e4, -100.0, -20.0, 0.0, 20.0, 100.0, 1e4])
@pytest.mark.parametrize("name", CASES)
def test_no_parameter_makes_a_loss_that_is_not_finite(name, z):
    """Whatever one step does to the decoder, the next still has a gradient."""
    case = CASES[name]
    likelihood = build(case.likelihood, case.shape, torch.float32)
    x = likelihood(torch.randn(1, *decoder_shape(case.likelihood, case.shape))).sample()
    code = torch.full((1, *decoder_shape(case.likelihood, case.shape)), z, requires_grad=True)
    loss = likelihood(code).log_prob(x).sum()
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in (code, *likelihood.parameters()))


# ---------------------------------------------------------------------- tables


def test_columns_are_the_sum_of_their_parts():
    likelihood = build(partial(Columns, columns=TABLE, **UNITS), (6,))
    z = torch.randn(300, 9).double()
    x = likelihood(z).sample()
    d, s, v = likelihood, z.numpy(), x.numpy()
    real = [exp_within(w) for w in d.log_scale.detach().numpy()]
    parts = [
        stats.norm.logpdf(v[:, 0], 40 + 15 * s[:, 0], 15 * real[0]),
        stats.bernoulli.logpmf(v[:, 1], special.expit(s[:, 1])),
        np.take_along_axis(special.log_softmax(s[:, 2:6], -1), v[:, 2:3].astype(int), -1)[:, 0],
        negative_binomial(s[:, 6], d.log_r.detach().numpy()[0]).logpmf(v[:, 3]),
        stats.norm.logpdf(v[:, 4], -3 + np.float32(0.2) * s[:, 7], np.float32(0.2) * real[1]),
        stats.bernoulli.logpmf(v[:, 5], special.expit(s[:, 8])),
    ]
    assert d(z).log_prob(x).detach().numpy() == pytest.approx(np.sum(parts, 0), rel=1e-9)
    assert d(z).event_shape == (6,)


def test_columns_without_categories_have_a_mean():
    likelihood = build(partial(Columns, columns=["count", "real", "binary"], mean=2.0, std=3.0), (3,))
    z = torch.randn(5, 3).double()
    s = z.numpy()
    expected = np.stack([exp_within(s[:, 0], 14.0), 2 + 3 * s[:, 1], special.expit(s[:, 2])], -1)
    assert tracing.mean(likelihood(z)).detach().numpy() == pytest.approx(expected, rel=1e-9)
    with_categories = build(partial(Columns, columns=["real", 3]), (2,))
    assert tracing.mean(with_categories(torch.zeros(5, 4).double())) is None


def test_a_table_of_one_kind():
    for kind in ("real", "binary", "count", 3):
        likelihood = build(partial(Columns, columns=[kind, kind]), (2,))
        x = likelihood(torch.randn(5, *decoder_shape(partial(Columns, columns=[kind, kind]), 2)).double()).sample()
        assert x.shape == (5, 2)


# ---------------------------------------------------------------------- any shape, any batch, both precisions


ANY = {
    "Bernoulli": Bernoulli,
    "ContinuousBernoulli": ContinuousBernoulli,
    "Normal": partial(Normal, scale="learned", mean=3.0, std=0.1),
    "Laplace": partial(Laplace, scale="learned"),
    "StudentT": partial(StudentT, df="learned", scale="learned"),
    "Categorical": partial(Categorical, classes=3),
    "Poisson": Poisson,
    "NegativeBinomial": NegativeBinomial,
    "DiscretizedLogistic": DiscretizedLogistic,
    "DiscretizedLogisticMixture": partial(DiscretizedLogisticMixture, bits=4, components=2),
    "Columns": Columns,
}
KINDS = st.lists(st.sampled_from(["real", "binary", "count", 2, 5]), min_size=1, max_size=5)


@pytest.mark.parametrize("name", ANY)
def test_any_shape_any_batch_any_precision(name):
    @settings(deadline=None, max_examples=25, derandomize=True)
    @given(
        shape=st.lists(st.integers(1, 3), min_size=1, max_size=3).map(tuple),
        batch=st.lists(st.integers(1, 4), min_size=1, max_size=2).map(tuple),
        dtype=st.sampled_from([torch.float32, torch.float64]),
        spread=st.sampled_from([0.0, 1.0, 10.0]),
        kinds=KINDS,
        seed=st.integers(0, 1000),
    )
    def holds(shape, batch, dtype, spread, kinds, seed):
        likelihood = ANY[name]
        if likelihood is Columns:
            likelihood, shape = partial(Columns, columns=kinds), (len(kinds),)
        torch.manual_seed(seed)
        built = build(likelihood, shape, dtype)
        z = (torch.randn(*batch, *decoder_shape(likelihood, shape), dtype=dtype) * spread).requires_grad_()
        d = built(z)
        assert (d.batch_shape, d.event_shape) == (batch, shape)
        x = d.sample()
        assert (x.shape, x.dtype) == ((*batch, *shape), dtype)
        checks.support(d, x)
        assert d.support.check(x).all()
        log_p = d.log_prob(x)  # validated
        assert log_p.shape == batch
        assert torch.isfinite(log_p).all()
        log_p.sum().backward()
        for p in (z, *built.parameters()):
            assert torch.isfinite(p.grad).all()
        assert d.log_prob(x[:1]).shape == batch  # fewer data than codes: broadcast from the left
        read = features(likelihood, shape)
        if read is not None:
            assert read.to(dtype)(x).shape == (*batch, *read.outside)
            assert torch.isfinite(read(x)).all()

    holds()


# ---------------------------------------------------------------------- what decoder and encoder are asked for


@pytest.mark.parametrize(
    ("likelihood", "shape", "wanted", "read"),
    [
        (Bernoulli, (3, 8, 9), (3, 8, 9), None),
        (Normal, 5, (5,), None),
        (partial(Normal, std=2.0), (3, 8, 9), (3, 8, 9), Standardise),
        (partial(StudentT, mean=2.0, df=4.0), 5, (5,), Standardise),
        (partial(Categorical, classes=4), (3, 8, 9), (12, 8, 9), OneHot),
        (Poisson, (2, 3), (2, 3), Log1p),
        (NegativeBinomial, 7, (7,), Log1p),
        (partial(DiscretizedLogistic, bits=5), (3, 8, 9), (6, 8, 9), None),
        (DiscretizedLogisticMixture, (3, 8, 9), (45, 8, 9), None),
        (partial(DiscretizedLogisticMixture, components=2), (4,), (24,), None),
        (partial(Columns, columns=TABLE), (6,), (9,), ByColumn),
        (lambda decoder, latent, data_shape: Normal(decoder, latent, data_shape), (3, 4), (3, 4), None),
        (partial(lambda decoder, latent, data_shape, k: None, k=3), (3, 4), (3, 4), None),
    ],
)
def test_what_a_recipe_is_told(likelihood, shape, wanted, read):
    assert decoder_shape(likelihood, shape) == wanted
    assert type(features(likelihood, shape)) is (type(None) if read is None else read)


def test_features_are_what_they_say():
    x = torch.tensor([[40.0, 1.0, 2.0, 6.0, -2.0, 0.0], [55.0, 0.0, 0.0, 0.0, -3.0, 1.0]])
    read = features(partial(Columns, columns=TABLE, **UNITS), 6)(x)
    # by kind, in the order in which kinds first come up: reals, binaries, the town, counts
    expected = [[0, 5, 1, 0, 0, 0, 1, 0, math.log(7)], [1, 0, 0, 1, 1, 0, 0, 0, 0]]
    torch.testing.assert_close(read, torch.tensor(expected, dtype=torch.float32))
    image = torch.tensor([[[[0, 1], [2, 1]], [[2, 2], [0, 0]]]])
    hot = OneHot((2, 2, 2), classes=3)(image)
    assert hot.shape == (1, 6, 2, 2)
    torch.testing.assert_close(hot.reshape(1, 3, 2, 2, 2), nn.functional.one_hot(image, 3).movedim(-1, 1).float())
    assert OneHot(1, classes=3)(torch.tensor([[7.0]])).sum() == 0, "what is no category is the likelihood's to refuse"


@pytest.mark.parametrize("net", [MLP, Conv])
def test_images_of_categories_and_of_levels_pass_through_either_net(net):
    for likelihood in (partial(Categorical, classes=3), partial(DiscretizedLogisticMixture, components=2), Poisson):
        pair = pv.vae((3, 9, 8), latent=2, likelihood=likelihood, net=net)
        x = pair.sample(4)
        assert pair.elbo(x=x, particles=3).shape == (4,)
        assert any(isinstance(m, net) for m in pair.guide.posterior.encoder.modules())


def test_the_parameters_of_an_element_stand_one_before_the_other():
    """The channels that a convolution gives are read as (k, *data_shape), row by row."""
    shape = (3, 8, 9)
    flat = torch.randn(5, 4 * 3, 8, 9)
    d = Categorical(nn.Identity(), (12, 8, 9), shape, classes=4)(flat)
    torch.testing.assert_close(d.base_dist.logits, flat.reshape(5, 4, *shape).movedim(1, -1).log_softmax(-1))
    d = DiscretizedLogisticMixture(nn.Identity(), (3 * 4 * 3, 8, 9), shape, components=4)(torch.randn(5, 36, 8, 9))
    assert d.base_dist.logits.shape == (5, *shape, 4)


def test_a_users_own_encoder_reads_the_data():
    seen = []

    class Encoder(nn.Linear):
        def forward(self, x):
            seen.append(x)
            return super().forward(x)

    pair = pv.vae(4, latent=2, likelihood=Poisson, encoder=Encoder(4, 4))
    x = torch.full((3, 4), 7.0)
    pair.elbo(x=x)
    assert torch.equal(seen[-1], x)


def test_names_of_weights_are_those_of_before():
    pair = pv.vae(4, latent=2, likelihood=partial(Normal, scale="learned"), hidden=(3,))
    learned = {n.rpartition(".")[0] for n in pair.model.state_dict()} - {""}
    assert learned == {"likelihood", "likelihood.decoder.net.1", "likelihood.decoder.net.3"}
    assert {n.rpartition(".")[0] for n in pair.guide.state_dict()} == {
        "posterior.encoder.net.1",
        "posterior.encoder.net.3",
    }


def test_standardisation_belongs_to_the_story():
    """The same numbers in other units: log p moves by the logarithm of the unit and nothing else does."""
    centred = Normal(nn.Linear(2, 3), 2, 3, scale=0.5)
    shifted = Normal(centred.decoder.net, 2, 3, scale=0.5, mean=(10.0, 0.0, -4.0), std=(2.0, 1.0, 100.0))
    z, y = torch.randn(7, 2), torch.randn(7, 3)
    x = shifted.units.back(y)
    torch.testing.assert_close(
        shifted(z).log_prob(x) + math.log(200),
        centred(z).log_prob(y),
        rtol=1e-5,
        atol=1e-3,  # x - mean, of 100 / 0.5
    )
    assert set(shifted.state_dict()) >= {"units.mean", "units.std"}


# ---------------------------------------------------------------------- bad data and bad settings

BAD_DATA = {
    "Bernoulli": (Bernoulli, 0.5, "Bernoulli.*binarise them"),
    "ContinuousBernoulli": (ContinuousBernoulli, 1.5, r"ContinuousBernoulli.*to 1.5.*divide by the largest"),
    "Normal": (Normal, math.nan, "Normal.*NaN.*fill in the missing"),
    "Laplace": (Laplace, math.inf, "Laplace.*infinite.*fill in the missing"),
    "StudentT": (StudentT, -math.inf, "StudentT.*infinite.*fill in the missing"),
    "Categorical": (
        partial(Categorical, classes=3),
        3.0,
        r"Categorical.*to 3, such as 3\. .*number the categories from 0",
    ),
    "Categorical, between": (partial(Categorical, classes=3), 1.5, r"Categorical.*number the categories from 0"),
    "Categorical, nan": (partial(Categorical, classes=3), math.nan, r"Categorical.*number the categories from 0"),
    "Poisson": (Poisson, -2.0, "Poisson.*from -2.*pass what was counted"),
    "NegativeBinomial": (NegativeBinomial, 0.5, "NegativeBinomial.*pass what was counted"),
    "NegativeBinomial, infinite": (NegativeBinomial, math.inf, "NegativeBinomial.*pass what was counted"),
    "DiscretizedLogistic": (
        DiscretizedLogistic,
        0.3,
        r"DiscretizedLogistic \(the 256 levels of 8 bits\).*such as 0.3\. .*divide bytes by 255",
    ),
    "DiscretizedLogisticMixture": (DiscretizedLogisticMixture, 2.0, "DiscretizedLogisticMixture.*divide bytes by 255"),
    "Columns": (partial(Columns, columns=["real", "binary", "count", 3]), 3.0, "x, column 1: .*Bernoulli.*recode it"),
    "Columns, named": (
        partial(Columns, columns={"a": "count", "b": 2, "age": "count", "c": 9}),
        2.0,
        r"x, column 'b': .*Categorical.*to 2, such as 2\. .*number its values from 0",
    ),
    "Columns, nan": (
        partial(Columns, columns=["count", "real", 3, "real"]),
        math.nan,
        "x, column 1: .*Normal.*NaN.*missing",
    ),
    "Columns, count": (
        partial(Columns, columns=[9, "count", 3, "real"]),
        0.5,
        "x, column 1: .*NegativeBinomial.*counted",
    ),
}


@pytest.mark.parametrize("name", BAD_DATA)
def test_data_outside_the_support_are_refused_with_advice(name):
    likelihood, value, message = BAD_DATA[name]
    pair = pv.vae(4, latent=2, likelihood=likelihood, hidden=(3,))
    x = torch.zeros(10, 4)
    x[3, 1] = value
    bad = r"1 of (40|10) values lie outside the support of "
    with pytest.raises(ValueError, match=f"train: .*{message}") as caught:
        pv.fit(pair, x, epochs=1, progress=False)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=bad):
        pair.model.likelihood(torch.zeros(10, 2)).log_prob(x)
    svi = pyro.infer.SVI(*pair, pyro.optim.Adam({"lr": 1e-3}), pyro.infer.Trace_ELBO())
    if math.isfinite(value):  # plain SVI lets the encoder read NaN first
        with pytest.raises(ValueError, match=f"(?s){message}"):
            svi.step(x=x)


def one(likelihood, **settings):
    """Build it with a decoder that fits."""
    return lambda: pv.vae(4, latent=2, likelihood=partial(likelihood, **settings), hidden=(3,))


BAD_SETTINGS = {
    "classes one": (one(Categorical, classes=1), "classes: expected at least 2, found 1"),
    "classes float": (one(Categorical, classes=2.5), "classes: expected a whole number.*found 2.5"),
    "classes missing": (
        one(Categorical),
        r"likelihood: Categorical needs classes; pass functools.partial\(Categorical, cl",
    ),
    "columns missing": (lambda: pv.vae(4, likelihood=Columns), "likelihood: Columns needs columns; pass"),
    "bits zero": (one(DiscretizedLogistic, bits=0), "bits: .*at least 1, found 0"),
    "bits many": (one(DiscretizedLogisticMixture, bits=17), "bits: expected at most 16, found 17"),
    "components zero": (one(DiscretizedLogisticMixture, components=0), "components: .*at least 1, found 0"),
    "scale negative": (one(Laplace, scale=-1.0), "scale: .*greater than 0, found -1"),
    "scale word": (one(StudentT, scale="free"), "scale: unknown 'free', expected one of learned"),
    "df zero": (one(StudentT, df=0), "df: .*greater than 0, found 0"),
    "df word": (one(StudentT, df="many"), "df: unknown 'many', expected one of learned"),
    "std zero": (one(Normal, std=0.0), "std: expected numbers greater than 0, found 0"),
    "std one zero": (one(Laplace, std=(1.0, 2.0, 0.0, 1.0)), "std: expected numbers greater than 0, found 0"),
    "std negative": (one(StudentT, std=-2), "std: expected numbers greater than 0, found -2"),
    "std nan": (one(Normal, std=math.nan), "std: expected finite numbers, found nan"),
    "std infinite": (one(Normal, std=math.inf), "std: expected finite numbers, found inf"),
    "mean infinite": (one(Normal, mean=(0, 0, 0, math.inf)), "mean: expected finite numbers"),
    "mean word": (one(Normal, mean="data"), "mean: expected a number or nested sequences of numbers, found 'data'"),
    "mean short": (one(Normal, mean=(1.0, 2.0)), r"mean: expected numbers that broadcast to \(4,\), found \(2,\)"),
    "mean too deep": (one(Normal, mean=[[0.0] * 4] * 3), r"mean: .*broadcast to \(4,\), found \(3, 4\)"),
    "std per channel": (
        lambda: pv.vae((3, 8, 9), likelihood=partial(Normal, std=(1.0, 2.0, 3.0))),
        r"std: .*broadcast to \(3, 8, 9\), found \(3,\); one per channel has shape \(3, 1, 1\)",
    ),
    "unknown setting": (one(Poisson, rate=3.0), "rate"),
    "unknown setting of reals": (one(Normal, width=3.0), "width"),
    "column kind": (
        one(Columns, columns=["real", "reel", 2, 3]),
        "columns: 1: expected 'real', 'binary', 'count'.*'reel'",
    ),
    "column kind named": (
        one(Columns, columns={"a": 2, "b": 1, "c": 3, "d": 4}),
        "columns: 'b': .*at least 2, found 1",
    ),
    "column kind bool": (one(Columns, columns=["real", True, 2, 3]), "columns: 1: .*found True"),
    "column kind none": (one(Columns, columns=["real", None, 2, 3]), "columns: 1: .*found None"),
    "columns too few": (
        one(Columns, columns=["real", 2]),
        r"columns: expected as many kinds as data_shape \(4,\).*found 2",
    ),
    "columns of images": (
        lambda: pv.vae((4, 1), likelihood=partial(Columns, columns=["real"] * 4)),
        r"columns: expected as many kinds as data_shape \(4, 1\)",
    ),
    "columns word": (one(Columns, columns="real"), "columns: expected kinds, or a mapping.*found 'real'"),
    "columns std zero": (
        one(Columns, columns=["real", 2, "real", "count"], std=(1.0, 0.0, 0.0, 0.0)),
        "std: expected numbers greater than 0, found 0",
    ),
    "columns mean short": (
        one(Columns, columns=["real"] * 4, mean=(1.0,)),
        "mean: expected one number per column, 4, found 1",
    ),
    "decoder too narrow": (
        lambda: Categorical(nn.Linear(2, 4), 2, 4, classes=3),
        r"decoder: expected \(batch, 3, 4\) from an input of \(batch, 2\), found \(2, 4\)",
    ),
}


@pytest.mark.parametrize("name", BAD_SETTINGS)
def test_bad_settings_are_named(name):
    act, message = BAD_SETTINGS[name]
    with pytest.raises((ValueError, TypeError), match=message) as caught:
        act()
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------------- trained, drawn from, saved and loaded


def factor(n=300, d=4):
    """One hidden number per datum, and how it loads on the columns."""
    g = torch.Generator().manual_seed(1)
    u = torch.randn(n, 1, generator=g)
    return u * torch.linspace(-1.5, 1.5, d), g


def noisy(like):
    h, g = factor()
    return like(h, g)


def photographs(size=16, n=256):
    china = torch.as_tensor(np.array(load_sample_image("china.jpg"))).permute(2, 0, 1)
    patches = china.unfold(1, size, size).unfold(2, size, size).permute(1, 2, 0, 3, 4).reshape(-1, 3, size, size)
    return patches[torch.randperm(len(patches), generator=torch.Generator().manual_seed(0))[:n]].float() / 255


def heights():
    return noisy(lambda h, g: 170 + 10 * (h + 0.3 * torch.randn(h.shape, generator=g)))


def mixed():
    h, g = factor(d=6)
    noise = torch.rand(h.shape, generator=g)
    age = 40 + 15 * (h[:, 0] + 0.3 * torch.randn(len(h), generator=g))
    smoker, sex = ((noise[:, i] < torch.sigmoid(2 * h[:, i])).float() for i in (1, 5))
    town = ((h[:, 2] + noise[:, 2]) * 1.5 + 1.5).floor().clamp(0, 3)
    visits = torch.poisson(torch.exp(1 + h[:, 3]), generator=g)
    weight = -3 + 0.2 * (h[:, 4] + 0.3 * torch.randn(len(h), generator=g))
    return torch.stack([age, smoker, town, visits, weight, sex], -1)


TRAINED = {
    "Bernoulli": (Bernoulli, lambda: noisy(lambda h, g: torch.bernoulli(torch.sigmoid(2 * h), generator=g))),
    "ContinuousBernoulli": (
        ContinuousBernoulli,
        lambda: noisy(lambda h, g: torch.sigmoid(2 * h + 0.3 * torch.randn(h.shape, generator=g))),
    ),
    "Normal": (partial(Normal, scale="learned", mean=(170.0,) * 4, std=10.0), heights),
    "Laplace": (partial(Laplace, scale="learned", mean=170.0, std=10.0), heights),
    "StudentT": (partial(StudentT, df="learned", scale="learned", mean=170.0, std=10.0), heights),
    "Categorical": (partial(Categorical, classes=5), lambda: noisy(lambda h, g: (h + 2.5).floor().clamp(0, 4))),
    "Poisson": (Poisson, lambda: noisy(lambda h, g: torch.poisson(torch.exp(1.5 + h), generator=g))),
    "NegativeBinomial": (
        NegativeBinomial,
        lambda: noisy(lambda h, g: torch.poisson(torch.exp(1.5 + h + torch.randn(h.shape, generator=g)), generator=g)),
    ),
    "DiscretizedLogistic": (
        partial(DiscretizedLogistic, bits=4),
        lambda: noisy(lambda h, g: (torch.sigmoid(2 * h) * 15).round() / 15),
    ),
    "DiscretizedLogisticMixture": (partial(DiscretizedLogisticMixture, components=3), photographs),
    "Columns": (partial(Columns, columns=TABLE, **UNITS), mixed),
}


@pytest.mark.parametrize("name", TRAINED)
def test_trained_drawn_from_saved_and_loaded(name, tmp_path):
    likelihood, data = TRAINED[name]
    x = data()
    pair = pv.vae(x.shape[1:], latent=2, likelihood=likelihood, hidden=(32,))
    before = pair.elbo(x=x, particles=5, seed=0)
    pv.fit(pair, x, epochs=8, batch_size=32, lr=5e-3, device="cpu", progress=False)
    gain = pair.elbo(x=x, particles=5, seed=1) - before
    assert gain.mean() > 5 * gain.std() / math.sqrt(len(x))
    draws = pair.sample(50)
    assert draws.shape == (50, *x.shape[1:])
    checks.support(pair.model.likelihood(torch.zeros(50, 2)), draws)
    assert pv.evaluate(pair, x[:20], particles=2).data == 20
    again = pv.load(pair.save(tmp_path / "pair"))
    assert torch.equal(again.elbo(x=x, seed=2), pair.elbo(x=x, seed=2))
    told = json.loads((tmp_path / "pair" / "config.json").read_text())["arguments"]["likelihood"]
    assert told["class"] == f"pyro_vae.likelihoods.{name}"
    inherited = pv.beta_vae(x.shape[1:], beta=2.0, latent=2, likelihood=likelihood, hidden=(3,))
    assert inherited.sample(2).shape == (2, *x.shape[1:])


def test_settings_of_numpy_are_numbers():
    normal = build(partial(Normal, scale=np.float32(0.5)), (3,), torch.float32)
    assert float(normal(torch.zeros(2, 3)).base_dist.scale[0, 0]) == 0.5
    student = build(partial(StudentT, df=np.float64(3), scale=np.int64(2)), (3,), torch.float32)
    assert float(student(torch.zeros(2, 3)).base_dist.df[0, 0]) == 3


def test_the_mean_of_levels_takes_bounded_memory():
    """255 sigmoids per element are added up as they come."""
    big = DiscretizedLogistic(nn.Identity(), (2 * 3, 64, 64), (3, 64, 64))
    with torch.no_grad():
        assert big(torch.zeros(2, 6, 64, 64)).mean.shape == (2, 3, 64, 64)  # libraries are warm
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        assert big(torch.zeros(80, 6, 64, 64)).mean.shape == (80, 3, 64, 64)  # 4 MB, and 1 GB if kept
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 * 1024
