"""How near a sample is to another: their Frechet distance, the precision and recall of one by the other, sharpness."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from pyro_vae import checks
from pyro_vae.tracing import slices

LAPLACE = ((0.0, 1.0, 0.0), (1.0, -4.0, 1.0), (0.0, 1.0, 0.0))


def frechet_distance(a: Any, b: Any) -> float:
    r"""|m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^1/2)

    The squared 2-Wasserstein distance of the normals with the means m and the covariances S of two samples. Of
    features of images it is the figure that the FID is of Inception's; values from different features, or from
    samples of different sizes, do not compare: with few draws it is too high, as the covariances are estimates.

    Shapes: (n, d) and (m, d), vectors such as features.

    Raises:
        ValueError: where they are no two samples of vectors of one length, 2 or more of each.

    Source: Heusel et al. 2017, arXiv:1706.08500, equation 6; Dowson & Landau 1982, "The Fréchet distance between
    multivariate normal distributions".

    >>> a = torch.randn(500, 4)
    >>> round(frechet_distance(a, a + 3), 4)  # 4 dimensions, each moved by 3
    36.0
    """
    a, b = samples(a=a, b=b)
    difference = float((a.mean(0) - b.mean(0)).square().sum())
    root_a, root_b = _root(a), _root(b)
    # the sum of the singular values of S_a^1/2 S_b^1/2 is the trace of (S_a S_b)^1/2, and loses no digits to a root
    shared = float(torch.linalg.svdvals(root_a @ root_b).sum())
    return max(difference + float(root_a.square().sum() + root_b.square().sum()) - 2 * shared, 0.0)


def _root(sample: Tensor) -> Tensor:
    """The symmetric root of the covariance."""
    values, vectors = torch.linalg.eigh(torch.cov(sample.T).reshape(sample.shape[1], -1))
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


def precision_recall(real: Any, drawn: Any, k: int = 3) -> tuple[float, float]:
    r"""precision = share of drawn d with |d - r| <= radius_k(r) for some real r;   recall = the same, roles exchanged

    Each sample stands for the union of the balls around its members that reach to their k-th nearest neighbour within
    the sample. Precision is the share of the draws that lie among the real data (few look wrong), recall the share of
    the real data that lie among the draws (few are left out). They depend on the sizes of the samples, which should be
    alike.

    Shapes: (n, d) and (m, d), vectors such as features.

    Args:
        k: the neighbour that each ball reaches to; the paper has 3.

    Raises:
        ValueError: where they are no two samples of vectors of one length, or there are not more than k of each.

    Source: Kynkäänniemi et al. 2019, arXiv:1904.06991, equations 1 and 2.

    >>> real = torch.randn(300, 2)
    >>> precision, recall = precision_recall(real, 0.1 * torch.randn(300, 2))
    >>> precision > 0.9 > 0.2 > recall
    True
    """
    checks.positive_int("k", k)
    real, drawn = samples(real=real, drawn=drawn)
    for name, sample in (("real", real), ("drawn", drawn)):
        if len(sample) <= k:
            raise ValueError(f"{name}: expected more than k = {k} vectors, found {len(sample)}")
    return _covered(drawn, real, k), _covered(real, drawn, k)


def _covered(points: Tensor, sample: Tensor, k: int) -> float:
    """The share of some points that lie in a ball of a sample."""
    radius = torch.cat([distances(sample[part], sample).kthvalue(k + 1).values for part in _parts(sample)])
    inside = [(distances(points[part], sample) <= radius).any(1) for part in _parts(points, len(sample))]
    return float(torch.cat(inside).double().mean())


def distances(a: Tensor, b: Tensor) -> Tensor:
    """|a_i - b_j|, to the last digit: where two are the same it is 0."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def _parts(sample: Tensor, others: int | None = None) -> list[slice]:
    return list(slices(len(sample), max(2**23 // (others or len(sample)), 1)))


def sharpness(images: Any) -> Tensor:
    r"""Var over pixels of the Laplacian L,   L = left + right + above + below - 4 x

    How sharp each image is: blur lowers it, noise raises it, so that it is read beside that of real data. Channels
    are averaged first, and the pixels at the border, which lack a neighbour, are left out.

    Shapes: (n, channels, height, width) -> (n,), in the square of the unit of the pixels.

    Raises:
        ValueError: where they are no images of 3 x 3 pixels or more.

    Source: Tolstikhin et al. 2018, arXiv:1711.01558, section 4, who report the mean over 1000 images.

    >>> sharpness(torch.eye(4)[None, None])
    tensor([9.])
    """
    images = torch.as_tensor(images)
    if images.dim() != 4 or not len(images) or not images.shape[1] or min(images.shape[2:]) < 3:
        raise ValueError(
            f"images: expected (n, channels, height, width), 3 x 3 pixels or more, found {tuple(images.shape)}"
        )
    grey = (images if images.is_floating_point() else images.float()).mean(1, keepdim=True)
    return conv2d(grey, grey.new_tensor(LAPLACE)[None, None]).flatten(1).var(1, correction=0)


def doubles(name: str, value: Any, expected: str) -> Tensor:
    """Finite numbers in double precision on the host."""
    try:
        found = torch.as_tensor(value).detach().double().cpu()
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name}: expected {expected}, found {type(value).__name__}") from None
    if not found.isfinite().all():
        raise ValueError(f"{name}: holds NaN or infinite values")
    return found


def samples(**given: Any) -> tuple[Tensor, Tensor]:
    """Two samples of vectors of one length, in double precision on the host."""
    ready = []
    for name, value in given.items():
        sample = doubles(name, value, "vectors (n, d)")
        if sample.dim() != 2 or len(sample) < 2 or not sample.shape[1]:
            raise ValueError(f"{name}: expected 2 or more vectors, (n, d), found shape {tuple(sample.shape)}")
        ready.append(sample)
    a, b = ready
    if a.shape[1] != b.shape[1]:
        names = ", ".join(given)
        raise ValueError(f"{names}: expected vectors of one length, found {a.shape[1]} and {b.shape[1]}")
    return a, b
