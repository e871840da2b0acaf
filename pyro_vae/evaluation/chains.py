"""The codes of one datum by two routes: draws of a guide, and a chain of NUTS that knows the model alone."""

import math
from dataclasses import dataclass

import pyro
import torch
from pyro import poutine
from pyro.infer import MCMC, NUTS
from pyro.ops.stats import effective_sample_size, split_gelman_rubin
from pyro.poutine.util import site_is_factor
from torch import Tensor

from pyro_vae import families, tracing
from pyro_vae.infer import observed
from pyro_vae.tracing import seeded, slices
from pyro_vae.variant import Variant

LEAST = 4  # draws of which a chain can be split into two halves that vary


@dataclass
class Chain:
    """Draws from p(z | x) by latent site, (draws, units), and how far each unit is to be trusted."""

    draws: dict[str, Tensor]
    effective_sample_size: dict[str, Tensor]
    r_hat: dict[str, Tensor]
    divergences: int


def with_moments(pair: Variant, batch: tracing.Batch) -> tuple[list[str], dict[str, str]]:
    """Latent sites of the model that a chain has moments of; the others, each with the reason."""
    with pair._at_rest(0), pyro.validation_enabled(False):
        _, model = tracing.paired(pair.model, pair.guide, batch)
    drawn = {name: site["fn"] for name, site in tracing.latent_sites(model).items()}
    discrete = {name: fn for name, fn in drawn.items() if families.is_discrete(fn)}
    for name, fn in discrete.items():
        if not fn.has_enumerate_support:
            return [], dict.fromkeys(drawn, f"NUTS cannot sum over {name}, which is discrete")
    return [n for n in drawn if n not in discrete], dict.fromkeys(discrete, "it is discrete, and NUTS sums over it")


def chain(pair: Variant, batch: tracing.Batch, draws: int, warmup: int, seed: int) -> Chain:
    """A chain for one datum; it starts where Pyro has it start, and not from the guide, which is to be judged by it."""
    # MCMC hides its model from handlers around it, so that what is missing is told anew
    missing = [name for name, value in batch.items() if torch.isnan(value).any()]
    model = poutine.block(pair.model, hide_fn=site_is_factor)
    if missing:
        model = observed(**dict.fromkeys(missing, torch.isfinite))(model)
    sampler = MCMC(NUTS(model), num_samples=draws, warmup_steps=warmup, disable_progbar=True)
    with pair.scope(), seeded(seed), torch.enable_grad():
        sampler.run(**batch)
    found = {name: z.detach().flatten(2).double().cpu() for name, z in sampler.get_samples(group_by_chain=True).items()}
    return Chain(
        draws={name: z[0] for name, z in found.items()},
        effective_sample_size={name: effective(z) for name, z in found.items()},
        r_hat={name: split_gelman_rubin(z) for name, z in found.items()},
        divergences=len(sampler.diagnostics()["divergences"]["chain 0"]),
    )


def effective(z: Tensor) -> Tensor:
    """Of draws (1, draws, units), each unit's; those that alternate drive it to infinity, short of which Stan stops."""
    size = torch.stack([effective_sample_size(unit) for unit in z.unbind(-1)])  # one that stands still is NaN to all
    return torch.where(size <= 0, torch.inf, size).clamp(max=z.shape[1] * math.log10(z.shape[1]))


def codes(pair: Variant, batch: tracing.Batch, draws: int, seed: int) -> dict[str, Tensor]:
    """z ~ q(z | x) of one datum, by site, (draws, units)."""
    parts: dict[str, list[Tensor]] = {}
    with pair._at_rest(seed), pyro.validation_enabled(False):
        for part in slices(draws, tracing.rows_for(batch)):
            n = part.stop - part.start
            trace = poutine.trace(pair.guide).get_trace(**tracing.filled(tracing.copied(batch, n)))
            for name, site in tracing.latent_sites(trace).items():
                drawn = tracing.folded(site["value"], site["fn"].event_dim, n, 1, 0)
                parts.setdefault(name, []).append(drawn[:, 0].double().cpu())
    return {name: torch.cat(values) for name, values in parts.items()}
