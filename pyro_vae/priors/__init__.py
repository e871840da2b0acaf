"""Priors: callables ``() -> distribution`` over a latent site, or ``(c) -> distribution`` under conditions.

Each may have sample sites of its own, drawn before it returns.
"""

from pyro_vae.priors.codes import Categorical, PixelCNN
from pyro_vae.priors.conditions import Classes, Conditional, Given
from pyro_vae.priors.flow import Autoregressive, Flow
from pyro_vae.priors.mixture import Mixture, Vamp
from pyro_vae.priors.normal import (
    Horseshoe,
    Laplace,
    Normal,
    PiecewiseNormal,
    RectifiedNormal,
    SphericalUniform,
    SpikeAndSlab,
    StandardNormal,
    StudentT,
)
from pyro_vae.priors.programs import Hierarchical, HierarchicalHorseshoe, Sampled
from pyro_vae.priors.shapes import Ring, SwissRoll, Uniform

__all__ = [
    "Autoregressive",
    "Categorical",
    "Classes",
    "Conditional",
    "Flow",
    "Given",
    "Hierarchical",
    "HierarchicalHorseshoe",
    "Horseshoe",
    "Laplace",
    "Mixture",
    "Normal",
    "PiecewiseNormal",
    "PixelCNN",
    "RectifiedNormal",
    "Ring",
    "Sampled",
    "SphericalUniform",
    "SpikeAndSlab",
    "StandardNormal",
    "StudentT",
    "SwissRoll",
    "Uniform",
    "Vamp",
]
