"""A run of the command line: its plan, kept as ``run.json`` in its folder, and how it is trained and read back."""

import functools
import inspect
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from pyro_vae import checks, saving, storage
from pyro_vae.cli.parts import made, spelt
from pyro_vae.data import Quadrants, Table, first, load
from pyro_vae.data.splits import NoSuchPart
from pyro_vae.infer import observed
from pyro_vae.likelihoods import Columns
from pyro_vae.recipes import RECIPES
from pyro_vae.recipes import load as load_pair
from pyro_vae.train import Run, fit
from pyro_vae.train.run import CHECKPOINT
from pyro_vae.variant import Variant

PLAN = "run.json"


@dataclass
class Plan:
    """What was asked for: a recipe and its arguments, the data and how to read them, how to train."""

    variant: str
    pair: dict[str, Any]
    data: dict[str, Any]
    training: dict[str, Any]
    standardise: bool = False
    fill: list[float] | None = None  # what a guide reads in place of missing cells

    def __post_init__(self) -> None:
        self._parts: dict[tuple[str, str], Any] = {}

    @classmethod
    def read(cls, folder: Path) -> "Plan":
        """The plan of a run.

        Raises:
            FileNotFoundError, ValueError: where the folder holds none, or none of this version.
        """
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder}: no such run")
        if not (folder / PLAN).is_file():
            raise FileNotFoundError(f"{folder / PLAN}: no such file; expected a folder written by pyro-vae train")
        plan = saving.read_config(folder, PLAN)
        try:
            read = cls(**{name: value for name, value in plan.items() if name != "pyro_vae"})
            dict(**read.pair, **read.training)
            inspect.signature(load).bind(**read.data)
        except TypeError as error:
            raise ValueError(f"{folder / PLAN}: not the plan of a run ({error})") from None
        checks.known(f"{folder / PLAN}: variant", read.variant, RECIPES)
        return read

    def write(self, folder: Path) -> None:
        """Put the plan into the folder of its run."""
        storage.write_json(folder / PLAN, {"pyro_vae": storage.FORMAT, **asdict(self)})

    def settle(self, train: Any) -> None:
        """Write down what follows from the data, so that it is the same whenever the run is read.

        Grey images under a Bernoulli likelihood are drawn anew at each use; a table keeps its columns.
        """
        if isinstance(train, Table):
            self.data["columns"] = train.schema()
            self.fill = train.fill() if self.data.get("missing") else None
            return
        usual = inspect.signature(RECIPES[self.variant]).parameters.get("likelihood")
        likelihood = str(self.pair.get("likelihood", spelt(usual.default) if usual else "Bernoulli")).partition(":")[0]
        if likelihood == "Bernoulli" and "binarise" not in self.data and _grey(train):
            self.data["binarise"] = "dynamic"
            print("data: grey images, drawn anew as black and white at each use (--binarise dynamic)")

    def part(self, split: str) -> Any:
        """A part of the data, read once as long as it is read in the same way."""
        key = (split, repr(self.data))
        if key not in self._parts:
            # labels are few where one learns, and all there where one looks how it went
            left_out = () if split == "train" else ("labelled",)
            self._parts[key] = load(split=split, **{k: v for k, v in self.data.items() if k not in left_out})
        return self._parts[key]

    def run(self, folder: Path, **options: Any) -> Run:
        """Train the pair in ``folder``, or go on with it; ``options`` are those of :func:`pyro_vae.fit`."""
        train, validation = self.part("train"), self.validation()
        torch.manual_seed(self.training.get("seed", 0))
        pair = RECIPES[self.variant](train.shape, **self.arguments(train))
        if not (folder / CHECKPOINT).exists():  # a run that goes on has been introduced before
            print(pair, flush=True)
        training = {name: made(name, value) for name, value in self.training.items()}
        with self.observing():
            return fit(pair, train, validation=validation, out=folder, **training, **options)

    def observing(self) -> AbstractContextManager[Any]:
        """Under what the data are trained on and evaluated: missing cells are summed out."""
        if self.fill is None:
            return nullcontext()
        return observed(fill=self.fill, x=torch.isfinite)

    @property
    def parted(self) -> bool:
        """Whether a part of each image is given."""
        return "quadrants" in self.data

    def has(self, split: str) -> bool:
        """Whether the data have such a part."""
        try:
            self.part(split)
        except NoSuchPart:
            return False
        return True

    def validation(self) -> Any:
        """The validation part, where the data have one."""
        return self.part("validation") if self.has("validation") else None

    def held_out(self) -> Any:
        """Data to look at: those that were not trained on, where there are any."""
        found = self.validation()
        return self.part("train") if found is None else found

    def arguments(self, train: Any) -> dict[str, Any]:
        """The arguments of the recipe, its likelihood in the units of the data where that was asked for."""
        arguments = {name: made(name, value) for name, value in self.pair.items()}
        takes = inspect.signature(RECIPES[self.variant]).parameters
        # some take labels only where they are told of how many classes
        asked = "classes" in takes and takes["classes"].default is None and "condition_shape" not in takes
        labels = "classes" in arguments if asked else "classes" in takes
        if "labelled" in self.data and not labels:
            hint = "unless it is told of --classes" if asked else "; m2 does"
            raise ValueError(f"labelled: {self.variant} takes no labels {hint}".replace(" ;", ";"))
        if isinstance(train, Quadrants) and "condition_shape" in takes:
            arguments["condition_shape"] = train.condition_shape
        elif labels and "condition_shape" not in arguments:
            if getattr(train, "labels", None) is None:
                raise ValueError(f"data: {self.variant} takes class labels, which these data have none of")
            arguments.setdefault("classes", int(train.labels.max()) + 1)
        if isinstance(train, Table) and "likelihood" not in arguments:
            arguments["likelihood"] = functools.partial(Columns, **train.settings())
        elif isinstance(train, Table) and any(column.kind != "real" for column in train.columns.values()):
            name, kind = next((name, c.kind) for name, c in train.columns.items() if c.kind != "real")
            raise ValueError(
                f"likelihood: {self.pair['likelihood']} for a table whose column {name!r} is {kind}; leave it out, and "
                f"each column is modelled by its kind, or say that it is real (--columns.{name} real)"
            )
        elif self.standardise:
            if "likelihood" not in arguments:
                raise ValueError("standardise: name a likelihood of real numbers, such as --likelihood Normal")
            likelihood = arguments["likelihood"]
            if "mean" not in inspect.signature(likelihood).parameters:
                raise ValueError(f"standardise: {self.pair['likelihood']} is no likelihood of real numbers")
            arguments["likelihood"] = functools.partial(likelihood, **train.moments())
        return arguments


def trained(folder: Path) -> tuple[Plan, Variant]:
    """The plan of a run and its best pair so far."""
    return Plan.read(folder), load_pair(folder)


def _grey(data: Any) -> bool:
    """Whether data are images that are neither binary nor outside [0, 1], as far as the first tell."""
    x = next(iter(first(data, 1000).values()))
    image = x.dim() == 4 or isinstance(data, Quadrants)
    return image and bool(x.min() >= 0 and x.max() <= 1 and ((x != 0) & (x != 1)).any())
