"""Data: sets by name, and batches that live on the device."""

from pyro_vae.data.feed import Batches, batches
from pyro_vae.data.sets import SETS, Data, load

__all__ = ["SETS", "Batches", "Data", "batches", "load"]
