"""What a training leaves on disk while it goes on, and how it is taken up again after a kill."""

import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_vae import checks, saving, storage
from pyro_vae.train.run import CHECKPOINT, Run


class Keeper:
    """Keeps the best weights and the state of the run, in memory and in a folder, and says when to stop.

    The checkpoint is one file and the truth about a run: everything else in the folder follows from it, so that
    a process that is killed between two files leaves nothing that does not fit together.
    """

    def __init__(
        self,
        run: Run,
        stepper: Any,
        out: str | Path | None,
        patience: int | None,
        *,
        resume: bool,
        validated: bool,
    ) -> None:
        if patience is not None and not validated:
            raise ValueError("patience: needs validation data")
        if resume and out is None:
            raise ValueError("resume: needs the folder of the run, out=...")
        self.run, self.stepper, self.validated = run, stepper, validated
        self.patience = None if patience is None else checks.positive_int("patience", patience)
        self.best: Mapping[str, Tensor] = {}
        self.settings: dict[str, str] = {}
        self.schedule: Any = None
        self.events: Any = None
        self.folder = None if out is None else _free(Path(out), resume)
        self.resumable = hasattr(stepper, "state_dict") and hasattr(stepper, "load_state_dict")
        if resume and not self.resumable:
            raise ValueError(f"resume: {type(stepper).__name__} has no state_dict and load_state_dict to go on from")

    def start(self, schedule: Any, settings: dict[str, str]) -> None:
        """Take the run up where its checkpoint left it, or make its folder and write the first one."""
        assert self.folder is not None
        self.schedule, self.settings = schedule, settings
        self.run.variant.check_savable()
        storage.sweep(self.folder)
        if (self.folder / CHECKPOINT).is_file():
            self._restore(storage.read_state(self.folder / CHECKPOINT))
        else:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._write(better=True)
        if find_spec("tensorboard"):
            from torch.utils.tensorboard import SummaryWriter

            # what was logged after the checkpoint belongs to epochs that will be trained again
            self.events = SummaryWriter(str(self.folder), purge_step=self.run.epochs + 1)

    def __enter__(self) -> "Keeper":
        return self

    def __exit__(self, *_: Any) -> None:
        if self.events is not None:
            self.events.close()

    def enough(self) -> bool:
        """Take note of the epoch that has just ended; True where training should stop."""
        run, elbos = self.run, self.run.history.get("validation_elbo", [])
        better = not self.validated or elbos[-1] > max(elbos[:-1], default=-math.inf)
        if better:
            run.best_epoch = run.epochs
            if self.validated:
                self.best = run.variant.snapshot()
        if self.patience is not None and run.epochs - run.best_epoch >= self.patience:
            run.stopped = f"no better validation ELBO for {self.patience} epochs"
        self._write(better)
        return bool(run.stopped)

    def finish(self) -> None:
        """Put the best weights back."""
        if self.best:
            self.run.variant.restore(self.best)
        if self.folder is not None:
            with self._told():
                self.run.variant.save(self.folder)

    def _write(self, better: bool) -> None:
        """The checkpoint first: what follows from it is written again after a resumption."""
        if self.folder is None:
            return
        with self._told():
            if self.resumable:
                storage.write_state(self.folder / CHECKPOINT, self._state())
            if better:
                self.run.variant.save(self.folder)
            if self.run.epochs:
                self.run.write(self.folder)
            if self.events is not None:
                for column, values in self.run.history.items():
                    self.events.add_scalar(column, values[-1], self.run.epochs)
                self.events.flush()

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Errors of the disk that say what was being done, and what is safe."""
        try:
            yield
        except OSError as error:
            assert self.folder is not None
            kept = "; its last checkpoint is intact" if (self.folder / CHECKPOINT).is_file() else ""
            why = error.strerror or str(error)
            raise OSError(f"{self.folder}: cannot be written to after epoch {self.run.epochs}: {why}{kept}") from error

    def _state(self) -> dict[str, Any]:
        run = self.run
        return {
            "settings": self.settings,
            "machine": _machine(run.device),
            "run": {name: value for name, value in vars(run).items() if name != "variant"},
            "variant": run.variant.snapshot(),
            "best": self.best,
            "stepper": self.stepper.state_dict(),
            "schedule": None if self.schedule is None else self.schedule.state_dict(),
        }

    def _restore(self, state: Any) -> None:
        path = f"{self.folder}/{CHECKPOINT}"
        if not isinstance(state, dict) or state.keys() != self._state().keys():
            raise ValueError(f"{path}: not the checkpoint of a run")
        for name, now in self.settings.items():
            then = state["settings"].get(name)
            if then != now:
                raise ValueError(f"resume: {name}: the run in {self.folder} has {then}, found {now}")
        own = {name: value.shape for name, value in self.run.variant.snapshot().items()}
        if own != {name: value.shape for name, value in state["variant"].items()}:
            raise ValueError(f"{path}: the checkpoint of another pair, whose parameters have other names or shapes")
        here = _machine(self.run.device)
        changed = [f"{k} was {v}, is {here[k]}" for k, v in state["machine"].items() if v != here[k]]
        if changed:
            warnings.warn(f"resume: the run will not be the same bit by bit: {', '.join(changed)}", stacklevel=4)
        self.run.variant.restore(state["variant"])
        self.stepper.load_state_dict(state["stepper"])
        if self.schedule is not None:
            self.schedule.load_state_dict(state["schedule"])
        self.best = state["best"]
        vars(self.run).update(state["run"] | {"device": self.run.device})


def _machine(device: str) -> dict[str, str]:
    """What a run must meet again to be the same bit by bit."""
    return {"torch": torch.__version__, "threads": str(torch.get_num_threads()), "device": device}


def _free(folder: Path, resume: bool) -> Path:
    """The folder of a run, where no other pair or run would be lost."""
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"out: {folder}: expected a folder, found a file")
    if (folder / CHECKPOINT).exists():
        if not resume:
            raise FileExistsError(f"out: {folder} holds a run; go on with it (resume=True) or name another folder")
    elif (folder / saving.WEIGHTS).exists():
        raise FileExistsError(f"out: {folder} holds a pair, which would be lost; name another folder")
    return folder
