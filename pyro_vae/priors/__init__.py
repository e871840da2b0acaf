"""Priors: callables ``() -> distribution`` over a latent site, or ``(c) -> distribution`` under conditions."""

from pyro_vae.priors.conditions import Classes, Conditional, Given
from pyro_vae.priors.normal import StandardNormal

__all__ = ["Classes", "Conditional", "Given", "StandardNormal"]
