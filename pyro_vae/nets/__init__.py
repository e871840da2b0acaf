"""Networks: tensors to tensors, built from the shape that goes in and the shape that comes out."""

from pyro_vae.nets.batch import FlattenBatch
from pyro_vae.nets.codebook import Codebook
from pyro_vae.nets.conv import Conv
from pyro_vae.nets.discriminator import Discriminator
from pyro_vae.nets.features import ByColumn, Log1p, OneHot, Resized, Standardise
from pyro_vae.nets.joined import Joined
from pyro_vae.nets.mlp import MLP, GatedLinear, GatedMLP, VariationalMLP
from pyro_vae.nets.pixel_cnn import PixelCNN
from pyro_vae.nets.spatial import Spatial
from pyro_vae.nets.strided import Strided
from pyro_vae.nets.variational import VariationalConv2d, VariationalLinear

__all__ = [
    "MLP",
    "ByColumn",
    "Codebook",
    "Conv",
    "Discriminator",
    "FlattenBatch",
    "GatedLinear",
    "GatedMLP",
    "Joined",
    "Log1p",
    "OneHot",
    "PixelCNN",
    "Resized",
    "Spatial",
    "Standardise",
    "Strided",
    "VariationalConv2d",
    "VariationalLinear",
    "VariationalMLP",
]
