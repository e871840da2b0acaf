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
from pyro_vae.distributions.autoregressive import Autoregressive, AutoregressiveCodes
from pyro_vae.distributions.codes import Codes, PointCodes, RelaxedCodes
from pyro_vae.distributions.continuous_bernoulli import ContinuousBernoulli
from pyro_vae.distributions.discretized_logistic import DiscretizedLogistic, DiscretizedLogisticMixture, Levels
from pyro_vae.distributions.horseshoe import Horseshoe
from pyro_vae.distributions.piecewise_constant import PiecewiseConstant
from pyro_vae.distributions.piecewise_normal import PiecewiseNormal
from pyro_vae.distributions.rectified_normal import RectifiedNormal
from pyro_vae.distributions.row import Row
from pyro_vae.distributions.sampled import Sampled
from pyro_vae.distributions.spherical_uniform import SphericalUniform
from pyro_vae.distributions.von_mises_fisher import VonMisesFisher

__all__ = [
    "Advised",
    "Autoregressive",
    "AutoregressiveCodes",
    "BinaryBernoulli",
    "ClassLabel",
    "Codes",
    "ContinuousBernoulli",
    "CountNegativeBinomial",
    "CountPoisson",
    "DiscretizedLogistic",
    "DiscretizedLogisticMixture",
    "FiniteLaplace",
    "FiniteNormal",
    "FiniteStudentT",
    "Horseshoe",
    "Levels",
    "NoDensity",
    "NumberedCategorical",
    "PiecewiseConstant",
    "PiecewiseNormal",
    "PointCodes",
    "RectifiedNormal",
    "RelaxedCodes",
    "Row",
    "Sampled",
    "SphericalUniform",
    "VonMisesFisher",
]
