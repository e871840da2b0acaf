"""Distributions that torch and Pyro lack, or have without a word on what to do about data outside their support."""

from pyro_vae.distributions.advised import (
    Advised,
    BinaryBernoulli,
    ClassLabel,
    CountNegativeBinomial,
    CountPoisson,
    FiniteLaplace,
    FiniteNormal,
    FiniteStudentT,
    NoDensity,
    NumberedCategorical,
)
from pyro_vae.distributions.continuous_bernoulli import ContinuousBernoulli
from pyro_vae.distributions.discretized_logistic import DiscretizedLogistic, DiscretizedLogisticMixture, Levels
from pyro_vae.distributions.row import Row

__all__ = [
    "Advised",
    "BinaryBernoulli",
    "ClassLabel",
    "ContinuousBernoulli",
    "CountNegativeBinomial",
    "CountPoisson",
    "DiscretizedLogistic",
    "DiscretizedLogisticMixture",
    "FiniteLaplace",
    "FiniteNormal",
    "FiniteStudentT",
    "Levels",
    "NoDensity",
    "NumberedCategorical",
    "Row",
]
