"""Posteriors: callables ``(x) -> distribution`` over a latent site."""

from pyro_vae.posteriors.base import bounded, bounded_scale, encoder_shape, several, twice
from pyro_vae.posteriors.classes import Categorical, Classifier
from pyro_vae.posteriors.families import Horseshoe, PiecewiseNormal, RectifiedNormal, Transformed, VonMisesFisher
from pyro_vae.posteriors.normal import BatchNormNormal, DiagonalNormal, diagonal_normal, product
from pyro_vae.posteriors.point import Delta

__all__ = [
    "BatchNormNormal",
    "Categorical",
    "Classifier",
    "Delta",
    "DiagonalNormal",
    "Horseshoe",
    "PiecewiseNormal",
    "RectifiedNormal",
    "Transformed",
    "VonMisesFisher",
    "bounded",
    "bounded_scale",
    "diagonal_normal",
    "encoder_shape",
    "product",
    "several",
    "twice",
]
