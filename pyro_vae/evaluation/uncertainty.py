"""What a pair does not know: how far draws of its random weights disagree on a datum."""

import math
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from pyro_vae import checks, tracing
from pyro_vae.variant import Variant


def weight_information(
    variant: Variant,
    *,
    particles: int = 50,
    codes: int = 5,
    seed: int | None = 0,
    rows: int | None = None,
    **batch: Any,
) -> Tensor:
    r"""KL(q(theta | x) || q(theta)),   q(theta | x) = q(theta) p(x | theta) / p(x)

    The nats that a datum would tell of what all data share, such as random weights; over x ~ E_q[p(x | theta)] its mean
    is the mutual information of weights and prediction. It is what the weights disagree about (epistemic), and not the
    noise that all of them agree on: near 0 where every draw of the weights explains x alike, as it does data like those
    that trained the pair, and large where x is unlike them.

    From K draws of the weights, w_k in proportion to p(x | theta_k), it is log K - H(w), and so at most log K;
    p(x | theta_k) is importance-weighted, from the same ``codes`` for all k.

    Args:
        variant: a pair with sites that all data share.
        particles: K, draws of theta, at least 2.
        codes: draws of z ~ q(z | x).
        seed: of all draws.
        rows: how many data are decoded at a time.
        batch: the data by name, ``x=x``.

    Shapes: (batch,), in nats.

    Raises:
        ValueError: where nothing is shared by all data; where an argument is out of range.

    Source: Houlsby et al. 2011, arXiv:1112.5745; for VAEs Daxberger & Hernandez-Lobato 2019, arXiv:1912.05651.

    >>> pair = pv.vae(9, latent=2, decoder=pv.nets.VariationalMLP(2, 9, hidden=(30,)))
    >>> weight_information(pair, x=torch.zeros(3, 9)).shape
    torch.Size([3])
    """
    checks.instance("variant", variant, Variant)
    checks.positive_int("codes", codes)
    if checks.positive_int("particles", particles) < 2:
        raise ValueError("particles: expected at least 2 draws of the weights, which may differ")
    if not variant.shares:
        raise ValueError("variant: draws nothing that all data share, such as the weights of pv.nets.VariationalLinear")
    ready: dict[str, Any] = variant.prepare(batch)
    variant.check_batch(ready, model=variant.model, guide=variant.guide)
    found = []
    with variant._at_rest(seed):
        told = [poutine.replay(variant.model, trace=variant.draw_shared()) for _ in range(particles)]
        for part in tracing.slices(len(next(iter(ready.values()))), tracing.rows_for(ready, rows)):
            chunk = {name: value[part] for name, value in ready.items()}
            log_p = torch.stack([_log_weights(variant, told, chunk) for _ in range(codes)]).logsumexp(0)
            log_w = log_p.log_softmax(0)
            found.append(math.log(particles) + (log_w.exp() * log_w).sum(0))
    return torch.cat(found)


def _log_weights(variant: Variant, told: list[tracing.Program], chunk: tracing.Batch) -> Tensor:
    """log p(x, z | theta_k) - log q(z | x) at one draw of the codes, (particles, batch)."""
    guide_trace = poutine.trace(variant.guide).get_trace(**tracing.filled(chunk))
    for name in tracing.shared_sites(guide_trace):
        guide_trace.remove_node(name)
    size, rows = len(next(iter(chunk.values()))), []
    for model in told:
        model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(**chunk)
        rows.append(tracing.scored(guide_trace, model_trace, 1, size, variant.conditions).log_weights[0])
    return torch.stack(rows)
