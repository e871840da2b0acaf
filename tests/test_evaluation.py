"""The report beyond the bounds: mutual information, aggregate posterior, bits per dimension, rate, distortion."""

import json
import math

import gaussian
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

import pyro_vae as pv
from pyro_vae.evaluation import information
from pyro_vae.evaluation.codes import draw, room_for_codes, scores


def mixture(draws, loc, scale):
    """log (1/N) sum_n N(z; loc_n, diag scale^2) in numpy, apart from the library."""
    z = (np.asarray(draws)[:, None] - np.asarray(loc)[None]) / np.asarray(scale)
    log_q = (-0.5 * z**2 - np.log(np.asarray(scale)) - 0.5 * math.log(2 * math.pi)).sum(-1)
    top = log_q.max(1, keepdims=True)
    return log_q, (top[:, 0] + np.log(np.exp(log_q - top).sum(1))) - math.log(len(loc))


def brute_force(loc, scale, draws, seed=0):
    """I and KL(q(z) || N(0, I)) of a mixture of normals, with their standard errors, by sampling."""
    generator = np.random.default_rng(seed)
    n = generator.integers(len(loc), size=draws)
    z = loc[n] + scale * generator.standard_normal((draws, loc.shape[1]))
    terms = []
    for part in np.array_split(np.arange(draws), 40):
        log_q, log_mixture = mixture(z[part], loc, scale)
        log_p = (-0.5 * z[part] ** 2 - 0.5 * math.log(2 * math.pi)).sum(-1)
        terms.append(np.stack([log_q[np.arange(len(part)), n[part]] - log_mixture, log_mixture - log_p]))
    found = np.concatenate(terms, 1)
    return found.mean(1), found.std(1) / draws**0.5


def posterior(pair, x):
    """Means and scale of the linear-Gaussian guide."""
    with torch.no_grad():
        return ((x - pair.guide.c) @ pair.guide.A.T).numpy(), pair.guide.s.exp().numpy()


def test_scores_are_those_of_every_code_under_every_datum():
    pair = gaussian.pair(shift=0.4)
    x = pair.sample(30, seed=1)
    with torch.no_grad():
        codes = draw(pair.guide, {"x": x[:7]})
        expected, _ = mixture(codes.values["z"], *posterior(pair, x))
        assert room_for_codes(pair.guide, {"x": x}, codes) == -2
        for dim in (-2, 0):
            found = scores(pair.guide, {"x": x}, codes, dim)
            np.testing.assert_allclose(found, expected, rtol=1e-10)
    np.testing.assert_allclose(codes.log_prob, expected[np.arange(7), np.arange(7)], rtol=1e-10)


def test_information_and_aggregate_kl_of_a_finite_mixture_against_brute_force():
    pair = gaussian.pair(shift=0.4)
    x = pair.sample(400, seed=1)
    (nats, kl), error = brute_force(*posterior(pair, x), 40_000)
    report = pv.evaluate(pair, x, particles=200)
    assert report.draws == 400
    assert abs(report.mutual_information - nats) < 4 * math.hypot(report.mutual_information_error, error[0])
    spread = math.hypot(report.mutual_information_error, error[1], 0.01)  # the last is the error of the rate
    assert abs(report.aggregate_kl - kl) < 4 * spread
    assert kl > 0.1  # the guide is shifted, so that its codes are no draws of the prior


def test_information_tends_to_that_of_the_gaussian_channel():
    """I(x; z) = 1/2 log det(I + W^T W / s^2); under the exact posterior the codes of p(x) are those of the prior."""
    pair = gaussian.pair()
    W = pair.model.W.detach()
    channel = 0.5 * torch.logdet(torch.eye(gaussian.LATENT) + W.T @ W / gaussian.NOISE**2).item()
    few, many = (pv.evaluate(pair, pair.sample(n, seed=2), particles=20, draws=n) for n in (4, 2500))
    assert abs(many.mutual_information - channel) < 4 * many.mutual_information_error < 0.1
    assert abs(many.aggregate_kl) < 0.1
    assert few.mutual_information < math.log(4) < channel
    assert few.aggregate_kl > 0.3


def test_information_adds_up_with_the_rate():
    report = pv.evaluate(gaussian.pair(shift=0.4), gaussian.pair().sample(50, seed=1), particles=3)
    assert report.rate - report.mutual_information == report.aggregate_kl
    assert report.elbo == pytest.approx(-report.rate - report.distortion, abs=1e-9)


def normal_pair(read, scale=1.0):
    """q(z | x) = N(z; read(x), scale^2) beside a prior N(0, I), in double precision."""

    def model(x=None, n=1):
        with pyro.plate("data", n if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2, dtype=torch.float64), 1).to_event(1))
            return pyro.sample("x", dist.Normal(z, 1).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(read(x), scale).to_event(1))

    return pv.Variant(model, guide)


@pytest.fixture
def x():
    return torch.randn(60, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_codes_that_ignore_the_data_hold_no_information(x):
    report = pv.evaluate(normal_pair(torch.zeros_like), x, particles=5)
    assert report.rate == 0
    assert report.mutual_information == pytest.approx(0, abs=1e-12)
    assert report.aggregate_kl == pytest.approx(0, abs=1e-12)


def test_codes_that_never_meet_hold_log_n(x):
    apart = 1e4 * torch.arange(60, dtype=torch.float64)[:, None].expand(60, 2)
    for draws in (None, 13):
        report = pv.evaluate(normal_pair(lambda x: x), apart, particles=5, draws=draws)
        assert report.mutual_information == pytest.approx(math.log(60), abs=1e-12)
        assert report.mutual_information_error == pytest.approx(0, abs=1e-12)
        assert report.draws == (draws or 60)
    assert f"at most log N = {math.log(60):.3f} (13 draws)" in str(report)


class Nested(nn.Module):
    """q(z2 | x) q(z1 | z2, x), whose networks may know one batch dimension only."""

    def __init__(self, flat):
        super().__init__()
        self.flat = flat

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(x[:, :1], 0.3).to_event(1))
            if self.flat and z2.dim() != 2:
                raise RuntimeError("expected 2 dimensions")
            pyro.sample("z1", dist.Normal(torch.sin(3 * z2) + x, 0.4).to_event(1))


def nested_model(x=None, n=1):
    with pyro.plate("data", n if x is None else len(x)):
        z2 = pyro.sample("z2", dist.Normal(torch.zeros(1, dtype=torch.float64), 1).to_event(1))
        z1 = pyro.sample("z1", dist.Normal(z2.expand(*z2.shape[:-1], 2), 1).to_event(1))
        return pyro.sample("x", dist.Normal(z1, 1).to_event(1), obs=x)


def test_nested_sites_count_together(x):
    z2 = x[:, :1] + 0.3 * torch.randn(20_000, 1, 1, dtype=torch.float64)
    z1 = torch.sin(3 * z2) + x + 0.4 * torch.randn(20_000, 60, 2, dtype=torch.float64)
    terms = []
    for i in range(60):  # by hand: codes of datum i, under all
        some = slice(i * 300, (i + 1) * 300)
        a, b = z2[some, i, None], z1[some, i, None]
        log_q = dist.Normal(x[:, :1], 0.3).log_prob(a).sum(-1)
        log_q = log_q + dist.Normal(torch.sin(3 * a) + x, 0.4).log_prob(b).sum(-1)
        terms.append(log_q[:, i] - log_q.logsumexp(1) + math.log(60))
    terms = torch.cat(terms)
    error = float(terms.std()) / len(terms) ** 0.5
    pair = pv.Variant(nested_model, Nested(flat=False))
    found = [pv.evaluate(pair, x, particles=2, draws=60, seed=s) for s in range(10)]
    nats = [report.mutual_information for report in found]
    assert abs(np.mean(nats) - float(terms.mean())) < 4 * math.hypot(error, np.std(nats) / 10**0.5)
    assert found[0].mutual_information < math.log(60)


def test_networks_that_know_one_batch_dimension_give_the_same_numbers(x):
    plate, copies = (
        pv.evaluate(pv.Variant(nested_model, Nested(flat)), x, particles=3, draws=20) for flat in (False, True)
    )
    assert copies.mutual_information == pytest.approx(plate.mutual_information, rel=1e-9)
    assert copies.draws == plate.draws == 20
    codes = draw(Nested(True), {"x": x})
    assert room_for_codes(Nested(True), {"x": x}, codes) == 0
    assert room_for_codes(Nested(False), {"x": x}, codes) == -2


def test_a_network_that_is_wrong_without_an_error_is_found_out(x):
    norm = nn.BatchNorm1d(2).double().eval()  # takes the second of three dimensions, here the data, for its channels
    norm.weight.data = torch.tensor([1.0, 5.0], dtype=torch.float64)

    def guide(x):
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(x, 0.3).to_event(1))
            pyro.sample("z1", dist.Normal(norm(z2), 0.4).to_event(1))

    codes = draw(guide, {"x": x})
    assert room_for_codes(guide, {"x": x}, codes) == 0


def test_sites_under_inner_plates_and_outside_of_them():
    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("top", dist.Normal(x.mean((1, 2)), 0.5))
            with pyro.plate("parts", 3, dim=-2):
                pyro.sample("z", dist.Normal(x.movedim(1, 0), 0.7).to_event(1))

    x = torch.randn(9, 3, 2, dtype=torch.float64)
    codes = draw(guide, {"x": x[:4]})
    top, z = codes.values["top"], codes.values["z"]
    assert z.shape == (4, 3, 2)
    expected = dist.Normal(x.mean((1, 2)), 0.5).log_prob(top[:, None])
    expected = expected + dist.Normal(x, 0.7).log_prob(z[:, None]).sum((2, 3))
    assert room_for_codes(guide, {"x": x}, codes) == -3
    for dim in (-3, 0):
        torch.testing.assert_close(scores(guide, {"x": x}, codes, dim), expected)
    torch.testing.assert_close(codes.log_prob, expected.diagonal())


def test_a_pair_with_conditions_has_no_aggregate():
    def model(c, x=None):
        with pyro.plate("data", len(c)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1).to_event(1))
            c = pyro.sample("c", dist.Normal(torch.zeros(5), 1).to_event(1), obs=c)
            pyro.sample("x", dist.Normal(z + c[..., :2], 1).to_event(1), obs=x)

    def guide(x, c):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x - c[..., :2], 1).to_event(1))

    report = pv.evaluate(
        pv.Variant(model, guide, ("c",)), {"x": torch.randn(8, 2), "c": torch.randn(8, 5)}, particles=3
    )
    assert report.mutual_information is None
    assert report.aggregate_kl is None
    assert report.draws == 0
    assert report.dimensions == 2  # conditions are given, and need no bits
    assert report.to_dict()["aggregate_kl"] is None
    assert "mutual information" not in str(report)
    assert "bits per dimension" in str(report)


def test_chunks_change_nothing(x, monkeypatch):
    pair, nested = normal_pair(lambda x: x, 0.3), pv.Variant(nested_model, Nested(False))
    whole = [pv.evaluate(p, x, particles=3, draws=20) for p in (pair, nested)]
    monkeypatch.setattr(information, "CHUNK", 30)  # room for 15 codes of 2 units
    for p, report in zip((pair, nested), whole, strict=True):
        parts = pv.evaluate(p, x, particles=3, draws=20, rows=7)
        assert parts.draws == 20
        # fewer rows at a time are other draws of the same codes
        assert abs(parts.mutual_information - report.mutual_information) < 5 * report.mutual_information_error
    codes = draw(nested.guide, {"x": x[:11]})
    feed = pv.data.batches(nested, x, 25, None)
    sums = [
        information._mixture(nested, feed, codes, dim, rows, 0, anew=anew)
        for dim, rows, anew in ((-2, None, True), (-2, 7, True), (0, 3, True), (-2, 13, False), (-2, 1, False))
    ]
    whole = scores(nested.guide, {"x": x}, codes, -2)
    for size, log_sum, mean in sums:
        assert size == 60
        torch.testing.assert_close(log_sum, whole.logsumexp(1))
        torch.testing.assert_close(mean, (whole.softmax(1) * whole).sum(1))


def test_posteriors_that_do_not_overlap_are_no_trouble(x):
    def model(x=None, n=1):
        with pyro.plate("data", n if x is None else len(x)):
            z = pyro.sample("z", dist.Uniform(-100.0, 100.0))
            return pyro.sample("x", dist.Normal(z, 1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Uniform(x.floor(), x.floor() + 1))

    values = torch.arange(40.0).repeat_interleave(2) - 20 + 0.5  # two data in each box
    report = pv.evaluate(pv.Variant(model, guide), values, particles=3, batch_size=7)
    assert report.mutual_information == pytest.approx(math.log(40), abs=1e-6)
    assert report.aggregate_kl == pytest.approx(math.log(200 / 40), abs=1e-4)


def test_nested_pairs_use_as_many_draws_as_particles(x):
    assert pv.evaluate(pv.Variant(nested_model, Nested(False)), x, particles=7).draws == 7
    assert pv.evaluate(normal_pair(lambda x: x), x, particles=7).draws == 60
    assert pv.evaluate(normal_pair(lambda x: x), torch.randn(600, 2).double(), particles=2).draws == information.DRAWS


def test_draws_change_no_other_figure(x):
    pair, before = normal_pair(lambda x: 0.5 * x), torch.get_rng_state()
    few, many, again = (pv.evaluate(pair, x, particles=4, draws=d).to_dict() for d in (2, 50, 50))
    assert many == again
    changed = {name for name in few if few[name] != many[name]}
    assert changed == {"mutual_information", "mutual_information_error", "aggregate_kl", "draws"}
    assert torch.equal(torch.get_rng_state(), before)


def test_one_datum_and_pairs_without_a_code(x):
    report = pv.evaluate(normal_pair(lambda x: x), x[:1], particles=4)
    assert report.mutual_information == 0
    assert report.to_dict()["mutual_information_error"] is None
    assert "mutual information" in str(report)

    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(torch.zeros(2).double(), 1).to_event(1), obs=x)

    report = pv.evaluate(pv.Variant(model, lambda x: None), x, particles=4)
    assert (report.rate, report.mutual_information) == (0, 0)


class Noisy(Dataset):
    """Data to which every look adds noise, from one generator or another."""

    def __init__(self, x, noise):
        self.x, self.noise = x, noise

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i] + self.noise()


def test_streams_are_gone_through_from_the_same_random_state(x):
    pair = normal_pair(lambda x: x, 1e-3)  # posteriors so narrow that a datum must find its own again
    for noise in (lambda: 0.0, lambda: torch.randn(2, dtype=torch.float64)):
        report = pv.evaluate(pair, DataLoader(Noisy(x, noise), 16, shuffle=True), particles=2)
        assert report.mutual_information == pytest.approx(math.log(60), abs=0.1)
    generator = np.random.default_rng(0)  # which nothing can turn back
    report = pv.evaluate(pair, Noisy(x, generator.standard_normal), particles=2)
    assert report.mutual_information is None
    assert report.elbo < 0


def test_a_shuffled_loader_with_a_generator_of_its_own(x):
    pair = normal_pair(lambda x: x, 0.5)
    loader = DataLoader(Noisy(x, lambda: 0.0), 16, shuffle=True, generator=torch.Generator().manual_seed(3))
    here, there = pv.evaluate(pair, loader, particles=2), pv.evaluate(pair, x, particles=2)
    assert abs(here.mutual_information - there.mutual_information) < 5 * there.mutual_information_error


def test_dynamic_data_are_the_same_at_each_pass():
    data = pv.data.Data(torch.full((40, 64), 0.5), dynamic=True)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(64), 1).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=z).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 0.01).to_event(1))

    report = pv.evaluate(pv.Variant(model, guide), data, particles=2)
    assert report.mutual_information == pytest.approx(math.log(40), abs=1e-6)


def test_a_fair_coin_is_one_bit():
    def model(x=None, n=1):
        with pyro.plate("data", n if x is None else len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(2), 1).to_event(1))
            return pyro.sample("x", dist.Bernoulli(torch.full((1, 3, 4), 0.5)).to_event(3), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(2), 1).to_event(1))

    report = pv.evaluate(pv.Variant(model, guide), torch.ones(5, 1, 3, 4), particles=3)
    assert report.dimensions == 12
    assert report.bits_per_dimension == pytest.approx(1.0, abs=1e-6)
    assert report.distortion == pytest.approx(12 * math.log(2), abs=1e-5)
    assert "bits per dimension   1.000  (12 dimensions)" in str(report)


def test_dimensions_are_those_of_all_observed_sites():
    def model(x, y):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("y", dist.Categorical(logits=torch.zeros(3)), obs=y)
            with pyro.plate("parts", 3, dim=-2):
                pyro.sample("x", dist.Normal(z.unsqueeze(-1), torch.ones(2)).to_event(1), obs=x.movedim(1, 0))

    def guide(x, y):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x.mean((1, 2)), 1.0))

    report = pv.evaluate(pv.Variant(model, guide), {"x": torch.randn(5, 3, 2), "y": torch.zeros(5)}, particles=3)
    assert report.dimensions == 3 * 2 + 1
    assert report.bits_per_dimension == pytest.approx(-report.log_likelihood / (7 * math.log(2)))


def test_the_report_in_words_and_numbers(x):
    report = pv.evaluate(normal_pair(lambda x: 0.5 * x, 0.7), x, particles=5)
    lines = str(report).splitlines()
    assert [line[:18].strip() for line in lines[-3:]] == ["bits per dimension", "mutual information", "aggregate KL"]
    assert {line[26:28] for line in lines} <= {"  ", ""}, "figures stand below each other"
    figures = json.loads(json.dumps(report.to_dict()))
    for name in ("rate", "distortion", "bits_per_dimension", "aggregate_kl", "mutual_information", "draws", "elbo"):
        assert figures[name] == getattr(report, name)


@pytest.mark.parametrize("draws", [0, -3, 2.5, True, "many"])
def test_draws_are_a_whole_number(draws, x):
    with pytest.raises(ValueError, match="draws: expected a whole number of at least 1, found") as caught:
        pv.evaluate(normal_pair(lambda x: x), x, draws=draws)
    assert "\n" not in str(caught.value)
