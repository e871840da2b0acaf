"""What the codes tell about the data: their mutual information, from the mixture of all posteriors."""

import math
from dataclasses import dataclass

import pyro
import torch
from torch import Tensor

from pyro_vae import tracing
from pyro_vae.data import Batches
from pyro_vae.data.feed import derived
from pyro_vae.evaluation.codes import Codes, draw, room_for_codes, scores
from pyro_vae.tracing import seeded, slices
from pyro_vae.variant import Variant

DRAWS = 500  # codes from which the mutual information is measured
CHUNK = 2**20  # numbers scored at a time; it is fastest where they stay in the cache
SLACK = 0.1  # nats by which rounding may move one posterior between two passes


@dataclass(frozen=True)
class Information:
    """The mutual information of data and code in nats, its standard error, and from how many draws.

    Nothing is known where the pair has conditions or labels, which make a q(z) of their own each, or where the data
    are not the same at each pass.
    """

    nats: float | None = None
    error: float | None = None
    draws: int = 0

    @classmethod
    def of(cls, nats: Tensor) -> "Information":
        """The mean over codes."""
        error = float(nats.std()) / len(nats) ** 0.5 if len(nats) > 1 else math.nan
        return cls(float(nats.mean()), error, len(nats))


class Mixture:
    """Running sums over data: log sum_n q(z | x_n) of each code, and the mean of log q(z | x_n) over p(n | z)."""

    def __init__(self, codes: int) -> None:
        self.log_sum = torch.full((codes,), -math.inf, dtype=torch.float64)
        self.mean = torch.zeros_like(self.log_sum)

    def add(self, log_prob: Tensor, codes: slice = slice(None)) -> None:
        """Take in log q(z | x) of some codes under some data, (codes, data)."""
        log_prob = log_prob.double().cpu()
        share = log_prob.softmax(1)
        mean = torch.where(share > 0, share * log_prob, 0.0).sum(1)
        log_sum = log_prob.logsumexp(1)
        weight = torch.sigmoid(log_sum - self.log_sum[codes]).nan_to_num(0.0)  # both may be log 0
        self.mean[codes] += weight * (mean - self.mean[codes])
        self.log_sum[codes] = torch.logaddexp(self.log_sum[codes], log_sum)


def mutual_information(
    variant: Variant, feed: Batches, particles: int, draws: int | None, rows: int | None, seed: int
) -> Information:
    r"""I = E[log q(z | x_n) - log q(z)] = log N - E_q(z)[H(n | z)],   q(z) = (1/N) sum_n q(z | x_n)

    n is uniform over the N data and z ~ q(z | x_n); z stands for all latent sites together. One code is drawn for
    each of some of the data, and scored under the posteriors of all of them, its own included: H(n | z), how
    uncertain the code leaves it whose it is, is then exact, and the mean has no bias and lies between 0 and log N.
    The data are gone through twice, each time from the same random state.

    Args:
        draws: how many codes, at most one per datum. By default :data:`DRAWS`, or ``particles`` where each code
            takes the guide's networks once more through all of the data: several sites, or networks that know
            one batch dimension only.

    Source: Hoffman & Johnson 2016, "ELBO surgery", NIPS workshop on advances in approximate
    Bayesian inference, whose index code mutual information it is.

    >>> pair = pv.vae((1, 8, 8), latent=2)
    >>> feed = pv.data.batches(pair, pv.data.load("digits", "test", binarise="threshold"), 100, None)
    >>> 0 < mutual_information(pair, feed, 10, None, None, seed=0).nats < math.log(270)
    True
    """
    if variant.given:
        return Information()
    codes, batch = _drawn(variant, feed, draws or DRAWS, rows, seed)
    if not codes.values:
        return Information(0.0, 0.0, len(codes))
    with variant._at_rest(None), pyro.validation_enabled(False):
        dim = room_for_codes(variant.guide, batch, codes)
    anew = not dim or len(codes.values) > 1  # the networks run for each pair of a code and a datum
    if draws is None and anew:
        some = torch.randperm(len(codes), generator=_generator(seed))[:particles]
        codes = codes[some.to(codes.log_prob.device)]
    size, log_sum, mean = _mixture(variant, feed, codes, dim, rows, seed, anew=anew)
    if (codes.log_prob.double().cpu() > log_sum + SLACK).any():
        return Information()  # a code's own posterior is no part of the sum
    return Information.of(math.log(size) - (log_sum - mean))


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(derived(seed))


def _drawn(variant: Variant, feed: Batches, draws: int, rows: int | None, seed: int) -> tuple[Codes, tracing.Batch]:
    """Codes of some of the data, and a batch from which they come."""
    chosen = torch.zeros(feed.size, dtype=torch.bool)
    chosen[torch.randperm(feed.size, generator=_generator(seed))[:draws]] = True
    parts, start = [], 0
    with seeded(seed):
        for batch in feed.fixed():
            size = len(next(iter(batch.values())))
            mine = chosen[start : start + size].nonzero()[:, 0]
            start += size
            # generators of its own: those of the data must be where they are when these come by again
            with variant._at_rest(derived(seed, start)), pyro.validation_enabled(False):
                for part in slices(len(mine), tracing.rows_for(batch, rows)):
                    some = {name: value[mine[part].to(value.device)] for name, value in batch.items()}
                    parts.append(draw(variant.guide, some))
    return Codes.join(parts), some


def _mixture(
    variant: Variant, feed: Batches, codes: Codes, dim: int, rows: int | None, seed: int, *, anew: bool
) -> tuple[int, Tensor, Tensor]:
    """How many data there are, log sum_n q(z | x_n) of each code, and the mean of log q(z | x_n) over p(n | z)."""
    mixture = Mixture(len(codes))
    units = sum(value[0].numel() for value in codes.values.values())
    size = 0
    with seeded(seed):
        for batch in feed.fixed():
            length = len(next(iter(batch.values())))
            size += length
            most = tracing.rows_for(batch, rows)
            pairs = most if anew else max(CHUNK // units, 1)
            together = min(len(codes), pairs)
            with variant._at_rest(derived(seed, size)), pyro.validation_enabled(False):
                for part in slices(length, max(min(pairs // together, most), 1)):
                    some = {name: value[part] for name, value in batch.items()}
                    for some_codes in slices(len(codes), together):
                        mixture.add(scores(variant.guide, some, codes[some_codes], dim), some_codes)
    return size, mixture.log_sum, mixture.mean
