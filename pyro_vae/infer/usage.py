"""What categorical codes say of the data, and which of their categories are in use."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from pyro_vae.infer.activity import ACTIVE, Activity
from pyro_vae.nets import Codebook
from pyro_vae.tracing import Terms


class Usage:
    r"""I(z_j; x) = H(E_x q(z_j | x)) - E_x H(q(z_j | x)) of each code of a site, and exp H(E_x q(z_j | x))

    From running sums over the data. A code is active where it says more than 0.01 nats of them. The perplexity is how
    many categories a code uses, as if evenly; with ``pooled``, all codes are numbers of one codebook, of which it is
    how many entries they use together.

    >>> usage = Usage()
    >>> usage.add(torch.eye(4)[torch.tensor([0, 1, 0, 1])][None, :, None])  # one code, of four data
    >>> round(usage.perplexity, 4), usage.used, usage.active
    (2.0, 0.5, 1)
    """

    def __init__(self, pooled: bool = False) -> None:
        self.pooled, self.size, self._count = pooled, 0, 0
        self._probs = self._entropy = self._modes = torch.zeros((), dtype=torch.float64)

    def add(self, probs: Tensor, draws: int = 1) -> None:
        """Take in q of some data, (some draws, batch, codes, categories), of ``draws`` in all."""
        p = probs.flatten(0, 1).double()
        device, hot = p.device, torch.zeros_like(p).scatter_(-1, p.argmax(-1, keepdim=True), 1.0)
        self._probs = self._probs.to(device) + p.sum(0)
        self._entropy = self._entropy.to(device) + _entropy(p).sum(0)
        self._modes = self._modes.to(device) + hot.sum(0)
        self._count += len(p)
        self.size = self._count // draws

    @property
    def units(self) -> int:
        """How many codes there are."""
        return len(self._probs)

    @property
    def categories(self) -> int:
        """How many each has."""
        return self._probs.shape[-1]

    @property
    def information(self) -> Tensor:
        """Nats that each code says of the data, (codes,)."""
        return (_entropy(self._probs / self._count) - self._entropy / self._count).clamp(min=0).cpu()

    @property
    def active(self) -> int:
        """How many codes follow the data."""
        return int((self.information > ACTIVE).sum())

    @property
    def shares(self) -> Tensor:
        """E_x q(z_j = k | x), (codes, categories); of all codes together, (1, categories)."""
        return self._over_codes(self._probs) / self._count

    @property
    def perplexity(self) -> float:
        """Between 1 and the number of categories; the mean over codes, where each has categories of its own."""
        return float(_entropy(self.shares).exp().mean())

    @property
    def used(self) -> float:
        """The share of categories that are the likeliest of some datum."""
        return float((self._over_codes(self._modes) > 0).double().mean())

    def _over_codes(self, sums: Tensor) -> Tensor:
        return sums.mean(0, keepdim=True) if self.pooled else sums


Followed = dict[str, Activity | Usage]  # by site, which of its units or codes follow the data


def note(followed: Followed, terms: Terms, draws: int, modules: Iterable[nn.Module]) -> None:
    """Take in what the posteriors of a pair, made of some modules, say of some data."""
    for site, means in terms.mean.items():
        followed.setdefault(site, Activity()).add(means, draws)
    for site, probs in terms.probs.items():
        if site not in followed:
            followed[site] = Usage(pooled(modules, tuple(probs.shape[-2:])))
        followed[site].add(probs, draws)


def pooled(modules: Iterable[nn.Module], shape: tuple[int, ...]) -> bool:
    """Whether codes of a shape (codes, categories) are numbers of one codebook among some modules."""
    books = (m for m in modules if isinstance(m, Codebook))
    return any(shape == (math.prod(book.size), len(book.vectors)) for book in books)


def _entropy(p: Tensor) -> Tensor:
    return -torch.xlogy(p, p).sum(-1)
