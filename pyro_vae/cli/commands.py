"""The commands, their words and their exit codes: 0 done, 1 failed under way, 2 bad input, 130 interrupted."""

import copy
import inspect
import io
import json
import logging
import os
import shlex
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Annotated, Any

import torch
from cyclopts import App, CycloptsError, Parameter

import pyro_vae as pv
from pyro_vae import checks, saving, storage
from pyro_vae.cli import pictures
from pyro_vae.cli.options import options, title, whole
from pyro_vae.cli.parts import choices, made
from pyro_vae.cli.runs import PLAN, Plan, trained
from pyro_vae.recipes import RECIPES
from pyro_vae.train import Run
from pyro_vae.train.keeper import locked
from pyro_vae.train.run import CHECKPOINT, METRICS
from pyro_vae.train.team import Team

BAD_INPUT = (
    ValueError,
    TypeError,
    NotImplementedError,
    OverflowError,
    FileNotFoundError,
    FileExistsError,
    NotADirectoryError,
    ImportError,
)
FAILED = (FloatingPointError, OSError, torch.OutOfMemoryError)

Folder = Annotated[Path, Parameter(help="The folder of a run.")]
Seed = Annotated[int, Parameter(help="Of the random draws.", converter=whole("seed"))]


def run(words: Sequence[str] | None = None) -> int:
    """Run one command; what goes wrong is one line on standard error."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names that a terminal has no letters for
    with _logged(), warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: print(f"pyro-vae: warning: {_line(message)}", file=sys.stderr)
        try:
            command, bound, _ = application().parse_args(words, exit_on_error=False, print_error=False)
            command(*bound.args, **bound.kwargs)
            print(end="", flush=True)
        except (CycloptsError, *BAD_INPUT) as error:
            return _told(error, 2)
        except BrokenPipeError:
            sys.stderr.close()  # nobody reads any more; what Python says at its exit would be lost too
            return 1
        except FAILED as error:
            return _told(error, 1)
        except RuntimeError as error:
            if "alloc" not in str(error):  # a fault of ours, whose traceback is wanted
                raise
            return _told(str(error).partition("\n")[0], 1)
    return 0


@contextmanager
def _logged() -> Iterator[None]:
    """What training warns of, such as a collapsed level, as a line of ours."""
    handler = logging.StreamHandler()
    handler.setLevel(logging.WARNING)
    handler.setFormatter(logging.Formatter("pyro-vae: warning: %(message)s"))
    log = logging.getLogger("pyro_vae")
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)


def _told(error: Any, code: int) -> int:
    print(f"pyro-vae: error: {_line(error)}", file=sys.stderr)
    return code


def _line(message: Any) -> str:
    return " ".join(str(message).split())


# ---------------------------------------------------------------------- train


def _trainer(variant: str) -> Callable[..., None]:
    """The command that trains a variant; it takes the options of the recipe, of the data and of the training."""
    recipe = RECIPES[variant]
    data, pair, fit = (
        list(options(pv.data.load, "Data", skip=("name_or_path", "split", "seed"))),
        list(options(recipe, "Pair", skip=("data_shape",))),
        list(options(pv.fit, "Training", skip=("resume", "out"))),
    )
    name = _option("data", str, "digits", "A data set by name (see pyro-vae list), a file or a folder.", "Data")
    standardise = _option(
        "standardise", bool, False, "Let the story speak in units of the training data's mean and spread.", "Data"
    )
    out = _option("out", Path | None, None, "The run's folder; by default runs/VARIANT-DATA.", "Run")

    def train(**given: Any) -> None:
        chosen = {k: v for k, v in given.items() if v is not None}
        plan = Plan(
            variant,
            pair={p.name: chosen[p.name] for p in pair if p.name in chosen},
            data={p.name: _plain(chosen[p.name]) for p in data if p.name in chosen}
            | _placed({"data": "digits", "root": "data"} | chosen),
            training={p.name: chosen[p.name] for p in fit if p.name in chosen and p.name != "progress"},
            standardise=chosen.get("standardise", False),
        )
        for name, value in (plan.pair | plan.training).items():
            made(name, value)  # words that stand for nothing are told before the data are read
        folder = chosen.get("out", Path("runs") / f"{variant}-{Path(plan.data['name_or_path']).stem}")
        _start(plan, folder, chosen.get("progress", True))

    signed = [name, *data, standardise, *pair, *fit, out]
    train.__signature__ = inspect.Signature(signed)  # type: ignore[attr-defined]
    train.__doc__ = title(recipe)
    return train


def _placed(told: dict[str, Any]) -> dict[str, str]:
    """Where data lie, told so that it holds from any folder."""
    placed = {"root": str(Path(told["root"]).absolute())} if "root" in told else {}
    if "data" in told:
        path = Path(told["data"])
        named = told["data"] in ("", *pv.data.SETS) or not path.exists()
        placed["name_or_path"] = told["data"] if named else str(path.absolute())
    return placed


def _plain(value: Any) -> Any:
    """As JSON holds it; one size stands for a square."""
    if isinstance(value, list):
        return value[0] if len(value) == 1 else value
    return str(value) if isinstance(value, Path) else value


def _option(name: str, kind: Any, default: Any, text: str, group: str) -> inspect.Parameter:
    note = Parameter(help=text, group=group)
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, note])


def _start(plan: Plan, folder: Path, progress: bool) -> None:
    """A new run: its plan is on disk before its training starts, and gone again where the input was bad."""
    if not Team().leads:
        _follow(plan, folder)
        return
    storage.check_folder(folder, "out")
    if any((folder / name).exists() for name in (PLAN, saving.WEIGHTS, CHECKPOINT)):
        raise FileExistsError(f"out: {folder} holds a run; go on with --resume {folder}, or name another folder")
    plan.settle(plan.part("train"))
    before = set(folder.iterdir()) if folder.exists() else None
    ours = False
    try:
        with locked(folder), _interruptible(folder):
            if (folder / PLAN).exists():
                raise FileExistsError(f"out: {folder} holds a run by now, which another process has started")
            ours = True
            plan.write(folder)
            done = plan.run(folder, resume=True, progress=progress)
    except Exception:
        if ours and not (folder / METRICS).exists():  # no epoch has ended, nothing is lost
            for path in set(folder.iterdir()) - (before or set()):
                path.unlink()
            if before is None:
                folder.rmdir()
        raise
    _tell(plan, done, folder)


def _follow(plan: Plan, folder: Path) -> None:
    """Take part in a training that another process leads; that one tells and writes."""
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        plan.settle(plan.part("train"))
        plan.run(folder, resume=True)


@contextmanager
def _interruptible(folder: Path) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        name = shlex.quote(str(folder))
        raise KeyboardInterrupt(f"interrupted; it goes on with pyro-vae train --resume {name}") from None


def _tell(plan: Plan, run: Run, folder: Path) -> None:
    """What has become of a training."""
    print(run)
    if run.stopped:
        print(f"stopped: {run.stopped}")
    for path in pictures.draw(plan, run.variant, folder):
        print(path)
    name, split = shlex.quote(str(folder)), "" if plan.has("test") else " --split train"
    print(f"next: pyro-vae evaluate {name}{split}; pyro-vae sample {name}")


def resume(folder: Path, given: dict[str, Any]) -> None:
    """Go on with a run that was stopped, or train it for longer."""
    others = [name for name in given if name not in ("resume", "epochs", "device", "data", "root", "progress")]
    if others:
        raise ValueError(f"{others[0]}: a resumed run keeps its own; --epochs may grow, data and device may have moved")
    before = Plan.read(folder)
    planned = before.training.get("epochs", inspect.signature(pv.fit).parameters["epochs"].default)
    if given.get("epochs", planned) < planned:
        raise ValueError(
            f"epochs: the run in {folder} is to have {planned}, expected no fewer, found {given['epochs']}"
        )
    plan = copy.deepcopy(before)
    plan.training |= {name: given[name] for name in ("epochs", "device") if name in given}
    plan.data |= _placed({name: given[name] for name in ("data", "root") if name in given})
    if not Team().leads:
        _follow(plan, folder)
        return
    with locked(folder), _interruptible(folder):
        plan.write(folder)  # before training, so that a kill forgets nothing
        try:
            done = plan.run(folder, resume=True, progress=given.get("progress", True))
        except BAD_INPUT:
            before.write(folder)
            raise
    _tell(plan, done, folder)


# ---------------------------------------------------------------------- the others


def evaluate(
    run: Folder,
    /,
    *,
    particles: Annotated[
        int, Parameter(help="Draws per datum for the log-likelihood.", converter=whole("particles"))
    ] = 100,
    split: Annotated[str, Parameter(help="Part of the data: train, validation or test.")] = "test",
    data: Annotated[str | None, Parameter(help="Other data than those of the run, of the same kind.")] = None,
    as_json: Annotated[bool, Parameter(name="--json", help="Print one JSON object.", negative=())] = False,
    seed: Seed = 0,
) -> None:
    """Bounds on log p(x) of a trained pair, in nats per datum, and where the nats go."""
    plan, pair = trained(run)
    if data is not None:
        plan.data["name_or_path"] = data
    part = plan.part(split)
    with plan.observing():
        report = pv.evaluate(pair, part, particles=particles, seed=seed)
    print(json.dumps(report.to_dict()) if as_json else report)


def sample(
    run: Folder,
    /,
    *,
    n: Annotated[int, Parameter(name=["--n", "-n"], help="How many.", converter=whole("n"))] = 64,
    out: Annotated[
        str | None,
        Parameter(
            help="A .png, .npy or .csv file, or - for CSV on standard output; by default in the run's folder.",
            allow_leading_hyphen=True,
        ),
    ] = None,
    mean: Annotated[bool, Parameter(help="The likelihood's means in place of draws.", negative=())] = False,
    condition: Annotated[
        dict[str, str] | None,
        Parameter(
            help="Class labels to draw under, as --condition.c 7, or several that take turns, 0,1,2; by default what "
            "is given is that of held-out data."
        ),
    ] = None,
    seed: Seed = 0,
) -> None:
    """Draw data from a trained model: x ~ p(x | z), z ~ p(z)."""
    plan, pair = trained(run)
    given = pictures.conditions(plan, pair, n, condition)
    draws = pair.sample(n, mean=mean, seed=seed, **given)
    if plan.parted:
        draws = plan.part("train").join(draws, given["c"].to(draws))
    print(pictures.write(plan, draws, out, run), end="")


def plot(
    run: Folder,
    /,
    *kinds: Annotated[str, Parameter(help=f"Which: {', '.join(pictures.KINDS)}; by default all that fit.")],
    out: Annotated[Path | None, Parameter(help="Where to put the pictures; by default in the run's folder.")] = None,
) -> None:
    """Draw pictures of a trained pair."""
    plan, pair = trained(run)
    for path in pictures.draw(plan, pair, run, kinds, out):
        print(path)


def prune(
    run: Folder,
    /,
    *,
    threshold: Annotated[
        float | None, Parameter(help="The size of a unit above which it remains; by default that of the report.")
    ] = None,
    out: Annotated[
        Path | None, Parameter(help="A folder for the smaller pair; without it nothing is written, only told.")
    ] = None,
    seed: Seed = 0,
) -> None:
    """What the random weights of a trained pair still use, and the pair without the rest."""
    plan, pair = trained(run)
    print(pv.weights_report(pair, threshold, seed=seed))
    if out is None:
        return
    storage.check_folder(out, "out")
    if out.exists() and any(out.iterdir()):
        raise FileExistsError(f"out: {out} is not empty; name another folder")
    small = pv.prune(pair, threshold, seed=seed)
    if small.recipe is None:
        raise ValueError(
            f"out: the smaller pair of {run} has nets that no option builds; use pv.prune and Variant.save"
        )
    small.save(out)
    plan.write(out)
    name = shlex.quote(str(out))
    print(f"next: pyro-vae evaluate {name}; pyro-vae sample {name}")


def list_() -> None:
    """Variants, data sets and the parts that options name, one line each."""
    rows = [("variant", name, title(recipe)) for name, recipe in RECIPES.items()]
    rows += [("data", name, entry.description) for name, entry in pv.data.SETS.items()]
    for option in ("likelihood", "net", "objective", "posterior", "prior"):
        rows += [(option, name, title(thing)) for name, thing in choices(option).items()]
    for kind, name, text in rows:
        print(f"{kind:10s}  {name:26s}  {text}")


# ---------------------------------------------------------------------- all together


def application() -> App:
    """The commands; there is one to train each variant that is registered now."""
    app = App(
        name="pyro-vae",
        help="Variational autoencoders: train one, look at it, draw from it. `pyro-vae list` names what there is.",
        version=pv.__version__,
        help_format="plaintext",
    )
    training = App(
        name="train",
        help="Train a variant on data; without its name, a VAE.",
        usage="Usage: pyro-vae train [VARIANT] [OPTIONS]",
        group_commands="Variants",
        help_format="plaintext",
    )
    for variant in RECIPES:
        training.command(_trainer(variant), name=variant)
    training.default(_unnamed())
    for command in (training, evaluate, sample, plot, prune):
        app.command(command)
    app.command(list_, name="list")
    return app


def _unnamed() -> Callable[..., None]:
    """``train`` without a variant: a VAE, or a run to go on with."""
    vae = _trainer("vae")

    def train(*variant: str, **given: Any) -> None:
        for name in variant:  # a name that is known has a command of its own
            checks.known("variant", name, RECIPES)
        chosen = {k: v for k, v in given.items() if v is not None}
        if variant and "resume" in chosen:
            raise ValueError(f"resume: a run knows its variant, found {variant[0]!r}")
        resume(chosen["resume"], chosen) if "resume" in chosen else vae(**given)

    stray = inspect.Parameter(
        "variant", inspect.Parameter.VAR_POSITIONAL, annotation=Annotated[str, Parameter(show=False)]
    )
    folder = _option("resume", Path | None, None, "The folder of a run to go on with; --epochs may grow.", "Run")
    options = inspect.signature(vae).parameters.values()
    train.__signature__ = inspect.Signature([stray, *options, folder])  # type: ignore[attr-defined]
    return train
