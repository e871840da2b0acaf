"""Inference: effect handlers, objectives and the stepper, for any pair of Pyro programs."""

from pyro_vae.infer.aae import AAE
from pyro_vae.infer.adversarial import Adversarial
from pyro_vae.infer.aggregate import AggregateELBO
from pyro_vae.infer.aggressive import Aggressive
from pyro_vae.infer.analytic_kl import AnalyticKL
from pyro_vae.infer.baselines import Baseline
from pyro_vae.infer.compiled import CompiledSVI
from pyro_vae.infer.enumerating import enumerated
from pyro_vae.infer.factor_vae import FactorVAE
from pyro_vae.infer.free_bits import FreeBits
from pyro_vae.infer.iwae import IWAE
from pyro_vae.infer.minibatches import minibatch
from pyro_vae.infer.mmd import MMD, gram, squared_mmd
from pyro_vae.infer.observing import observed
from pyro_vae.infer.relaxing import Anneal, relaxed
from pyro_vae.infer.sharing import shared_kl
from pyro_vae.infer.svi import SVI
from pyro_vae.infer.tempering import Cyclical, WarmUp, temper
from pyro_vae.infer.total_correlation import DIP, TotalCorrelation
from pyro_vae.infer.vae_gan import VAEGAN, perceived

__all__ = [
    "AAE",
    "DIP",
    "IWAE",
    "MMD",
    "SVI",
    "VAEGAN",
    "Adversarial",
    "AggregateELBO",
    "Aggressive",
    "AnalyticKL",
    "Anneal",
    "Baseline",
    "CompiledSVI",
    "Cyclical",
    "FactorVAE",
    "FreeBits",
    "TotalCorrelation",
    "WarmUp",
    "enumerated",
    "gram",
    "minibatch",
    "observed",
    "perceived",
    "relaxed",
    "shared_kl",
    "squared_mmd",
    "temper",
]
