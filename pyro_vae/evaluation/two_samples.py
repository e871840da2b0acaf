"""Are two samples of one distribution? And is the aggregate posterior the prior?"""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from pyro_vae import checks, families, tracing
from pyro_vae.data.feed import derived
from pyro_vae.evaluation.fidelity import samples
from pyro_vae.evaluation.rows import Rows
from pyro_vae.infer.mmd import exchanged, gram
from pyro_vae.tracing import slices
from pyro_vae.variant import Variant


@dataclass(frozen=True)
class TwoSampleTest:
    """What :func:`two_sample_test` found of samples of ``n`` and ``m``.

    ``mmd2`` is 0 on average where they are of one distribution, and may be negative; ``p_value`` is the share of
    ``permutations``, the samples themselves among them, under which it is as large, so that it is at least
    1 / (permutations + 1). ``scale`` is that of the kernel.
    """

    mmd2: float
    p_value: float
    n: int
    m: int
    permutations: int
    scale: float

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, ready for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        drawn = f"{self.n} and {self.m} draws, {self.permutations} permutations, scale {self.scale:.4g}"
        return f"MMD^2 {self.mmd2:.5f}, p = {self.p_value:.4g} ({drawn})"


def two_sample_test(
    a: Any,
    b: Any,
    *,
    permutations: int = 500,
    seed: int = 0,
    kernel: str = "imq",
    scale: float | None = None,
) -> TwoSampleTest:
    r"""MMD^2 = E k(a, a') + E k(b, b') - 2 E k(a, b),   p = (1 + #{permuted MMD^2 >= MMD^2}) / (1 + permutations)

    Whether two samples are of one distribution: the estimate of MMD^2 without bias, beside those after random
    exchanges of the two. The test keeps its level at any sizes: where both are of one distribution, p <= alpha comes
    up in a share of at most alpha. Memory grows with (n + m)^2.

    Shapes: (n, d) and (m, d), vectors.

    Args:
        permutations: how many random exchanges; p is at least 1 / (permutations + 1).
        kernel, scale: see :func:`pyro_vae.infer.mmd.gram`. The scale is by default s with 2 d s^2 the median of
            the squared distances within both samples together.

    Raises:
        ValueError: where they are no two samples of vectors of one length, 2 or more of each.

    Source: Gretton et al. 2012, "A kernel two-sample test", JMLR 13, equation 3.

    >>> a, b = torch.randn(100, 2), torch.randn(100, 2)
    >>> two_sample_test(a, b + 1).p_value < 0.01 < two_sample_test(a, b).p_value
    True
    """
    checks.positive_int("permutations", permutations)
    a, b = samples(a=a, b=b)
    n, m = len(a), len(b)
    both = torch.cat([a, b])
    both = both - both.mean(0)  # the kernel's distances are differences of squares
    scale = median_scale(both) if scale is None else checks.real("scale", scale, above=0)
    k = torch.cat([gram(both[part], both, kernel, scale) for part in slices(n + m, max(2**22 // (n + m), 1))])
    mmd2 = exchanged(k, n, permutations, torch.Generator().manual_seed(seed))
    slack = 1e-12 * float(k.max())  # sums of the same numbers in another order
    as_large = int((mmd2[1:] >= mmd2[0] - slack).sum())
    return TwoSampleTest(float(mmd2[0]), (1 + as_large) / (1 + permutations), n, m, permutations, scale)


def median_scale(sample: Tensor) -> float:
    """s with 2 d s^2 the median of the squared distances; their mean where half of all pairs are the same."""
    squared = torch.nn.functional.pdist(sample).square()
    typical = float(squared.median()) or float(squared.mean())
    return (typical / (2 * sample.shape[1])) ** 0.5 or 1.0


def aggregate_test(
    variant: Variant, data: Any, *, n: int = 1000, permutations: int = 500, seed: int = 0, rows: int | None = None
) -> TwoSampleTest:
    r"""Is q(z) = (1/N) sum_n q(z | x_n) the prior p(z)? :func:`two_sample_test` of draws of each

    One draw of q(z | x) for each of n data, against n draws of the model, all continuous latent sites side by side.
    It asks for no density, so that any prior will do, also one that can only be sampled. With enough draws a test
    finds any difference: read ``mmd2`` with its p. Under conditions both are averaged over those of the data, drawn
    anew for the prior.

    Args:
        data: data in memory: a :class:`pyro_vae.data.Data`, an array, a tensor, or a mapping of sites.
        n: how many draws of each, as many as there are data at most.
        permutations: see :func:`two_sample_test`.
        rows: how many data are worked on at a time.

    Raises:
        ValueError: where the data do not fit the pair, or it has no continuous latent sites.

    Source: Gretton et al. 2012, "A kernel two-sample test", JMLR 13; q(z), Hoffman & Johnson 2016, "ELBO surgery".

    >>> pair = pv.vae((1, 8, 8), latent=2)
    >>> aggregate_test(pair, pv.data.load("digits", binarise="threshold"), n=200, permutations=100).n
    200
    """
    checks.instance("variant", variant, Variant)
    known = Rows(data, variant=variant)
    n = min(checks.positive_int("n", n), known.size)
    generator = torch.Generator().manual_seed(derived(seed))
    with tracing.seeded(seed):
        batch = variant.prepare(known.take(torch.randperm(known.size, generator=generator)[:n]))
        others = known.take(torch.randint(known.size, (n,), generator=generator)) if variant.conditions else {}
    variant.check_batch(batch, guide=variant.guide)
    encoded, dreamt = [], []
    for part in slices(n, tracing.rows_for(batch, rows)):
        some = {name: value[part] for name, value in batch.items()}
        with variant._at_rest(derived(seed, 1, part.start)):
            encoded.append(_codes(poutine.trace(variant.guide).get_trace(**tracing.filled(some))))
        given: dict[str, Any] = {name: others[name][part] for name in variant.conditions}
        dreamt.append(_codes(variant.draw(part.stop - part.start, derived(seed, 2, part.start), **given)))
    names = [name for name in dreamt[0] if name in encoded[0]]
    if not names:
        raise ValueError("variant: has no continuous latent sites to compare")
    a, b = (torch.cat([torch.cat([p[name] for name in names], 1) for p in parts]) for parts in (encoded, dreamt))
    return two_sample_test(a, b, permutations=permutations, seed=seed)


def _codes(trace: poutine.Trace) -> dict[str, Tensor]:
    """The continuous codes of each datum as vectors, (n, units)."""
    drawn = {name: s for name, s in tracing.latent_sites(trace).items() if not families.is_discrete(s["fn"])}
    rows = {name: s["value"].movedim(-1 - s["fn"].event_dim, 0) for name, s in drawn.items()}  # the rightmost plate
    return {name: z.reshape(len(z), -1) for name, z in rows.items()}
