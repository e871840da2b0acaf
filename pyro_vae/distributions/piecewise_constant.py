"""Densities in pieces side by side on the line, and the simplest of them: a histogram."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from pyro.distributions import TorchDistribution
from pyro.distributions import constraints as ordered
from torch import Tensor
from torch.distributions import constraints, register_kl
from torch.nn.functional import pad

LEAST = torch.finfo(torch.float64).tiny  # what is divided by is at least this


class Piecewise(TorchDistribution):
    """p(z) = w_k p_k(z) on piece k: draws, their gradients and the distribution function, from those of the pieces.

    Shapes: batch that of what the pieces are made of, short of its last dimension; event ().
    """

    @abstractmethod
    def _pieces(self) -> Any:
        """In double precision the ``breaks`` between the pieces, their ``log_weight`` and all else of them."""

    @abstractmethod
    def _log_density(self, pieces: Any, k: Tensor, z: Tensor) -> Tensor:
        """Log p(z) of values in pieces number ``k``."""

    @abstractmethod
    def _shares(self, pieces: Any, k: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """What lies in pieces ``k`` left of z and right of it, both with all their digits."""

    @abstractmethod
    def _inverse(self, pieces: Any, k: Tensor, share: Tensor) -> Tensor:
        """The z that have ``share`` of pieces ``k`` on their left."""

    @property
    def weights(self) -> Tensor:
        """w, the shares of the draws in each piece."""
        return self._pieces().log_weight.exp().to(self._dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log p(z)."""
        if self._validate_args:
            self._validate_sample(value)
        pieces, z = self._pieces(), value.double()
        log_prob = self._log_density(pieces, self._piece(pieces, z), z)
        return log_prob.to(torch.promote_types(value.dtype, self._dtype))

    def cdf(self, value: Tensor) -> Tensor:
        """P(z <= value)."""
        if self._validate_args:
            self._validate_sample(value)
        pieces, z = self._pieces(), value.double()
        under, over = self._tails(pieces, self._piece(pieces, z), z)
        return torch.where(under < over, under, 1 - over).to(torch.promote_types(value.dtype, self._dtype))

    def icdf(self, value: Tensor) -> Tensor:
        """The z with P(z' <= z) = value."""
        pieces, p = self._pieces(), value.double()
        with torch.no_grad():
            weight, low, rest = pieces.log_weight.exp(), p < 0.5, 1 - p
            before, after = below(weight), below(weight.flip(-1)).flip(-1)
            passed = (p.unsqueeze(-1) > before[..., 1:], rest.unsqueeze(-1) < after[..., :-1])
            k = self._counted(torch.where(low.unsqueeze(-1), *passed))
            left, right = p - pick(before, k), rest - pick(after, k)
            size = pick(weight, k).clamp(min=LEAST)
            z = self._inverse(pieces, k, torch.where(low, left / size, 1 - right / size).clamp(0, 1))
            inside = torch.isfinite(z)
            safe = torch.where(inside, z, 0.0)
        result = torch.where(inside, self._attached(pieces, safe, p), z)
        return result.to(torch.promote_types(value.dtype, self._dtype))

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws, with gradients dz = -dF(z) / p(z) to all parameters.

        Source: Figurnov, Mohamed & Mnih 2018, "Implicit reparameterization gradients", arXiv:1805.08498.
        """
        pieces = self._pieces()
        with torch.no_grad():
            shape = self._extended_shape(torch.Size(sample_shape))
            u, share = torch.rand(2, *shape, dtype=torch.float64, device=pieces.log_weight.device)
            k = self._counted(u.unsqueeze(-1) >= pieces.log_weight.exp().cumsum(-1)[..., :-1])
            z = self._inverse(pieces, k, share.clamp(min=2.0**-54))
        return self._attached(pieces, z).to(self._dtype)

    @property
    def _dtype(self) -> torch.dtype:
        return self.logits.dtype

    def _counted(self, passed: Tensor) -> Tensor:
        """The numbers of pieces of which all breaks to the left were passed."""
        k = passed.sum(-1)
        return k.expand(torch.broadcast_shapes(k.shape, self.batch_shape))

    def _piece(self, pieces: Any, z: Tensor) -> Tensor:
        """The number of the piece that holds z."""
        return self._counted(z.unsqueeze(-1) >= pieces.breaks)

    def _tails(self, pieces: Any, k: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """P(z' <= z) and P(z' > z)."""
        weight = pieces.log_weight.exp()
        left, right = self._shares(pieces, k, z)
        return pick(below(weight), k) + left, pick(below(weight.flip(-1)).flip(-1), k) + right

    def _attached(self, pieces: Any, z: Tensor, p: Tensor | None = None) -> Tensor:
        """``z`` with the gradients at which P(z' <= z) stays as it is, or follows ``p``."""
        k = self._piece(pieces, z)
        under, over = self._tails(pieces, k, z)
        tail = torch.where(under < over, under, -over)  # that of the two which keeps its digits
        tail = tail if p is None else tail - p
        density = self._log_density(pieces, k, z).detach().exp().clamp(min=LEAST)
        return z - (tail - tail.detach()) / density


def pick(values: Tensor, k: Tensor) -> Tensor:
    """Of the numbers in the last dimension that of index ``k``."""
    return values.expand(*k.shape, values.shape[-1]).gather(-1, k.unsqueeze(-1)).squeeze(-1)


def below(weight: Tensor) -> Tensor:
    """The sums of all weights before each."""
    return pad(weight[..., :-1].cumsum(-1), (1, 0))


class Bins(NamedTuple):
    """The bins in double precision: their ends and log w, each of shape (..., K), and ``breaks`` (..., K - 1)."""

    breaks: Tensor
    start: Tensor
    end: Tensor
    log_weight: Tensor


class PiecewiseConstant(Piecewise):
    r"""p(z) = w_k / (e_k - e_{k-1})   for e_{k-1} <= z < e_k,   k = 1, ..., K,   w = softmax(logits)

    As p jumps, pathwise gradients of log q - log p are biased. So plain objectives take the score function, while
    those that take the KL in closed form may draw along the path (``closed_form``):
    :class:`pyro_vae.infer.AnalyticKL`. The KL of two with the same edges is known.

    Shapes: batch that of the parameters short of their last dimension; event ().

    Args:
        edges: K + 1 increasing numbers, e_0 to e_K.
        logits: K, of the bins' weights.

    Raises:
        ValueError: where the numbers of edges and of bins do not fit.

    >>> d = PiecewiseConstant(torch.tensor([0.0, 1.0, 3.0]), torch.zeros(2))
    >>> d.log_prob(torch.tensor([0.5, 2.0])).exp(), d.mean
    (tensor([0.5000, 0.2500]), tensor(1.2500))
    """

    arg_constraints: ClassVar = {"edges": ordered.ordered_vector, "logits": constraints.real_vector}
    has_rsample = False
    #: whether it may be drawn pathwise where its KL is taken in closed form
    closed_form = True

    def __init__(self, edges: Tensor, logits: Tensor, validate_args: bool | None = None) -> None:
        bins = logits.shape[-1]
        if edges.shape[-1] != bins + 1:
            raise ValueError(f"edges: expected {bins + 1} for {bins} bins, found {edges.shape[-1]}")
        batch = torch.broadcast_shapes(edges.shape[:-1], logits.shape[:-1])
        self.edges, self.logits = edges.expand(*batch, bins + 1), logits.expand(*batch, bins)
        super().__init__(batch, validate_args=validate_args)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "PiecewiseConstant":
        """The same distribution, more often."""
        edges, logits = (p.expand(*batch_shape, p.shape[-1]) for p in (self.edges, self.logits))
        new = PiecewiseConstant(edges, logits, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def support(self) -> constraints.Constraint:
        """From the first edge to the last."""
        return constraints.interval(self.edges[..., 0], self.edges[..., -1])

    @property
    def mean(self) -> Tensor:
        """The bins' middles, weighted."""
        return (self.weights * self._middles()).sum(-1)

    @property
    def variance(self) -> Tensor:
        """That of the middles, and within bins a twelfth of the square of their widths, weighted."""
        square = (self._middles() - self.mean.unsqueeze(-1)).square() + self.edges.diff(dim=-1).square() / 12
        return (self.weights * square).sum(-1)

    @property
    def mode(self) -> Tensor:
        """The middle of the highest bin."""
        highest = (self.logits - self.edges.diff(dim=-1).log()).argmax(-1, keepdim=True)
        return self._middles().gather(-1, highest).squeeze(-1)

    def _middles(self) -> Tensor:
        return (self.edges[..., 1:] + self.edges[..., :-1]) / 2

    def _pieces(self) -> Bins:
        edges = self.edges.double()
        return Bins(edges[..., 1:-1], edges[..., :-1], edges[..., 1:], self.logits.double().log_softmax(-1))

    def _log_density(self, pieces: Bins, k: Tensor, z: Tensor) -> Tensor:
        start, end = pick(pieces.start, k), pick(pieces.end, k)
        height = pick(pieces.log_weight, k) - torch.log(end - start)
        return torch.where((z >= start) & (z <= end), height, -torch.inf)

    def _shares(self, pieces: Bins, k: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        start, end, weight = pick(pieces.start, k), pick(pieces.end, k), pick(pieces.log_weight, k).exp()
        left, right = ((v / (end - start)).clamp(0, 1) for v in (z - start, end - z))
        return weight * left, weight * right

    def _inverse(self, pieces: Bins, k: Tensor, share: Tensor) -> Tensor:
        start, end = pick(pieces.start, k), pick(pieces.end, k)
        return start + share * (end - start)


@register_kl(PiecewiseConstant, PiecewiseConstant)
def _kl(q: PiecewiseConstant, p: PiecewiseConstant) -> Tensor:
    """KL = sum_k w_k (log w_k - log w'_k)."""
    if q.edges.shape[-1] != p.edges.shape[-1] or not (q.edges == p.edges).all():
        raise NotImplementedError("the edges differ")
    log_weight = q.logits.log_softmax(-1)
    return (log_weight.exp() * (log_weight - p.logits.log_softmax(-1))).sum(-1)
