"""The rules of the house: who may import whom, how a story looks, what ``import pyro_vae`` costs."""

import ast
import inspect
import json
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import TopologicalSorter
from importlib import import_module
from importlib.util import resolve_name
from pathlib import Path

import pytest

import pyro_vae

ROOT = Path(__file__).parents[1]
STORIES = ("models", "guides")


def sources() -> dict[str, Path]:
    """Every module of the package by name, and its file."""
    found = {}
    for folder in ("pyro_vae", *STORIES):
        for file in sorted((ROOT / folder).rglob("*.py")):
            name = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            found[f"pyro_vae.{name}" if folder in STORIES else name] = file
    return found


SOURCES = sources()
PACKAGES = [module for module, file in SOURCES.items() if file.name == "__init__.py"]

# What each room may import, besides itself. A new room is entered here, after a look at DESIGN.
HELPERS = {"checks", "classes", "describe", "families", "imputing", "saving", "storage", "story", "tracing"}
PARTS = HELPERS | {"distributions", "nets"}
ROLES = {"priors", "likelihoods", "posteriors"}
PAIRS = PARTS | {"variant"}
LEARNING = PAIRS | {"infer", "data"}
MAY_IMPORT = {
    **dict.fromkeys(HELPERS, HELPERS),
    **dict.fromkeys(["distributions", "nets"], PARTS),
    **dict.fromkeys(ROLES, PARTS | ROLES),
    **dict.fromkeys(STORIES, PARTS | ROLES),
    "variant": HELPERS,
    **dict.fromkeys(["infer", "data"], PAIRS),
    **dict.fromkeys(["train", "evaluation"], LEARNING),
    "latents": PARTS | ROLES,
    "building": PARTS | ROLES | {"latents"},
    **dict.fromkeys(["graphs", "levels", "maps"], PARTS | ROLES | {"building", "latents"}),
    "completing": PAIRS | ROLES | {"guides", "latents"},
    "recipes": PAIRS | ROLES | {*STORIES, "infer", "building", "completing", "graphs", "latents", "levels", "maps"},
    "comparison": LEARNING | {"train", "evaluation", "recipes"},
    "pruning": PAIRS | {"evaluation", "guides", "recipes"},
    "posthoc": LEARNING | {"priors", "guides", "train", "recipes"},
}
TOP = {"plot", "cli", "__main__", "demo"}  # everything meets here, and only these draw


@dataclass(frozen=True)
class Import:
    """One imported name: ``module`` is the module that runs, ``name`` what is taken from it, if not all."""

    importer: str
    line: int
    module: str
    name: str
    when: str  # "module" (at once), "call" (inside a function) or "typing" (for type checkers alone)

    def __str__(self) -> str:
        return f"{self.importer}, line {self.line}: {self.module} {self.name}"


def room(module: str) -> str:
    """``data`` for pyro_vae.data.sets, and nothing for pyro_vae itself."""
    return module.removeprefix("pyro_vae").removeprefix(".").partition(".")[0]


def imports(module: str) -> Iterator[Import]:
    """Every import statement of a module, at whatever depth."""
    package = module if module in PACKAGES else module.rpartition(".")[0]

    def visit(node: ast.AST, when: str) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(module, node.lineno, alias.name, "", when)
        elif isinstance(node, ast.ImportFrom):
            home = resolve_name("." * node.level + (node.module or ""), package)
            for alias in node.names:
                child = f"{home}.{alias.name}"
                target = (child, "") if child in SOURCES else (home, alias.name)
                yield Import(module, node.lineno, *target, when)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            when = "call"
        typing = isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for child in ast.iter_child_nodes(node):
            yield from visit(child, "typing" if typing and child not in node.orelse else when)

    return visit(ast.parse(SOURCES[module].read_text()), "module")


IMPORTS = [i for module in SOURCES for i in imports(module)]
OURS = [i for i in IMPORTS if i.module.split(".")[0] == "pyro_vae"]


def test_every_room_has_its_place():
    unknown = {room(module) for module in SOURCES} - {"", *MAY_IMPORT, *TOP}
    assert not unknown, f"enter {unknown} into MAY_IMPORT, after a look at who may import whom"


def test_imports_go_down_only():
    runs = [i for i in OURS if i.when != "typing" and room(i.importer) not in TOP]
    # the face fetches names when they are used; a room that imports the face could reach anything through it
    wrong = [i for i in runs if room(i.module) not in {room(i.importer)} | MAY_IMPORT.get(room(i.importer), set())]
    assert not wrong, "\n".join(map(str, wrong))


def test_modules_import_in_no_circle():
    graph: dict[str, set[str]] = {module: set() for module in SOURCES}
    for i in OURS:
        if i.when == "module":
            parts = i.module.split(".")
            parents = {".".join(parts[:n]) for n in range(2, len(parts))}  # their __init__ runs first
            mine = {p for p in parents if i.importer == p or i.importer.startswith(f"{p}.")}
            graph[i.importer] |= {i.module} | (parents - mine)
    list(TopologicalSorter(graph).static_order())  # raises CycleError, which names the circle


def test_what_type_checkers_are_told_exists():
    for i in OURS:
        if i.when == "typing":
            home = import_module(i.module)
            assert not i.name or hasattr(home, i.name), str(i)


def test_only_pictures_import_matplotlib():
    drawing = [i for i in IMPORTS if i.module.split(".")[0] == "matplotlib" and i.when != "typing"]
    wrong = [i for i in drawing if room(i.importer) not in TOP]
    assert not wrong, "\n".join(map(str, wrong))


FILES = [path for folder in STORIES for path in sorted((ROOT / folder).glob("*.py"))]


@pytest.mark.parametrize("path", [p for p in FILES if p.stem != "__init__"], ids=lambda p: f"{p.parent.name}/{p.name}")
def test_a_story_is_one_short_program_that_starts_with_its_equation(path):
    text = path.read_text()
    assert len(text.splitlines()) < 80
    assert "from ." not in text, "import absolutely, so that the file can be read on its own"
    classes = [n for n in ast.parse(text).body if isinstance(n, ast.ClassDef)]
    assert classes
    for story in classes:
        first = (ast.get_docstring(story) or "").partition("\n")[0]
        assert first.startswith("p(" if path.parent.name == "models" else "q("), f"{story.name}: {first!r}"


@pytest.mark.parametrize("folder", STORIES)
def test_stories_lie_flat(folder):
    assert not [p for p in (ROOT / folder).rglob("*.py") if p.parent != ROOT / folder]


@pytest.mark.parametrize("package", PACKAGES)
def test_no_public_name_is_also_a_submodule(package):
    children = {m.rpartition(".")[2] for m in SOURCES if m.rpartition(".")[0] == package}
    taken = {name for name, value in vars(import_module(package)).items() if not inspect.ismodule(value)}
    taken |= {i.name for i in imports(package)}  # names fetched later too, since type checkers are told of them
    assert not taken & children, f"{package}: now a module, now what it holds: {taken & children}"


def test_every_package_is_listed():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert sorted(listed) == sorted(PACKAGES)


def test_every_public_name_resolves_and_is_described():
    assert len(pyro_vae.__all__) == len(set(pyro_vae.__all__))
    assert [n for n in pyro_vae.__all__ if not (getattr(pyro_vae, n).__doc__ or "").strip()] == []


COST = """
import json, statistics, sys, time
import pyro, torch
before, seconds = set(sys.modules), []
for _ in range(3):
    for name in set(sys.modules) - before:
        del sys.modules[name]
    start = time.process_time()  # of this process alone, whatever else the machine does
    import pyro_vae
    seconds.append(time.process_time() - start)
light = sorted(sys.modules)
pyro_vae.vae((1, 8, 8), latent=2).sample()
print(json.dumps([statistics.median(seconds), light, sorted(sys.modules)]))
"""


def test_import_is_cheap():
    run = subprocess.run(
        [sys.executable, "-c", COST], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
    )
    seconds, light, used = json.loads(run.stdout)
    assert seconds < 0.3
    assert not {"matplotlib", "sklearn", "torchvision"} & set(light)
    assert "matplotlib" not in used
