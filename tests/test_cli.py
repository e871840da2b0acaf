"""The command line: what it takes, what it leaves in a folder, and what it says when it cannot go on."""

import csv
import inspect
import json
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import filelock
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import pyro_vae as pv
from pyro_vae import cli
from pyro_vae.cli import commands, parts

ROOT = Path(__file__).parents[1]
SMALL = ("--hidden", "8", "--latent", "2", "--no-progress")
QUICK = (*SMALL, "--epochs", "1")


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    """Run a command in a folder of its own; returns exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)

    def call(*words):
        code = cli.main([str(word) for word in words])
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def done(run):
    """Run a command that must succeed, and say nothing on standard error; returns its output.

    Short trainings may leave a code that says nothing yet, of which a warning is due.
    """

    def call(*words):
        code, out, err = run(*words)
        due = re.compile("pyro-vae: warning: (site .* COLLAPSED|what may help)")
        assert (code, [line for line in err.splitlines() if not due.match(line)]) == (0, [])
        return out

    return call


def test_a_run_from_training_to_pictures(done, tmp_path):
    printed = done("train", *QUICK, "--batch-size", 64)
    assert "p(x, z) = p(z) p(x | z)" in printed
    assert "(--binarise dynamic)" in printed
    folder = Path("runs/vae-digits")
    kept = {".lock", "checkpoint.safetensors", "config.json", "metrics.csv", "run.json", "weights.safetensors"}
    pictures = {
        f"{kind}.png" for kind in ("samples", "reconstructions", "traversals", "latents", "prior", "learning_curves")
    }
    found = {path.name for path in folder.iterdir()}
    assert kept | pictures == {name for name in found if "tfevents" not in name}
    assert any("tfevents" in name for name in found)

    report = json.loads(done("evaluate", folder, "--particles", 7, "--json"))
    data = pv.data.load("digits", "test", binarise="dynamic")
    assert report == pv.evaluate(pv.load(folder), data, particles=7).to_dict()
    assert "nats per datum (7 particles, 270 data)" in done("evaluate", folder, "--particles", 7)
    assert "1257 data" in done("evaluate", folder, "--particles", 1, "--split", "train")

    assert done("sample", folder, "-n", 9) == "runs/vae-digits/draws.png\n"
    assert size(folder / "draws.png") == (3 * 10 + 2, 3 * 10 + 2)
    assert done("sample", folder, "-n", 5, "--mean", "--seed", 3, "--out", "deep/x.npy") == "deep/x.npy\n"
    means = pv.load(folder).sample(5, mean=True, seed=3)
    np.testing.assert_array_equal(np.load("deep/x.npy"), means.numpy())

    assert done("plot", folder, "latents", "--out", "pictures") == "pictures/latents.png\n"
    assert len(done("plot", folder).splitlines()) == 6


def size(path):
    with Image.open(path) as image:
        return image.size


def test_training_goes_on_for_longer(done):
    done("train", "beta_vae", "--beta", 2, *QUICK, "--out", "a")
    done("train", "--resume", "a", "--epochs", 3, "--no-progress")
    done("train", "beta_vae", "--beta", 2, *SMALL, "--epochs", 3, "--out", "b")
    first, second = (pv.load(folder).state_dict() for folder in "ab")
    assert all(torch.equal(first[name], second[name]) for name in second)
    assert json.loads(Path("a/run.json").read_text()) == json.loads(Path("b/run.json").read_text())
    assert len(list(csv.DictReader(Path("a/metrics.csv").read_text().splitlines()))) == 3


def test_data_may_be_elsewhere_when_a_run_goes_on(done, tmp_path, monkeypatch):
    people().to_csv("people.csv", index=False)
    done("train", "--data", "people.csv", *QUICK, "--out", "a")
    Path("other").mkdir()
    monkeypatch.chdir("other")  # a run knows its data from any folder
    done("train", "--resume", "../a", "--epochs", 2, "--no-progress")
    assert "30 data" in done("evaluate", "../a", "--particles", 2)
    Path("../people.csv").rename("moved.csv")
    done("train", "--resume", "../a", "--epochs", 3, "--data", "moved.csv", "--no-progress")
    assert "30 data" in done("evaluate", "../a", "--particles", 2)


def test_the_first_weights_depend_on_the_seed(done):
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        done("train", *QUICK, "--lr", 1e-9, "--seed", seed, "--out", folder)
    a, b, c = (torch.cat([p.flatten() for p in pv.load(folder).parameters()]) for folder in "abc")
    assert torch.equal(a, b)
    assert not torch.allclose(a, c, atol=1e-3)


def test_parts_and_settings_reach_the_pair(done):
    words = ["--likelihood", "Normal:scale=learned", "--net", "GatedMLP", "--temper", "WarmUp:epochs=1"]
    words += ["--objective", "FreeBits:nats=0.5,per=unit", "--lr-schedule", "StepLR:step_size=1", "--clip", 3]
    done("train", "--hidden", 8, 4, "--epochs", 1, *words, "--out", "a")
    pair = pv.load("a")
    assert pair.recipe.arguments["hidden"] == (8, 4)
    assert pair.recipe.arguments["net"] is pv.nets.GatedMLP
    assert pair.recipe.arguments["likelihood"].keywords == {"scale": "learned"}
    assert "binarise" not in json.loads(Path("a/run.json").read_text())["data"]
    settings = pv.train.keeper.storage.read_state(Path("a/checkpoint.safetensors"))["settings"]
    assert "WarmUp(epochs=1" in settings["temper"]
    assert "FreeBits" in settings["objective"]
    assert "StepLR(" in settings["lr_schedule"]
    assert "clip=3.0" in settings["stepper"]


def people(n=300):
    numbers = np.random.default_rng(0)
    kind = numbers.integers(0, 3, n)
    return pd.DataFrame(
        {
            "height": 1.6 + 0.1 * kind + 0.02 * numbers.normal(size=n),
            "smoker": numbers.random(n) < 0.3,
            "town": np.array(["Bergen", "Oslo", "Tromsø"])[kind],
            "visits": numbers.poisson(3 + 10 * kind),
        }
    )


def test_a_table_is_trained_on_and_sampled_in_its_own_words(done):
    people().to_csv("people.csv", index=False)
    done("train", "--data", "people.csv", *SMALL, "--epochs", 15, "--lr", 1e-2, "--out", "a")
    Path("people.csv").rename("elsewhere.csv")  # what is needed to sample is in the run
    draws = pd.read_csv(done("sample", "a", "-n", 200).strip())
    assert list(draws.columns) == ["height", "smoker", "town", "visits"]
    assert set(draws["town"]) <= {"Bergen", "Oslo", "Tromsø"}
    assert draws["visits"].dtype.kind == "i"
    assert abs(draws["height"].mean() - people()["height"].mean()) < 0.05  # metres, not standardised
    assert done("sample", "a", "-n", 3, "--out", "-").startswith("height,smoker,town,visits\n")
    assert "300 data" in done("evaluate", "a", "--data", "elsewhere.csv", "--split", "all", "--particles", 2)


def test_a_table_of_shares_is_no_grey_image(done):
    numbers = np.random.default_rng(0)
    pd.DataFrame({"a": numbers.random(50), "b": numbers.random(50)}).to_csv("shares.csv", index=False)
    assert "binarise" not in done("train", "--data", "shares.csv", *QUICK, "--out", "a")
    words = ["--data", "shares.csv", "--likelihood", "Normal", "--standardise", "--out", "b"]
    done("train", *words, *QUICK)
    assert pd.read_csv(done("sample", "b", "-n", 5).strip()).shape == (5, 2)


def test_a_collapsed_site_is_told_of_once(run):
    code, _, err = run("train", *QUICK, "--temper", 100, "--lr", 1e-2, "--out", "a")
    lines = err.splitlines()
    assert code == 0
    assert re.match(r"pyro-vae: warning: site z has COLLAPSED: none of its \d+ units follows the data", lines[0])
    assert re.match(r"pyro-vae: warning: what may help: .*pv\.infer\.WarmUp\(", lines[1])
    assert len(lines) == 2


def test_kinds_of_columns_can_be_told(done):
    frame = people().assign(zip=np.random.default_rng(0).integers(100, 150, 300))
    frame.to_csv("people.csv", index=False)
    done("train", "--data", "people.csv", "--columns.zip", "categorical", *QUICK, "--out", "a")
    columns = json.loads(Path("a/run.json").read_text())["data"]["columns"]
    assert columns["zip"]["kind"] == "categorical"
    assert columns["visits"]["kind"] == "count"


def test_standardised_data_are_sampled_in_their_own_units(done):
    x = np.random.default_rng(0).normal([1000, -3], [200, 0.01], size=(400, 2))
    Path("set").mkdir()
    for part, rows in (("train", x[:300]), ("validation", x[300:350]), ("test", x[350:])):
        np.save(f"set/{part}.npy", rows)
    words = ["--data", "set", "--likelihood", "Normal:scale=learned", "--standardise"]
    done("train", *words, *SMALL, "--epochs", 30, "--lr", 1e-2, "--out", "a")
    done("sample", "a", "-n", 500, "--out", "draws.npy")
    draws = np.load("draws.npy")
    assert np.abs(draws.mean(0) - [1000, -3]) == pytest.approx([0, 0], abs=60)
    assert draws.std(0) == pytest.approx([200, 0.01], rel=0.25)
    assert "50 data" in done("evaluate", "a", "--particles", 2)


def test_a_folder_of_images_is_streamed(done):
    numbers = np.random.default_rng(0)
    for i in range(30):
        path = Path(f"pictures/{'cats' if i % 2 else 'dogs'}/{i}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(numbers.integers(0, 255, (10 + i, 12, 3), dtype=np.uint8)).save(path)
    words = ["--data", "pictures", "--size", 8, 9, "--likelihood", "ContinuousBernoulli", "--out", "a"]
    done("train", *words, *QUICK)
    assert pv.load("a").sample(2).shape == (2, 3, 8, 9)
    assert "3 data" in done("evaluate", "a", "--particles", 2)
    assert size("a/reconstructions.png")[0] > 100


def test_colour_images_of_eight_bits(done):
    words = ["--data", "patches", "--likelihood", "DiscretizedLogistic", "--net", "MLP", "--out", "a"]
    done("train", *words, *QUICK)
    report = json.loads(done("evaluate", "a", "--particles", 2, "--json"))
    assert report["dimensions"] == 3072
    assert report["bits_per_dimension"] == pytest.approx(-report["log_likelihood"] / 3072 / np.log(2))
    assert done("sample", "a", "-n", 4) == "a/draws.png\n"


@pytest.mark.parametrize("recipe", pv.RECIPES)
def test_every_option_of_a_recipe_has_words_and_help(recipe, done):
    shown = " ".join(done("train", recipe, "--help").split())
    for name in inspect.signature(pv.RECIPES[recipe]).parameters:
        wordless = name in ("data_shape", "classifier")  # from the data, and a module
        flag = f"--{name.replace('_', '-')} "
        assert (flag in shown) != wordless, flag
    for words in ("--data", "--epochs", "--batch-size", "--seed", "--likelihood", "Bernoulli", "WarmUp"):
        assert words in shown


def test_samples_under_labels(done, run):
    done("train", "cvae", *QUICK, "--out", "a")
    assert pv.load("a").recipe.arguments["classes"] == 10
    done("sample", "a", "-n", 6, "--condition.c", "3,8", "--out", "x.npy", "--seed", 2)
    expected = pv.load("a").sample(6, seed=2, c=[3, 8, 3, 8, 3, 8])
    np.testing.assert_array_equal(np.load("x.npy"), expected.numpy())
    assert Path("a/transfers.png").exists()
    for word, told in (("12", "c: 64 of 64 values"), ("a", "condition: c: expected class labels such as 7 or 0,1,2")):
        code, out, err = run("sample", "a", "--condition.c", word)
        assert (code, out) == (2, "")
        assert err.startswith(f"pyro-vae: error: {told}")
    code, _, err = run("sample", "a", "--condition.d", "1")
    assert err.startswith("pyro-vae: error: d: not a condition of this pair")


def test_a_few_labels_on_the_command_line(done):
    done("train", "m2", *QUICK, "--labelled", 50, "--weight", 5, "--out", "a")
    report = json.loads(done("evaluate", "a", "--particles", 2, "--json"))
    assert report["labelled"] == 270  # of the test data all labels are there
    assert "kl_c" in Path("a/metrics.csv").read_text().partition("\n")[0]
    done("sample", "a", "-n", 4, "--condition.c", 3)


def test_images_in_two_parts_on_the_command_line(done):
    done("train", "cvae", *QUICK, "--quadrants", 2, "--prior", "StandardNormal", "--out", "a")
    assert pv.load("a").recipe.arguments["condition_shape"] == (32,)
    assert Path("a/completions.png").exists()
    assert not Path("a/samples.png").exists()
    done("sample", "a", "-n", 5, "--out", "x.npy")
    images = np.load("x.npy")
    assert images.shape == (5, 1, 8, 8)
    truth = pv.data.load("digits", "validation", binarise="dynamic", quadrants=2)
    np.testing.assert_array_equal(images[..., :4], pv.data.first(truth, 5)["c"].reshape(5, 1, 8, 4).numpy())


def test_the_list_has_one_line_each(done):
    lines = done("list").splitlines()
    named = {tuple(line.split()[:2]) for line in lines}
    assert {("variant", name) for name in pv.RECIPES} <= named
    assert {("data", name) for name in pv.data.SETS} <= named
    assert ("likelihood", "StudentT") in named
    assert all(len(line.split()) > 3 for line in lines)


def test_help_and_version(done):
    for words in (["--help"], [], ["train", "--help"], ["evaluate", "-h"], ["sample", "--help"], ["plot", "--help"]):
        assert "Usage: pyro-vae" in done(*words)
    assert done("--version").strip() == pv.__version__


# ---------------------------------------------------------------------- bad input


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run, to be asked for what it cannot give."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert cli.main(["train", *QUICK, "--out", str(folder)]) == 0
    return folder


def edit(folder, file, **changes):
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def broken(file, content):
    return lambda folder: (folder / file).write_bytes(content)


TRAIN = {
    "unknown command": (["trian"], 'Unknown command "trian". Did you mean "train"?'),
    "unknown variant": (["train", "vea"], "variant: unknown 'vea', expected one of"),
    "unknown option": (["train", "--latnt", "3"], "Unknown option: --latnt. Did you mean --latent?"),
    "option of another variant": (["train", "vae", "--beta", "3"], "Unknown option: --beta"),
    "word for a number": (["train", "--epochs", "many"], "epochs: expected a whole number, found 'many'"),
    "word in a list": (["train", "--hidden", "3", "x"], "hidden: expected a whole number, found 'x'"),
    "word for a fraction": (["train", "--lr", "fast"], 'Invalid value for --lr: unable to convert "fast"'),
    "twice": (["train", "--lr", "1", "--lr", "2"], "--lr"),
    "fraction for a count": (["train", "--latent", "2.5"], "latent: expected a whole number, found '2.5'"),
    "option without value": (["train", "--epochs"], "requires an argument"),
    "two words too many": (["train", "vae", "digits"], "Unused Tokens: ['digits']"),
    "unknown data": (["train", "--data", "digist"], "name: unknown 'digist', expected one of"),
    "no such file": (["train", "--data", "nowhere.csv"], "nowhere.csv: no such file"),
    "no such array": (["train", "--data", "nowhere.npy"], "nowhere.npy: no such file"),
    "missing download": (["train", "--data", "mnist", "--root", "nowhere"], "root: no MNIST under"),
    "unknown binarisation": (["train", "--binarise", "often"], "binarise: unknown 'often'"),
    "latent zero": (["train", "--latent", "0"], "latent: expected a whole number of at least 1, found 0"),
    "hidden negative": (["train", "--hidden", "-3"], "hidden[0]: expected a whole number of at least 1, found -3"),
    "epochs zero": (["train", "--epochs", "0"], "epochs: expected a whole number of at least 1, found 0"),
    "batch size": (["train", "--batch-size", "0"], "batch_size: expected a whole number"),
    "lr": (["train", "--lr", "-1"], "lr: expected a finite number greater than 0"),
    "beta": (["train", "beta_vae", "--beta", "nan"], "beta: expected a finite number of at least 0, found nan"),
    "unknown likelihood": (["train", "--likelihood", "Norml"], "likelihood: unknown 'Norml', expected one of"),
    "likelihood by module": (["train", "--likelihood", "os.system"], "likelihood: unknown 'os.system'"),
    "unknown setting": (["train", "--likelihood", "Normal:x=1"], "likelihood: Normal takes no 'x'; it takes scale"),
    "code for a setting": (["train", "--likelihood", "Normal:scale=open('x')"], "expected NAME or NAME:KEY=VALUE"),
    "brackets": (["train", "--likelihood", "Normal:scale=1)+(2"], "expected NAME or NAME:KEY=VALUE"),
    "called twice": (["train", "--likelihood", "Normal:scale=1)(scale=2"], "expected NAME or NAME:KEY=VALUE"),
    "schedule by zero": (["train", "--lr-schedule", "StepLR:step_size=0"], "lr_schedule: StepLR:step_size=0: "),
    "schedule by word": (
        ["train", "--lr-schedule", "CosineAnnealingLR:T_max=a"],
        "lr_schedule: CosineAnnealingLR:T_max=a",
    ),
    "temper e": (["train", "--temper", "e"], "temper: unknown 'e', expected one of"),
    "temper nan": (["train", "--temper", "nan"], "temper: expected a finite number of at least 0, found nan"),
    "half a setting": (["train", "--likelihood", "Normal:scale"], "expected NAME or NAME:KEY=VALUE"),
    "bad setting": (["train", "--likelihood", "Normal:scale=0"], "scale: expected a finite number greater than 0"),
    "unknown prior": (
        ["train", "cvae", "--prior", "Given"],
        "prior: unknown 'Given', expected one of Autoregressive, Categorical, Cond",
    ),
    "labels that do not divide": (["train", "m2", "--labelled", "33"], "labelled: expected a multiple of the number"),
    "labels for a variant without": (["train", "--labelled", "100"], "labelled: vae takes no labels; m2 does"),
    "a table without labels": (
        ["train", "m2", "--data", "people.csv"],
        "data: m2 takes class labels, which these",
    ),
    "too many quadrants": (["train", "cvae", "--quadrants", "4"], "given: expected 1 to 3 quadrants"),
    "quadrants of no condition": (["train", "--quadrants", "1"], "quadrants: the pair has no condition"),
    "classes and a shape": (
        ["train", "cvae", "--classes", "3", "--condition-shape", "2"],
        "classes, condition_shape: expected one of them",
    ),
    "unknown net": (["train", "--net", "Linear"], "net: unknown 'Linear', expected one of"),
    "net without hidden": (["train", "--net", "FlattenBatch"], "net: unknown 'FlattenBatch'"),
    "unknown objective": (["train", "--objective", "ELBO"], "objective: unknown 'ELBO'"),
    "objective lacks": (
        ["train", "--objective", "FreeBits"],
        "objective: FreeBits needs 'nats', as in FreeBits:nats=...",
    ),
    "temper word": (["train", "--temper", "slow"], "temper: unknown 'slow', expected one of Cyclical, WarmUp"),
    "temper negative": (["train", "--temper", "-2"], "temper: expected a finite number of at least 0, found -2"),
    "warm-up too long": (["train", "--temper", "WarmUp:epochs=99"], "later than training ends"),
    "schedule": (["train", "--lr-schedule", "LambdaLR"], "lr_schedule: unknown 'LambdaLR'"),
    "schedule lacks": (["train", "--lr-schedule", "StepLR"], "lr_schedule: StepLR needs 'step_size', as in"),
    "device": (["train", "--device", "quantum"], "device: 'quantum' is not to be had here"),
    "counts for grey": (["train", "--likelihood", "Poisson"], "train: x: "),
    "particles zero": (["train", "--objective", "Trace_ELBO:num_particles=0"], "objective: num_particles: expected"),
    "device of no numbers": (["train", "--device", "meta"], "device: 'meta' is not to be had here"),
    "more than a number": (["train", "--epochs", "9" * 30], "epochs: expected a whole number"),
    "no data": (["train", "--data", ""], "name_or_path: expected a name or a file, found an empty one"),
    "likelihood of tables": (["train", "--likelihood", "Columns"], "likelihood: unknown 'Columns'"),
    "schedule lacks keys": (["train", "--lr-schedule", "ConstantLR:last_epoch=3"], "lr_schedule: ConstantLR"),
    "run of a variant": (["train", "--resume", "nowhere", "vae"], "resume: a run knows its variant, found 'vae'"),
    "standardise what": (["train", "--standardise"], "standardise: name a likelihood of real numbers"),
    "standardise counts": (["train", "--standardise", "--likelihood", "Poisson"], "standardise: Poisson"),
    "likelihood of a table": (
        ["train", "--data", "people.csv", "--likelihood", "Normal"],
        "likelihood: Normal for a table whose column 'smoker' is binary; leave it out",
    ),
    "resume nothing": (["train", "--resume", "nowhere"], "nowhere: no such run"),
    "evaluate nothing": (["evaluate", "nowhere"], "nowhere: no such run"),
    "evaluate what": (["evaluate"], 'Command "evaluate" parameter RUN requires an argument'),
    "out is a file": (["train", "--out", "file"], "out: file: expected a folder, found a file"),
}
RUNS = {
    "overwrite": (["train", "--out", "RUN"], None, "out: .*run holds a run; go on with --resume"),
    "resume otherwise": (["train", "--resume", "RUN", "--lr", "3"], None, "lr: a resumed run keeps its own"),
    "fewer epochs": (["train", "--resume", "RUN", "--epochs", "0"], None, "epochs: the run in .* is to have 1"),
    "moved to nothing": (["train", "--resume", "RUN", "--data", "digist"], None, "name: unknown 'digist'"),
    "half a particle": (["evaluate", "RUN", "--particles", "2.5"], None, "particles: expected a whole number"),
    "half a sample": (["sample", "RUN", "-n", "2.5"], None, "n: expected a whole number, found '2.5'"),
    "plan of nulls": (["evaluate", "RUN"], lambda f: edit(f, "run.json", training=None), "not the plan of a run"),
    "plan of strangers": (["evaluate", "RUN"], lambda f: edit(f, "run.json", data={"a": 1}), "not the plan of a run"),
    "particles": (["evaluate", "RUN", "--particles", "0"], None, "particles: expected a whole number of at least 1"),
    "split": (["evaluate", "RUN", "--split", "tset"], None, "split: unknown 'tset'.*did you mean 'test'"),
    "other data": (["evaluate", "RUN", "--data", "nowhere.npy"], None, "nowhere.npy: no such file"),
    "ending": (["sample", "RUN", "--out", "x.gif"], None, "out: unknown '.gif', expected one of .csv, .npy, .png"),
    "none": (["sample", "RUN", "-n", "0"], None, "n: expected a whole number of at least 1, found 0"),
    "picture": (["plot", "RUN", "pie"], None, "plot: unknown 'pie', expected one of code_usage, completions"),
    "no plan": (["evaluate", "RUN"], lambda f: (f / "run.json").unlink(), r"run\.json: no such file"),
    "plan is text": (["evaluate", "RUN"], broken("run.json", b"hello"), r"run\.json: not a configuration of pyro_vae"),
    "plan is foreign": (["evaluate", "RUN"], broken("run.json", b'{"a": 1}'), r"run\.json: not a configuration"),
    "plan of old": (["evaluate", "RUN"], lambda f: edit(f, "run.json", pyro_vae=1), "format 1, this version reads"),
    "plan with more": (
        ["evaluate", "RUN"],
        lambda f: edit(f, "run.json", colour=1),
        r"run\.json: not the plan of a run",
    ),
    "plan of another": (
        ["train", "--resume", "RUN"],
        lambda f: edit(f, "run.json", variant="vea"),
        r"run\.json: variant: unknown 'vea'",
    ),
    "weights cut": (["sample", "RUN"], broken("weights.safetensors", b"x" * 99), r"weights\.safetensors: damaged"),
    "weights gone": (
        ["sample", "RUN"],
        lambda f: (f / "weights.safetensors").unlink(),
        r"weights\.safetensors: no such file",
    ),
    "checkpoint cut": (
        ["train", "--resume", "RUN"],
        broken("checkpoint.safetensors", b"x" * 99),
        r"checkpoint\.safetensors: damaged",
    ),
    "config gone": (["plot", "RUN"], lambda f: (f / "config.json").unlink(), r"config\.json: no such file"),
    "config hostile": (
        ["plot", "RUN"],
        lambda f: edit(f, "config.json", arguments={"data_shape": 4, "likelihood": {"class": "os.system"}}),
        "unknown class 'os.system'",
    ),
}


def one_line(result, message):
    code, _, err = result
    assert code == 2, err
    assert err.startswith("pyro-vae: error: ")
    assert err.count("\n") == 1, err
    assert message.replace('"', "") in err.replace('"', "")  # cyclopts quotes more in some versions than in others


@pytest.mark.parametrize("name", TRAIN)
def test_bad_words_get_one_line_and_leave_nothing_behind(name, run, tmp_path):
    words, message = TRAIN[name]
    (tmp_path / "file").write_text("precious")
    people().to_csv("people.csv", index=False)
    one_line(run(*words), message)
    assert {path.name for path in tmp_path.rglob("*")} <= {"file", "people.csv", "runs"}


@pytest.mark.parametrize("name", RUNS)
def test_bad_runs_get_one_line_and_stay_as_they_are(name, run, folder, tmp_path):
    words, damage, message = RUNS[name]
    copy = shutil.copytree(folder, tmp_path / "run")
    if damage:
        damage(copy)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    code, _, err = run(*[copy if word == "RUN" else word for word in words])
    assert (code, err.count("\n")) == (2, 1), err
    assert re.search(message, err), err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_failure_under_way_has_a_code_of_its_own(run, monkeypatch):
    def fails(error):
        def fit(*_, **__):
            raise error

        monkeypatch.setattr("pyro_vae.cli.runs.fit", fit)

    fails(FloatingPointError("epoch 1, step 3: the loss is nan"))
    assert run("train", *QUICK)[::2] == (1, "pyro-vae: error: epoch 1, step 3: the loss is nan\n")
    fails(OSError("a: cannot be written to after epoch 3: no space"))
    assert run("train", *QUICK, "--out", "b")[0] == 1
    assert run("train", "--data", "mnist", "--download", *QUICK, "--out", "b")[0] == 1
    fails(KeyboardInterrupt())
    code, _, err = run("train", *QUICK, "--out", "c")
    assert (code, err) == (130, "pyro-vae: error: interrupted; it goes on with pyro-vae train --resume c\n")
    assert "no such file" not in run("train", "--resume", "c")[2]


def test_a_failed_start_blocks_no_folder(run, monkeypatch, tmp_path):
    def fails(*_, **__):
        raise FloatingPointError("epoch 1, step 3: the loss is nan")

    monkeypatch.setattr("pyro_vae.train.loop._epoch", fails)
    Path("mine").mkdir()
    (Path("mine") / "notes.txt").write_text("precious")
    for out in ("mine", "new"):
        assert run("train", *QUICK, "--out", out)[0] == 1
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")) == ["mine", "mine/notes.txt"]
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert run("train", *QUICK, "--out", "mine")[0] == 0


def test_pictures_that_do_not_suit_are_left_out(run):
    words = ["--likelihood", "Categorical:classes=2", "--binarise", "threshold", "--out", "a"]
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        code, out, err = run("train", *QUICK, *words)
    assert code == 0
    assert "next: pyro-vae evaluate a; pyro-vae sample a" in out
    assert err.count("\n") == 3
    assert "pyro-vae: warning: no picture of the samples: mean: x, Categorical, has no mean; use draws\n" in err
    assert run("plot", "a", "samples")[::2] == (2, "pyro-vae: error: mean: x, Categorical, has no mean; use draws\n")
    assert run("sample", "a", "-n", 4)[0] == 0


def test_a_folder_in_use_is_left_alone(run, folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "run")
    before = (copy / "run.json").read_text()
    with filelock.FileLock(copy / ".lock"):
        code, _, err = run("train", "--resume", copy, "--epochs", 9)
    assert code == 1
    assert "is in use by another process" in err
    assert (copy / "run.json").read_text() == before


def test_data_without_a_test_part_say_how_to_evaluate(done):
    np.save("x.npy", np.random.default_rng(0).normal(size=(40, 3)))
    printed = done("train", "--data", "x.npy", "--likelihood", "Normal", *QUICK, "--out", "a b")
    assert "next: pyro-vae evaluate 'a b' --split train; pyro-vae sample 'a b'" in printed
    assert "40 data" in done("evaluate", "a b", "--split", "train", "--particles", 2)


def test_warnings_are_lines_too(run, folder, monkeypatch):
    def warned(*_, **__):
        warnings.warn("two\nlines", stacklevel=1)

    monkeypatch.setattr(commands, "trained", lambda run: (warned(), None))
    monkeypatch.setattr(commands, "pictures", type("", (), {"draw": lambda *_: []}))
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert run("plot", folder)[2] == "pyro-vae: warning: two lines\n"


@pytest.mark.parametrize(
    "start", [["-m", "pyro_vae"], ["-c", "import sys; from pyro_vae.cli import main; sys.exit(main())"]]
)
def test_as_a_program(start, tmp_path):
    def call(*words):
        return subprocess.run([sys.executable, *start, *words], cwd=ROOT, capture_output=True, text=True, check=False)

    assert call("list").returncode == 0
    failed = call("evaluate", str(tmp_path / "nowhere"))
    assert (failed.returncode, failed.stdout) == (2, "")
    assert failed.stderr.endswith("nowhere: no such run\n")


def test_a_reader_that_has_seen_enough_is_no_error():
    script = f"{sys.executable} -m pyro_vae list | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout.count("\n") == 1


def test_parts_are_read_and_never_run():
    made = parts.part("likelihood", "DiscretizedLogisticMixture:bits=5,components=3")
    assert (made.func, made.keywords) == (
        pv.likelihoods.DiscretizedLogisticMixture,
        {"bits": 5, "components": 3},
    )
    assert parts.part("lr_schedule", "MultiStepLR:milestones=[2,4],gamma=0.1").keywords == {
        "milestones": [2, 4],
        "gamma": 0.1,
    }
    assert parts.made("temper", "2.5") == 2.5
    assert parts.made("latent", 3) == 3
    for words in ("Normal:scale=__import__('os')", "Normal:**{}", "Normal:1", "Normal:scale=1;2"):
        with pytest.raises(ValueError, match="expected NAME or NAME:KEY=VALUE"):
            parts.part("likelihood", words)
