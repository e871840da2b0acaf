"""Distributions that torch and Pyro lack, or have without a word on what to do about data outside their support."""

from pyro_vae.distributions.advised import (
    Advised,
    BinaryBernoulli,
    CountNegativeBinomial,
    CountPoisson,
    FiniteLaplace,
    FiniteNormal,
    FiniteStudentT,
    NumberedCategorical,
)
from pyro_vae.distributions.continuous_bernoulli import ContinuousBernoulli
from pyro_vae.distributions.discretized_logistic import DiscretizedLogistic, DiscretizedLogisticMixture, Levels
from pyro_vae.distributions.row import Row

__all__ = [
    "Advised",
    "BinaryBernoulli",
    "ContinuousBernoulli",
    "CountNegativeBinomial",
    "CountPoisson",
    "DiscretizedLogistic",
    "DiscretizedLogisticMixture",
    "FiniteLaplace",
    "FiniteNormal",
    "FiniteStudentT",
    "Levels",
    "NumberedCategorical",
    "Row",
]
