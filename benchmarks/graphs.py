"""The graphs of the README: model and guide of each recipe, as pyro.render_model draws them.

python benchmarks/graphs.py --out docs             # docs/graph_NAME.svg; needs graphviz's program dot
python benchmarks/graphs.py --out docs --source    # docs/graph_NAME.dot, which needs no program
"""

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import graphviz
import pyro
import torch
from pyro import poutine

import pyro_vae as pv
from pyro_vae.distributions import NoDensity


def read(guide: Callable[..., Any]) -> Callable[..., Any]:
    """A guide with what it reads as sites, so that the graph tells what a code is inferred from."""

    def program(**batch: torch.Tensor) -> None:
        with pyro.plate("data", len(next(iter(batch.values())))):
            batch = {name: pyro.sample(name, NoDensity(value.shape[1:]), obs=value) for name, value in batch.items()}
        with poutine.block(hide=["data"]):  # the same plate, a second time
            guide(**batch)

    return program


def part(name: str, program: Callable[..., Any], batches: list[dict[str, torch.Tensor]]) -> graphviz.Digraph:
    """The graph of one program, to stand beside another: its nodes have a prefix, its name is above it."""
    graph = graphviz.Digraph(f"cluster_{name}", graph_attr={"label": name, "labelloc": "t", "peripheries": "0"})
    for line in pyro.render_model(program, model_kwargs=batches).body:
        line = line.replace("subgraph cluster_", f"subgraph cluster_{name}_").replace(
            "label=data", "label=data peripheries=1"
        )
        line = re.sub(r"^(\s*)(\w+)(?= \[| ->)", rf"\1{name}_\2", line)
        graph.body.append(re.sub(r"-> (\w+)", rf"-> {name}_\1", line))
    return graph


def pair_graph(recipe: Callable[..., pv.Variant]) -> graphviz.Digraph:
    """Model and guide beside each other; what is observed in some batches only is half grey."""
    pair = recipe((1, 8, 8))
    trace = pair.draw(3, seed=0)
    whole = {name: trace.nodes[name]["value"] for name in pair.arguments}
    batches = [{name: value for name, value in whole.items() if name not in pair.labels}] if pair.labels else []
    batches.append(whole)
    font = {"fontname": "Helvetica", "fontsize": "12"}
    space = {"nodesep": "0.3", "ranksep": "0.35", "bgcolor": "white"}  # to be read on a dark page as well
    graph = graphviz.Digraph(graph_attr={**font, **space}, node_attr=font)
    graph.subgraph(part("model", pair.model, batches))
    graph.subgraph(part("guide", read(pair.guide), batches))
    return graph


def graphs() -> dict[str, graphviz.Digraph]:
    """Of every recipe whose story is no other's."""
    found: dict[str, graphviz.Digraph] = {}
    for name, recipe in pv.RECIPES.items():
        graph = pair_graph(recipe)
        if graph.source not in [other.source for other in found.values()]:
            found[name] = graph
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs"))
    parser.add_argument("--source", action="store_true", help="write the sources, for dot somewhere else")
    arguments = parser.parse_args()
    arguments.out.mkdir(exist_ok=True)
    for name, graph in graphs().items():
        if arguments.source:
            (arguments.out / f"graph_{name}.dot").write_text(graph.source)
            continue
        try:
            (arguments.out / f"graph_{name}.svg").write_bytes(graph.pipe(format="svg"))
        except graphviz.ExecutableNotFound:
            parser.error("dot is not on the path: install graphviz (the program), or write the sources with --source")


if __name__ == "__main__":
    main()
