"""The maximum mean discrepancy of two samples, and training by that of the codes from their prior."""

from typing import Any

import torch
from torch import Tensor

from pyro_vae import checks
from pyro_vae.infer.aggregate import AggregateELBO, Draws

KERNELS = {"imq": lambda d, c: c / (c + d), "rbf": lambda d, c: torch.exp(-d / c)}
WIDTHS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)  # of the kernels that are added up, from narrow to wide


def gram(a: Tensor, b: Tensor, kernel: str = "imq", scale: float = 1.0) -> Tensor:
    r"""K_ij = sum_C k_C(|a_i - b_j|^2),   k_C(d) = C / (C + d) or exp(-d / C),   C = (0.1, ..., 10) 2 D scale^2

    A kernel of several widths, so that one of them suits wherever the samples are; 2 D scale^2 is how far two draws of
    N(0, scale^2 I) are apart, squared, on average.

    Shapes: (n, D), (m, D) -> (n, m).

    Args:
        a, b: two samples.
        kernel: ``"imq"``, inverse multiquadratic, whose gradient reaches far; or ``"rbf"``.
        scale: the standard deviation that both samples have, about.

    Source: Tolstikhin et al. 2018, arXiv:1711.01558, section 4.

    >>> gram(torch.zeros(2, 3), torch.zeros(4, 3)).shape
    torch.Size([2, 4])
    """
    k = KERNELS[checks.known("kernel", kernel, KERNELS)]
    checks.real("scale", scale, above=0)
    squared, far = squared_distances(a, b), 2 * a.shape[-1] * scale**2
    return torch.stack([k(squared, c * far) for c in WIDTHS]).sum(0)


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """|a_i - b_j|^2 of vectors, fast, as differences of squares: of vectors far from 0 digits are lost."""
    return (a.square().sum(-1)[:, None] + b.square().sum(-1) - 2 * a @ b.mT).clamp(min=0)


def squared_mmd(a: Tensor, b: Tensor, kernel: str = "imq", scale: float = 1.0) -> Tensor:
    r"""E k(a, a') + E k(b, b') - 2 E k(a, b),   a, a' and b, b' independent: MMD^2, estimated without bias

    0 where both are samples of one distribution, on average; it may be negative.

    Shapes: (n, D), (m, D) -> (), n and m at least 2.

    Raises:
        ValueError: where a sample has fewer than two draws.

    Source: Gretton et al. 2012, "A kernel two-sample test", JMLR 13, equation 3.

    >>> a = torch.randn(200, 2)
    >>> bool(squared_mmd(a, a + 3) > squared_mmd(a, torch.randn(200, 2)))
    True
    """
    for name, sample in (("a", a), ("b", b)):
        if len(sample) < 2:
            raise ValueError(f"{name}: expected at least 2 draws, found {len(sample)}")

    def within(sample: Tensor) -> Tensor:
        k = gram(sample, sample, kernel, scale)
        return (k.sum() - k.diagonal().sum()) / (len(sample) * (len(sample) - 1))

    return within(a) + within(b) - 2 * gram(a, b, kernel, scale).mean()


def exchanged(k: Tensor, n: int, permutations: int, generator: torch.Generator | None = None) -> Tensor:
    r"""MMD^2 of the first ``n`` of some draws and the others, and after random exchanges of the two.

    Shapes: the kernel of all draws, (n + m, n + m) -> (1 + permutations,), that of the samples as they are first. The
    diagonal of the kernel, which plays no part, is set to 0.

    Source: Gretton et al. 2012, "A kernel two-sample test", JMLR 13.

    >>> exchanged(gram(torch.eye(4), torch.eye(4)), 2, permutations=9).shape
    torch.Size([10])
    """
    k.fill_diagonal_(0)
    m = len(k) - n
    order = torch.rand(permutations, n + m, generator=generator, dtype=torch.float64).argsort(1)
    first = torch.zeros(n + m, permutations + 1, dtype=k.dtype)
    first[:n, 0] = 1  # as they are
    first[:, 1:].scatter_(0, order[:, :n].T, 1)
    first = first.to(k.device)
    within_first = (first * (k @ first)).sum(0)
    across = k.sum(1) @ first - within_first
    within_rest = k.sum() - 2 * across - within_first
    return within_first / (n * (n - 1)) + within_rest / (m * (m - 1)) - 2 * across / (n * m)


class MMD(AggregateELBO):
    r"""E_q[log p(x | z)] - kl KL(q(z | x) || p(z)) - weight MMD^2(q(z), p(z)),   q(z) = mean_x q(z | x)

    The codes of all data together are held to the prior, and the code of each datum is free to tell it apart. With
    ``kl`` = 0 the Wasserstein autoencoder, for which the prior need only be sampled and the posterior may be a point;
    with ``kl`` = 1 - alpha and ``weight`` = alpha + lambda - 1 the InfoVAE. MMD^2 is estimated from the codes of a
    batch and as many draws of the prior (see :func:`squared_mmd`), with what is given above them beside both; a batch
    of one datum has none. A prior with parameters is moved towards the codes as far as its draws have gradients, which
    those of a mixture lack.

    Args:
        weight: of MMD^2, in nats per datum.
        kl: weight of the KL of each datum.
        kernel, scale: see :func:`gram`; ``scale`` is that of the prior.

    Raises:
        ValueError: where a weight is negative.

    Source: Tolstikhin et al. 2018, arXiv:1711.01558 (WAE); Zhao, Song & Ermon 2019, arXiv:1706.02262 (InfoVAE).

    >>> pair = pv.vae((1, 8, 8), latent=2, posterior=pv.posteriors.Delta, prior=pv.priors.SwissRoll)
    >>> x = pv.data.load("digits", binarise="threshold")
    >>> run = pv.fit(pair, x, objective=MMD(weight=100.0, scale=4.0), epochs=1, progress=False)
    """

    def __init__(self, weight: float, kl: float = 0.0, kernel: str = "imq", scale: float = 1.0) -> None:
        super().__init__(kl)
        self.weight = checks.real("weight", weight, least=0)
        self.kernel = checks.known("kernel", kernel, KERNELS)
        self.scale = checks.real("scale", scale, above=0)

    def penalty(self, draws: Draws) -> Any:
        """Weight times MMD^2, in nats per datum."""
        if draws.size < 2:
            return 0.0
        given = draws.conditions
        codes, prior = (torch.cat([z, given], -1) for z in (draws.codes, draws.prior))
        return self.weight * squared_mmd(codes, prior, self.kernel, self.scale)
