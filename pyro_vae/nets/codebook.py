"""A codebook: vectors for which the numbers of categories stand."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pyro_vae import checks

DEAD = 0.03  # of an even share of the vectors; an entry that is nearest to fewer of them has died


class Codebook(nn.Module):
    r"""e(z)_j = sum_k z_jk e_k,   nearest(h)_j = one-hot of argmin_k |h_j - e_k|,   j the places of a map

    The entries e_k follow what is read by ``nearest`` in training, as batch norm does: each moves to the mean of the
    vectors to which it is the nearest, an exponential moving average over steps. An entry that is hardly ever the
    nearest is put where some vector of the batch is, at random, all of them in the first step.

    Shapes: codes (\*batch, height * width, entries) -> (\*batch, width, height, width) vectors, and back.

    Args:
        entries: how many there are.
        width: dimensions of each.
        size: (height, width) of the map.
        decay: of the moving averages, in [0, 1).

    Raises:
        ValueError: where a number is not positive, there are fewer than 2 entries, or ``decay`` is out of range.

    Source: van den Oord, Vinyals & Kavukcuoglu 2017, arXiv:1711.00937, appendix A.1; the dead revived as in Dhariwal
    et al. 2020, arXiv:2005.00341.

    >>> codebook = Codebook(entries=16, width=8, size=(7, 7))
    >>> z = codebook.nearest(torch.randn(5, 8, 7, 7))
    >>> z.shape, codebook(z).shape
    (torch.Size([5, 49, 16]), torch.Size([5, 8, 7, 7]))
    """

    vectors: Tensor
    counts: Tensor

    def __init__(self, entries: int, width: int, size: Sequence[int], decay: float = 0.99) -> None:
        super().__init__()
        checks.several("codebook", entries)
        self.size = checks.shape("size", size)
        self.decay = checks.fraction("decay", decay)
        self.register_buffer("vectors", torch.randn(entries, checks.positive_int("width", width)))
        self.register_buffer("counts", torch.zeros(entries))  # of the vectors nearest to each, in one step

    def forward(self, z: Tensor) -> Tensor:
        """The vectors that codes stand for, laid out as a map."""
        return (z @ self.vectors).transpose(-1, -2).unflatten(-1, self.size)

    def nearest(self, h: Tensor) -> Tensor:
        """The codes of the nearest entries, with gradients as if ``h`` itself were handed on (straight through).

        Where the entries do not span all of their dimensions, as fewer than ``width`` of them cannot, the part of the
        gradient passes that lies in what they span.
        """
        h = h.flatten(-2).transpose(-1, -2)
        z = self._hot(h)
        if self.training and torch.is_grad_enabled():  # a loss that is only looked at moves nothing
            self._follow(h.detach(), z)
        if not (torch.is_grad_enabled() and h.requires_grad):
            return z
        # what reaches the vectors z E reaches h, as z moves with the coordinates of h among the entries: pinv(E) E = 1
        return z + (h - h.detach()) @ torch.linalg.pinv(self.vectors, rtol=1e-4)

    def _hot(self, h: Tensor) -> Tensor:
        with torch.no_grad():
            distances = self.vectors.square().sum(-1) - 2 * h @ self.vectors.T  # and |h|^2, alike for all
            return nn.functional.one_hot(distances.argmin(-1), len(self.vectors)).to(h.dtype)

    def _follow(self, h: Tensor, z: Tensor) -> None:
        """Move the entries towards the vectors that they stand for."""
        h, z = h.flatten(0, -2), z.flatten(0, -2)
        share = h.shape[0] / len(self.counts)
        sums = self.decay * self.counts[:, None] * self.vectors + (1 - self.decay) * z.T @ h
        counts = self.decay * self.counts + (1 - self.decay) * z.sum(0)
        dead = (counts < DEAD * share) | (self.counts.sum() == 0)
        strays = h[torch.randint(h.shape[0], (len(counts),), device=h.device)]
        # new tensors: those that were used so far may still be needed on the way back
        self.vectors = torch.where(dead[:, None], strays, sums / counts.clamp(min=1e-12)[:, None])
        self.counts = torch.where(dead, share, counts)
