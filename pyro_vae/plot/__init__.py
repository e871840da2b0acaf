"""Pictures of pairs, trainings and comparisons, by matplotlib."""

import matplotlib.pyplot as plt

from pyro_vae.plot.categories import code_usage
from pyro_vae.plot.pictures import (
    collapse,
    comparison,
    completions,
    interpolations,
    latents,
    learning_curves,
    levels,
    manifold,
    prior,
    reconstructions,
    samples,
    transfers,
    traversals,
)
from pyro_vae.plot.uncertain import unlike, weights

__all__ = [
    "code_usage",
    "collapse",
    "comparison",
    "completions",
    "interpolations",
    "latents",
    "learning_curves",
    "levels",
    "manifold",
    "plt",
    "prior",
    "reconstructions",
    "samples",
    "transfers",
    "traversals",
    "unlike",
    "weights",
]
