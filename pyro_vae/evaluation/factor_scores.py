"""Scores of how well the units of a code keep apart the factors that the data vary in; of arrays."""

from typing import Any, NamedTuple

import numpy as np

BINS = 20  # of each unit, as Locatello et al. have them
TREES = 30
# to each value of a factor: what splits gain is then near what boosted trees of depth 3 gain, while trees that are
# grown to the end split noise in their depths, and spread the gains over all units
LEAVES = 4


class DCI(NamedTuple):
    """What :func:`dci` found, each in [0, 1]."""

    disentanglement: float
    completeness: float
    informativeness: float


def mig(codes: Any, factors: Any) -> float:
    r"""MIG = mean_k (I(u_1; v_k) - I(u_2; v_k)) / H(v_k),   u_1 and u_2 the units that tell most of factor k

    The mutual information gap: 1 where each factor is told by one unit and by no other. I is that of the histogram of a
    unit in 20 bins of equal width. A single unit is compared with one that tells nothing.

    Shapes: codes (n, units), factors (n, K) whole numbers.

    Raises:
        ValueError: where codes or factors have another shape or kind, or a factor has the same value everywhere.

    Source: Chen, Li, Grosse & Duvenaud 2018, arXiv:1802.04942; the histogram, Locatello et al. 2019, arXiv:1811.12359.

    >>> factors = torch.cartesian_prod(torch.arange(3), torch.arange(4))
    >>> turned = factors @ torch.tensor([[1, 1], [1, -1]])
    >>> [round(mig(codes, factors), 6) for codes in (factors, turned)]
    [1.0, 0.0]
    """
    units, values = checked(codes, factors, least=1)
    low, high = units.min(0), units.max(0)
    width = np.where(high > low, high - low, 1.0)
    bins = np.minimum((units - low) / width * BINS, BINS - 1).astype(int)
    information = np.array([[_mutual(code, value) for value in values.T] for code in bins.T])
    return float(np.mean(_gap(information, 0.0) / [_entropy(np.bincount(value)) for value in values.T]))


def sap(codes: Any, factors: Any, *, seed: int = 0) -> float:
    r"""SAP = mean_k (S_1k - S_2k),   S_jk the balanced accuracy of factor k by thresholds on unit j

    The separated attribute predictability. All factors are taken as classes, as Locatello et al. have them: the
    thresholds are those of a decision tree that knows one unit, with as many leaves as the factor has values, learned
    from one half of the data and scored on the other, every value counting alike. A unit that tells nothing of a factor
    of V values scores 1 / V, so that SAP is at most mean_k (1 - 1 / V_k). A single unit is compared with that.

    Shapes: codes (n, units), factors (n, K) whole numbers.

    Raises:
        ValueError: as :func:`mig`.

    Source: Kumar, Sattigeri & Balakrishnan 2018, arXiv:1711.00848; classes, Locatello et al. 2019, arXiv:1811.12359.

    >>> factors = torch.randint(4, (1000, 1), generator=torch.Generator().manual_seed(0))
    >>> sap(torch.cat([factors, torch.zeros(1000, 1)], 1), factors)
    0.75
    """
    from sklearn.tree import DecisionTreeClassifier

    units, values = checked(codes, factors, least=1)
    learn, score = halves(len(units), np.random.default_rng(seed))
    sizes = values.max(0) + 1
    accuracy = np.zeros((units.shape[1], values.shape[1]))
    for k, size in enumerate(sizes):
        told = values[score, k]
        for j, unit in enumerate(units.T[:, :, None]):
            tree = DecisionTreeClassifier(max_leaf_nodes=int(size), class_weight="balanced", random_state=0)
            right = tree.fit(unit[learn], values[learn, k]).predict(unit[score]) == told
            # not scikit-learn's, which warns of values that the other half alone has
            accuracy[j, k] = np.mean([right[told == value].mean() for value in np.unique(told)])
    return float(np.mean(_gap(accuracy, 1 / sizes)))


def dci(codes: Any, factors: Any, *, seed: int = 0) -> DCI:
    r"""D = sum_j rho_j (1 - H_K(R_j. / sum_k R_jk)),   C = mean_k (1 - H_J(R_.k / sum_j R_jk)),   rho_j ~ sum_k R_jk

    Disentanglement, each of the J units tells of one factor only; completeness, each of the K factors is told by one
    unit only; informativeness, the share of held-out data whose value is predicted, mean over factors. H_B is the
    entropy to the base B. The importance R_jk of unit j for factor k is what its splits gain in a random forest that
    predicts the factor from all units: 30 trees that see every unit at every split, and have four leaves for each value
    of the factor, learned from one half of the data. (Boosted trees, as Locatello et al. have them, take ten times as
    long.)

    Shapes: codes (n, units), factors (n, K) whole numbers, K at least 2.

    Raises:
        ValueError: as :func:`mig`, and of a single factor, which nothing could be mixed up with.

    Source: Eastwood & Williams 2018, "A framework for the quantitative evaluation of disentangled representations",
    ICLR.

    >>> factors = torch.cartesian_prod(torch.arange(3), torch.arange(4)).repeat(20, 1)
    >>> [round(score, 2) for score in dci(factors.float(), factors)]
    [1.0, 1.0, 1.0]
    """
    from sklearn.ensemble import RandomForestClassifier

    units, values = checked(codes, factors, least=2)
    rng = np.random.default_rng(seed)
    learn, score = halves(len(units), rng)
    importance, right = [], []
    for value in values.T:
        leaves = LEAVES * int(value.max() + 1)
        forest = RandomForestClassifier(
            TREES, max_features=None, max_leaf_nodes=leaves, random_state=int(rng.integers(2**31))
        )
        forest.fit(units[learn], value[learn])
        importance.append(forest.feature_importances_)
        right.append(np.mean(forest.predict(units[score]) == value[score]))
    gains = np.array(importance).T
    weight = gains.sum(1) / max(gains.sum(), np.finfo(float).tiny)
    return DCI(float(weight @ _pure(gains)), float(np.mean(_pure(gains.T))), float(np.mean(right)))


def checked(codes: Any, factors: Any, *, least: int) -> tuple[np.ndarray, np.ndarray]:
    """Codes in float64, and the factors as :func:`numbered` gives them."""
    units = _array(codes)
    if units.ndim != 2 or not units.size or units.dtype.kind not in "iuf" or not np.isfinite(units).all():
        raise ValueError(f"codes: expected (n, units) finite numbers, found {units.dtype} of shape {units.shape}")
    return units.astype(np.float64), numbered(factors, len(units), least=least)


def numbered(factors: Any, size: int, *, least: int) -> np.ndarray:
    """Of each factor the numbers of its values, 0 to V - 1."""
    values = _array(factors)
    if values.ndim != 2 or values.dtype.kind not in "iu":
        raise ValueError(f"factors: expected (n, factors) whole numbers, found {values.dtype} of shape {values.shape}")
    if len(values) != size:
        raise ValueError(f"factors: expected {size}, one row per datum, found {len(values)}")
    if values.shape[1] < least:
        few = "found one factor only" if values.shape[1] else "found none"
        raise ValueError(f"factors: expected at least {least} {'column' if least == 1 else 'columns'}, {few}")
    for k, column in enumerate(values.T):
        if (column == column[0]).all():
            raise ValueError(f"factors: column {k}: expected a factor that varies, found the value {column[0]} only")
    return np.stack([np.unique(column, return_inverse=True)[1] for column in values.T], 1)


def _array(values: Any) -> np.ndarray:
    return np.asarray(values.detach().cpu().numpy() if hasattr(values, "detach") else values)


def halves(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Data to learn from, and data to score what was learned."""
    order = rng.permutation(n)
    return order[: -(-n // 2)], order[-(-n // 2) :]


def _entropy(counts: np.ndarray) -> float:
    """In nats."""
    p = counts[counts > 0] / counts.sum()
    return float(-(p * np.log(p)).sum())


def _mutual(first: np.ndarray, second: np.ndarray) -> float:
    """I = H(a) + H(b) - H(a, b) of two whole numbers, in nats."""
    joint = np.bincount(first * (int(second.max()) + 1) + second)
    return _entropy(np.bincount(first)) + _entropy(np.bincount(second)) - _entropy(joint)


def _gap(scores: np.ndarray, nothing: Any) -> np.ndarray:
    """The best unit less the second, for each factor; ``nothing`` is the score of a unit that tells nothing."""
    rows = scores if len(scores) > 1 else np.vstack([scores, np.zeros_like(scores) + nothing])
    return np.sort(rows, 0)[-1] - np.sort(rows, 0)[-2]


def _pure(gains: np.ndarray) -> np.ndarray:
    """One minus the entropy of each row, to the base of how many columns it has; 0 of a row without gains."""
    share = gains / np.maximum(gains.sum(1, keepdims=True), np.finfo(float).tiny)
    logs = np.log(share, where=share > 0, out=np.zeros_like(share))
    pure = 1 + (share * logs).sum(1) / np.log(max(gains.shape[1], 2))
    return np.where(gains.sum(1) > 0, pure, 0.0)
