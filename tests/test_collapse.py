"""The collapse report: levels and units of a linear-Gaussian hierarchy, in which every figure is known.

    z2 ~ N(0, I),   z1 | z2 ~ N(A z2, s1^2 I),   x | z1 ~ N(B z1, I)

The guides are arbitrary linear ones, top-down q(z2 | x) q(z1 | z2, x) and bottom-up q(z1 | x) q(z2 | z1).
"""

import json
import logging
import math
import operator
import re

import matplotlib.pyplot as plt
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import pyro_vae as pv
from pyro_vae import plot
from pyro_vae.evaluation import Collapse, top_level
from pyro_vae.infer.activity import ADVICE, Activity
from pyro_vae.train import Run, loop

TOP, LOW, DATA = 2, 3, 4
S1 = 0.8


def table(*shape, seed=0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)


A, B = table(LOW, TOP, seed=1), table(DATA, LOW, seed=2)


class Story(nn.Module):
    """p(z2) p(z1 | z2) p(x | z1)"""

    def __init__(self, above=A):
        super().__init__()
        self.above, self.below = nn.Parameter(above.clone()), nn.Parameter(B.clone())
        self.decoded = 0

    def forward(self, x=None, n=1):
        with pyro.plate("data", n if x is None else len(x)):
            z2 = pyro.sample("z2", dist.Normal(self.above.new_zeros(TOP), 1).to_event(1))
            z1 = pyro.sample("z1", dist.Normal(z2 @ self.above.T, S1).to_event(1))
            self.decoded += z1[..., 0].numel()
            return pyro.sample("x", dist.Normal(z1 @ self.below.T, 1).to_event(1), obs=x)


class TopDown(nn.Module):
    """q(z2 | x) = N(C2 x, d2^2),   q(z1 | z2, x) = N(C1 x + D z2, d1^2)"""

    def __init__(self, C2, C1, D, d2=(0.5, 0.7), d1=(0.3, 0.6, 0.9), flat=False):
        super().__init__()
        self.C2, self.C1, self.D = (nn.Parameter(v.clone()) for v in (C2, C1, D))
        self.d2, self.d1 = (torch.tensor(v, dtype=torch.float64) for v in (d2, d1))
        self.flat = flat

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(x @ self.C2.T, self.d2).to_event(1))
            if self.flat and z2.dim() != 2:
                raise RuntimeError("expected 2 dimensions")
            pyro.sample("z1", dist.Normal(x @ self.C1.T + z2 @ self.D.T, self.d1).to_event(1))


class BottomUp(nn.Module):
    """q(z1 | x) = N(C1 x, d1^2),   q(z2 | z1) = N(E z1, d2^2)"""

    def __init__(self, C1, E, d1=(0.3, 0.6, 0.9), d2=(0.5, 0.7), flat=False):
        super().__init__()
        self.C1, self.E = nn.Parameter(C1.clone()), nn.Parameter(E.clone())
        self.d2, self.d1 = (torch.tensor(v, dtype=torch.float64) for v in (d2, d1))
        self.flat = flat

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z1 = pyro.sample("z1", dist.Normal(x @ self.C1.T, self.d1).to_event(1))
            if self.flat and z1.dim() != 2:
                raise RuntimeError("expected 2 dimensions")
            pyro.sample("z2", dist.Normal(z1 @ self.E.T, self.d2).to_event(1))


C2, C1, D = table(TOP, DATA, seed=3, scale=0.5), table(LOW, DATA, seed=4, scale=0.4), table(LOW, TOP, seed=5)
E = table(TOP, LOW, seed=6, scale=0.6)


def top_down(flat=False):
    return pv.Variant(Story(), TopDown(C2, C1, D, flat=flat))


def bottom_up(flat=False, **scales):
    return pv.Variant(Story(), BottomUp(C1, E, flat=flat, **scales))


@pytest.fixture
def x():
    return table(300, DATA, seed=7)


def expected(pair, x):
    """KL of each unit, averaged over x, and the means E_q[u] of each datum, by algebra."""
    guide, eye = pair.guide, torch.eye(LOW, dtype=torch.float64)
    d2, d1 = guide.d2**2, guide.d1**2
    if isinstance(guide, TopDown):
        z2 = x @ C2.T
        kl2 = 0.5 * (z2**2 + d2 - 1 - d2.log())
        gap = (x @ C1.T + z2 @ (D - A).T) ** 2 + (D - A) ** 2 @ d2
        kl1 = 0.5 * ((d1 + gap) / S1**2 - 1 - d1.log()) + math.log(S1)
        means = {"z2": z2, "z1": x @ C1.T + z2 @ D.T}
    else:
        z1 = x @ C1.T
        z2 = z1 @ E.T
        kl2 = 0.5 * (z2**2 + E**2 @ d1 + d2 - 1 - d2.log())
        gap = (z1 @ (eye - A @ E).T) ** 2 + (eye - A @ E) ** 2 @ d1 + A**2 @ d2
        kl1 = 0.5 * (gap / S1**2 - 1 - d1.log()) + math.log(S1)
        means = {"z2": z2, "z1": z1}
    return {"z2": kl2.mean(0), "z1": kl1.mean(0)}, means


@pytest.mark.parametrize("build", [top_down, bottom_up])
@pytest.mark.parametrize("flat", [False, True], ids=["plate", "copies"])
def test_every_figure_of_a_linear_gaussian_hierarchy(build, flat, x):
    pair = build(flat=flat)
    reports = [pv.collapse_report(pair, x, seed=seed) for seed in range(8)]
    assert [level.site for level in reports[0].levels] == ["z2", "z1"]  # as in the model, not the guide
    kl, means = expected(pair, x)
    for site, units in (("z2", TOP), ("z1", LOW)):
        levels = [report[site] for report in reports]
        found = torch.stack([level.unit_kl for level in levels])
        assert found.shape == (8, units)
        error = found.std(0) / 8**0.5
        assert ((found.mean(0) - kl[site]).abs() < 5 * error).all()
        assert (error < 0.02 * (1 + kl[site])).all()
        variance = torch.stack([level.variance for level in levels])
        truth = means[site].var(0, correction=0)
        assert ((variance.mean(0) - truth).abs() < 5 * variance.std(0) / 8**0.5 + 1e-9).all()
        for level in levels:
            assert level.kl == float(level.unit_kl.sum())
            assert (level.units, level.data, level.active) == (units, 300, int((truth > 0.01).sum()))
    assert (reports[0].particles, reports[0].data, reports[0].top) == (16, 300, "z2")


def test_the_site_whose_posterior_has_no_ancestors_has_the_variance_of_its_means(x):
    for pair, site in ((top_down(), "z2"), (bottom_up(), "z1")):
        truth = expected(pair, x)[1][site].var(0, correction=0)
        torch.testing.assert_close(pv.collapse_report(pair, x, particles=3)[site].variance, truth.detach())


@pytest.mark.parametrize("particles", [1, 300])
def test_any_number_of_particles(particles, x):
    pair = top_down()
    report = pv.collapse_report(pair, x[:60], particles=particles, batch_size=25)  # 300 come in two parts
    kl, _ = expected(pair, x[:60])
    for level in report.levels:
        truth = kl[level.site].detach().numpy()
        assert level.unit_kl.numpy() == pytest.approx(truth, rel=0.5 if particles == 1 else 0.05)


def test_chunks_change_nothing(x):
    pair = top_down()
    whole, parts = (pv.collapse_report(pair, x, rows=rows, batch_size=size) for rows, size in ((None, 1000), (50, 77)))
    for one, other in zip(whole.levels, parts.levels, strict=True):
        assert other.unit_kl.numpy() == pytest.approx(one.unit_kl.numpy(), rel=0.2)
        assert (other.site, other.active, other.data) == (one.site, one.active, one.data)
    assert parts.mutual_information == pytest.approx(whole.mutual_information, abs=0.1)


def test_it_agrees_with_the_report_and_repeats_itself(x):
    pair = top_down()
    report, again = (pv.collapse_report(pair, x).to_dict() for _ in range(2))
    assert report == again
    full = pv.evaluate(pair, x, particles=50)
    for site, level in report["levels"].items():
        assert level["kl"] == pytest.approx(full.kl[site], rel=0.05)
        assert (level["active"], level["units"]) == (full.active_units[site], full.units[site])
    state = torch.get_rng_state()
    pv.collapse_report(pair.train(), x)
    assert pair.training
    assert torch.equal(torch.get_rng_state(), state)


def test_nothing_is_decoded(x):
    pair = top_down()
    pv.collapse_report(pair, x)
    assert pair.model.decoded < 30  # two data, to see whether they fit


# ---------------------------------------------------------------------- mutual information


def channel(loc, scale, covariance=None):
    """I(x; z) of z ~ N(loc x, diag scale^2), x ~ N(0, covariance)."""
    covariance = torch.eye(DATA, dtype=torch.float64) if covariance is None else covariance
    noise = torch.diag(scale**2) if scale.dim() == 1 else scale
    return float(0.5 * (torch.logdet(loc @ covariance @ loc.T + noise) - torch.logdet(noise)))


def test_information_of_the_top_level_where_the_guide_draws_it_first():
    pair, x = top_down(), table(3000, DATA, seed=8)
    report = pv.collapse_report(pair, x, particles=2)
    truth = channel(C2, pair.guide.d2, torch.cov(x.T, correction=0))
    assert report.draws == 500
    assert abs(report.mutual_information - truth) < 4 * report.mutual_information_error < 0.15
    assert truth > 0.5


def by_hand(loc, covariance, draws=20_000):
    """I of the data and the codes z ~ N(loc_n, covariance), n one of them, by draws of that mixture; and its error."""
    n = torch.randint(len(loc), (draws,), generator=torch.Generator().manual_seed(0))
    normal = torch.distributions.MultivariateNormal(loc, covariance)
    z = loc[n] + table(draws, loc.shape[1], seed=9) @ torch.linalg.cholesky(covariance).T
    terms = []
    for some in torch.arange(draws).split(1000):
        log_q = normal.log_prob(z[some, None])
        terms.append(log_q[torch.arange(len(some)), n[some]] - log_q.logsumexp(1) + math.log(len(loc)))
    return float(torch.cat(terms).mean()), float(torch.cat(terms).std()) / draws**0.5


def test_information_is_exact_given_the_data():
    pair, x = top_down(), table(40, DATA, seed=8)
    truth, error = by_hand(x @ C2.T, torch.diag(pair.guide.d2**2))
    found = [pv.collapse_report(pair, x, particles=1, seed=seed).mutual_information for seed in range(20)]
    assert abs(np.mean(found) - truth) < 4 * math.hypot(np.std(found) / 20**0.5, error)
    assert 0 < min(found) < max(found) < math.log(40)


def test_information_where_the_top_level_has_ancestors_in_the_guide():
    x = table(300, DATA, seed=8)
    biases = []
    # the ancestors move the site by less than its width, and by more
    for d1, d2 in (((0.1, 0.2, 0.3), (0.5, 0.7)), ((0.9, 0.9, 0.9), (0.3, 0.3))):
        pair = bottom_up(d1=d1, d2=d2)
        spread = torch.diag(pair.guide.d2**2) + E @ torch.diag(pair.guide.d1**2) @ E.T
        truth, error = by_hand(x @ (E @ C1).T, spread)
        found = [pv.collapse_report(pair, x, seed=seed) for seed in range(3)]
        assert found[0].draws == top_level.FEW == 200
        nats = [report.mutual_information for report in found]
        assert np.std(nats) < 3 * found[0].mutual_information_error < 0.5
        biases.append((np.mean(nats) - truth, math.hypot(error, found[0].mutual_information_error / 3**0.5)))
    assert abs(biases[0][0]) < 4 * biases[0][1]
    assert -0.5 < biases[1][0] < 4 * biases[1][1], "too low rather than too high, as the docstring says"


def test_codes_that_never_meet_hold_log_n():
    for apart in (top_down(), bottom_up()):
        x = 1e4 * table(60, DATA)
        report = pv.collapse_report(apart, x)
        assert report.mutual_information == pytest.approx(math.log(60), abs=1e-9)


def test_information_of_networks_that_know_one_batch_dimension(x):
    for build in (top_down, bottom_up):
        plate, copies = (pv.collapse_report(build(flat=flat), x) for flat in (False, True))
        assert copies.mutual_information == pytest.approx(
            plate.mutual_information, abs=3 * plate.mutual_information_error
        )


class Noisy(Dataset):
    def __init__(self, x, noise):
        self.x, self.noise = x, noise

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i] + self.noise()


@pytest.mark.parametrize("build", [top_down, bottom_up])
def test_streams_that_do_not_repeat_themselves_have_no_information(build, x):
    pair, generator = build(), np.random.default_rng(0)
    assert pv.collapse_report(pair, DataLoader(TensorDataset(x), 64, shuffle=True)).mutual_information is not None
    report = pv.collapse_report(pair, Noisy(x, generator.standard_normal))
    assert report.mutual_information is None
    assert "mutual information" not in str(report)
    assert report["z1"].active == 3


def test_one_datum(x):
    report = pv.collapse_report(top_down(), x[:1])
    level = report["z2"]
    assert (level.active, level.variance, level.data) == (None, None, 1)
    assert report.verdicts == []
    assert report.mutual_information == 0
    assert json.loads(json.dumps(report.to_dict()))["mutual_information_error"] is None


# ---------------------------------------------------------------------- what has collapsed


def test_a_collapsed_top_level_is_named(x):
    pair = pv.Variant(Story(), TopDown(0 * C2, C1, D, d2=(1.0, 1.0)))
    report = pv.collapse_report(pair, x)
    top, low = report.levels
    assert top.kl == 0
    assert (top.active, low.active) == (0, 3)
    assert (top.collapsed, low.collapsed) == (True, False)
    assert report.mutual_information == pytest.approx(0, abs=1e-9)
    assert report.verdicts == ["z2 has COLLAPSED: none of its 2 units follows the data, the model ignores it"]
    assert "WarmUp" in report.advice
    assert str(report).endswith(report.advice)


def test_the_advice_names_what_there_is():
    names = re.findall(r"pv\.([\w.]+)", ADVICE)
    assert len(names) == 4
    for name in names:
        assert operator.attrgetter(name)(pv), name


def test_a_level_that_copies_its_prior_is_named_though_its_means_follow_the_data(x):
    pair = pv.Variant(Story(), TopDown(C2, 0 * C1, A, d1=(S1,) * 3))
    level = pv.collapse_report(pair, x)["z1"]
    assert level.kl == pytest.approx(0, abs=1e-9)
    assert level.active == 3
    assert level.verdict == "z1 has COLLAPSED onto its prior: it says nothing of the data that is not said above it"
    assert pv.evaluate(pair, x, particles=20).verdicts == [level.verdict]


def test_draws_of_the_ancestors_alone_make_no_unit_active(x):
    """Means that move with a collapsed ancestor vary by 1/16 of its variance when averaged over 16 draws."""
    pair = pv.Variant(Story(), TopDown(0 * C2, 0 * C1, A, d2=(1.0, 1.0), d1=(S1,) * 3))
    assert ((A**2).sum(1) / 16 > 0.01).all()
    report = pv.collapse_report(pair, table(1000, DATA))
    assert [level.active for level in report.levels] == [0, 0]
    assert [level.collapsed for level in report.levels] == [True, True]
    assert pv.evaluate(pair, table(1000, DATA), particles=16).active_units == {"z2": 0, "z1": 0}


def test_one_collapsed_unit_is_counted(x):
    guide = TopDown(C2 * torch.tensor([[1.0], [0.0]]), C1, D, d2=(0.5, 1.0))
    report = pv.collapse_report(pv.Variant(Story(), guide), x)
    level = report["z2"]
    assert level.unit_kl[1] == 0
    assert level.active == 1
    assert report.verdicts == ["z2: 1 of 2 units have collapsed onto the prior"]
    assert report.advice == ""


@pytest.mark.parametrize(("scale", "active"), [(0.0999, 0), (0.1001, 1)])
def test_a_unit_is_active_above_a_variance_of_one_hundredth(scale, active, x):
    unit = (x[:, 0] - x[:, 0].mean()) / x[:, 0].std(correction=0)
    data = torch.stack([scale * unit, *3 * [0 * unit]], 1)
    guide = TopDown(torch.eye(TOP, DATA, dtype=torch.float64), C1, D)
    level = pv.collapse_report(pv.Variant(Story(), guide), data)["z2"]
    assert level.variance.numpy() == pytest.approx([scale**2, 0], abs=1e-12)
    assert level.active == active


def test_the_running_variance_is_that_of_all_data_less_the_noise_of_the_draws():
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(500, 3, generator=generator, dtype=torch.float64) * torch.tensor([0.0, 0.1, 2.0])
    draws = 5 + truth + 0.5 * torch.randn(16, 500, 3, generator=generator, dtype=torch.float64)
    activity = Activity()
    for part in draws.split([13, 200, 287], dim=1):
        for some in part.split(7):
            activity.add(some, 16)
    means = draws.mean(0)
    noise = draws.var(0).mean(0) / 16 * (1 - 1 / 500)
    by_hand = (means.var(0, correction=0) - noise).clamp(min=0)
    torch.testing.assert_close(activity.variance, by_hand)
    assert activity.variance[0] < 0.004 < 0.5**2 / 16
    assert (activity.units, activity.size, activity.active) == (3, 500, int((by_hand > 0.01).sum()))


# ---------------------------------------------------------------------- sites of every kind


def test_events_of_any_shape_are_units():
    weights = torch.zeros(2, 3, 3).double()
    weights[0] = 0.4  # the units of the first channel follow the data

    def model(x=None, n=1):
        with pyro.plate("data", n if x is None else len(x)):
            z2 = pyro.sample("z2", dist.Normal(torch.zeros(3).double(), 1).to_event(1))
            z1 = pyro.sample("z1", dist.Normal(z2[..., None, None, :].expand(*z2.shape[:-1], 2, 3, 3), 1).to_event(3))
            return pyro.sample("x", dist.Normal(z1.sum((-1, -2, -3)), 1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(torch.zeros(3).double(), 1).to_event(1))
            loc = z2[..., None, None, :] + weights * x[:, None, None, None]
            pyro.sample("z1", dist.Normal(loc, 0.5).to_event(3))

    x = table(400)
    level = pv.collapse_report(pv.Variant(model, guide), x)["z1"]
    kl = 0.5 * (weights.flatten() ** 2 * x.square().mean() + 0.25 - 1 - math.log(0.25))
    assert level.unit_kl.numpy() == pytest.approx(kl.numpy(), abs=0.03)
    assert level.active == 9
    assert (level.variance[:9] > 0.1).all()
    assert (level.variance[9:] < 0.01).all()
    assert level.units == 18


def discrete(family, probs_of):
    def model(x=None, n=1):
        with pyro.plate("data", n if x is None else len(x)):
            k = pyro.sample("k", family(torch.full((3,), 1 / 3).double()))
            k = k.unsqueeze(-1).double() if family is dist.Categorical else k
            z = pyro.sample("z", dist.Normal(k[..., :1].expand(*k.shape[:-1], 2), 1).to_event(1))
            return pyro.sample("x", dist.Normal(z, 1).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", family(probs_of(x)))
            k = k.unsqueeze(-1).double() if family is dist.Categorical else k
            pyro.sample("z", dist.Normal(x + k[..., :1], 0.5).to_event(1))

    return pv.Variant(model, guide)


def probabilities(x):
    return torch.softmax(2 * torch.stack([x[:, 0], x[:, 1], 0 * x[:, 0]], 1), 1)


@pytest.mark.parametrize("family", [dist.Categorical, dist.OneHotCategorical])
def test_discrete_sites(family):
    x = table(400, 2)
    probs = probabilities(x)
    entropy = -(probs * probs.log()).sum(1)
    report = pv.collapse_report(discrete(family, probabilities), x, particles=100)
    level = report["k"]
    assert level.kl == pytest.approx(float((math.log(3) - entropy).mean()), abs=0.02)
    assert (level.units, level.active, level.variance) == (1, 1, None)  # one code, which follows the data
    if family is dist.Categorical:
        assert float(level.unit_kl.sum()) == level.kl
    else:
        assert level.unit_kl is None
    mean = probs.mean(0)
    truth = float(-(mean * mean.log()).sum() - entropy.mean())
    assert abs(report.mutual_information - truth) < 4 * report.mutual_information_error
    assert "k" in str(report)
    assert not level.verdict
    ignored = pv.collapse_report(discrete(family, lambda x: torch.full((len(x), 3), 1 / 3).double()), x)
    assert "k has COLLAPSED" in ignored.verdicts[0]
    assert ignored.mutual_information == pytest.approx(0, abs=1e-9)


def test_bernoulli_units():
    def model(x=None, n=1):
        with pyro.plate("data", n if x is None else len(x)):
            z = pyro.sample("z", dist.Bernoulli(torch.full((2,), 0.5).double()).to_event(1))
            return pyro.sample("x", dist.Normal(z, 1).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Bernoulli(logits=x * torch.tensor([1.0, 0.0])).to_event(1))

    x = table(500, 2)
    level = pv.collapse_report(pv.Variant(model, guide), x, particles=64)["z"]
    p = torch.sigmoid(x[:, 0])
    kl = float((p * p.log() + (1 - p) * (1 - p).log() + math.log(2)).mean())
    assert level.unit_kl.numpy() == pytest.approx([kl, 0], abs=0.02)
    assert (level.active, level.units) == (1, 2)


def test_a_posterior_without_a_mean_is_judged_by_its_kl():
    def pair(loc):
        def model(x=None, n=1):
            with pyro.plate("data", n if x is None else len(x)):
                z = pyro.sample("z", dist.LogNormal(torch.zeros(2).double(), 1).to_event(1))
                return pyro.sample("x", dist.Normal(z, 1).to_event(1), obs=x)

        def guide(x):
            with pyro.plate("data", len(x)):
                normal = dist.Normal(pyro.param("loc", torch.tensor(loc).double()) * x, 1).to_event(1)
                pyro.sample("z", dist.TransformedDistribution(normal, [torch.distributions.ExpTransform()]))

        return pv.Variant(model, guide)

    x = table(300, 2)
    level = pv.collapse_report(pair(1.0), x, particles=100)["z"]
    assert (level.active, level.variance, level.unit_kl, level.units) == (None, None, None, 2)
    # log q - log p = x u + x^2 / 2 of a normal u, of which there are 300 x 100
    error = 1.0 / 173 * float(x.square().sum(1).mean()) ** 0.5
    assert level.kl == pytest.approx(float(0.5 * x.square().sum(1).mean()), abs=4 * error)
    assert not level.collapsed
    pyro.clear_param_store()
    report = pv.collapse_report(pair(0.0), x)
    assert report["z"].collapsed
    assert "- of 2" in str(report)
    pyro.clear_param_store()
    run = pv.fit(pair(0.5), x, epochs=1, progress=False)
    assert "kl_z" in run.history
    assert "active_z" not in run.history


def test_sites_under_inner_plates():
    def model(x=None, n=1):
        with pyro.plate("data", n if x is None else len(x), dim=-1):
            top = pyro.sample("top", dist.Normal(torch.tensor(0.0).double(), 1))
            with pyro.plate("parts", 3, dim=-2):
                z = pyro.sample("z", dist.Normal(top.unsqueeze(-1).expand(*top.shape, 2), 1).to_event(1))
                pyro.sample("x", dist.Normal(z, 1).to_event(1), obs=None if x is None else x.movedim(1, 0))

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            with pyro.plate("parts", 3, dim=-2):
                z = pyro.sample("z", dist.Normal(x.movedim(1, 0) * torch.tensor([1.0, 0.0]), 0.5).to_event(1))
            pyro.sample("top", dist.Normal(0 * z.sum((-1, -3)).reshape(*z.shape[:-3], -1)[..., : len(x)], 1.0))

    x = table(200, 3, 2)
    report = pv.collapse_report(pv.Variant(model, guide), x)
    top, level = report.levels
    assert top.collapsed
    torch.testing.assert_close(level.variance, (x * torch.tensor([1.0, 0.0])).var(0, correction=0).flatten())
    assert (level.units, level.active) == (6, 3)
    assert level.unit_kl.shape == (6,)


def test_conditions_and_labels():
    digits = pv.data.load("digits", "test", binarise="dynamic")
    torch.manual_seed(0)
    report = pv.collapse_report(pv.cvae((1, 8, 8), latent=3, classes=10), digits)
    assert [level.site for level in report.levels] == ["z"]
    assert (report.mutual_information, report.mutual_information_error, report.draws) == (None, None, 0)
    assert "mutual information" not in str(report)
    pair = pv.m2((1, 8, 8), latent=3)
    report = pv.collapse_report(pair, digits.x.round())
    assert [level.site for level in report.levels] == ["c", "z"]
    labels = torch.as_tensor(digits.labels).clone()
    labels[:200] = -1
    few = pv.collapse_report(pair, {"x": digits.x.round(), "c": labels})
    assert [level.site for level in few.levels] == ["c", "z"]
    assert (few["c"].data, few["z"].data) == (200, 270)
    assert few["c"].kl == pytest.approx(report["c"].kl, abs=0.1)
    assert (few["c"].units, few["c"].active) == (1, 0)  # as it was made, the classifier says nothing
    assert json.dumps(few.to_dict())


@pytest.mark.parametrize("options", [{}, {"guide": "bottom-up"}, {"latents": ((2, 4, 4), 4)}], ids=str)
def test_the_levels_of_the_library(options):
    digits = pv.data.load("digits", "test", binarise="threshold")
    torch.manual_seed(0)
    pair = pv.hvae((1, 8, 8), **{"latents": (8, 4), **options})
    run = pv.fit(pair, digits, epochs=1, progress=False)
    assert {"active_z1", "active_z2"} <= set(run.history)
    report = pv.collapse_report(pair, digits)
    assert [level.site for level in report.levels] == ["z2", "z1"]
    assert [level.units for level in report.levels] == [4, 32 if "latents" in options else 8]
    assert all(level.kl == float(level.unit_kl.sum()) for level in report.levels)
    assert report.mutual_information is not None


def test_missing_data(x):
    pair = top_down()
    holed = x.masked_fill(torch.rand(x.shape) < 0.2, torch.nan)
    with pv.infer.observed(x=torch.isfinite):
        report = pv.collapse_report(pair, holed)
    filled = pv.collapse_report(pair, holed.nan_to_num(0.0))
    assert report.to_dict() == filled.to_dict()


def test_a_pair_without_a_code(x):
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(torch.zeros(DATA).double(), 1).to_event(1), obs=x)

    report = pv.collapse_report(pv.Variant(model, lambda x: None), x)
    assert (report.levels, report.mutual_information, report.top, report.verdicts) == ((), None, "", [])
    with pytest.raises(ValueError, match="reports: expected at least one with a latent site"):
        plot.collapse(report)


def test_the_report_in_words_and_numbers(x):
    report = pv.collapse_report(top_down(), x)
    lines = str(report).splitlines()
    assert [line[:2] for line in lines[1:3]] == ["z2", "z1"]
    assert len({len(line) for line in lines[:3]}) == 1, "figures stand below each other"
    assert "the top level stands first" in lines[3]
    assert lines[4].startswith("mutual information of x and z2: ")
    figures = json.loads(json.dumps(report.to_dict()))
    assert figures["levels"]["z1"]["unit_kl"] == report["z1"].unit_kl.tolist()
    assert figures["mutual_information"] == report.mutual_information


# ---------------------------------------------------------------------- bad input


@pytest.mark.parametrize("particles", [0, -3, 2.5, True, "many"])
def test_particles_are_a_whole_number(particles, x):
    with pytest.raises(ValueError, match=r"^particles: expected a whole number of at least 1, found"):
        pv.collapse_report(top_down(), x, particles=particles)


def test_what_is_no_pair_and_data_that_do_not_fit(x):
    with pytest.raises(TypeError, match=r"^variant: expected a Variant, found Story"):
        pv.collapse_report(Story(), x)
    pair = pv.vae((1, 8, 8), latent=2)
    for data, words in (
        (torch.zeros(5, 3), r"expected data of shape \(batch, 1, 8, 8\), found"),
        (torch.full((5, 1, 8, 8), 7.0), "Expected value argument|outside the support"),
        ({"y": x}, "y: no such site"),
        (torch.full((5, 1, 8, 8), torch.nan), "x: holds NaN"),
    ):
        with pytest.raises(ValueError, match=words) as caught:
            pv.collapse_report(pair, data)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="rows: expected a whole number"):
        pv.collapse_report(pair, torch.zeros(5, 1, 8, 8), rows=0)


# ---------------------------------------------------------------------- training


def test_fit_counts_active_units_in_the_pass_that_it_makes(x, monkeypatch):
    monkeypatch.setattr(loop, "code_terms", lambda *_: pytest.fail("a site without ancestors needs no more draws"))
    torch.manual_seed(0)
    pair = pv.vae((4,), latent=3, hidden=(16,), likelihood=pv.likelihoods.Normal)
    run = pv.fit(pair, x.float(), epochs=5, batch_size=32, lr=2e-2, progress=False)
    assert list(run.history) == ["objective", "elbo", "reconstruction", "kl_z", "active_z", "seconds"]
    assert run.history["active_z"][-1] == pv.evaluate(pair, x.float(), particles=2).active_units["z"] > 0


def test_fit_counts_active_units_of_each_level_and_names_those_that_collapse(x, caplog):
    caplog.set_level(logging.INFO, logger="pyro_vae")
    pair = pv.Variant(Story(), TopDown(0 * C2, C1, D, d2=(1.0, 1.0)))
    run = pv.fit(pair, x, epochs=2, lr=1e-9, progress=False)
    assert run.history["active_z2"] == [0, 0]
    assert run.history["active_z1"] == [3, 3]
    assert "; active units: z2 0 of 2, z1 3 of 3" in caplog.text
    warned = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert warned[0] == "site z2 has COLLAPSED: none of its 2 units follows the data, the model ignores it"
    assert warned[1].startswith("what may help: ")
    assert len(warned) == 2
    caplog.clear()
    pv.fit(top_down(), x, epochs=1, lr=1e-9, progress=False)
    assert not [r for r in caplog.records if r.levelno == logging.WARNING]


def test_the_verdict_is_on_the_pair_that_stays(caplog):
    """Of the best epoch, not of the last."""
    run = Run(top_down(), 0, "cpu", best_epoch=1)
    for active in (2, 0):
        run.append({"kl_z": 2.0 * active, "active_z": active, "seconds": 1.0})
    activity = Activity()
    activity.add(torch.zeros(1, 5, 2))
    loop._warn(run, {"z": activity})
    assert not caplog.records
    run.best_epoch = 2
    loop._warn(run, {"z": activity})
    assert "site z has COLLAPSED" in caplog.text


def test_counting_moves_nothing_else(x, monkeypatch):
    def trained():
        pair = top_down()
        history = pv.fit(pair, x, epochs=3, batch_size=32, progress=False).history
        return pair.snapshot(), {k: v for k, v in history.items() if k != "seconds" and not k.startswith("active")}

    weights, history = trained()
    monkeypatch.setattr(loop, "code_terms", lambda *_: iter(()))
    same, again = trained()
    assert history == again
    assert all(torch.equal(weights[name], same[name]) for name in weights)


def test_a_resumed_run_has_the_columns_of_an_uninterrupted_one(x, tmp_path):
    for folder, stops in (("whole", [4]), ("parts", [2, 4])):
        for epochs in stops:
            run = pv.fit(bottom_up(), x, epochs=epochs, out=tmp_path / folder, resume=True, progress=False)
        assert len(run.history["active_z1"]) == 4
    whole, parts = ((tmp_path / folder / "metrics.csv").read_text().splitlines() for folder in ("whole", "parts"))
    assert [row.rpartition(",")[0] for row in parts] == [row.rpartition(",")[0] for row in whole]  # but for the seconds


def test_columns_that_come_later_are_filled_in(x, tmp_path):
    """As in a run that was begun before there were such columns."""
    run = Run(top_down(), 0, "cpu")
    run.append({"elbo": 1.0, "seconds": 1.0})
    run.append({"elbo": 2.0, "active_z": 3, "seconds": 1.0})
    run.append({"elbo": 2.0, "seconds": 1.0})
    run.write(tmp_path)
    assert (tmp_path / "metrics.csv").read_text().splitlines() == [
        "epoch,elbo,seconds,active_z", "1,1.0,1.0,nan", "2,2.0,1.0,3", "3,2.0,1.0,nan"
    ]  # fmt: skip


# ---------------------------------------------------------------------- the picture


def bars(ax):
    """Heights and colours of the bars, from left to right."""
    heights = {}
    for patch in ax.patches:
        data = patch.get_data()
        if data.baseline == 0:
            for i in np.flatnonzero(data.values[::2]):
                heights[int(i)] = (data.values[2 * i], patch.get_facecolor())
    return [heights[i] for i in sorted(heights)]


@pytest.fixture
def reports(x):
    pair = pv.Variant(Story(), TopDown(C2 * torch.tensor([[1.0], [0.0]]), C1, D, d2=(0.5, 0.9)))
    return {"before": pv.collapse_report(pair, x), "after": pv.collapse_report(top_down(), x)}


@pytest.fixture(autouse=True)
def _no_figure_stays_open():
    yield
    plt.close("all")


def test_the_picture_shows_each_unit_in_the_order_of_its_kl(reports):
    figure = plot.collapse(reports["before"])
    assert [ax.get_title() for ax in figure.axes] == [
        f"{level.site}\n{level.active} of {level.units} active\n{level.kl:.2f} nats"
        for level in reports["before"].levels
    ]
    top, low = (bars(ax) for ax in figure.axes)
    for found, site in ((top, "z2"), (low, "z1")):
        kl = reports["before"][site].unit_kl.sort(descending=True).values
        assert [height for height, _ in found] == pytest.approx(kl.tolist())
    assert top[0][1] != top[1][1], "units that follow the data have a colour of their own"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["active: follows the data", "not active"]
    assert plt.get_fignums() == [figure.number]
    figure.canvas.draw()


def test_reports_stand_above_each_other_on_one_scale(reports):
    figure = plot.collapse(reports)
    assert [figure.axes[i].get_ylabel().partition("\n")[0] for i in (0, 2)] == ["before", "after"]
    assert len({ax.get_ylim() for ax in figure.axes}) == 1
    short = Collapse((reports["after"]["z1"],), 16, 300, None, None, 0)
    figure = plot.collapse({"short": short, "long": reports["before"]})
    assert [bool(ax.get_title()) for ax in figure.axes] == [False, True, True, True]
    figure.canvas.draw()


def test_a_level_without_figures_of_its_units_is_a_block():
    report = pv.collapse_report(discrete(dist.OneHotCategorical, probabilities), table(50, 2))
    heights = [height for height, _ in bars(plot.collapse(report).axes[0])]
    assert heights == pytest.approx([report["k"].kl])
    plot.collapse(pv.collapse_report(top_down(), table(1, DATA)))


def test_pictures_of_anything_else_are_refused(reports):
    with pytest.raises(TypeError, match=r"^reports: expected a Collapse, found dict_values"):
        plot.collapse(reports.values())
    with pytest.raises(TypeError, match=r"^reports: before: expected a Collapse, found int"):
        plot.collapse({"before": 3})
    with pytest.raises(ValueError, match=r"^reports: expected at least one"):
        plot.collapse({})
    assert not plt.get_fignums()
