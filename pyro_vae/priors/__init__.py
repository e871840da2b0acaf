"""Priors: callables ``() -> distribution`` over a latent site."""

from pyro_vae.priors.normal import StandardNormal

__all__ = ["StandardNormal"]
