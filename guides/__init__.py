"""Inference programs q(z | x): one Pyro program per file, imported as ``pyro_vae.guides``."""

if __name__ != "pyro_vae.guides":
    raise ImportError(
        f"this folder holds the package pyro_vae.guides, not {__name__!r}: write `from pyro_vae.guides import VAEGuide`"
    )

from pyro_vae.guides.aae import AAEGuide
from pyro_vae.guides.amortised import Amortised
from pyro_vae.guides.bottom_up import BottomUpGuide
from pyro_vae.guides.cvae import CVAEGuide
from pyro_vae.guides.dag import DAGGuide
from pyro_vae.guides.discrete import DiscreteGuide
from pyro_vae.guides.joint import JointGuide
from pyro_vae.guides.m2 import M2Guide
from pyro_vae.guides.shared import SharedGuide
from pyro_vae.guides.top_down import TopDownGuide
from pyro_vae.guides.vae import VAEGuide
from pyro_vae.guides.vq import VQGuide

__all__ = [
    "AAEGuide",
    "Amortised",
    "BottomUpGuide",
    "CVAEGuide",
    "DAGGuide",
    "DiscreteGuide",
    "JointGuide",
    "M2Guide",
    "SharedGuide",
    "TopDownGuide",
    "VAEGuide",
    "VQGuide",
]
