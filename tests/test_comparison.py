"""compare: several variants, several seeds, one table and one figure."""

import functools
import json
import logging
import statistics

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyro_vae as pv
from pyro_vae.comparison import Comparison

OPTIONS = {"epochs": 2, "progress": False, "device": "cpu"}


def vae(latent=2, **options):
    return pv.vae((1, 8, 8), latent=latent, hidden=(16,), **options)


@pytest.fixture(scope="module")
def digits():
    return {part: pv.data.load("digits", part, binarise="threshold") for part in ("train", "test")}


@pytest.fixture(scope="module")
def result(digits):
    torch.manual_seed(0)
    variants = {"one unit": vae(1), "beta 0.1": pv.beta_vae((1, 8, 8), beta=0.1, latent=4, hidden=(16,))}
    return pv.compare(variants, digits["train"], test=digits["test"], seeds=2, particles=10, **OPTIONS)


@pytest.fixture(autouse=True)
def _no_figure_stays_open():
    yield
    plt.close("all")


def test_each_run_is_what_fit_and_evaluate_give(result, digits):
    for seed in (0, 1):
        torch.manual_seed(seed)
        pair = vae(1)
        pv.fit(pair, digits["train"], seed=seed, **OPTIONS)
        assert result.rows[0].reports[seed] == pv.evaluate(pair, digits["test"], particles=10)


def test_the_table_says_what_was_found_and_of_what(result):
    head, *rows, foot = str(result).splitlines()
    assert head.split("  ")[-1].strip() == "seconds"
    for name in ("log-likelihood", "ELBO", "rate", "distortion", "active units", "seconds"):
        assert name in head
    assert len({len(line) for line in (head, *rows)}) == 1, "columns are aligned"
    for row, line in zip(result.rows, rows, strict=True):
        assert line.startswith(row.name)
        bounds = [report.log_likelihood for report in row.reports]
        assert f"{statistics.mean(bounds):.2f} ± {abs(bounds[0] - bounds[1]) / 2**0.5:.2f}" in line
        assert f"{statistics.mean(report.rate for report in row.reports):.2f} ± " in line
    assert " of 1  " in rows[0]
    assert " of 4  " in rows[1]
    assert foot == "mean ± standard deviation over 2 seeds; nats per datum, 10 particles, on 270 test data"


def test_seeds_differ(result):
    for row in result.rows:
        assert len(row.seconds) == 2
        assert row.reports[0].log_likelihood != row.reports[1].log_likelihood


def test_the_dictionary_is_ready_for_json(result):
    found = json.loads(json.dumps(result.to_dict()))
    assert found["data"] == "test data"
    assert list(found["variants"]) == ["one unit", "beta 0.1"]
    one = found["variants"]["one unit"]
    assert one["seconds"] == list(result.rows[0].seconds)
    assert [r["elbo"] for r in one["reports"]] == [r.elbo for r in result.rows[0].reports]


def learned(pair):
    return {name: value.clone() for name, value in pair.state_dict().items()}


class Story(nn.Module):
    def __init__(self):
        super().__init__()
        self.decoder = nn.Linear(2, 64)

    def forward(self, x=None, n=1):
        with pyro.plate("data", n if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1).to_event(1))
            logits = self.decoder(z).unflatten(-1, (1, 8, 8))
            return pyro.sample("x", dist.Bernoulli(logits=logits).to_event(3), obs=x)


class Inference(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(64, 2)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.encoder(x.flatten(1)), 0.5).to_event(1))


def test_variants_handed_in_stay_as_they_are_and_results_repeat(digits):
    x = digits["train"].x[:200]
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    variants = {"recipe": vae(), "module": vae(encoder=encoder), "own": pv.Variant(Story(), Inference())}
    before = {name: learned(pair) for name, pair in variants.items()}
    state = torch.get_rng_state()
    found = [pv.compare(variants, x, seeds=2, particles=5, **OPTIONS) for _ in range(2)]
    assert torch.equal(torch.get_rng_state(), state)
    for name, pair in variants.items():
        after = pair.state_dict()
        assert all(torch.equal(after[key], value) for key, value in before[name].items()), name
    assert [row.reports for row in found[0].rows] == [row.reports for row in found[1].rows]
    for row in found[0].rows:
        assert row.reports[0] != row.reports[1]
    assert str(found[0]).endswith("on 200 training data")


def test_a_variant_given_as_a_function_is_built_anew_under_each_seed(digits):
    built = []

    def build():
        built.append(vae())
        return built[-1]

    found = pv.compare({"recipe": vae(), "function": build}, digits["train"].x[:100], seeds=2, particles=3, **OPTIONS)
    assert found.rows[0].reports == found.rows[1].reports
    first = [nn.utils.parameters_to_vector(pair.parameters()) for pair in built]
    assert not torch.equal(first[-1], first[-2])


def test_double_precision_is_kept(digits, monkeypatch):
    kinds = []

    @functools.wraps(pv.fit)
    def watched(pair, *args, **options):
        kinds.append(next(pair.parameters()).dtype)
        return pv.fit(pair, *args, **options)

    monkeypatch.setattr("pyro_vae.comparison.fit", watched)
    pv.compare({"a": vae().double()}, digits["train"].x[:64], seeds=1, particles=2, **OPTIONS)
    assert kinds == [torch.float64]


def test_plain_functions_with_parameters_of_their_own(digits):
    def guide(x):
        with pyro.plate("data", len(x)):
            loc = pyro.param("loc", torch.zeros(2))
            pyro.sample("z", dist.Normal(loc.expand(len(x), 2), 0.9).to_event(1))

    pair = pv.Variant(Story(), guide)
    found = pv.compare({"own": pair}, digits["train"].x[:64], seeds=1, particles=2, **OPTIONS)
    assert found.rows[0].reports[0].data == 64
    assert pair._store is None
    assert "1 seed; nats" in str(found)
    assert "±" not in str(found)


def test_progress_is_one_line_per_run(digits, caplog):
    with caplog.at_level(logging.INFO, "pyro_vae"):
        pv.compare({"a": vae(), "b": vae()}, digits["train"].x[:64], seeds=2, particles=2, **OPTIONS)
    lines = [r.getMessage() for r in caplog.records if r.getMessage().startswith("compare: ")]
    assert len(lines) == 4
    assert lines[2].startswith("compare: b, seed 0: log-likelihood -")
    assert lines[3].endswith("(run 4 of 4)")


def test_validation_and_the_options_of_fit_are_handed_on(digits):
    x = digits["train"].x
    one, other = (
        pv.compare({"a": vae()}, x[:64], validation=x[64:128], seeds=1, particles=2, lr=lr, **OPTIONS)
        for lr in (1e-3, 1e-1)
    )
    assert one.rows[0].reports != other.rows[0].reports


def test_the_figure_shows_every_run(result):
    figure = pv.plot.comparison(result)
    left, right = figure.axes
    assert [t.get_text() for t in left.get_yticklabels()] == ["one unit", "beta 0.1"]
    for i, row in enumerate(result.rows):
        np.testing.assert_allclose(left.lines[2 * i].get_xdata(), [r.log_likelihood for r in row.reports])
        assert list(left.lines[2 * i].get_ydata()) == [i, i]
        assert left.lines[2 * i + 1].get_xdata()[0] == pytest.approx(
            statistics.mean(r.log_likelihood for r in row.reports)
        )
        np.testing.assert_allclose(right.lines[i].get_xdata(), [r.rate for r in row.reports])
        np.testing.assert_allclose(right.lines[i].get_ydata(), [r.distortion for r in row.reports])
    best = max(statistics.mean(r.elbo for r in row.reports) for row in result.rows)
    assert [t.get_text() for t in right.get_legend().get_texts()][2] == f"minus ELBO = {-best:.2f}"
    assert plt.get_fignums() == [figure.number]
    figure.canvas.draw()


def test_the_figure_of_one_run(result):
    row = result.rows[0]
    once = Comparison((type(row)(row.name, row.reports[:1], row.seconds[:1]),), result.data)
    pv.plot.comparison(once).canvas.draw()


def around_a_module():
    net = nn.Linear(64, 2)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(pyro.module("net", net)(x.flatten(1)), 0.5).to_event(1))

    return pv.Variant(Story(), guide)


def a_stepper():
    pair = vae()
    return pv.infer.SVI(*pair, torch.optim.Adam)


BAD = {
    "no mapping": (lambda: ([vae()],), {}, "variants: expected a mapping from name to variant, found list"),
    "one variant": (lambda: (vae(),), {}, "variants: expected a mapping from name to variant, found Variant"),
    "empty": (lambda: ({},), {}, "variants: empty"),
    "name": (lambda: ({1: vae()},), {}, "variants: expected names that are strings, found 1"),
    "kind": (lambda: ({"a": 3},), {}, "compare: a: expected a Variant or a function that builds one, found int"),
    "module": (lambda: ({"a": nn.Linear(2, 2)},), {}, "compare: a: expected a Variant .*, found Linear"),
    "builds none": (lambda: ({"a": lambda: None},), {}, "compare: a: expected a function that builds a Variant"),
    "recipe itself": (lambda: ({"a": pv.vae},), {}, "compare: a: missing a required argument: 'data_shape'"),
    "borrowed module": (lambda: ({"a": around_a_module()},), {}, "compare: a: its guide is a function around the mod"),
    "no seeds": (lambda: ({"a": vae()},), {"seeds": 0}, "seeds: expected a whole number of at least 1, found 0"),
    "seeds listed": (lambda: ({"a": vae()},), {"seeds": [1]}, "seeds: expected a whole number"),
    "particles": (lambda: ({"a": vae()},), {"particles": -1}, "particles: expected a whole number .* found -1"),
    "seed": (lambda: ({"a": vae()},), {"seed": 1}, "seed: compare sets it itself"),
    "out": (lambda: ({"a": vae()},), {"out": "runs"}, "out: compare sets it itself"),
    "resume": (lambda: ({"a": vae()},), {"resume": True}, "resume: compare sets it itself"),
    "unknown option": (lambda: ({"a": vae()},), {"epoch": 3}, "fit_options: unknown 'epoch', .* mean 'epochs'"),
    "stepper": (lambda: ({"a": vae()},), {"objective": a_stepper()}, "objective: expected a pyro.infer.ELBO"),
    "batch size": (lambda: ({"a": vae()},), {"batch_size": 0}, "batch_size: expected a whole number"),
    "data of another": (lambda: ({"a": vae(), "b": pv.vae(9)},), {}, "compare: b: .*expected"),
    "validation": (
        lambda: ({"a": vae()},),
        {"validation": torch.rand(9, 1, 8, 8)},
        "compare: a: .*outside the support",
    ),
    "test": (lambda: ({"a": vae()},), {"test": torch.zeros(0, 1, 8, 8)}, "compare: a: .*at least one datum"),
    "last of the data": (
        lambda: ({"a": vae()}, torch.cat([torch.zeros(200, 1, 8, 8), torch.full((1, 1, 8, 8), 0.5)])),
        {},
        "compare: a: data: .*outside the support",
    ),
}


@pytest.mark.parametrize(("arguments", "options", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_told_in_one_line_before_any_training(arguments, options, message, monkeypatch):
    @functools.wraps(pv.fit)
    def fit(*_, **__):
        raise AssertionError("trained")

    variants, *data = arguments()
    monkeypatch.setattr("pyro_vae.comparison.fit", fit)
    with pytest.raises((ValueError, TypeError), match=message) as caught:
        pv.compare(variants, *(data or [torch.zeros(20, 1, 8, 8)]), **options)
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:Encountered")
def test_a_training_that_fails_says_whose_it_is(digits):
    variants = {"a": pv.vae((1, 8, 8), latent=2, hidden=(8,), likelihood=pv.likelihoods.Normal)}
    with pytest.raises(FloatingPointError, match=r"compare: a: epoch 1, .*step 1: ") as caught:
        pv.compare(variants, digits["train"].x[:64], seeds=1, lr=1e30, **OPTIONS)
    assert "\n" not in str(caught.value)
