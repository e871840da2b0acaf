"""Pieces of normals side by side on the line, such as a narrow one about 0 between two wide ones."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from pyro.distributions import constraints as ordered
from torch import Tensor
from torch.distributions import Normal, constraints, register_kl
from torch.special import log_ndtr

from pyro_vae.distributions.piecewise_constant import Piecewise, pick
from pyro_vae.distributions.truncated import LOG_ROOT_2PI, REACH, Piece, log_ndtri, piece


class Segments(NamedTuple):
    """The segments in double precision, each of shape (..., K); ``breaks`` (..., K - 1)."""

    breaks: Tensor
    loc: Tensor
    scale: Tensor
    start: Tensor  # in standard deviations from loc
    end: Tensor
    normal: Piece  # the standard normal between start and end
    height: Tensor  # log p(z) - log N(z; loc, scale)
    log_weight: Tensor  # log of the share of the draws

    def at(self, k: Tensor) -> "Segments":
        """Those of numbers ``k``, (...,) each; of all of them ``breaks`` and ``normal``."""
        loc, scale, start, end = (pick(v, k) for v in (self.loc, self.scale, self.start, self.end))
        height, log_weight = pick(self.height, k), pick(self.log_weight, k)
        return Segments(self.breaks, loc, scale, start, end, self.normal, height, log_weight)

    def log_prob(self, value: Tensor) -> Tensor:
        """Of values inside the segments."""
        x = (value - self.loc) / self.scale
        return self.height - x.square() / 2 - self.scale.log() - LOG_ROOT_2PI


class PiecewiseNormal(Piecewise):
    r"""p(z) = w_k N(z; loc_k, scale_k^2) / Z_k   for b_{k-1} <= z < b_k,   k = 1, ..., K,   b_0 = -inf, b_K = inf

    Z_k is the probability of the segment under its normal. Without ``logits`` the weights are those under which p is
    continuous at every break: log w_k - log Z_k grows there by the log of the ratio of the two normals. With them
    w = softmax(logits), and p jumps.

    A continuous density has right pathwise gradients (``has_rsample``). With jumps those of log q - log p are biased:
    plain objectives take the score function, and those that take the KL in closed form may draw along the path
    (``closed_form``): :class:`pyro_vae.infer.AnalyticKL`. The KL is known between two with the same breaks, and of
    a normal from one and one from a normal. Should breaks be learned, its gradient is that of moving those of both.

    Shapes: batch that of the parameters short of their last dimension; event ().

    Args:
        breaks: K - 1 increasing numbers, where the segments meet; the outer ones have no end.
        loc, scale: K each, of the segments' normals before they are cut; ``loc`` may lie in another segment.
        logits: K, of the segments' weights; by default the weights of a continuous density.

    Raises:
        ValueError: where the numbers of breaks and of segments do not fit.

    >>> d = PiecewiseNormal(torch.tensor([-0.1, 0.1]), torch.tensor([-1.0, 0.0, 1.0]), torch.tensor([1.0, 0.05, 1.0]))
    >>> d.weights
    tensor([0.4370, 0.1260, 0.4370])
    """

    support = constraints.real

    def __init__(
        self,
        breaks: Tensor,
        loc: Tensor,
        scale: Tensor,
        logits: Tensor | None = None,
        validate_args: bool | None = None,
    ) -> None:
        given = {"loc": loc, "scale": scale} | ({} if logits is None else {"logits": logits})
        count = breaks.shape[-1] + 1
        for name, value in given.items():
            if value.shape[-1] != count:
                raise ValueError(f"{name}: expected {count} segments for {count - 1} breaks, found {value.shape[-1]}")
        batch = torch.broadcast_shapes(breaks.shape[:-1], *(value.shape[:-1] for value in given.values()))
        self.breaks = breaks.expand(*batch, count - 1)
        self.loc, self.scale = loc.expand(*batch, count), scale.expand(*batch, count)
        self.logits = None if logits is None else logits.expand(*batch, count)
        self.has_rsample = logits is None
        #: whether it may be drawn pathwise where its KL is taken in closed form, as it may not be elsewhere
        self.closed_form = logits is not None
        super().__init__(batch, validate_args=validate_args)

    @property
    def arg_constraints(self) -> dict[str, constraints.Constraint]:
        """Logits are a parameter where they were given."""
        found = {
            "breaks": ordered.ordered_vector,
            "loc": constraints.real_vector,
            "scale": constraints.independent(constraints.positive, 1),
        }
        return found if self.logits is None else {**found, "logits": constraints.real_vector}

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "PiecewiseNormal":
        """The same distribution, more often."""
        breaks, loc, scale = (p.expand(*batch_shape, p.shape[-1]) for p in (self.breaks, self.loc, self.scale))
        logits = None if self.logits is None else self.logits.expand(loc.shape)
        new = PiecewiseNormal(breaks, loc, scale, logits, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @property
    def mean(self) -> Tensor:
        """The segments' means, weighted."""
        return self._moments()[0].to(self.loc.dtype)

    @property
    def variance(self) -> Tensor:
        """The segments' variances and those of their means, weighted."""
        return self._moments()[1].to(self.loc.dtype)

    @property
    def mode(self) -> Tensor:
        """The highest of the points of the segments that are nearest to their loc."""
        s = self._pieces()
        x = torch.minimum(torch.maximum(torch.zeros_like(s.start), s.start), s.end)
        value = s.loc + s.scale * x
        highest = s.log_prob(value).argmax(-1, keepdim=True)
        return value.gather(-1, highest).squeeze(-1).to(self.loc.dtype)

    def _pieces(self) -> Segments:
        # the segments may lie far in the tails of their normals, where log p is the difference of large numbers
        breaks, loc, scale = self.breaks.double(), self.loc.double(), self.scale.double()
        ends = (breaks - loc[..., :-1]) / scale[..., :-1]
        starts = (breaks - loc[..., 1:]) / scale[..., 1:]
        # the outer ends lie where nothing of the normals is left
        middle = torch.zeros_like(loc[..., :1])
        first = torch.cat([ends, middle], -1)[..., :1].detach().clamp(max=0) - REACH
        last = torch.cat([middle, starts], -1)[..., -1:].detach().clamp(min=0) + REACH
        start, end = torch.cat([first, starts], -1), torch.cat([ends, last], -1)
        normal = piece(start, end)
        log_mass = normal.log_density + torch.log(end - start)
        if self.logits is None:
            rise = (starts.square() - ends.square()) / 2 + (scale[..., 1:] / scale[..., :-1]).log()
            height = torch.cat([middle, rise.cumsum(-1)], -1)
            log_weight = height + log_mass
            total = log_weight.logsumexp(-1, keepdim=True)
            height, log_weight = height - total, log_weight - total
        else:
            log_weight = self.logits.double().log_softmax(-1)
            height = log_weight - log_mass
        return Segments(breaks, loc, scale, start, end, normal, height, log_weight)

    def _moments(self) -> tuple[Tensor, Tensor]:
        s = self._pieces()
        weight, distance = s.log_weight.exp(), s.normal.first
        means = s.loc + s.scale * (s.normal.anchor + distance)
        mean = (weight * means).sum(-1)
        inside = s.scale.square() * (s.normal.second - distance.square())
        return mean, (weight * (inside + (means - mean.unsqueeze(-1)).square())).sum(-1)

    @property
    def _dtype(self) -> torch.dtype:
        return self.loc.dtype

    def _log_density(self, pieces: Segments, k: Tensor, z: Tensor) -> Tensor:
        return pieces.at(k).log_prob(z)

    def _shares(self, pieces: Segments, k: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        here = pieces.at(k)
        x = (z - here.loc) / here.scale
        # values may lie further out than any draw
        start = torch.where(k == 0, torch.minimum(here.start, x.detach() - REACH), here.start)
        end = torch.where(k == self.breaks.shape[-1], torch.maximum(here.end, x.detach() + REACH), here.end)
        left, right = piece(start, x), piece(x, end)
        # w_k / Z_k is exp(height)
        left_share = (x - start) * torch.exp(here.height + left.log_density)
        return left_share, (end - x) * torch.exp(here.height + right.log_density)

    def _inverse(self, pieces: Segments, k: Tensor, share: Tensor) -> Tensor:
        # from the tail of the normal that keeps the digits
        here = pieces.at(k)
        start = torch.where(k == 0, -math.inf, here.start)
        end = torch.where(k == self.breaks.shape[-1], math.inf, here.end)
        log_mass = here.log_weight - here.height
        under = torch.logaddexp(log_ndtr(start), share.log() + log_mass)
        over = torch.logaddexp(log_ndtr(-end), torch.log1p(-share) + log_mass)
        x = torch.where(under < over, log_ndtri(under), -log_ndtri(over))
        return here.loc + here.scale * torch.minimum(torch.maximum(x, start), end)


@register_kl(PiecewiseNormal, PiecewiseNormal)
def _kl(q: PiecewiseNormal, p: PiecewiseNormal) -> Tensor:
    """KL = sum_k w_k E_k[log q - log p], both logs quadratic on a segment."""
    if q.breaks.shape[-1] != p.breaks.shape[-1] or not (q.breaks == p.breaks).all():
        raise NotImplementedError("the breaks differ")
    own, other = q._pieces(), p._pieces()
    _, anchor, first, second = own.normal
    ratio = own.scale / other.scale
    # z = loc + scale (anchor + t) is of p the standardised c + ratio t
    c = (own.loc - other.loc) / other.scale + ratio * anchor
    squares = anchor.square() + 2 * anchor * first + second
    other_squares = c.square() + 2 * ratio * c * first + ratio.square() * second
    gain = own.height - other.height - ratio.log() + (other_squares - squares) / 2
    return (own.log_weight.exp() * gain).sum(-1).to(torch.promote_types(q.loc.dtype, p.loc.dtype))


def _in_pieces(normal: Normal, like: PiecewiseNormal) -> PiecewiseNormal:
    """A normal, cut where another distribution is: of equal pieces the continuous density is the normal's own."""
    count = like.loc.shape[-1]
    loc, scale = (v.unsqueeze(-1).expand(*v.shape, count) for v in (normal.loc, normal.scale))
    return PiecewiseNormal(like.breaks, loc, scale, validate_args=False)


@register_kl(Normal, PiecewiseNormal)
def _kl_of_normal(q: Normal, p: PiecewiseNormal) -> Tensor:
    return _kl(_in_pieces(q, p), p)


@register_kl(PiecewiseNormal, Normal)
def _kl_from_normal(q: PiecewiseNormal, p: Normal) -> Tensor:
    return _kl(q, _in_pieces(p, q))
