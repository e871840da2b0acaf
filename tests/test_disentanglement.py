"""Disentanglement: codes that follow one factor each, codes that say nothing, and what lies between, in numbers."""

import itertools
import json
import math
from collections import Counter

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from sklearn.metrics import mutual_info_score
from torch.utils.data import DataLoader, TensorDataset

import pyro_vae as pv
from pyro_vae.evaluation import (
    Disentanglement,
    beta_vae_score,
    dci,
    disentanglement,
    factor_vae_score,
    mig,
    sap,
)

SIZES = (3, 4, 5)
GRID = np.array(list(itertools.product(*map(range, SIZES))))
FACTORS = np.tile(GRID, (50, 1))  # 3,000 data, every combination as often
SCORES = {
    "mig": mig,
    "sap": sap,
    "disentanglement": lambda *given: dci(*given).disentanglement,
    "completeness": lambda *given: dci(*given).completeness,
    "beta": beta_vae_score,
    "factor": factor_vae_score,
}


def noise(n=3000, units=4, seed=0):
    return np.random.default_rng(seed).normal(size=(n, units))


def turned(angle=math.pi / 4):
    """The first two of three factors, in units of their standard deviation, turned into each other."""
    codes = (FACTORS - FACTORS.mean(0)) / FACTORS.std(0)
    c, s = math.cos(angle), math.sin(angle)
    return codes @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


# ---------------------------------------------------------------------- perfect codes

PERFECT = {
    "itself": FACTORS,
    "in another order, scale and direction": FACTORS[:, [2, 0, 1]] * [0.001, -3.0, 1e6] + [5.0, 0.0, 7.0],
    "bent": FACTORS**3,
    "beside noise": np.concatenate([noise(), FACTORS], 1),
    "beside dead units": np.concatenate([np.zeros((len(FACTORS), 2)), FACTORS, np.ones((len(FACTORS), 1))], 1),
    "as a tensor": torch.tensor(FACTORS, dtype=torch.float32, requires_grad=True),
}


@pytest.mark.parametrize("name", PERFECT)
def test_codes_with_a_unit_for_each_factor_are_perfect(name):
    codes = PERFECT[name]
    # of noise, n times twice the information is chi-squared with at most 19 (V - 1) degrees of freedom
    loss = (76 + 5 * math.sqrt(2 * 76)) / (2 * len(FACTORS)) / math.log(3) if "noise" in name else 1e-12
    if name != "bent":  # whose values share bins
        assert 1 - loss <= mig(codes, FACTORS) <= 1 + 1e-12
    found = dci(codes, FACTORS)
    assert found.informativeness == 1
    assert found.disentanglement == pytest.approx(1, abs=1e-3)
    assert found.completeness == pytest.approx(1, abs=1e-3)
    assert beta_vae_score(codes, FACTORS) == 1
    assert factor_vae_score(codes, FACTORS) == 1
    # the second unit has the accuracy of a guess, of as many held-out data as there are halves
    best = np.mean([1 - 1 / size for size in SIZES])
    error = math.sqrt(0.25 / (len(FACTORS) / 2))
    assert sap(codes, FACTORS) == pytest.approx(best, abs=5 * error)


# ---------------------------------------------------------------------- numbers by hand


@pytest.mark.parametrize("dead", [True, False])
def test_a_unit_that_merges_two_of_four_values(dead):
    factors = np.tile(np.arange(4), 100)[:, None]
    codes = np.minimum(factors, 2.0)
    if dead:
        codes = np.concatenate([np.full_like(codes, 3.0), codes], 1)
    # I = H(1/4, 1/4, 1/2) = 1.5 log 2, H(v) = 2 log 2; thresholds get one of the two merged values wrong, 3/4 - 1/4
    assert mig(codes, factors) == pytest.approx(0.75)
    assert sap(codes, factors) == 0.5


def test_the_second_unit_is_taken_off():
    factors = np.tile(np.arange(4), 100)[:, None]
    codes = np.concatenate([factors, factors % 2, factors // 2 * 0.1, np.minimum(factors, 2)], 1)
    # the second best knows 1.5 of 2 bits, and three of the four values; the first all of them
    assert mig(codes, factors) == pytest.approx(0.25)
    assert sap(codes, factors) == 0.25
    assert mig(codes[:, :3], factors) == pytest.approx(0.5)
    assert sap(codes[:, :3], factors) == 0.5


def test_two_copies_leave_no_gap():
    copies = np.repeat(FACTORS, 2, 1)
    assert mig(copies, FACTORS) == pytest.approx(0, abs=1e-12)
    assert sap(copies, FACTORS) == 0


def test_one_unit_for_two_factors():
    factors = np.tile(list(itertools.product(range(3), range(3))), (100, 1))
    codes = np.stack([3 * factors[:, 0] + factors[:, 1], np.zeros(900)], 1)
    found = dci(codes, factors)
    # the unit tells of both alike: no disentanglement, but each factor stands in one unit; the dead one weighs nothing
    assert found.completeness == pytest.approx(1)
    assert found.disentanglement == pytest.approx(0, abs=0.02)
    assert found.informativeness == 1
    # the only unit alive gets every vote, whichever factor it was
    assert factor_vae_score(codes, factors) == pytest.approx(0.5, abs=5 * math.sqrt(0.25 / 5000))


def test_the_disentanglement_of_importances_by_hand():
    from pyro_vae.evaluation.factor_scores import _pure

    gains = np.array([[0.5, 0.5], [1.0, 0.0], [0.0, 0.0], [0.9, 0.1]])
    entropy = -(0.9 * math.log2(0.9) + 0.1 * math.log2(0.1))
    np.testing.assert_allclose(_pure(gains), [0, 1, 0, 1 - entropy])


# ---------------------------------------------------------------------- other ways to compute them


def counted(codes, factors):
    """The mutual information gap as it is written, by counting pairs; histograms as Locatello et al. make them."""
    gaps = []
    for value in factors.T.tolist():
        told = []
        for unit in codes.T:
            bins = np.digitize(unit, np.histogram(unit, 20)[1][:-1]).tolist()
            n, joint, left, right = len(bins), Counter(zip(bins, value, strict=True)), Counter(bins), Counter(value)
            told.append(sum(c / n * math.log(c * n / (left[b] * right[v])) for (b, v), c in joint.items()))
            assert told[-1] == pytest.approx(mutual_info_score(bins, value), abs=1e-9)
        entropy = -sum(c / n * math.log(c / n) for c in right.values())
        first, second = sorted(told)[:-3:-1]
        gaps.append((first - second) / entropy)
    return sum(gaps) / len(gaps)


@pytest.mark.parametrize("seed", range(3))
def test_the_gap_is_that_of_counts(seed):
    codes = turned(0.4) @ noise(3, 5, seed) + 0.3 * noise(units=5, seed=seed)
    assert mig(codes, FACTORS) == pytest.approx(counted(codes, FACTORS), abs=1e-9)


def thresholds(unit, value, size):
    """Balanced accuracy of every way to cut a line of few points into pieces, the best of them."""
    places = np.unique(unit)
    shares = np.array([[np.mean(unit[value == v] == place) for place in places] for v in range(size)])
    best = 0.0
    for cuts in itertools.combinations(range(1, len(places)), min(size, len(places)) - 1):
        pieces = np.split(np.arange(len(places)), cuts)
        best = max(
            best, np.mean([max(shares[v, piece].sum() for v in range(size)) for piece in pieces]) * len(pieces) / size
        )
    return best


def test_accuracies_are_those_of_the_best_thresholds():
    # a noisy copy of a factor of three values, in whole numbers, beside a dead unit
    rng = np.random.default_rng(0)
    value = rng.choice(3, size=20_000, p=[0.2, 0.3, 0.5])
    unit = 2 * value + rng.choice(4, size=len(value))
    best = thresholds(unit, value, 3)
    # on 10,000 held-out data, of which each value has 2,000 at least
    error = math.sqrt(0.25 / 2000 / 3)
    codes = np.stack([unit, np.zeros_like(unit)], 1)
    assert sap(codes, value[:, None]) == pytest.approx(best - 1 / 3, abs=5 * error)


def test_a_linear_classifier_of_differences():
    # one unit follows the first factor and the other both: pairs alike in the second differ in both units, those alike
    # in the first in the second unit alone, which tells them apart whatever the classifier
    codes = np.stack([FACTORS[:, 0], FACTORS[:, 0] + 10 * FACTORS[:, 1]], 1)
    assert beta_vae_score(codes, FACTORS[:, :2]) == 1
    # with two copies of a sum that both factors move alike, nothing tells which it was
    same = np.tile(list(itertools.product(range(4), range(4))), (200, 1))
    codes = np.repeat(same.sum(1, keepdims=True), 2, 1)
    assert beta_vae_score(codes, same) == pytest.approx(0.5, abs=0.5 * leak(same, 2) + 5 * math.sqrt(0.25 / 5000))


def votes(codes, factors, rng, n):
    """Draws of which unit varies least within a group, as written, one at a time."""
    found = []
    for k in rng.integers(factors.shape[1], size=n):
        group = np.flatnonzero(factors[:, k] == factors[rng.integers(len(factors)), k])
        batch = codes[rng.choice(group, 64)]
        found.append((int(np.argmin(batch.var(0, ddof=1) / codes.var(0))), int(k)))
    return found


def test_votes_are_those_of_a_plain_loop():
    codes = np.concatenate([turned(0.7), noise(units=1)], 1) + 0.5 * noise()
    rng = np.random.default_rng(1)
    majority = Counter(votes(codes, FACTORS, rng, 2000))
    label = {d: max(range(3), key=lambda k: majority[d, k]) for d in range(4)}
    plain = np.mean([label[d] == k for d, k in votes(codes, FACTORS, rng, 2000)])
    assert 0.5 < plain < 0.99
    found = factor_vae_score(codes, FACTORS)
    assert found == pytest.approx(plain, abs=5 * math.sqrt(0.25 / 2000 + 0.25 / 5000) + leak(FACTORS, 1))


# ---------------------------------------------------------------------- codes that say nothing


def leak(factors, units):
    """How far the chance of a vote may move, as codes of a group of finitely many data differ from all by accident.

    The mean of a statistic over 64 of m data is off by 1 / sqrt(m) of a standard deviation, against its own noise of
    1 / sqrt(64): a half-space then has another probability by at most the density of a normal, 0.4, times that.
    """
    m = len(factors) / 2 / (factors.max() + 1)
    return 0.4 * math.sqrt(64 * units / m)


@pytest.mark.parametrize("seed", range(2))
def test_codes_of_noise_score_as_chance(seed):
    factors = np.tile(list(itertools.product(range(2), range(3))), (3000, 1))
    n, units = len(factors), 4
    codes = noise(n, units, seed)
    degrees = 19 * 2  # of chi-squared, which 2 n times the information of independent numbers is
    assert 0 <= mig(codes, factors) <= (degrees + 6 * math.sqrt(2 * degrees)) / (2 * n) / math.log(2)
    # the best of four less the second: no more than all of their range, each off by a balanced accuracy's error
    assert 0 <= sap(codes, factors, seed=seed) <= 2 * 4 * math.sqrt(0.25 / (n / 2))
    found = dci(codes, factors, seed=seed)
    # 1 - H is about J / (2 log J) times the squared deviations of shares from 1 / J, which are those of 7 splits that
    # fall on any unit, even if all trees made the same
    bound = units / (2 * math.log(units)) * (1 - 1 / units) / 7
    assert 0 <= found.completeness <= bound
    assert 0 <= found.disentanglement <= 1.5 * bound * math.log(4) / math.log(2)  # of two factors, the base is 2
    chance = (1 / 2 + 1 / 3) / 2
    assert found.informativeness == pytest.approx(chance, abs=5 * math.sqrt(0.25 / (n / 2)))
    for score in (beta_vae_score, factor_vae_score):
        near = leak(factors, units) + 5 * math.sqrt(0.25 / 5000)
        assert score(codes, factors, seed=seed) == pytest.approx(0.5, abs=near)


def test_dead_codes_score_as_chance():
    codes = np.full((len(FACTORS), 3), 0.1)
    guess = 5 * math.sqrt(1 / 3 * 2 / 3 / 5000)
    assert mig(codes, FACTORS) == sap(codes, FACTORS) == 0
    found = dci(codes, FACTORS)
    assert found[:2] == (0, 0)
    half = len(FACTORS) / 2
    assert found.informativeness == pytest.approx(np.mean([1 / s for s in SIZES]), abs=5 * math.sqrt(0.25 / half))
    assert beta_vae_score(codes, FACTORS) == pytest.approx(1 / 3, abs=guess)
    assert factor_vae_score(codes, FACTORS) == pytest.approx(1 / 3, abs=guess)


def test_units_that_hardly_vary_get_no_vote():
    # a unit that jumps at one datum only has no variance in most groups, and would get the votes
    spike = np.zeros((len(FACTORS), 1))
    spike[0] = 1.0
    codes = np.concatenate([FACTORS + 0.1 * noise(units=3), spike], 1)
    assert factor_vae_score(codes, FACTORS) < 0.7
    assert factor_vae_score(codes, FACTORS, dead=0.01) > 0.99


# ---------------------------------------------------------------------- between


@pytest.mark.parametrize("score", SCORES)
def test_mixed_codes_lie_between(score):
    perfect, mixed, nothing = (SCORES[score](c, FACTORS) for c in (FACTORS, turned(), noise(units=3)))
    assert perfect - 0.05 > mixed > nothing + 0.05


@pytest.mark.parametrize("score", SCORES)
def test_the_order_and_the_scale_of_units_do_not_matter(score):
    codes = turned(0.3) + 0.2 * noise(units=3)
    found = SCORES[score](codes, FACTORS)
    assert SCORES[score](codes * [0.25, 64.0, 2.0], FACTORS) == pytest.approx(found, abs=1e-9)
    # of forests and of classifiers the random numbers are other ones; of the forest the first units get what ties
    close = {"disentanglement": 0.03, "completeness": 0.03, "beta": 0.01}.get(score, 1e-9)
    assert SCORES[score](codes[:, [2, 0, 1]], FACTORS) == pytest.approx(found, abs=close)
    assert SCORES[score](codes * [-1, 1, -1], FACTORS) == pytest.approx(found, abs=close)


@pytest.mark.parametrize("score", SCORES)
def test_the_names_of_values_and_the_order_of_factors_do_not_matter(score):
    codes = turned(0.3) + 0.2 * noise(units=3)
    renamed = FACTORS * 7 - 3
    assert SCORES[score](codes, renamed) == SCORES[score](codes, FACTORS)
    other = SCORES[score](codes, FACTORS[:, ::-1])
    assert other == pytest.approx(SCORES[score](codes, FACTORS), abs=5 * math.sqrt(2 * 0.25 / 5000))


@pytest.mark.parametrize("score", SCORES)
def test_scores_depend_on_the_seed_alone(score):
    codes = turned(0.3) + noise(units=3)
    np.random.seed(1)  # noqa: NPY002
    first = SCORES[score](codes, FACTORS)
    np.random.seed(2)  # noqa: NPY002
    assert SCORES[score](codes, FACTORS) == first


# ---------------------------------------------------------------------- of pairs


def pair(labels=False):
    """A pair with three codes, of which the guide reads two off the data; its category is no continuous one."""

    def model(x=None, n=1):
        with pyro.plate("data", n if x is None else len(x)):
            a = pyro.sample("a", dist.Normal(torch.zeros(2), 1).to_event(1))
            pyro.sample("c", dist.OneHotCategorical(torch.ones(3)))
            b = pyro.sample("b", dist.LogNormal(a[..., 0], 1))
            pyro.sample("x", dist.Normal(torch.stack([a[..., 0], a[..., 1], b], -1), 1).to_event(1), obs=x)

    def guide(x=None):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(x[:, [2, 0]], 0.1).to_event(1))
            pyro.sample("c", dist.OneHotCategorical(torch.ones(3)))
            pyro.sample("b", dist.LogNormal(a[:, 1] + x[:, 1], 0.1))

    return pv.Variant(model, guide)


def test_codes_are_the_means_of_all_continuous_sites():
    factors = torch.tensor(FACTORS)[torch.randperm(len(FACTORS))]
    x = factors.float()
    # the second site stands at its mean, along the mean of the first
    codes = torch.stack([x[:, 2], x[:, 0], torch.exp(x[:, 0] + x[:, 1] + 0.1**2 / 2)], 1)
    found = disentanglement(pair(), x, factors=factors, seed=3)
    assert (found.data, found.units, found.active, found.factors) == (3000, 3, 3, 3)
    assert found.mig == pytest.approx(mig(codes, factors), abs=1e-6)
    assert found.sap == sap(codes, factors, seed=3)
    expected = dci(codes, factors, seed=3)
    told = (found.dci_disentanglement, found.dci_completeness, found.dci_informativeness)
    assert told == pytest.approx(expected, abs=0.01)
    assert found.beta_vae == pytest.approx(beta_vae_score(codes, factors, seed=3), abs=0.002)
    assert found.factor_vae == factor_vae_score(codes, factors, seed=3)
    again = disentanglement(pair(), {"x": x.numpy()}, factors=factors.numpy(), seed=3, batch_size=700, rows=50)
    assert again == found


def test_it_leaves_random_numbers_and_the_pair_alone():
    variant = pv.vae((1, 8, 8), latent=2)
    x, factors = torch.rand(60, 1, 8, 8).round(), torch.arange(60)[:, None] // torch.tensor([30, 1]) % 3
    before = torch.get_rng_state()
    variant.train()
    disentanglement(variant, x, factors=factors)
    assert torch.equal(torch.get_rng_state(), before)
    assert variant.training


class Centroids(torch.nn.Module):
    """A guide that reads off where a sprite lies."""

    def forward(self, x):
        mass = x.sum((1, 2, 3)).clamp(min=1)[:, None]
        at = torch.arange(64.0)
        middle = torch.stack([x.sum((1, 2)) @ at, x.sum((1, 3)) @ at], 1) / mass
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal((middle - 32) / 10, 0.1).to_event(1))


def test_sprites_bring_their_factors():
    sprites = pv.data.load("sprites", "test").subset(4000)
    variant = pv.Variant(pv.vae(sprites.shape, latent=2).model, Centroids())
    places = disentanglement(variant, sprites, factors=sprites.factors[:, 3:])
    # 16 places are 2 pixels apart, and a bin is 30 / 20 of a pixel wide; the other unit tells of a place by chance, and
    # 2 n times that is chi-squared with 19 x 15 degrees of freedom
    lost = (285 + 5 * math.sqrt(2 * 285)) / (2 * 4000) / math.log(16)
    assert 1 - lost <= places.mig <= 1
    assert places.beta_vae == places.factor_vae == 1
    assert places.dci_disentanglement > 0.95
    assert places.sap == pytest.approx(1 - 1 / 16, abs=0.05)
    everything = disentanglement(variant, sprites)
    assert (everything.factors, everything.units) == (5, 2)
    assert everything.mig == pytest.approx(2 / 5 * places.mig, abs=0.02)  # of the other three no unit tells anything


def test_the_report_prints_and_is_plain():
    found = Disentanglement(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 1000, 10, 6, 5)
    lines = str(found).splitlines()
    assert len(lines) == 8
    assert lines[0].split()[:2] == ["mig", "0.100"]
    assert lines[-2].endswith("groups; 0.200 by chance")
    assert lines[-1] == "1000 data, 10 units, 6 of them active, 5 factors"
    assert json.loads(json.dumps(found.to_dict())) == {**vars(found)}


def categories(x=None, n=1):
    with pyro.plate("data", n if x is None else len(x)):
        c = pyro.sample("c", dist.OneHotCategorical(torch.ones(3)))
        pyro.sample("x", dist.Normal(c, 1).to_event(1), obs=x)


def guessed(x=None):
    with pyro.plate("data", len(x)):
        pyro.sample("c", dist.OneHotCategorical(torch.ones(3)))


def without_mean(x=None):
    with pyro.plate("data", len(x)):
        pyro.sample("a", dist.Normal(x[:, [2, 0]], 0.1).to_event(1))
        pyro.sample("c", dist.OneHotCategorical(torch.ones(3)))
        pyro.sample("b", NoCentre(x[:, 1], 1.0))


class NoCentre(dist.Normal):
    @property
    def mean(self):
        raise NotImplementedError

    mode = mean


def labelled():
    digits = pv.data.load("digits", "test", binarise="threshold", labelled=20)
    factors = torch.arange(len(digits.x))[:, None] // torch.tensor([1, 2]) % 2
    return disentanglement(pv.m2((1, 8, 8), latent=2, classes=10), digits, factors=factors)


X, V = torch.tensor(FACTORS).float(), FACTORS
REFUSED = {
    "no factors": (lambda: disentanglement(pair(), X), "factors: the data bring none"),
    "one row": (lambda: mig(X, V[:, 0]), r"factors: expected \(n, factors\) whole numbers, found int64 of shape"),
    "fractions": (lambda: sap(X, X), r"factors: expected .* whole numbers, found float32"),
    "logical": (lambda: dci(X, V > 0), r"factors: expected .* whole numbers, found bool"),
    "lengths": (lambda: dci(X, V[:-1]), "factors: expected 3000, one row per datum, found 2999"),
    "lengths of data": (lambda: disentanglement(pair(), X[:9], factors=V), "factors: expected 9, one row per datum"),
    "constant": (
        lambda: mig(X, V * [1, 0, 1]),
        "factors: column 1: expected a factor that varies, found the value 0 only",
    ),
    "single": (lambda: dci(X, V[:, :1]), "factors: expected at least 2 columns, found one factor only"),
    "single, beta": (lambda: beta_vae_score(X, V[:, :1]), "factors: expected at least 2 columns"),
    "single, factor": (lambda: factor_vae_score(X, V[:, :1]), "factors: expected at least 2 columns"),
    "no columns": (lambda: mig(X, V[:, :0]), "factors: expected at least 1 column, found none"),
    "alone": (
        lambda: beta_vae_score(X, np.stack([np.arange(3000), V[:, 0]], 1)),
        "factors: column 0: expected values that several data share, found 1500 alone",
    ),
    "codes of one dimension": (lambda: mig(X[:, 0], V), r"codes: expected \(n, units\) finite numbers, found float32"),
    "no codes": (lambda: mig(X[:, :0], V), r"codes: expected \(n, units\) finite numbers"),
    "codes not finite": (lambda: sap(X / 0, V), r"codes: expected \(n, units\) finite numbers"),
    "dead": (lambda: factor_vae_score(X, V, dead=-1), "dead: expected a finite number of at least 0, found -1"),
    "loader": (
        lambda: disentanglement(pair(), DataLoader(TensorDataset(X)), factors=V),
        "data: expected data in memory, found a DataLoader, which has its own order",
    ),
    "categories": (
        lambda: disentanglement(pv.Variant(categories, guessed), X, factors=V),
        r"variant: expected a continuous latent site, found \['c'\]",
    ),
    "no mean": (
        lambda: disentanglement(pv.Variant(pair().model, without_mean), X, factors=V),
        "b: its posterior has no mean, which its code would be",
    ),
    "some labels": (labelled, "data: expected labels of all data or of none, found some of them missing"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_scored_is_refused_in_one_line(name):
    act, message = REFUSED[name]
    with pytest.raises(ValueError, match=message) as error:
        act()
    assert "\n" not in str(error.value)


def test_something_else_than_a_pair_is_refused():
    with pytest.raises(TypeError, match="variant: expected a Variant, found Tensor"):
        disentanglement(X, X, factors=V)
