"""The standard normal between two cuts: its mass and moments, with all their digits wherever the cuts are."""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.special import erfcx, log_ndtr, ndtri

ROOT2 = math.sqrt(2.0)
LOG_ROOT_2PI = math.log(2 * math.pi) / 2
REACH = 40.0  # standard deviations beyond which exp(-x^2 / 2) is 0 in double precision
# on a narrow piece the normal is all but exp(s), |s| < 1.5, which Gauss-Legendre sums to 1e-15 by eight nodes
NODES, WEIGHTS = (values.tolist() for values in np.polynomial.legendre.leggauss(8))


class Piece(NamedTuple):
    """What is known of x ~ N(0, 1) given a < x < b, in terms of its distance t = x - anchor from a point nearby."""

    log_density: Tensor  # log P(a < x < b) / (b - a), finite where b = a
    anchor: Tensor
    first: Tensor  # E[t]
    second: Tensor  # E[t^2]


def piece(a: Tensor, b: Tensor) -> Piece:
    """The normal between ``a`` and ``b``, finite numbers in double precision, a <= b.

    P(a < x < b) is a difference of two numbers that far out, and moments about 0 of narrow pieces are differences
    too. Narrow pieces are summed by quadrature about their middle; of pieces in a tail all is told from the end that
    is nearer to 0, by erfcx; others hold the middle of the normal, and nothing cancels.

    >>> far = piece(torch.tensor(100.0).double(), torch.tensor(140.0).double())
    >>> far.first  # about 1 / 100
    tensor(0.0100, dtype=torch.float64)
    """
    width, middle = b - a, (a + b) / 2
    narrow = (width < 0.5) & (width * middle.abs() < 3)
    few = _by_quadrature(torch.where(narrow, middle, 0.0), torch.where(narrow, width, 0.1))
    # mirrored, so that the end nearer to 0 is the lower one; where narrow, any wide piece
    mirrored = middle < 0
    near = torch.where(narrow, 0.0, torch.where(mirrored, -b, a))
    far = torch.where(narrow, 1.0, torch.where(mirrored, -a, b))
    tail, whole = _in_the_tail(near.clamp(min=0), far), _about_zero(near.clamp(max=0), far)
    wide = [torch.where(near >= 0, x, y) for x, y in zip(tail, whole, strict=True)]
    sign = torch.where(mirrored, -1.0, 1.0).to(a.dtype)
    wide = [wide[0], sign * wide[1], sign * wide[2], wide[3]]
    return Piece(*(torch.where(narrow, x, y) for x, y in zip(few, wide, strict=True)))


def _by_quadrature(middle: Tensor, width: Tensor) -> Piece:
    # N(middle + t) = N(middle) exp(-middle t - t^2 / 2)
    zeroth = first = second = torch.zeros_like(middle)
    for node, weight in zip(NODES, WEIGHTS, strict=True):
        t = width * (node / 2)
        share = (weight / 2) * torch.exp(-t * (middle + t / 2))
        zeroth, first, second = zeroth + share, first + share * t, second + share * t * t
    log_density = zeroth.log() - middle.square() / 2 - LOG_ROOT_2PI
    return Piece(log_density, middle, first / zeroth, second / zeroth)


def _in_the_tail(near: Tensor, far: Tensor) -> Piece:
    beyond = erfcx(near / ROOT2)
    decay = torch.exp(-(far - near) * (far + near) / 2)
    kept = 1 - decay * erfcx(far / ROOT2) / beyond
    at_near = math.sqrt(2 / math.pi) / (beyond * kept)  # the density there
    at_far = at_near * decay
    first = at_near - at_far - near
    second = 1 - near * first - (far - near) * at_far
    log_mass = torch.log(beyond * kept / 2) - near.square() / 2
    return Piece(log_mass - torch.log(far - near), near, first, second)


def _about_zero(near: Tensor, far: Tensor) -> Piece:
    mass = (torch.erf(far / ROOT2) - torch.erf(near / ROOT2)) / 2
    at_near, at_far = (torch.exp(-x.square() / 2 - LOG_ROOT_2PI) / mass for x in (near, far))
    second = 1 + near * at_near - far * at_far
    return Piece(torch.log(mass / (far - near)), torch.zeros_like(near), at_near - at_far, second)


def log_ndtri(log_p: Tensor) -> Tensor:
    """x where log P(N(0, 1) < x) is ``log_p``, in double precision, also where the probability itself is 0.

    >>> log_ndtri(log_ndtr(torch.tensor([-1000.0, -1.0]).double())).round(decimals=6)
    tensor([-1000.,    -1.], dtype=torch.float64)
    """
    deep = log_p.clamp(min=-1e300, max=-300.0)
    x = -torch.sqrt(-2 * deep - 2 * LOG_ROOT_2PI - torch.log(-2 * deep))
    for _ in range(3):  # Newton's, of a function that is all but -x^2 / 2 there
        x = x - (log_ndtr(x) - deep) * erfcx(-x / ROOT2) * math.sqrt(math.pi / 2)
    return torch.where((log_p < -300) & (log_p > -math.inf), x, ndtri(log_p.exp()))
