"""What a run shows of itself: pictures of the pair, and draws in files."""

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from torch import Tensor

from pyro_vae import checks, families, plot
from pyro_vae.cli.runs import Plan
from pyro_vae.data import first, frame
from pyro_vae.evaluation import weights_report
from pyro_vae.evaluation.weights import variational
from pyro_vae.storage import whole
from pyro_vae.train import Run
from pyro_vae.train.run import CHECKPOINT
from pyro_vae.variant import Variant

SHOWN = 2000  # codes in the picture of the latent space
KINDS: dict[str, Callable[[Plan, Variant, Path], Any]] = {
    "samples": lambda plan, pair, run: plot.samples(pair, **conditions(plan, pair, 64)),
    "reconstructions": lambda plan, pair, run: plot.reconstructions(pair, plan.held_out()),
    "traversals": lambda plan, pair, run: plot.traversals(pair, first(plan.held_out(), SHOWN, pair)),
    "levels": lambda plan, pair, run: plot.levels(pair, plan.held_out()),
    "transfers": lambda plan, pair, run: plot.transfers(pair, plan.held_out(), _classes(plan)),
    "completions": lambda plan, pair, run: plot.completions(pair, plan.held_out()),
    "latents": lambda plan, pair, run: plot.latents(pair, *_labelled(plan.held_out(), pair)),
    "prior": lambda plan, pair, run: plot.prior(pair, *_labelled(plan.held_out(), pair), n=SHOWN),
    "code_usage": lambda plan, pair, run: plot.code_usage(pair, first(plan.held_out(), SHOWN, pair)),
    "weights": lambda plan, pair, run: plot.weights(weights_report(pair)),
    "learning_curves": lambda plan, pair, run: plot.learning_curves(Run.read(run, pair)),
}
IMAGES = ("samples", "reconstructions", "traversals", "levels", "transfers")


def draw(plan: Plan, pair: Variant, run: Path, kinds: Sequence[str] = (), out: Path | None = None) -> list[Path]:
    """Write the pictures that were named, or all that suit the data; returns their files."""
    matplotlib.use("Agg")  # files, on machines without a screen too
    folder = run if out is None else out
    folder.mkdir(parents=True, exist_ok=True)
    suited = [kind for kind in KINDS if _suits(kind, plan, pair, run)]
    paths = []
    for kind in [checks.known("plot", kind, KINDS) for kind in kinds] or suited:
        if plan.parted and kind in IMAGES:
            raise ValueError(f"plot: {kind}: for whole images; a run on quadrants has completions")
        try:
            with plan.observing():
                figure = KINDS[kind](plan, pair, run)
        except ValueError as error:
            if kinds:
                raise
            warnings.warn(f"no picture of the {kind}: {error}", stacklevel=2)  # nobody has asked for it
            continue
        paths.append(folder / f"{kind}.png")
        with whole(paths[-1]) as part:
            figure.savefig(part, format="png", dpi=120, bbox_inches="tight")
        plot.plt.close(figure)
    return paths


def conditions(plan: Plan, pair: Variant, n: int, told: Mapping[str, str] | None = None) -> dict[str, Any]:
    """What n samples are drawn under: as told in words, else as in held-out data; over and over where that is too few.

    Raises:
        ValueError: where something is told of a site that is not given, or it is no list of numbers.
    """
    found = {name: _numbers(name, words) for name, words in (told or {}).items()}
    if any(name not in found for name in pair.conditions):
        held_out = first(plan.held_out(), n, pair)
        found = {name: torch.as_tensor(held_out[name]) for name in pair.conditions if name in held_out} | found
    return {name: c.repeat(-(-n // len(c)), *[1] * (c.dim() - 1))[:n] for name, c in found.items()}


def _numbers(name: str, words: str) -> Tensor:
    """Labels, whole numbers with commas between them."""
    if not re.fullmatch(r"\d{1,9}(,\d{1,9})*", words):
        raise ValueError(f"condition: {name}: expected class labels such as 7 or 0,1,2, found {words!r}")
    return torch.tensor([int(word) for word in words.split(",")])


def _suits(kind: str, plan: Plan, pair: Variant, run: Path) -> bool:
    """Whether there is anything to see in a picture of that kind."""
    if kind == "completions":
        return plan.parted
    if kind == "learning_curves":  # of which a pruned pair has none
        return (run / CHECKPOINT).is_file()
    if kind == "weights":
        return any(True for _ in variational(pair))
    if kind == "transfers" and not (pair.given and _classes(plan)):
        return False
    one = conditions(plan, pair, 1)
    codes = {name: fn for name, fn in pair.latent_sites(**one).items() if name not in pair.given}
    if (kind == "levels" and len(codes) < 2) or (kind == "prior" and all(map(families.is_discrete, codes.values()))):
        return False
    if kind == "code_usage":
        return any(families.probabilities(fn) is not None or families.is_one_hot(fn.support) for fn in codes.values())
    return kind not in IMAGES or (not plan.parted and _are_images(pair.sample(1, seed=0, **one)))


def _classes(plan: Plan) -> list[int]:
    """The classes that the labels of the data name."""
    labels = getattr(plan.held_out(), "labels", None)
    return [] if labels is None else sorted(set(labels.tolist()))


def write(plan: Plan, draws: Any, out: str | None, run: Path) -> str:
    """Draws as a picture, an array or a table, by the ending of ``out``; returns what to print."""
    if not isinstance(draws, Tensor):
        raise ValueError(f"sample: expected one data site, found {sorted(draws)}; use Variant.sample")
    columns = plan.data.get("columns")
    if out is None:
        ending = "csv" if columns or draws.dim() == 2 else "png" if _are_images(draws) else "npy"
        out = str(run / f"draws.{ending}")
    if out == "-":
        return _csv(draws, columns)
    path = Path(out)
    write = WRITERS[checks.known("out", path.suffix, WRITERS)]
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as part:
        write(part, draws, columns)
    return f"{path}\n"


def _csv(draws: Tensor, columns: Any) -> str:
    if columns:
        return frame(draws, columns).to_csv(index=False, float_format="%.7g")
    rows = draws.flatten(1).tolist()
    lines = [",".join(f"x{i}" for i in range(len(rows[0]))), *(",".join(f"{v:.7g}" for v in row) for row in rows)]
    return "\n".join(lines) + "\n"


def _png(part: Path, draws: Tensor, columns: Any) -> None:
    from torchvision.utils import save_image

    if not _are_images(draws):
        raise ValueError(f"out: {tuple(draws.shape[1:])} is no image (1 or 3, height, width); use .npy or .csv")
    save_image(draws, part, format="png", nrow=round(len(draws) ** 0.5))


def _npy(part: Path, draws: Tensor, columns: Any) -> None:
    with part.open("wb") as file:
        np.save(file, draws.cpu().numpy())


def _text(part: Path, draws: Tensor, columns: Any) -> None:
    part.write_text(_csv(draws, columns), encoding="utf-8")


WRITERS = {".png": _png, ".npy": _npy, ".csv": _text}


def _are_images(draws: Any) -> bool:
    return isinstance(draws, Tensor) and draws.dim() == 4 and draws.shape[1] in (1, 3)


def _labelled(data: Any, pair: Variant) -> tuple[Any, Any]:
    """The first data and their labels, where they have any."""
    labels = getattr(data, "labels", None)
    return first(data, SHOWN, pair), None if labels is None else labels[:SHOWN]
