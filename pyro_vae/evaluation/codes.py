"""Codes of some of the data, and what the posteriors of others say of them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pyro
import torch
from pyro import poutine
from torch import Tensor

from pyro_vae import tracing


@dataclass
class Codes:
    r"""One draw of all latent sites for each of some data.

    ``values``: (draws, \*inner plates, \*event) of each site;  ``plates``: how many inner plates it stands under;
    ``log_prob``: log q(z | x) of each draw under its own datum, (draws,).
    """

    values: dict[str, Tensor]
    plates: dict[str, int]
    log_prob: Tensor

    def __len__(self) -> int:
        return len(self.log_prob)

    def __getitem__(self, part: slice | Tensor) -> "Codes":
        values = {name: value[part] for name, value in self.values.items()}
        return Codes(values, self.plates, self.log_prob[part])

    @staticmethod
    def join(parts: Sequence["Codes"]) -> "Codes":
        """Those of one data set, drawn batch by batch."""
        values = {name: torch.cat([p.values[name] for p in parts]) for name in parts[0].values}
        return Codes(values, parts[0].plates, torch.cat([p.log_prob for p in parts]))


def draw(guide: tracing.Program, batch: tracing.Batch) -> Codes:
    """z ~ q(z | x), one for each datum."""
    size = len(next(iter(batch.values())))
    trace = poutine.trace(guide).get_trace(**tracing.filled(batch))
    drawn = tracing.latent_sites(trace)
    plates = {name: len(site["fn"].batch_shape) - 1 for name, site in drawn.items()}
    values = {name: site["value"].movedim(plates[name], 0) for name, site in drawn.items()}
    return Codes(values, plates, _joint(trace, values, 1, size, 0)[0] if values else torch.zeros(size))


def scores(guide: tracing.Program, batch: tracing.Batch, codes: Codes, dim: int) -> Tensor:
    """log q(z_m | x_n) of every code under every datum, (draws, batch).

    The codes stand in a plate of their own at ``dim``, so that a network that reads x alone runs once for all
    of them, or (0) the data are copied for each.
    """
    size, draws = len(next(iter(batch.values()))), len(codes)
    held = {}
    for name, value in codes.values.items():
        inner = codes.plates[name]
        value = value.unsqueeze(inner + 1)  # the data plate
        value = value.expand(*value.shape[: inner + 1], size, *value.shape[inner + 2 :])
        outer = (slice(None), *[None] * (-dim - 2 - inner))  # inner plates that other sites stand under
        held[name] = value[outer] if dim else value.movedim(0, inner).flatten(inner, inner + 1)
    program = poutine.trace(poutine.condition(guide, data=held))
    if dim:
        with pyro.plate("_particles", draws, dim=dim):
            trace = program.get_trace(**tracing.filled(batch))
    else:
        trace = program.get_trace(**tracing.filled(tracing.copied(batch, draws)))
    return _joint(trace, held, draws, size, dim)


def room_for_codes(guide: tracing.Program, batch: tracing.Batch, codes: Codes) -> int:
    """Where a plate of codes may stand, as :func:`scores` takes it: where two data give there what copies give."""
    few = {name: value[:2] for name, value in batch.items()}
    with tracing.seeded(0):
        dim = -1 - tracing.plate_nesting(poutine.trace(guide).get_trace(**tracing.filled(few)))
        copies = scores(guide, few, codes[:3], 0)
        try:
            together = scores(guide, few, codes[:3], dim)
        except Exception:  # whatever a network says of a shape that it does not know
            return 0
    return dim if torch.allclose(together, copies, rtol=1e-3, atol=1e-2) else 0


def _joint(trace: poutine.Trace, names: Iterable[str], particles: int, size: int, dim: int) -> Tensor:
    """log q of some sites together, (particles, batch)."""
    trace.compute_log_prob()
    parts = [tracing.folded(tracing.log_prob(trace.nodes[name]), 0, particles, size, dim).sum(-1) for name in names]
    return torch.stack(parts).sum(0)
