"""README and CONTRIBUTING do what they say."""

import inspect
import re
import shlex
import sys
from pathlib import Path
from types import ModuleType

import contract
import interoperation
import matplotlib.pyplot as plt
import pytest

import pyro_vae as pv
from pyro_vae import cli

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"]


def blocks(page):
    return re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE)


def commands(block):
    """The commands of a console block, each with what it is said to print."""
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        command, _, shown = part.partition("\n")
        yield shlex.split(command)[1:], shown


def figures_aside(text):
    """Numbers depend on the machine, and so may the units that collapse."""
    lines = [re.sub(r"-?\d+(\.\d+)?", "#", line) for line in text.splitlines()]
    return [" ".join(line.split()) for line in lines if "collapsed" not in line and "stopped" not in line]


def test_the_readme_runs_from_top_to_bottom(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names, printed = {}, ""
    for language, block in re.findall(r"^```(python|console)\n(.*?)^```", README, re.DOTALL | re.MULTILINE):
        if language == "python":
            exec(compile(block, "README.md", "exec"), names)
            printed += capsys.readouterr().out
            continue
        for words, shown in commands(block):
            code = cli.main(words)
            found = capsys.readouterr()
            assert figures_aside(found.out + found.err) == figures_aside(shown), words
            assert code == 2 * ("error: " in shown)
    plt.close("all")
    assert "log-likelihood" in printed
    assert "nats per datum" in printed
    assert (tmp_path / "runs/digits/reconstructions.png").stat().st_size > 1000
    assert names["same"].recipe == pv.load("runs/digits").recipe


@pytest.fixture
def wide_vae(monkeypatch):
    skeleton = ModuleType("skeleton")
    monkeypatch.setitem(sys.modules, "skeleton", skeleton)  # so that its classes can be pickled
    for block in blocks("CONTRIBUTING.md"):
        exec(compile(block, "CONTRIBUTING.md", "exec"), skeleton.__dict__)
    yield pv.RECIPES["wide_vae"]
    del pv.RECIPES["wide_vae"]


@pytest.mark.parametrize("check", contract.CHECKS + interoperation.CHECKS, ids=lambda check: check.__name__)
def test_the_skeleton_variant_keeps_the_contract(wide_vae, check, tmp_path):
    check(wide_vae, tmp_path) if "folder" in inspect.signature(check).parameters else check(wide_vae)


def test_the_skeleton_variant_is_what_it_says(wide_vae):
    assert float(wide_vae((4,), width=5.0).draw(20_000).nodes["z"]["value"].std()) == pytest.approx(5.0, rel=0.02)


@pytest.mark.parametrize("page", PAGES)
def test_links_within_the_repository_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text())
    assert [link for link in links if "://" not in link and not (ROOT / link).exists()] == []


def test_every_recipe_has_a_row_in_the_readme():
    readme = (ROOT / "README.md").read_text()
    assert [name for name in pv.RECIPES if f"| `pv.{name}` |" not in readme] == []
