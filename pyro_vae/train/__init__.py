"""Training: one function for any pair and any stepper."""

from pyro_vae.train.loop import fit
from pyro_vae.train.run import Run

__all__ = ["Run", "fit"]
