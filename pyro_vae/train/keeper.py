"""What a training leaves on disk while it goes on, and how it is taken up again after a kill."""

import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from torch import Tensor

from pyro_vae import checks, saving, storage
from pyro_vae.train.run import CHECKPOINT, Run
from pyro_vae.train.settings import machine

_held: set[Path] = set()  # the folders that this process trains in


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
            raise ValueError("patience: needs validation data, and a training that makes their ELBO better")
        if resume and out is None:
            raise ValueError("resume: needs the folder of the run, out=...")
        self.run, self.stepper, self.validated = run, stepper, validated
        self.patience = None if patience is None else checks.positive_int("patience", patience)
        self.best: Mapping[str, Tensor] = {}
        self.settings: dict[str, str] = {}
        self.schedule: Any = None
        self.events: Any = None
        self.closing = ExitStack()
        self.folder = None if out is None else _free(Path(out), resume)
        self.resumable = hasattr(stepper, "state_dict") and hasattr(stepper, "load_state_dict")
        if resume and not self.resumable:
            raise ValueError(f"resume: {type(stepper).__name__} has no state_dict and load_state_dict to go on from")

    def start(self, settings: dict[str, str]) -> None:
        """Take the run up where its checkpoint left it, or make its folder and write the first one."""
        assert self.folder is not None
        self.settings = settings
        self.run.variant.check_savable()
        self.closing.enter_context(locked(self.folder))
        storage.sweep(self.folder)
        resumes = (self.folder / CHECKPOINT).is_file()
        if resumes:
            self._restore(storage.read_state(self.folder / CHECKPOINT))
        if find_spec("tensorboard"):
            from torch.utils.tensorboard import SummaryWriter

            # the checkpoint comes first: a process that was killed may have logged less, and is logged again
            self.events = SummaryWriter(str(self.folder), purge_step=self.run.epochs)
            self.closing.callback(self.events.close)
        if resumes:
            self._write_what_follows()
        else:
            self._write(better=True)

    def __enter__(self) -> "Keeper":
        return self

    def __exit__(self, *_: Any) -> None:
        self.closing.close()

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
                storage.write_state(self.folder / CHECKPOINT, self.state())
            if better:
                self.run.variant.save(self.folder)
            self._report(self.folder)

    def _write_what_follows(self) -> None:
        """The files that a process may not have written any more when it was killed."""
        assert self.folder is not None
        variant = self.run.variant
        with self._told():
            last = variant.snapshot()
            if self.best:
                variant.restore(self.best)
            variant.save(self.folder)
            variant.restore(last)
            self._report(self.folder)

    def _report(self, folder: Path) -> None:
        """The figures of the last epoch."""
        if self.run.epochs:
            self.run.write(folder)
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

    def state(self) -> dict[str, Any]:
        """All that a run needs to go on."""
        run = self.run
        return {
            "settings": self.settings,
            "machine": machine(run.device),
            "run": {name: value for name, value in vars(run).items() if name != "variant"},
            "variant": run.variant.snapshot(),
            "best": self.best,
            "stepper": self.stepper.state_dict(),
            "schedule": None if self.schedule is None else self.schedule.state_dict(),
        }

    def _restore(self, state: Any) -> None:
        path = f"{self.folder}/{CHECKPOINT}"
        held = {"settings", "machine", "run", "variant", "best", "stepper", "schedule"}
        if not isinstance(state, dict) or state.keys() != held:
            raise ValueError(f"{path}: not the checkpoint of a run")
        # how many processes there are comes first, as other settings follow from it; a setting may be gone, too
        for name in {"processes": "", **self.settings, **state["settings"]}:
            then, now = state["settings"].get(name, "none"), self.settings.get(name, "none")
            if then != now:
                raise ValueError(f"resume: {name}: the run in {self.folder} has {then}, found {now}")
        own = {name: value.shape for name, value in self.run.variant.snapshot().items()}
        if own != {name: value.shape for name, value in state["variant"].items()}:
            raise ValueError(f"{path}: the checkpoint of another pair, whose parameters have other names or shapes")
        here = machine(self.run.device)
        changed = [f"{k} was {v}, is {here[k]}" for k, v in state["machine"].items() if v != here[k]]
        if changed:
            warnings.warn(f"resume: the run will not be the same bit by bit: {', '.join(changed)}", stacklevel=4)
        self.take(state)

    def take(self, state: Any) -> None:
        """Go on from a state, such as that of the process that leads."""
        self.stepper.load_state_dict(state["stepper"])
        if self.schedule is not None:
            self.schedule.load_state_dict(state["schedule"])
        self.run.variant.restore(state["variant"])
        self.best = state["best"]
        vars(self.run).update(state["run"] | {"device": self.run.device})


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One process at a time in a folder; the system opens the lock of a process that is killed.

    Raises:
        BlockingIOError: where another process is at it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    place = folder.resolve()
    if place in _held:  # whoever holds it may take it again
        yield
        return
    lock = FileLock(place / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise BlockingIOError(f"out: {folder} is in use by another process, which trains there") from None
    _held.add(place)
    try:
        yield
    finally:
        _held.remove(place)
        lock.release()


def _free(folder: Path, resume: bool) -> Path:
    """The folder of a run, where no other pair or run would be lost."""
    storage.check_folder(folder, "out")
    if (folder / CHECKPOINT).exists():
        if not resume:
            raise FileExistsError(f"out: {folder} holds a run; go on with it (resume=True) or name another folder")
    elif (folder / saving.WEIGHTS).exists():
        raise FileExistsError(f"out: {folder} holds a pair, which would be lost; name another folder")
    return folder
