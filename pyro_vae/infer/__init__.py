"""Inference: effect handlers, objectives and the stepper, for any pair of Pyro programs."""

from pyro_vae.infer.aggressive import Aggressive
from pyro_vae.infer.analytic_kl import AnalyticKL
from pyro_vae.infer.baselines import Baseline
from pyro_vae.infer.enumerating import enumerated
from pyro_vae.infer.free_bits import FreeBits
from pyro_vae.infer.iwae import IWAE
from pyro_vae.infer.minibatches import minibatch
from pyro_vae.infer.observing import observed
from pyro_vae.infer.relaxing import Anneal, relaxed
from pyro_vae.infer.sharing import shared_kl
from pyro_vae.infer.svi import SVI
from pyro_vae.infer.tempering import Cyclical, WarmUp, temper

__all__ = [
    "IWAE",
    "SVI",
    "Aggressive",
    "AnalyticKL",
    "Anneal",
    "Baseline",
    "Cyclical",
    "FreeBits",
    "WarmUp",
    "enumerated",
    "minibatch",
    "observed",
    "relaxed",
    "shared_kl",
    "temper",
]
