"""Codes whose units are independent over the data: the total correlation, and covariances."""

import math
from typing import Any

from torch import Tensor

from pyro_vae import checks, families
from pyro_vae.infer.aggregate import AggregateELBO, Draws


class TotalCorrelation(AggregateELBO):
    r"""ELBO - (weight - 1) TC,   TC = KL(q(z) || prod_j q(z_j)),   q(z) = mean_x q(z | x)

    The KL of the ELBO is I(x; z) + TC + sum_j KL(q(z_j) || p(z_j)): a beta-VAE weighs all three, this the second alone,
    by ``weight``, so that units become independent at less cost to what they tell. The batch stands for the data in
    q(z): log q(z_i) = log mean_k q(z_i | x_k), whose gradients are those of minibatch-weighted sampling.

    Args:
        weight: of the total correlation, 1 for the ELBO; the beta of beta-TCVAE.

    Raises:
        ValueError: where ``weight`` is negative; in use, where the pair has several latent sites, or a posterior that
            is a point or whose units are not independent.

    Source: Chen et al. 2018, arXiv:1802.04942 (beta-TCVAE).

    >>> pair, x = pv.vae((1, 8, 8), latent=4), pv.data.load("digits", binarise="threshold")
    >>> run = pv.fit(pair, x, objective=TotalCorrelation(weight=6.0), epochs=1, progress=False)
    """

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = checks.real("weight", weight, least=0)

    def penalty(self, draws: Draws) -> Any:
        """(weight - 1) TC, in nats."""
        return (self.weight - 1) * total_correlation(draws)


def total_correlation(draws: Draws) -> Tensor:
    """KL(q(z) || prod_j q(z_j)) of the codes of a batch, which stands for all data; nats."""
    site = draws.independent("TotalCorrelation")
    if families.is_point(site["fn"]):
        raise ValueError("TotalCorrelation: expected a posterior with a density, found a point; use pv.infer.FactorVAE")
    units = site["fn"].base_dist
    log_q = units.log_prob(site["value"].unsqueeze(1)).flatten(2)  # log q(z_ij | x_k), (batch, batch, units)
    joint, each = log_q.sum(-1).logsumexp(1), log_q.logsumexp(1).sum(-1)
    return (joint - each).mean() + (log_q.shape[-1] - 1) * math.log(len(log_q))


class DIP(AggregateELBO):
    r"""ELBO - off_diagonal sum_{i != j} C_ij^2 - diagonal sum_i (C_ii - 1)^2,   C = Cov_q(z)

    The covariance of the codes of all data is drawn towards that of N(0, I). C = Cov_x(E_q[z]) + E_x[Var_q(z)] is
    that of q(z) (DIP-VAE-II), or with ``of="means"`` its first part (DIP-VAE-I).

    Args:
        off_diagonal: weight of the covariances, in nats per datum.
        diagonal: weight of the variances; as ``off_diagonal`` where nothing is said, for means ten times as much.
        of: ``"codes"`` or ``"means"``.

    Raises:
        ValueError: where a weight is negative; in use, where the pair has several latent sites, or a posterior whose
            units are not independent.

    Source: Kumar, Sattigeri & Balakrishnan 2018, arXiv:1711.00848.

    >>> DIP(off_diagonal=10.0).diagonal
    10.0
    """

    def __init__(self, off_diagonal: float, diagonal: float | None = None, of: str = "codes") -> None:
        super().__init__()
        self.of = checks.known("of", of, ["codes", "means"])
        self.off_diagonal = checks.real("off_diagonal", off_diagonal, least=0)
        usual = off_diagonal if of == "codes" else 10 * off_diagonal
        self.diagonal = checks.real("diagonal", usual if diagonal is None else diagonal, least=0)

    def penalty(self, draws: Draws) -> Any:
        """How far the covariance is from the identity, weighed, in nats."""
        q = draws.independent("DIP")["fn"]
        means = q.mean.flatten(1)
        means = means - means.mean(0)
        covariance = means.mT @ means / means.shape[0]
        if self.of == "codes":
            covariance = covariance + q.variance.flatten(1).mean(0).diag()
        variances = covariance.diagonal()
        others = covariance.square().sum() - variances.square().sum()
        return self.off_diagonal * others + self.diagonal * (variances - 1).square().sum()
