"""Wheel, sdist, editable install and bare checkout: each gives the same package, and no more than that."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]

# Runs in a folder where the user keeps a models.py and a guides.py of their own.
USE = """
import importlib.metadata, json
import models
import pyro_vae as pv
from pyro_vae.models import VAEModel
from pyro_vae.guides import VAEGuide
import guides
pair = pv.vae((1, 8, 8), latent=2)
print(json.dumps({
    "shape": list(pair.sample(2).shape),
    "same": isinstance(pair.model, VAEModel) and isinstance(pair.guide, VAEGuide),
    "files": [pv.__file__, pv.models.__file__, pv.guides.__file__],
    "theirs": [models.MINE, guides.MINE],
    "version": pv.__version__,
    "metadata": [found.version for found in importlib.metadata.distributions(name="pyro_vae")][:1],
}))
"""


def run(*command: str | Path, at: Path, path: Path | None = None, check: bool = True) -> Any:
    """Run a command in the folder ``at``, with nothing but ``path`` in front of Python's own path."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PIP_"))}
    if path is not None:
        env["PYTHONPATH"] = str(path)
    done = subprocess.run(
        list(map(str, command)), cwd=at, env=env, capture_output=True, text=True, timeout=300, check=False
    )
    assert not check or done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done


@dataclass
class Installed:
    """What ``USE`` reported, and where the package was put."""

    where: Path
    report: dict[str, Any]


@pytest.fixture(scope="session")
def source(tmp_path_factory) -> Path:
    """A copy of the source tree as git would hand it out."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: which files belong to the source is not known")
    copy = tmp_path_factory.mktemp("source")
    names = run("git", "ls-files", "-co", "--exclude-standard", "-z", at=ROOT).stdout.split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file():  # not deleted since
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, copy / name)
    return copy


@pytest.fixture(scope="session")
def built(source, tmp_path_factory) -> dict[str, Path]:
    out = tmp_path_factory.mktemp("dist")
    tree = shutil.copytree(source, out / "tree")  # a build leaves folders of its own in the tree
    run(sys.executable, "-m", "build", "--no-isolation", "--sdist", "--wheel", "--outdir", out, tree, at=out)
    return {"wheel": next(out.glob("*.whl")), "sdist": next(out.glob("*.tar.gz"))}


@pytest.fixture(scope="session")
def elsewhere(tmp_path_factory) -> Path:
    """A user's folder."""
    folder = tmp_path_factory.mktemp("elsewhere")
    for name in ("models", "guides"):
        (folder / f"{name}.py").write_text("MINE = True\n")
    return folder


def target(archive: Path, site: Path) -> Path:
    """Install an archive, without its dependencies, which the running Python has."""
    offline = ["--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check"]
    run(sys.executable, "-m", "pip", "install", *offline, "--target", site, archive, at=site)
    return site


def editable(tree: Path, folder: Path) -> Path:
    """The Python of a new environment with a strict editable install, which borrows the dependencies."""
    run(sys.executable, "-m", "venv", "--without-pip", folder / "venv", at=folder)
    python = folder / "venv" / "bin" / "python"
    purelib = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(run(python, "-c", purelib, at=folder).stdout.strip())
    borrowed = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    # a folder that a .pth names is searched, but its own .pth files (an editable pyro_vae) are not read
    (site / "borrowed.pth").write_text("\n".join(sorted(borrowed)))
    offline = ["--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check"]
    strict = ["--config-settings", "editable_mode=strict"]
    run(sys.executable, "-m", "pip", "--python", python, "install", *offline, "-e", tree, *strict, at=folder)
    return python


@pytest.fixture(scope="session", params=["wheel", "sdist", "editable", "checkout"])
def installed(request, source, elsewhere, tmp_path_factory) -> Installed:
    kind, folder = request.param, tmp_path_factory.mktemp(request.param)
    if kind == "checkout":
        python, path, where = sys.executable, source, source
    elif kind == "editable":
        tree = shutil.copytree(source, folder / "tree")
        python, path, where = editable(tree, folder), None, tree / "build"  # the tree of links
    else:
        python, where = sys.executable, target(request.getfixturevalue("built")[kind], folder)
        path = where
    return Installed(where, json.loads(run(python, "-c", USE, at=elsewhere, path=path).stdout))


def test_a_pair_can_be_sampled(installed):
    assert installed.report["shape"] == [2, 1, 8, 8]
    assert installed.report["same"]


def test_every_file_is_the_installed_one(installed):
    for file in installed.report["files"]:
        assert Path(file).is_relative_to(installed.where)


def test_a_user_keeps_models_and_guides_of_their_own(installed):
    assert installed.report["theirs"] == [True, True]


@pytest.mark.parametrize("installed", ["wheel", "sdist", "editable"], indirect=True)
def test_metadata_name_the_same_version(installed):
    assert installed.report["metadata"] == [installed.report["version"]]


@pytest.mark.parametrize("installed", ["wheel", "sdist"], indirect=True)
def test_nothing_else_is_installed(installed):
    top = {p.name.partition("-")[0] for p in installed.where.iterdir()}
    assert top == {"pyro_vae", "bin"}
    assert [p.name for p in (installed.where / "bin").iterdir()] == ["pyro-vae"]
    assert (installed.where / "pyro_vae" / "py.typed").is_file()


def test_sdist_is_complete(built):
    with tarfile.open(built["sdist"]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    stories = {f"{f}/{p.name}" for f in ("models", "guides") for p in (ROOT / f).glob("*.py")}
    assert {"LICENSE", "README.md", "pyproject.toml", "pyro_vae/py.typed", *stories} <= names


@pytest.mark.parametrize("name", ["models", "guides"])
def test_the_wrong_name_is_refused_with_a_hint(source, name):
    failed = run(sys.executable, "-c", f"import {name}", at=source, check=False)
    assert failed.returncode == 1
    assert "ImportError" in failed.stderr
    assert f"from pyro_vae.{name} import" in failed.stderr
