"""The quality of draws beside that of real data: what they look like to a classifier, and how sharp they are."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae import checks, describe
from pyro_vae.data.feed import derived
from pyro_vae.evaluation.features import CHUNK, image, train_classifier
from pyro_vae.evaluation.fidelity import frechet_distance, precision_recall, sharpness
from pyro_vae.evaluation.rows import Rows
from pyro_vae.tracing import resting, seeded, slices
from pyro_vae.variant import Variant

MOST = 5000  # draws, where nothing is said


@dataclass(frozen=True)
class SampleQuality:
    """What :func:`sample_quality` found of ``n`` draws, beside as many real data.

    ``frechet`` is the distance of normals fitted to the classifier's features (0 is best; it is not the FID, whose
    features are Inception's, and compares only under one classifier and one ``n``); ``precision`` the share of draws
    that lie among the data, ``recall`` the share of data that lie among the draws, in the same features.

    ``frequencies`` is how often each class comes up among the draws, by the classifier; ``classes`` counts those that
    do, and ``class_distance`` is the total variation from the frequencies among the data, 1/2 sum |p - q|, between 0
    and 1: both tell of dropped modes. ``sharpness`` is the mean variance of the Laplacian of an image, None of what
    is no image.

    ``reference`` has the same figures of as many other real data in place of the draws: what a perfect model would
    get. It has none itself. ``accuracy`` is that of the classifier on data held out from its training, None where it
    does not say.
    """

    frechet: float
    precision: float
    recall: float
    classes: int
    class_distance: float
    sharpness: float | None
    frequencies: tuple[float, ...]
    n: int
    accuracy: float | None = None
    reference: "SampleQuality | None" = None

    def to_dict(self) -> dict[str, Any]:
        """The figures as plain numbers, ready for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        columns = [self] if self.reference is None else [self, self.reference]
        rows = [
            ("Frechet distance", *(f"{c.frechet:.3f}" for c in columns)),
            ("precision", *(f"{c.precision:.3f}" for c in columns)),
            ("recall", *(f"{c.recall:.3f}" for c in columns)),
            ("classes", *(f"{c.classes} of {len(c.frequencies)}" for c in columns)),
            ("class distance", *(f"{c.class_distance:.3f}" for c in columns)),
        ]
        if self.sharpness is not None:
            rows.append(("sharpness", *(f"{c.sharpness:.4f}" for c in columns)))
        seen = "" if self.accuracy is None else f", {100 * self.accuracy:.1f} % of held-out data right"
        lines = describe.table(("", "draws", "real data")[: len(columns) + 1], rows)
        lines.append(f"{self.n} each against {self.n} real data; features of a classifier{seen}, not of Inception")
        return "\n".join(lines)


def sample_quality(
    variant: Variant | Tensor,
    data: Any,
    *,
    n: int | None = None,
    classifier: nn.Module | None = None,
    labels: Any = None,
    mean: bool = False,
    k: int = 3,
    seed: int = 0,
    rows: int | None = None,
) -> SampleQuality:
    r"""|m_r - m_d|^2 + tr(S_r + S_d - 2 (S_r S_d)^1/2),   m, S of the features f(x) of real data r and of draws d

    Draws of a pair beside held-out data, in the features of a classifier of such data: Frechet distance, precision
    and recall, how often each class comes up, sharpness. The data are divided at random: the draws are held against
    one half, and so is the other half, as a yardstick. Under conditions the draws take those of the other half. Of a
    pair with several data sites it is the first that is looked at.

    Args:
        variant: a pair; or draws of whatever model, (m, \*data_shape), of which the first n are taken.
        data: held-out data in memory: a :class:`pyro_vae.data.Data`, an array, a tensor, or a mapping of sites. Dynamic
            binarisation is drawn once, from ``seed``.
        n: how many draws, and data in each half; by default half of the data, at most 5000 and the draws there are.
            Values under different n do not compare.
        classifier: what :func:`train_classifier` gives, best trained on the training data, and then used for all
            pairs that are compared; or any module with ``features(x)``, (n, d), that gives logits. By default one is
            trained on ``data`` themselves, for which they need labels: its features then know the real data better
            than they know any draw.
        labels: (size of data,) whole numbers for that training, by default those that the data bring.
        mean: look at the likelihood's means in place of draws, as pictures of samples mostly do; of binary data
            these are grey, which a classifier of binary data tells apart.
        k: the neighbour that the balls of precision and recall reach to.
        rows: how many data are decoded at a time; memory grows with it.

    Raises:
        ValueError, TypeError: where labels are missing, there are too few data, or shapes differ.

    Source: Heusel et al. 2017, arXiv:1706.08500; Kynkäänniemi et al. 2019, arXiv:1904.06991; Tolstikhin et al. 2018,
    arXiv:1711.01558 (sharpness).

    >>> digits = [pv.data.load("digits", split, binarise="threshold") for split in ("train", "test")]
    >>> classifier = train_classifier(digits[0], steps=100)
    >>> quality = sample_quality(pv.vae((1, 8, 8), latent=2), digits[1], classifier=classifier)
    >>> quality.frechet > quality.reference.frechet  # a pair that has learned nothing
    True
    """
    checks.positive_int("k", k)
    if not isinstance(variant, Variant | Tensor):
        raise TypeError(f"variant: expected a pair, or a tensor of draws, found {type(variant).__name__}")
    if classifier is not None and labels is not None:
        raise ValueError("labels: are there to train a classifier, and one is given")
    known = Rows(data, labels, variant if isinstance(variant, Variant) else None)
    n = _number(n, known.size, len(variant) if isinstance(variant, Tensor) else None, k)
    if classifier is None:
        classifier = train_classifier(data, known.labels, seed=seed)
    order = torch.randperm(known.size, generator=torch.Generator().manual_seed(derived(seed)))
    with seeded(seed):
        real, other = (known.take(order[part]) for part in (slice(n), slice(n, 2 * n)))
    x = real[known.site]
    _check(classifier, x)
    draws = _draws(variant, n, other, known.site, mean, seed, rows) if isinstance(variant, Variant) else variant[:n]
    if draws.shape != x.shape:
        raise ValueError(f"variant: expected draws of the data's shape, {tuple(x.shape)}, found {tuple(draws.shape)}")
    accuracy = getattr(classifier, "accuracy", None)
    accuracy = None if accuracy != accuracy else accuracy  # NaN, of a net that was trained elsewhere
    with _still(classifier):
        seen = _seen(classifier, x)
        reference = _figures(seen, _seen(classifier, other[known.site]), other[known.site], k, accuracy)
        return replace(_figures(seen, _seen(classifier, draws), draws, k, accuracy), reference=reference)


def _number(n: int | None, size: int, draws: int | None, k: int) -> int:
    """How many data a side of the comparison has."""
    most = min(size // 2, size if draws is None else draws)
    if most <= k:
        found = f"{size} data" + ("" if draws is None else f" and {draws} draws")
        raise ValueError(f"data: expected {2 * (k + 1)} or more, and {k + 1} draws, found {found}")
    if n is None:
        return min(most, MOST)
    if not k < checks.positive_int("n", n) <= most:
        raise ValueError(
            f"n: expected {k + 1} to {most}, more than k and at most half of the data and all draws, found {n}"
        )
    return n


def _draws(
    variant: Variant, n: int, other: dict[str, Tensor], site: str, mean: bool, seed: int, rows: int | None
) -> Tensor:
    missing = [name for name in variant.conditions if name not in other]
    if missing:
        raise ValueError(f"data: lack the condition {missing[0]!r} of the pair, under which draws are made")
    given: dict[str, Any] = {name: other[name] for name in variant.conditions}
    drawn = variant.sample(n, mean=mean, seed=seed, rows=rows, **given)
    if isinstance(drawn, dict) and site not in drawn:
        raise ValueError(f"data: {site} is no data site of the pair, which has {', '.join(drawn)}")
    return drawn[site] if isinstance(drawn, dict) else drawn


def _check(classifier: Any, x: Tensor) -> None:
    """Try it on two data."""
    checks.instance("classifier", classifier, nn.Module)
    if not hasattr(classifier, "features"):
        raise TypeError(f"classifier: {type(classifier).__name__} has no method features(x); see pv.train_classifier")
    shape = getattr(classifier, "data_shape", tuple(x.shape[1:]))
    if tuple(shape) != tuple(x.shape[1:]):
        raise ValueError(f"classifier: reads data of shape {tuple(shape)}, the data have {tuple(x.shape[1:])}")
    try:
        with _still(classifier):
            found = _outcome(classifier, x[:2])
    except Exception as error:
        raise ValueError(f"classifier: fails on data of shape {tuple(x.shape[1:])}: {error}") from error
    for what, value in zip(("features", "logits"), found, strict=True):
        if not isinstance(value, Tensor) or value.dim() != 2 or len(value) != 2:
            shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"classifier: expected {what} (n, d), found {shape} for 2 data")


@contextmanager
def _still(classifier: nn.Module) -> Iterator[None]:
    """No gradients and no dropout."""
    with resting(classifier), torch.no_grad():
        yield


def _outcome(classifier: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """Features and logits, where the classifier is."""
    x = x.to(next(classifier.parameters(), x).device)
    return classifier.features(x), classifier(x)


def _seen(classifier: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """The features of some data, and how often each class comes up."""
    parts = [_outcome(classifier, x[part]) for part in slices(len(x), CHUNK)]
    features = torch.cat([f for f, _ in parts]).double().cpu()
    logits = torch.cat([logits for _, logits in parts]).cpu()
    if not features.isfinite().all():
        raise ValueError("classifier: gives features that are NaN or infinite; expected finite draws and data")
    return features, torch.bincount(logits.argmax(-1), minlength=logits.shape[1]).double() / len(x)


def _figures(
    real: tuple[Tensor, Tensor], drawn: tuple[Tensor, Tensor], x: Tensor, k: int, accuracy: float | None
) -> SampleQuality:
    precision, recall = precision_recall(real[0], drawn[0], k)
    images = image(tuple(x.shape[1:])) and min(x.shape[2:]) >= 3
    return SampleQuality(
        frechet=frechet_distance(real[0], drawn[0]),
        precision=precision,
        recall=recall,
        classes=int((drawn[1] > 0).sum()),
        class_distance=float((real[1] - drawn[1]).abs().sum()) / 2,
        sharpness=float(sharpness(x).double().mean()) if images else None,
        frequencies=tuple(drawn[1].tolist()),
        n=len(x),
        accuracy=accuracy,
    )
