"""Each recipe in a plain Pyro script, as a user would write it: run for itself, held to the figures that it prints."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import pyro_vae as pv

ROOT = Path(__file__).parents[1]
SCRIPTS = {path.stem: path for path in sorted((ROOT / "tests" / "scripts").glob("*.py"))}


def test_every_recipe_has_its_script():
    assert set(SCRIPTS) == set(pv.RECIPES)
    long = [name for name, path in SCRIPTS.items() if len(path.read_text().splitlines()) >= 60]
    assert not long


def figure(pattern, printed):
    """The one number that stands where the pattern has its group."""
    (found,) = re.findall(pattern, printed)
    return float(found)


def aae(printed):
    """The codes of all data are hardly to be told from draws of the ring, and still tell the data."""
    before, after = (figure(rf"MMD\^2 {when}: (\S+)", printed) for when in ("before", "after"))
    assert after < 0.05 * before
    assert figure(r"was right: (\S+)", printed) < 0.75
    assert figure(r"pixels told from the codes: (\S+)", printed) > 0.8


def beta_vae(printed):
    """The loaded pair is still trained under its weight on the KL: minus ELBO + (beta - 1) rate."""
    loss = figure(r"loss (\S+) of the loaded pair", printed)
    assert loss == pytest.approx(figure(r"beta \S+: (\S+)", printed), rel=0.01)
    assert figure(r"rate (\S+),", printed) > 1


def cvae(printed):
    assert figure(r"nearest to the mean of their class: (\S+)", printed) > 0.7  # of ten classes


def discrete_vae(printed):
    assert figure(r"differ by (\S+) on average", printed) < 0.02  # 300 draws
    for name in ("score", "enumerate"):
        ((first, last),) = re.findall(rf"{name}: from (\S+) to (\S+)", printed)
        assert float(last) < 0.8 * float(first)


def joint_vae(printed):
    assert figure(r"clustering accuracy (\S+)", printed) > 0.45  # of ten classes, without labels


def vq_vae(printed):
    ((by_hand, elbo),) = re.findall(r"by hand: (\S+), ELBO (\S+)", printed)
    assert float(by_hand) == pytest.approx(float(elbo), abs=1e-2)
    assert figure(r"in use: (\S+) of 16", printed) > 12


def hvae(printed):
    """The more levels are held, the more of a datum is left."""
    both, top, none = (figure(rf"where {held} is held: (\S+)", printed) for held in ("z1 and z2", "z2", "nothing"))
    assert both > 0.8
    assert both > top + 0.05
    assert top > none + 0.02


def dag_vae(printed):
    """What one half tells of the other went through the code that explains both."""
    seen, blind = (figure(rf"left ones {how}: (\S+)", printed) for how in ("seen", "not seen"))
    assert seen > blind + 0.02


def m2(printed):
    assert figure(r"accuracy (\S+) with 100 labels", printed) > 0.6  # of ten classes
    assert figure(r"accuracy (\S+) of the class", printed) > 0.6


def vae(printed):
    assert figure(r"pixels told from the means of the codes: (\S+)", printed) > 0.8


def vae_gan(printed):
    """No pixel was scored, and yet they are those of the data; draws are as unlike each other as data are, nearly."""
    assert "what is scored: features of x\n" in printed
    assert figure(r"squared error (\S+),", printed) < 0.5 * figure(r"of the mean image (\S+)", printed)
    assert figure(r"pixels: (\S+) of draws", printed) > 0.7 * figure(r"draws; (\S+) of data", printed)


CHECKS = (aae, beta_vae, cvae, dag_vae, discrete_vae, hvae, joint_vae, m2, vae, vae_gan, vq_vae)
FIGURES = {check.__name__: check for check in CHECKS}


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_script_learns_and_what_it_loads_is_what_it_trained(name, tmp_path):
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-W", "error", SCRIPTS[name]],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    losses = [float(loss) for loss in re.findall(r"^epoch \d+: loss (\S+)", done.stdout, re.MULTILINE)]
    assert losses[-1] < 0.8 * losses[0], losses
    bounds = dict(re.findall(r"^(\w+): log-likelihood (\S+)", done.stdout, re.MULTILINE))
    assert bounds["trained"] == bounds["loaded"]
    FIGURES[name](done.stdout)
    assert not list(tmp_path.iterdir()), "a script leaves nothing behind"
