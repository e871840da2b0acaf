"""What a training leaves behind."""

import csv
import io
import math
from dataclasses import dataclass, field
from pathlib import Path

from pyro_vae.storage import read_state, whole
from pyro_vae.variant import Variant

METRICS, CHECKPOINT = "metrics.csv", "checkpoint.safetensors"


@dataclass
class Run:
    """The trained pair and the history of its training.

    ``history`` maps a column to one number per epoch, in nats per datum where it is a bound:
    ``objective`` (mean of what was maximised over the epoch), ``elbo``, ``reconstruction`` and ``kl_<site>``
    (of the bare pair, after the epoch, on up to 2,048 training data), ``active_<site>`` (how many units follow these
    data; of several latent sites along 16 draws of their ancestors, on 64 to 512 of them; of sites whose posterior
    has a mean, or is categorical), ``perplexity_<site>`` (of categorical codes, how many categories are in use),
    ``shared_kl`` (of what all data share, per datum), ``validation_elbo``, ``weight_<site>`` and ``temperature`` (of a
    schedule), ``discriminator`` (the share of its right answers, where there is one), ``lr``, ``seconds``. A pair
    without an ELBO has no column of it.
    """

    variant: Variant
    seed: int
    device: str
    best_epoch: int = 0
    stopped: str = ""
    compiled: bool = False  # whether its steps were
    history: dict[str, list[float]] = field(default_factory=dict)

    @property
    def epochs(self) -> int:
        """How many epochs were trained."""
        return len(self.history.get("seconds", ()))

    @property
    def seconds(self) -> float:
        """Time taken, validation included."""
        return sum(self.history.get("seconds", ()))

    @classmethod
    def read(cls, folder: Path, variant: Variant) -> "Run":
        """The run of ``variant`` in a folder, as far as it has come.

        Raises:
            FileNotFoundError, ValueError: where there is no checkpoint, or a damaged or foreign one.
        """
        state = read_state(folder / CHECKPOINT)
        try:
            return cls(variant, **state["run"])
        except (TypeError, KeyError):
            raise ValueError(f"{folder / CHECKPOINT}: not the checkpoint of a run") from None

    def append(self, row: dict[str, float]) -> None:
        """Take in the figures of one epoch; what an epoch lacks is NaN, so that columns are of one length."""
        epochs = self.epochs
        for column in {**self.history, **row}:
            self.history.setdefault(column, [math.nan] * epochs).append(row.get(column, math.nan))

    def write(self, folder: Path) -> None:
        """``metrics.csv``: one row per epoch."""
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(["epoch", *self.history])
        table.writerows([i + 1, *row] for i, row in enumerate(zip(*self.history.values(), strict=True)))
        with whole(folder / METRICS) as part:
            part.write_text(text.getvalue())

    def __repr__(self) -> str:
        last = {k: v[-1] for k, v in self.history.items() if k in ("elbo", "validation_elbo")}
        figures = "".join(f", {k} {v:.2f}" for k, v in last.items())
        return (
            f"Run({self.epochs} epochs, {self.seconds:.1f} s on {self.device}, best epoch {self.best_epoch}{figures})"
        )
