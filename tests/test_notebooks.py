"""Every notebook runs from top to bottom in a fresh kernel, and is kept with what it shows."""

import os
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def read(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    return notebook


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def kinds(cell):
    """What a cell shows: text printed, pictures, values."""
    return [(output.output_type, output.get("name"), sorted(output.get("data", ()))) for output in cell.outputs]


def text(notebook):
    """All that is written in a notebook and its outputs, without its pictures."""
    for cell in notebook.cells:
        yield cell.source
        for output in cell.get("outputs", ()):
            yield output.get("text", "")
            yield from (value for kind, value in output.get("data", {}).items() if kind.startswith("text/"))


def test_there_are_notebooks():
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_as_it_was_run(path):
    notebook = read(path)
    assert path.stat().st_size < 600_000
    assert notebook.metadata.kernelspec.name == "python3"
    assert [cell.execution_count for cell in code(notebook)] == [*range(1, len(code(notebook)) + 1)]
    for cell in code(notebook):
        if re.search(r"^ *print\(|^pv\.plot\.", cell.source, re.MULTILINE):
            assert cell.outputs, f"shows nothing:\n{cell.source}"
        for output in cell.outputs:
            assert output.output_type != "error", output.get("evalue")
            assert output.get("name") != "stderr", output.get("text")
    for words in text(notebook):
        assert not re.search(r"(^|[\s'\"(])(/(home|root|tmp|work|Users)/|[A-Z]:\\)", words), words


@pytest.mark.slow
# Jupyter's packages announce each other's changes here; inside the kernel nothing is filtered, and stderr is looked at
@pytest.mark.filterwarnings("ignore::DeprecationWarning:(jupyter_client|jupyter_core|nbclient|traitlets|zmq).*")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path):
    kept, run = read(path), read(path)
    for cell in code(run):
        cell.outputs, cell.execution_count = [], None
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    client = NotebookClient(
        run,
        timeout=120,
        kernel_name="python3",
        coalesce_streams=True,
        resources={"metadata": {"path": str(path.parent)}},
    )
    client.execute(env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)})  # an error in a cell is raised here
    assert len(code(run)) == len(code(kept))
    for cell, before in zip(code(run), code(kept), strict=True):
        assert kinds(cell) == kinds(before), cell.source
