"""Networks: tensors to tensors, built from the shape that goes in and the shape that comes out."""

from pyro_vae.nets.batch import FlattenBatch
from pyro_vae.nets.conv import Conv
from pyro_vae.nets.features import ByColumn, Log1p, OneHot, Resized, Standardise
from pyro_vae.nets.joined import Joined
from pyro_vae.nets.mlp import MLP, GatedLinear, GatedMLP, VariationalMLP
from pyro_vae.nets.spatial import Spatial
from pyro_vae.nets.variational import VariationalConv2d, VariationalLinear

__all__ = [
    "MLP",
    "ByColumn",
    "Conv",
    "FlattenBatch",
    "GatedLinear",
    "GatedMLP",
    "Joined",
    "Log1p",
    "OneHot",
    "Resized",
    "Spatial",
    "Standardise",
    "VariationalConv2d",
    "VariationalLinear",
    "VariationalMLP",
]
