"""What the top level alone tells about the data: its mutual information with them, without a run per code."""

import math
from collections.abc import Iterator

import pyro
import torch
from torch import Tensor

from pyro_vae import tracing
from pyro_vae.data import Batches
from pyro_vae.data.feed import derived
from pyro_vae.evaluation.codes import draw
from pyro_vae.evaluation.information import DRAWS, Information, Mixture
from pyro_vae.tracing import seeded, slices
from pyro_vae.variant import Variant

FEW = 200  # codes, where each is scored under many draws of the ancestors of each datum
OWN = 256  # draws of the ancestors of the datum that a code is of


def top_level_information(variant: Variant, feed: Batches, particles: int, rows: int | None, seed: int) -> Information:
    r"""I = E[log q(z | x_n) - log q(z)],   q(z) = (1/N) sum_n q(z | x_n),   z the first latent site of the model

    As :func:`pyro_vae.evaluation.information.mutual_information`, of the top level instead of all latent sites. Where
    the guide draws that site first, as in a top-down ladder, q(z | x) is there in closed form: the estimate has no bias
    and lies between 0 and log N. Where the guide has drawn others before, as bottom-up, q(z | x) is the mean of
    q(z | ancestors, x) over fresh draws of these: K = ``particles``, and 256 of the code's own datum. By Jensen's
    inequality log q(z | x_n) is then too low, by about half the relative variance of that mean, while log q(z) is a
    mean over all data. The estimate is at most log N; it is too low, and may be negative, where the ancestors move
    q(z | ancestors, x) by much more than its width.

    Nothing is known of pairs with conditions or labels, of pairs without latent sites, and of data that are not the
    same at each pass.

    Source: Hoffman & Johnson 2016, "ELBO surgery", NIPS workshop on advances in approximate Bayesian inference.

    >>> pair = pv.vae((1, 8, 8), latent=2)
    >>> feed = pv.data.batches(pair, pv.data.load("digits", "test", binarise="threshold"), 100, None)
    >>> 0 < top_level_information(pair, feed, 16, None, seed=0).nats < math.log(270)
    True
    """
    if variant.given:
        return Information()
    site, first, dim = _look(variant, feed, particles, seed)
    if not site:
        return Information()
    particles = 1 if first else particles
    order = torch.randperm(feed.size, generator=torch.Generator().manual_seed(derived(seed)))
    chosen, draws = (order[:DRAWS], 1) if first else (order[:FEW], max(particles, OWN))
    codes, own, origins, marks = _drawn(variant, feed, site, chosen, draws, dim, rows, seed)
    mixture, size = Mixture(len(codes)), 0
    for places, batch in _parts(feed, rows, particles, seed):
        size += len(places)
        with variant._at_rest(derived(seed, 1, int(places[0]))), pyro.validation_enabled(False):
            posterior = _posterior(variant.guide, batch, site, particles, dim)
            log_prob = torch.stack([_score(posterior, code, particles, dim) for code in codes]).double().cpu()
        here = torch.isin(origins, places)
        columns = origins[here] - places[0]
        if not torch.allclose(_mark(batch)[columns], marks[here]):
            return Information()  # other data than those from which the codes are
        log_prob[here, columns] = own[here]
        mixture.add(log_prob)
    # given a code and all posteriors, the mean over those whose it may be is known; of estimates it would be too high
    return Information.of(math.log(size) - (mixture.log_sum - (mixture.mean if first else own)))


def _look(variant: Variant, feed: Batches, particles: int, seed: int) -> tuple[str, bool, int]:
    """The model's first latent site, whether the guide draws it first, and where a plate of particles may stand."""
    with seeded(seed):
        few = {name: value[:2] for name, value in next(feed.fixed()).items()}
        with variant._at_rest(None), pyro.validation_enabled(False):
            guide_trace, model_trace = tracing.codes_alone(variant.model, variant.guide, few)
            site = next(iter(tracing.latent_sites(model_trace)), "")
            first = site == next(iter(tracing.latent_sites(guide_trace)), "")
            return site, first, 0 if first else tracing._look(variant.model, variant.guide, few, particles)[0]


def _parts(feed: Batches, rows: int | None, particles: int, seed: int) -> Iterator[tuple[Tensor, tracing.Batch]]:
    """The data a part at a time, with their places; the same at each pass, whatever is drawn between two parts."""
    with seeded(seed):
        start = 0
        for batch in feed.fixed():
            size = len(next(iter(batch.values())))
            for part in slices(size, max(tracing.rows_for(batch, rows) // particles, 1)):
                yield torch.arange(part.start, part.stop) + start, {k: v[part] for k, v in batch.items()}
            start += size


def _drawn(
    variant: Variant, feed: Batches, site: str, chosen: Tensor, draws: int, dim: int, rows: int | None, seed: int
) -> tuple[list[Tensor], Tensor, Tensor, Tensor]:
    """A code of each chosen datum, its log q(z | x) there, and the place and the mark of the datum."""
    codes: list[Tensor] = []
    own, origins, marks = [], [], []
    for places, batch in _parts(feed, rows, draws, seed):
        mine = torch.isin(places, chosen)
        if mine.any():
            some = {name: value[mine.to(value.device)] for name, value in batch.items()}
            with variant._at_rest(derived(seed, 0, int(places[0]))), pyro.validation_enabled(False):
                drawn = draw(variant.guide, some)
                posterior = _posterior(variant.guide, some, site, draws, dim)
                values = drawn.values[site].movedim(0, drawn.plates[site])  # the data plate, to the right of the others
                own.append(_score(posterior, values, draws, dim).double().cpu())
            codes += values.split(1, drawn.plates[site])
            origins.append(places[mine])
            marks.append(_mark(some))
    return codes, torch.cat(own), torch.cat(origins), torch.cat(marks)


def _mark(batch: tracing.Batch) -> Tensor:
    """A number for each datum by which it is known again."""
    return torch.stack([value.reshape(len(value), -1).double().nansum(1).cpu() for value in batch.values()]).sum(0)


def _posterior(guide: tracing.Program, batch: tracing.Batch, site: str, particles: int, dim: int) -> tracing.Site:
    """The site with its q(z | ancestors, x), for each of so many draws of the ancestors."""
    read = tracing.filled(batch)
    if not dim:
        return tracing.until([site], guide, tracing.copied(read, particles)).nodes[site]
    with pyro.plate("_particles", particles, dim=dim):
        return tracing.until([site], guide, read).nodes[site]


def _score(posterior: tracing.Site, codes: Tensor, particles: int, dim: int) -> Tensor:
    """log q(z | x) of one code under every datum, or of one code for each, (batch,)."""
    fn = posterior["fn"]
    size = fn.batch_shape[-1] // (1 if dim else particles)
    if not dim and codes.shape[-1 - fn.event_dim] > 1:  # one for each copy of the data
        codes = torch.cat([codes] * particles, -1 - fn.event_dim)
    value = codes.expand(fn.batch_shape + fn.event_shape)
    log_prob = tracing.log_prob({**posterior, "unscaled_log_prob": fn.log_prob(value)})
    draws = tracing.folded(log_prob, 0, particles, size, dim).sum(-1)
    return draws.logsumexp(0) - math.log(particles)
