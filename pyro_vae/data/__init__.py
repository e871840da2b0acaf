"""Data: sets by name, arrays, images and tables from files, and batches that live on the device."""

from pyro_vae.data.feed import Batches, batches, first
from pyro_vae.data.folders import Images
from pyro_vae.data.named import SETS
from pyro_vae.data.quadrants import Quadrants
from pyro_vae.data.sets import Data
from pyro_vae.data.source import load
from pyro_vae.data.sprites import Sprites, render
from pyro_vae.data.tables import Table, frame

__all__ = [
    "SETS",
    "Batches",
    "Data",
    "Images",
    "Quadrants",
    "Sprites",
    "Table",
    "batches",
    "first",
    "frame",
    "load",
    "render",
]
