"""The modified Bessel function of the first kind, in logarithms and with gradients in its argument."""

import math
from fractions import Fraction

import torch
from torch import Tensor

SWITCH = 30.0  # below it the power series is short, above it the expansion in 1 / sqrt(v^2 + x^2) is
TERMS = 50  # of the series: the last is less than 1e-22 of the sum
ORDER = 12  # of the expansion: what is left out is less than 1e-14


def log_iv(v: float, x: Tensor) -> Tensor:
    r"""log I_v(x) = v log(x / 2) - log Gamma(v + 1) + log 0F1(; v + 1; x^2 / 4)

    Computed in float64 and returned in the dtype of ``x``. Gradients in ``x`` exist of any order.

    Args:
        v: the order, a number of at least 0.
        x: positive numbers, of any shape.

    >>> log_iv(0.5, torch.tensor([1e-6, 1.0, 1e6]))
    tensor([-7.1335e+00, -6.4352e-02,  9.9999e+05])
    """
    wide = x.double()
    return (v * torch.log(wide / 2) - math.lgamma(v + 1) + log_0f1(v, wide)).to(x.dtype)


def log_0f1(v: float, x: Tensor) -> Tensor:
    r"""log 0F1(; v + 1; x^2 / 4) = log E[exp(x w)],   w the cosine of a uniform direction in 2 v + 2 dimensions

    It is 0 at x = 0, grows like x, and its derivative is :func:`iv_ratio`. Small values keep all their digits.

    Args:
        v: the order, a number of at least 0.
        x: positive numbers, of any shape.

    Source: the power series and Debye's expansion, https://dlmf.nist.gov/10.25.E2 and https://dlmf.nist.gov/10.41.E3

    >>> log_0f1(0.5, torch.tensor(2.0)), torch.log(torch.sinh(torch.tensor(2.0)) / 2)
    (tensor(0.5952), tensor(0.5952))
    """
    near, far = _split(x)
    series = torch.log1p(_terms(v, near).sum(-1))
    s = torch.hypot(far, far.new_tensor(v))
    powers, coefficients = _expansion(v, s)
    # log I_v + log Gamma(v + 1) - v log(x / 2), in which log x has gone
    large = s - v * torch.log((v + s) / 2) - 0.5 * torch.log(2 * math.pi * s) + math.lgamma(v + 1)
    large = large + torch.log(powers @ coefficients)
    return torch.where(x < SWITCH, series, large).to(x.dtype)


def iv_ratio(v: float, x: Tensor) -> Tensor:
    r"""A(x) = I_{v+1}(x) / I_v(x)

    The mean of loc . z under a von Mises-Fisher distribution of concentration x in 2 v + 2 dimensions.

    Args:
        v: the order, a number of at least 0.
        x: positive numbers, of any shape.

    >>> x = torch.tensor(2.0)
    >>> iv_ratio(0.5, x), 1 / torch.tanh(x) - 1 / x
    (tensor(0.5373), tensor(0.5373))
    """
    near, far = _split(x)
    terms = _terms(v, near)
    counts = torch.arange(1, TERMS + 1, dtype=near.dtype, device=near.device)
    series = 2 / near * (terms @ counts) / (1 + terms.sum(-1))
    s = torch.hypot(far, far.new_tensor(v))
    powers, coefficients = _expansion(v, s)
    degrees = torch.arange(len(coefficients), dtype=s.dtype, device=s.device)
    slope = -(powers @ (degrees * coefficients)) / (powers @ coefficients) / s
    # the derivative of log_0f1, term by term: by autograd it would cost a second pass
    large = far / (v + s) - far / (2 * s.square()) + far / s * slope
    return torch.where(x < SWITCH, series, large).to(x.dtype)


def _split(x: Tensor) -> tuple[Tensor, Tensor]:
    """The arguments of the series and of the expansion; where not used each is harmless, to gradients too."""
    x = x.double()
    return torch.where(x < SWITCH, x, 1.0), torch.where(x < SWITCH, SWITCH, x)


def _terms(v: float, x: Tensor) -> Tensor:
    r"""(x^2 / 4)^k / (k! (v + 1) ... (v + k)) for k = 1, ..., TERMS; all positive, at most exp(SWITCH)."""
    k = torch.arange(1, TERMS + 1, dtype=x.dtype, device=x.device)
    return torch.exp(2 * torch.log(x / 2).unsqueeze(-1) * k - torch.cumsum(torch.log(k * (v + k)), 0))


def _expansion(v: float, s: Tensor) -> tuple[Tensor, Tensor]:
    """Powers of 1 / s, and the coefficients with which they sum to U_0(v / s) + U_1(v / s) / v + ..."""
    sums = [0.0] * (3 * ORDER + 1)
    for (k, j), c in DEBYE.items():
        sums[k + 2 * j] += float(c) * v ** (2 * j)
    exponents = torch.arange(len(sums), dtype=s.dtype, device=s.device)
    return s.reciprocal().unsqueeze(-1) ** exponents, s.new_tensor(sums)


def _debye() -> dict[tuple[int, int], Fraction]:
    """The polynomials U_k(p) = sum_j c[k, j] p^(k + 2 j), by their recurrence, https://dlmf.nist.gov/10.41.E9"""
    found = {(0, 0): Fraction(1)}
    for k in range(ORDER):
        for j in range(k + 1):
            c, m = found[k, j], k + 2 * j
            for place, factor in (
                ((k + 1, j), Fraction(m, 2) + Fraction(1, 8 * (m + 1))),
                ((k + 1, j + 1), -Fraction(m, 2) - Fraction(5, 8 * (m + 3))),
            ):
                found[place] = found.get(place, Fraction(0)) + c * factor
    return found


DEBYE = _debye()
