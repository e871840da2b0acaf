"""What all data share, and what it costs."""

import torch
from pyro import poutine

from pyro_vae import checks, tracing
from pyro_vae.infer.analytic_kl import AnalyticKL
from pyro_vae.variant import Variant


def shared_kl(variant: Variant, draws: int = 16, seed: int = 0) -> dict[str, float]:
    r"""KL(q(theta) || p(theta)) = sum_i E_q[log q(theta_i) - log p(theta_i)]

    The nats that are spent once for all data, site by site: in closed form where there is one, else from ``draws``.
    log p of a whole data set is at least the sum of the ELBOs of its data, less this.

    Args:
        variant: the pair.
        draws: of theta, where a KL is estimated.
        seed: of these draws.

    Units: nats, for all data together.

    Raises:
        ValueError: where ``draws`` is no positive whole number.

    Source: Blundell et al. 2015, arXiv:1505.05424.

    >>> decoder = pv.nets.VariationalLinear(2, 9)
    >>> [*shared_kl(pv.vae(9, latent=2, decoder=decoder))]
    ['likelihood.decoder.net.weight', 'likelihood.decoder.net.bias']
    """
    checks.instance("variant", variant, Variant)
    checks.positive_int("draws", draws)
    totals: dict[str, float] = {}
    if not variant.shares:
        return totals
    with variant._at_rest(seed):
        for _ in range(draws):
            q = variant.draw_shared()
            drawn = tracing.shared_sites(q)
            names = [name for name, site in drawn.items() if not site["infer"].get("is_auxiliary")]
            p = tracing.until(names, poutine.replay(variant.model, trace=q), {})
            for name, kl in AnalyticKL().costs(p, q, {}).items():
                totals[name] = totals.get(name, 0.0) + float(torch.as_tensor(kl)) / draws
    return totals
