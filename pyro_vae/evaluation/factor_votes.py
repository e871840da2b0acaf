"""Scores of codes by what stays the same where one factor does: the metrics of BetaVAE and FactorVAE; of arrays."""

from typing import Any

import numpy as np

from pyro_vae import checks
from pyro_vae.evaluation.factor_scores import checked, halves

POINTS = 5000  # for a classifier to learn from, and as many to score it
TOGETHER = 64  # data or pairs behind each point


def beta_vae_score(codes: Any, factors: Any, *, seed: int = 0) -> float:
    r"""accuracy of k from the mean over 64 pairs of |u - u'|, each pair with one value of factor k in common

    The BetaVAE metric. A linear classifier (logistic regression) is to tell which factor it was: where a unit follows
    that factor only, it does not differ. 1 is best, 1 / K chance. Both data of a pair are drawn from those at hand, the
    5,000 points that the classifier learns from, and 5,000 to score it, from one half of them each. The classifier
    sees differences that are whitened.

    Shapes: codes (n, units), factors (n, K) whole numbers, K at least 2.

    Raises:
        ValueError: as :func:`dci`, and where no two data share a value of a factor.

    Source: Higgins et al. 2017, "beta-VAE", ICLR.

    >>> factors = torch.cartesian_prod(torch.arange(3), torch.arange(4)).repeat(20, 1)
    >>> beta_vae_score(factors.float(), factors)
    1.0
    """
    from sklearn.linear_model import LogisticRegression

    units, values = checked(codes, factors, least=2)
    rng = np.random.default_rng(seed)
    points = []
    for half in halves(len(units), rng):
        code, groups = units[half], [_Group(column, k) for k, column in enumerate(values[half].T)]
        which = rng.integers(len(groups), size=POINTS)
        x = np.empty((POINTS, code.shape[1]))
        for k, group in enumerate(groups):
            # a pair at a time, as all of them at once would not fit into the memory of small machines
            mine, total = which == k, 0.0
            for _ in range(TOGETHER):
                start = group.any(rng, int(mine.sum()))
                total = total + np.abs(code[start] - code[group.other(rng, start)])
            x[mine] = total / TOGETHER
        points.append((x, which))
    (x, which), (held_out, answer) = points
    middle, white = _whitening(x)
    classifier = LogisticRegression(max_iter=1000).fit((x - middle) @ white, which)
    return float(np.mean(classifier.predict((held_out - middle) @ white) == answer))


def factor_vae_score(codes: Any, factors: Any, *, dead: float = 0.0, seed: int = 0) -> float:
    r"""accuracy of k from argmin_j Var_k[u_j] / Var[u_j],   Var_k over 64 data with one value of factor k in common

    The FactorVAE metric. Each unit stands for the factor that it was the least varied under most often; 1 is best,
    1 / K chance. The 5,000 votes that decide, and 5,000 to score them, are drawn from one half of the data each.

    Shapes: codes (n, units), factors (n, K) whole numbers, K at least 2.

    Args:
        dead: units with a variance up to that are left out; where none is left, all votes are alike.

    Raises:
        ValueError: as :func:`beta_vae_score`.

    Source: Kim & Mnih 2018, arXiv:1802.05983.

    >>> factors = torch.cartesian_prod(torch.arange(3), torch.arange(4)).repeat(20, 1)
    >>> factor_vae_score(factors.float(), factors)
    1.0
    """
    units, values = checked(codes, factors, least=2)
    dead = checks.real("dead", dead, least=0)
    rng = np.random.default_rng(seed)
    variance = units.var(0)
    alive = variance > dead
    units, variance = units[:, alive], variance[alive]
    votes = []
    for half in halves(len(units), rng):
        code, groups = units[half], [_Group(column, k) for k, column in enumerate(values[half].T)]
        which = rng.integers(len(groups), size=POINTS)
        least = np.zeros(POINTS, dtype=int)
        for k, group in enumerate(groups):
            mine = np.flatnonzero(which == k)
            start = group.any(rng, len(mine))
            members = group.alike(rng, start)
            if alive.any():
                for part in np.array_split(np.arange(len(mine)), 20):
                    least[mine[part]] = (code[members[part]].var(1, ddof=1) / variance).argmin(1)
        votes.append((least, which))
    (least, which), (held_out, answer) = votes
    counts = np.zeros((max(len(variance), 1), values.shape[1]), dtype=int)
    np.add.at(counts, (least, which), 1)
    return float(np.mean(counts.argmax(1)[held_out] == answer))


class _Group:
    """Data by their value of one factor."""

    def __init__(self, column: np.ndarray, k: int) -> None:
        self.order = np.argsort(column, kind="stable")
        self.place = np.argsort(self.order)
        counts = np.bincount(column)
        self.size, self.first = counts[column], (counts.cumsum() - counts)[column]
        self.paired = np.flatnonzero(self.size > 1)
        if not len(self.paired):
            raise ValueError(f"factors: column {k}: expected values that several data share, found {len(column)} alone")

    def any(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """n data at random, of those that are not alone with their value."""
        return self.paired[rng.integers(len(self.paired), size=n)]

    def other(self, rng: np.random.Generator, some: np.ndarray) -> np.ndarray:
        """For each datum another one of the same value."""
        step = 1 + rng.integers(self.size[some] - 1)
        return self.order[self.first[some] + (self.place[some] - self.first[some] + step) % self.size[some]]

    def alike(self, rng: np.random.Generator, some: np.ndarray) -> np.ndarray:
        """For each datum 64 of its value, (n, 64)."""
        return self.order[self.first[some, None] + rng.integers(self.size[some, None], size=(len(some), TOGETHER))]


def _whitening(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean, and a matrix after which columns have variance 1 and are uncorrelated.

    Of columns that are nearly the same a classifier would hardly end to learn. What varies by a ten-millionth of the
    most, once columns are of one scale, is rounding.
    """
    scale = np.where(x.std(0) > 0, x.std(0), 1.0)
    _, widths, directions = np.linalg.svd((x - x.mean(0)) / scale, full_matrices=False)
    kept = max(int((widths > 1e-7 * widths[0]).sum()), 1)
    widths = np.where(widths > 0, widths, 1.0)[:kept]
    return x.mean(0), (directions[:kept] / scale).T / widths * np.sqrt(len(x))
