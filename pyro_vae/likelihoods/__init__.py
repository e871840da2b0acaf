"""Likelihoods: callables ``(z) -> distribution`` over a data site, one for each kind of data.

| data | likelihood |
|---|---|
| 0 and 1 | Bernoulli |
| real numbers | Normal, Laplace and StudentT (outliers) |
| [0, 1], continuous | ContinuousBernoulli |
| levels of an image | DiscretizedLogistic, DiscretizedLogisticMixture |
| categories | Categorical |
| counts | Poisson, NegativeBinomial (spread wider than their mean) |
| rows of a table | Columns |

A recipe asks :func:`decoder_shape` what the decoder must give, and :func:`features` how the encoder reads the data.
"""

from pyro_vae.distributions import Advised, BinaryBernoulli, FiniteNormal
from pyro_vae.likelihoods.base import decoder_shape, features
from pyro_vae.likelihoods.bernoulli import Bernoulli, ContinuousBernoulli
from pyro_vae.likelihoods.categories import Categorical
from pyro_vae.likelihoods.columns import Columns
from pyro_vae.likelihoods.counts import NegativeBinomial, Poisson
from pyro_vae.likelihoods.levels import DiscretizedLogistic, DiscretizedLogisticMixture
from pyro_vae.likelihoods.real import Laplace, Normal, StudentT

__all__ = [
    "Advised",
    "Bernoulli",
    "BinaryBernoulli",
    "Categorical",
    "Columns",
    "ContinuousBernoulli",
    "DiscretizedLogistic",
    "DiscretizedLogisticMixture",
    "FiniteNormal",
    "Laplace",
    "NegativeBinomial",
    "Normal",
    "Poisson",
    "StudentT",
    "decoder_shape",
    "features",
]
