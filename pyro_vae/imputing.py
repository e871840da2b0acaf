"""What is hidden, given what is observed: draws and means by self-normalised importance sampling."""

import torch
from torch import Tensor

from pyro_vae import families, tracing


def impute(
    model: tracing.Program,
    guide: tracing.Program,
    batch: tracing.Batch,
    particles: int,
    given: tuple[str, ...] = (),
    rows: int = 4096,
    *,
    mean: bool = False,
) -> dict[str, Tensor]:
    """A batch with its hidden entries, which are NaN, drawn or at their means; see :meth:`pyro_vae.Variant.impute`.

    ``given`` names the conditions, ``rows`` is how many data are decoded at a time.

    Raises:
        ValueError: where nothing is hidden, where a site has no mean, or where the model observes a function of
            its argument, or no site of its name.
    """
    hidden = {name: torch.isnan(value) for name, value in batch.items() if torch.isnan(value).any()}
    if not hidden:
        raise ValueError(
            "impute: every entry is observed; mark hidden ones as NaN, and impute under "
            "pv.infer.observed(x=torch.isfinite)"
        )
    found: dict[str, list[Tensor]] = {name: [] for name in hidden}
    for part in tracing.slices(len(next(iter(batch.values()))), rows):
        chunk = {name: value[part] for name, value in batch.items()}
        whole = _imputed(model, guide, chunk, {n: h[part] for n, h in hidden.items()}, particles, given, mean)
        for name, value in whole.items():
            found[name].append(value)
    return {**batch, **{name: torch.cat(values) for name, values in found.items()}}


def _imputed(
    model: tracing.Program,
    guide: tracing.Program,
    batch: tracing.Batch,
    hidden: dict[str, Tensor],
    particles: int,
    given: tuple[str, ...],
    mean: bool,
) -> dict[str, Tensor]:
    """One particle at a time: the mean is a running one; a draw is kept with probability w_k / (w_1 + ... + w_k)."""
    size = len(next(iter(batch.values())))
    total = torch.full((size,), -torch.inf, dtype=torch.float64)
    found: dict[str, Tensor] = {}
    for _ in range(particles):
        traces = tracing.paired(model, guide, batch)
        if not found:
            tracing.check(*traces)
        sites = tracing.observed_sites(traces[1], hidden)
        new = {name: _whole(name, batch[name], entries, sites[name], mean) for name, entries in hidden.items()}
        weight = tracing.scored(*traces, 1, size, given).log_weights[0].double().cpu()
        total = torch.logaddexp(total, weight)
        share = (weight - total).exp().nan_to_num(0.0)  # of no weight at all so far
        if not mean:
            share = (torch.rand(size, dtype=torch.float64) < share).double()
        found = {name: _moved(found.get(name, value), value, share) for name, value in new.items()}
    return found


def _whole(name: str, value: Tensor, hidden: Tensor, site: tracing.Site, mean: bool) -> Tensor:
    """The data with what one particle says of the hidden entries."""
    fn = site["fn"]
    drawn = tracing.mean(fn) if mean else fn.sample()
    if drawn is None:
        raise ValueError(f"mean: {name}, {families.family(fn)}, has no mean; use draws")
    scored, drawn = (v.movedim(-1 - fn.event_dim, 0) for v in (site["value"], drawn))  # the data plate first
    if scored.shape != value.shape or not torch.equal(scored[~hidden], value[~hidden]):
        raise ValueError(f"{name}: the model observes a function of its argument, which cannot be imputed")
    return torch.where(hidden, drawn.to(value), value)


def _moved(old: Tensor, new: Tensor, share: Tensor) -> Tensor:
    """A share of the way from ``old`` to ``new``, of its own for each datum."""
    w = share.to(new).reshape(-1, *[1] * (new.dim() - 1))
    return torch.where(w < 1, old + w * (new - old), new)
