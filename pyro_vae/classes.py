"""What a pair says of the class of each datum: by its guide, or by its model through Bayes' rule."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pyro_vae import checks, families, tracing

if TYPE_CHECKING:
    from pyro_vae.variant import Variant


def probabilities(
    pair: "Variant", x: Any, site: str | None, by: str, particles: int, seed: int | None, rows: int | None
) -> Tensor:
    """q(c | x), or p(c | x) = p(c) p(x | c) / sum_c' p(c') p(x | c'), of shape (batch, classes)."""
    sites = pair.labels + pair.conditions
    if not sites and by == "guide":
        return _latent(pair, pair.by_name(x), site, seed, rows)
    if not sites:
        raise ValueError("classify: the pair has no classes; expected one with labels or a class as its condition")
    site = sites[0] if site is None else checks.known("site", site, sites)
    batch: dict[str, Any] = pair.prepare(pair.by_name(x))
    batch.pop(site, None)
    if checks.known("by", by, ["guide", "model"]) == "model":
        return _by_model(pair, site, batch, particles, seed, rows)
    q = pair.encode(ancestors="mean", rows=rows, seed=seed, **batch) if site in pair.labels else {}
    if site not in q:
        raise ValueError(f"classify: the guide takes {site!r} as given and says nothing of it; use by='model'")
    return q[site].log_prob(_classes(site, q[site])).exp().movedim(0, -1)


def _latent(pair: "Variant", batch: dict[str, Any], site: str | None, seed: int | None, rows: int | None) -> Tensor:
    """q(c | x) of a latent class that no label tells."""
    probs = {name: families.probabilities(q) for name, q in pair.encode(rows=rows, seed=seed, **batch).items()}
    found = {name: p[..., 0, :] for name, p in probs.items() if p is not None and p.shape[-2] == 1}
    if not found:
        raise ValueError(
            "classify: the pair has no classes; expected one with labels, a class as its condition, or a latent class"
        )
    return found[next(iter(found)) if site is None else checks.known("site", site, found)]


def _by_model(
    pair: "Variant", site: str, batch: dict[str, Any], particles: int, seed: int | None, rows: int | None
) -> Tensor:
    n = len(next(iter(batch.values())))
    others = {name: value for name, value in batch.items() if name in pair.given}
    p = tracing.sites(pair.draw(n, **others))[site]["fn"]
    bounds = []
    for value in _classes(site, p):
        c = value.expand(n)
        bound = pair.log_likelihood(particles=particles, seed=seed, rows=rows, **(batch | {site: c}))
        # labels are scored with the data, conditions are not
        bounds.append(bound if site in pair.labels else bound + p.log_prob(c).to(bound))
    return torch.stack(bounds, -1).softmax(-1)


def _classes(site: str, distribution: Any) -> Tensor:
    """The values of a discrete distribution, (classes, 1)."""
    if not distribution.has_enumerate_support or distribution.event_shape:
        family = families.family(distribution)
        raise ValueError(f"classify: {site!r} is no class: the values of {family} cannot be enumerated")
    return distribution.enumerate_support(expand=False)
