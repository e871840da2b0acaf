"""What a pair says of the class of each datum: by its guide, or by its model through Bayes' rule."""

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pyro_vae import tracing

if TYPE_CHECKING:
    from pyro_vae.variant import Variant


def probabilities(pair: "Variant", x: Any, by: str, particles: int, seed: int | None, rows: int | None) -> Tensor:
    """q(c | x), or p(c | x) = p(c) p(x | c) / sum_c' p(c') p(x | c'), of shape (batch, classes)."""
    site, p = _site(pair)
    batch: dict[str, Any] = pair.prepare(pair.by_name(x))
    if by == "guide":
        q = pair.encode(rows=rows, seed=seed, **batch) if site in pair.labels else {}
        if site not in q:
            raise ValueError(f"classify: the guide takes {site!r} as given and says nothing of it; use by='model'")
        return q[site].probs
    n = len(next(iter(batch.values())))
    bounds = []
    for label in range(p.logits.shape[-1]):
        c = torch.full((n,), label, device=pair.device)
        bound = pair.log_likelihood(particles=particles, seed=seed, rows=rows, **(batch | {site: c}))
        # labels are scored with the data, conditions are not
        bounds.append(bound if site in pair.labels else bound + p.logits[..., label])
    return torch.stack(bounds, -1).softmax(-1)


def _site(pair: "Variant") -> tuple[str, Any]:
    """The site of the classes and its distribution in the model."""
    with suppress(ValueError):  # of a condition without a density
        for name, site in tracing.sites(pair.draw(1)).items() if pair.given else ():
            if name in pair.given and site["fn"].has_enumerate_support and not site["fn"].event_shape:
                return name, site["fn"]
    raise ValueError("classify: the pair has no classes; expected one with labels or a class as its condition")
