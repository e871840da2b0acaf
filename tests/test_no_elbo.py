"""Pairs without an ELBO, whose prior can only be sampled or whose posterior is a point: what they do without."""

import json
import math
import re
from functools import partial
from pathlib import Path

import gaussian
import matplotlib.pyplot as plt
import pyro
import pytest
import torch
from torch.distributions import constraints

import pyro_vae as pv
from pyro_vae import cli
from pyro_vae.infer import IWAE, AnalyticKL

SHAPE = (1, 8, 8)
X = pv.data.load("digits", binarise="threshold").x[:200]
SAMPLED = r"z has a prior that can only be sampled, so that log p\(z\) and with it the ELBO are not known"
POINT = r"q\(z \| x\) is a point, whose KL from a prior with a density is infinite, so that there is no ELBO"
BOUNDS = ("elbo", "log_likelihood", "standard_error", "effective_sample_size", "rate", "bits_per_dimension")
vae = partial(pv.vae, SHAPE, latent=2, hidden=(16,))
PAIRS = {
    "sampled": (partial(vae, prior=pv.priors.SwissRoll), SAMPLED),
    "a user's sampler": (lambda: pv.aae(SHAPE, prior=Coins(), hidden=(16,)), SAMPLED),
    "points": (partial(vae, posterior=pv.posteriors.Delta), POINT),
    "both": (partial(vae, prior=pv.priors.SwissRoll, posterior=pv.posteriors.Delta), SAMPLED),
    "classes": (lambda: pv.aae(SHAPE, prior=pv.priors.SwissRoll, classes=10, hidden=(16,)), SAMPLED),
}


class Coins:
    """Of which no density is known."""

    def sample(self, n):
        return torch.randn(n, 2).sign() * 2


@pytest.fixture(autouse=True)
def _no_figure_stays_open():
    yield
    plt.close("all")


@pytest.fixture(params=PAIRS)
def pair(request):
    torch.manual_seed(0)
    return PAIRS[request.param][0]()


@pytest.fixture
def why(request):
    return PAIRS[request.node.callspec.params["pair"]][1]


def trained(name, epochs=2, x=X, **options):
    torch.manual_seed(0)
    pair = PAIRS[name][0]()
    objective = pv.infer.MMD(10.0, scale=3.0) if pair.stepper is None else None
    data = {"x": x, "c": torch.arange(len(x)) % 10} if pair.labels else x
    return pair, pv.fit(pair, data, objective=objective, epochs=epochs, batch_size=50, progress=False, **options)


# ---------------------------------------------------------------------- reports


def test_a_report_has_what_there_is_and_says_what_there_is_not(pair, why):
    report = pv.evaluate(pair, X, particles=20, draws=5, seed=3)
    assert all(getattr(report, name) is None for name in BOUNDS)
    assert report.mutual_information is None
    assert report.aggregate_kl is None
    assert "z" not in report.kl
    assert pytest.approx(report.distortion) == -report.reconstruction
    assert report.units["z"] == 2
    assert report.data == 200
    assert re.fullmatch(why, report.without_elbo)
    figures = json.loads(json.dumps(report.to_dict()))
    assert all(figures[name] is None for name in BOUNDS)
    assert figures["without_elbo"] == report.without_elbo
    told = str(report)
    assert told.startswith(f"ELBO                  none  {report.without_elbo}\nreconstruction")
    assert "KL of z               none  (" in told
    for absent in ("log-likelihood", "effective draws", "bits per dimension", "None", "nan"):
        assert absent not in told


def test_what_is_reconstructed_is_measured_as_ever():
    """E_q[log p(x | z)]: at a point exactly, of draws within their error."""
    for name in ("points", "sampled"):
        pair, _ = trained(name)
        q = pair.guide.posterior(X)
        with torch.no_grad():
            z = q.sample((200,))
            log_p = pair.model.likelihood(z.flatten(0, 1)).log_prob(X.repeat(200, 1, 1, 1)).unflatten(0, (200, 200))
        found = pv.evaluate(pair, X, particles=200).reconstruction
        error = 2**0.5 * float(log_p.mean(1).std()) / 200**0.5
        assert abs(found - float(log_p.mean())) < 4 * error + 1e-4
        assert error < 0.02


def test_of_a_hierarchy_the_sites_below_have_a_kl():
    torch.manual_seed(0)
    pair = pv.hvae(SHAPE, latents=(2, 2), prior=pv.priors.SwissRoll, hidden=(16,))
    report = pv.evaluate(pair, X, particles=50)
    assert set(report.kl) == {"z1"}
    assert report.kl["z1"] > 0
    assert report.elbo is report.rate is None
    assert "z2 has a prior that can only be sampled" in report.without_elbo
    lines = [line for line in str(report).splitlines() if line.startswith("KL of")]
    assert [line.split()[:3] for line in lines] == [["KL", "of", "z1"], ["KL", "of", "z2"]]
    assert "none" in lines[1]
    with pytest.raises(NotImplementedError, match="z2 has a prior that can only be sampled"):
        pair.elbo(x=X[:3])


def test_a_point_under_a_prior_of_points_has_an_elbo():
    """The KL of one point from itself is 0, whatever they are."""

    def model(x=None, n=1):
        with pyro.plate("data", n if x is None else len(x)):
            z = pyro.sample("z", pyro.distributions.Delta(torch.ones(2)).to_event(1))
            return pyro.sample("x", pyro.distributions.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", pyro.distributions.Delta(torch.ones(2)).to_event(1))

    pair, x = pv.Variant(model, guide), torch.randn(6, 2)
    wanted = torch.distributions.Normal(1.0, 1.0).log_prob(x).sum(-1)
    torch.testing.assert_close(pair.elbo(x=x), wanted)
    report = pv.evaluate(pair, x, particles=2)
    assert report.without_elbo is None
    assert report.elbo == pytest.approx(float(wanted.mean()), rel=1e-6)


# ---------------------------------------------------------------------- verbs


def test_draws_codes_and_reconstructions_need_no_density(pair):
    assert pair.sample(7).shape == (7, *SHAPE)
    assert torch.equal(pair.sample(7, seed=1), pair.sample(7, seed=1))
    assert pair.reconstruct(x=X[:7], mean=True).shape == (7, *SHAPE)
    codes = pair.encode(x=X[:7])["z"]
    assert codes.batch_shape == (7,)
    assert codes.event_shape == (2,)
    assert pair.interpolate(X[:2], X[2:4], steps=3).shape == (3, 2, *SHAPE)
    assert pair.traverse("z", units=[0], values=[-1, 1], x=X[:1]).shape == (1, 2, *SHAPE)
    assert "z     latent" in str(pair)


def test_all_that_needs_a_density_says_why_there_is_none(pair, why):
    for ask in (
        lambda: pair.elbo(x=X[:3]),
        lambda: pair.elbo(particles=4, x=X[:3]),
        lambda: pair.log_likelihood(x=X[:3], particles=4),
        lambda: pv.audit(pair, X),
        lambda: pv.collapse_report(pair, X),
    ):
        with pytest.raises(NotImplementedError, match=why):
            ask()
    holed = X.masked_fill(torch.rand(X.shape, generator=torch.Generator().manual_seed(0)) < 0.2, torch.nan)
    with pv.infer.observed(x=torch.isfinite), pytest.raises(NotImplementedError, match=why):
        pair.impute(x=holed)


@pytest.mark.parametrize("objective", [pyro.infer.Trace_ELBO(), AnalyticKL(), IWAE(3), pv.FreeBits(1.0)])
def test_a_training_that_needs_the_density_of_a_sampled_prior_is_refused(objective):
    pair = PAIRS["sampled"][0]()
    before = [p.detach().clone() for p in pair.parameters()]
    with pytest.raises(NotImplementedError, match=r"only be sampled has no log p\(z\), .* pv.aae and .*MMD"):
        pv.fit(pair, X, objective=objective, epochs=1, progress=False)
    assert all(torch.equal(a, b) for a, b in zip(before, pair.parameters(), strict=True))


def test_a_plain_autoencoder():
    """Points under no KL: the objective is what is reconstructed, and what fit tells of an epoch is that it did."""
    pair = PAIRS["points"][0]()
    options = {"temper": 0.0, "epochs": 15, "lr": 5e-3, "batch_size": 50, "progress": False}
    run = pv.fit(pair, X, validation=X[:50], **options)
    assert run.history["objective"][-1] > run.history["objective"][0] + 5
    assert {"elbo", "validation_elbo", "kl_z"}.isdisjoint(run.history)
    assert run.best_epoch == 15
    assert "elbo" not in repr(run)
    report = pv.evaluate(pair, X, particles=1)
    assert run.history["reconstruction"][-1] == pytest.approx(report.reconstruction, abs=1e-3)
    with pytest.raises(ValueError, match="patience: needs validation data, and a training that makes"):
        pv.fit(pair, X, validation=X[:50], patience=2, **options)


def test_a_point_under_the_elbo_is_the_likeliest_code():
    """Under Trace_ELBO log p(x, z) is what is maximised: for a linear pair the posterior mean."""

    class Points(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.A = torch.nn.Parameter(torch.zeros(gaussian.LATENT, gaussian.DATA).double())

        def forward(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", pyro.distributions.Delta((x - story.b.detach()) @ self.A.T).to_event(1))

    story = gaussian.Story()
    story.requires_grad_(False)
    guide, x = Points(), gaussian.pair().sample(200, seed=0)
    optimiser = torch.optim.LBFGS(guide.parameters(), max_iter=60)

    def loss():
        optimiser.zero_grad()
        value = pyro.infer.Trace_ELBO().differentiable_loss(story, guide, x) / 200
        value.backward()
        return value

    optimiser.step(loss)
    torch.testing.assert_close(guide.A.detach(), gaussian.exact_posterior(story)[0], atol=1e-4, rtol=0)


# ---------------------------------------------------------------------- saved, compared, drawn


@pytest.mark.parametrize("name", [name for name in PAIRS if name != "a user's sampler"])
def test_saved_and_loaded_it_does_the_same(name, tmp_path):
    pair, run = trained(name, out=tmp_path / "run")
    again = pv.load(tmp_path / "run")
    assert torch.equal(again.sample(5, seed=0), pair.sample(5, seed=0))
    assert torch.equal(again.reconstruct(x=X[:5], mean=True, seed=0), pair.reconstruct(x=X[:5], mean=True, seed=0))
    assert again.model.prior().event_shape == (2,)
    head = (tmp_path / "run" / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"objective", "reconstruction"} <= set(head)
    assert not any("elbo" in column or column == "kl_z" for column in head)
    assert all(math.isfinite(value) for column in run.history.values() for value in column)


def test_a_comparison_tells_of_none():
    candidates = {"roll": PAIRS["sampled"][0](), "vae": vae()}
    with pytest.raises(NotImplementedError, match="only be sampled"):
        pv.compare(candidates, X, seeds=2, epochs=1, particles=3, progress=False)
    candidates = {"points": PAIRS["points"][0](), "vae": vae()}
    found = pv.compare(candidates, X, seeds=2, epochs=1, particles=3, progress=False)
    points, plain = str(found).splitlines()[1:3]
    assert points.count("none") == 3  # log-likelihood, ELBO and rate
    assert "none" not in plain
    distortion = sum(report.distortion for report in found.rows[0].reports) / 2
    assert f"{distortion:.2f} ± " in points
    told = json.loads(json.dumps(found.to_dict()))
    assert "null" in json.dumps(told)
    figure = pv.plot.comparison(found)
    left, right = figure.axes[:2]
    assert [label.get_text() for label in left.get_yticklabels()] == ["points", "vae"]
    assert len([line for line in left.lines if line.get_marker() == "o"]) == 1
    assert "points" not in [text.get_text() for text in right.get_legend().get_texts()]
    alone = pv.compare({"points": candidates["points"]}, X, epochs=1, seeds=1, particles=2, progress=False)
    with pytest.raises(ValueError, match="result: no variant has an ELBO to compare"):
        pv.plot.comparison(alone)


def test_an_aae_is_compared_by_what_its_game_makes_of_it():
    torch.manual_seed(0)
    pairs = {"roll": pv.aae(SHAPE, hidden=(16,), prior=pv.priors.SwissRoll), "normal": pv.aae(SHAPE, hidden=(16,))}
    found = pv.compare(pairs, X, seeds=1, epochs=1, particles=3, progress=False)
    assert found.rows[0].reports[0].elbo is None
    assert found.rows[1].reports[0].elbo is not None


def test_pictures(pair):
    for draw in (pv.plot.samples(pair), pv.plot.reconstructions(pair, X[:8]), pv.plot.traversals(pair, X[:4])):
        assert draw.axes
    codes = pair.encode(x=X)["z"].mean.detach()
    shown = pv.plot.latents(pair, X)
    dots = next(c for c in shown.axes[0].collections if len(c.get_offsets()) == len(X))
    torch.testing.assert_close(torch.tensor(dots.get_offsets()), codes.double(), atol=1e-5, rtol=1e-5)
    assert pv.plot.prior(pair, X).axes


def test_curves_without_an_elbo():
    _, run = trained("both", epochs=3)
    shown = pv.plot.learning_curves(run)
    lines = {line.get_label(): list(line.get_ydata()) for ax in shown.axes for line in ax.lines}
    assert lines["objective"] == run.history["objective"]
    assert not any("ELBO" in label or "best" in label for label in lines)


# ---------------------------------------------------------------------- the command line


@pytest.fixture
def done(monkeypatch, tmp_path, capsys):
    """Run a command that must succeed, in a folder of its own; returns its output."""
    monkeypatch.chdir(tmp_path)

    def call(*words):
        code = cli.main([str(word) for word in words])
        out, err = capsys.readouterr()
        assert code == 0, err
        return out

    return call


QUICK = ("--hidden", "16", "--epochs", "1", "--no-progress", "--out", "a")


def test_an_aae_on_a_roll_on_the_command_line(done, capsys):
    done("train", "aae", "--prior", "SwissRoll", *QUICK)
    done("train", "--resume", "a", "--epochs", 2, "--no-progress")
    assert {"samples.png", "latents.png", "prior.png", "learning_curves.png"} <= {p.name for p in Path("a").iterdir()}
    told = done("evaluate", "a", "--particles", 2)
    assert "ELBO                  none  z has a prior that can only be sampled" in told
    report = json.loads(done("evaluate", "a", "--particles", 2, "--json"))
    data = pv.data.load("digits", "test", binarise="dynamic")
    assert report == pv.evaluate(pv.load("a"), data, particles=2).to_dict()
    assert report["elbo"] is None
    assert done("sample", "a", "-n", 4) == "a/draws.png\n"
    done("plot", "a")
    assert "discriminator" in Path("a/metrics.csv").read_text().partition("\n")[0]
    # an objective that needs the ELBO is one line, and no traceback
    assert cli.main(["train", "vae", "--latent", "2", "--prior", "SwissRoll", *QUICK[:-1], "b"]) == 2
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1
    assert "only be sampled" in error[0]


def test_the_parts_of_a_game_on_the_command_line(done):
    done("train", "aae", "--prior", "Ring:components=4", "--posterior", "Delta", "--weight", 20, *QUICK)
    pair = pv.load("a")
    assert pair.model.prior.components == 4
    assert pair.stepper.keywords["weight"] == 20
    words = ("--latent", 2, *QUICK[:-1])
    done("train", "vae", "--objective", "FactorVAE:weight=6,discriminator_lr=0.002", *words, "b")
    assert "discriminator" in Path("b/metrics.csv").read_text().partition("\n")[0]
    done("train", "vae", "--objective", "MMD:weight=100,kernel=rbf", "--posterior", "Delta", *words, "c")
    assert "elbo" not in Path("c/metrics.csv").read_text().partition("\n")[0]
    done("train", "vae", "--objective", "TotalCorrelation:weight=4", *words, "d")
    done("train", "vae_gan", "--scale", 0.2, *words, "e")
    assert pv.load("e").stepper.keywords["scale"] == 0.2


def test_labels_of_an_aae_on_the_command_line(done):
    done("train", "aae", "--classes", 10, "--labelled", 50, *QUICK)
    report = json.loads(done("evaluate", "a", "--particles", 2, "--json"))
    assert report["labelled"] == 270
    done("sample", "a", "-n", 4, "--condition.c", 3)


def test_a_sampled_prior_has_every_real_support():
    assert pv.priors.SwissRoll()().support.base_constraint is constraints.real
