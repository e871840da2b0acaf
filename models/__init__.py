"""Generative stories p(x, z): one Pyro program per file, imported as ``pyro_vae.models``."""

if __name__ != "pyro_vae.models":
    raise ImportError(
        f"this folder holds the package pyro_vae.models, not {__name__!r}: write `from pyro_vae.models import VAEModel`"
    )

from pyro_vae.models.aae import AAEModel
from pyro_vae.models.cvae import CVAEModel
from pyro_vae.models.dag import DAGModel
from pyro_vae.models.hvae import HVAEModel
from pyro_vae.models.joint import JointModel
from pyro_vae.models.vae import VAEModel

__all__ = ["AAEModel", "CVAEModel", "DAGModel", "HVAEModel", "JointModel", "VAEModel"]
