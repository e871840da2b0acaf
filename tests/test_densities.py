"""Densities with poles, atoms and jumps: against mpmath in the tails, quadrature, and their own draws."""

import copy
import math
import pickle
from itertools import pairwise

import mpmath
import numpy as np
import pyro.distributions as dist
import pytest
import torch
from scipy import special, stats
from torch.distributions import kl_divergence

from pyro_vae.distributions.horseshoe import EDGE, Horseshoe
from pyro_vae.distributions.piecewise_constant import PiecewiseConstant
from pyro_vae.distributions.piecewise_normal import PiecewiseNormal
from pyro_vae.distributions.rectified_normal import RectifiedNormal
from pyro_vae.distributions.truncated import log_ndtri, piece

mpmath.mp.dps = 60  # one setting for all suites, as mpmath has but one
DTYPES = [torch.float32, torch.float64]
CLOSE = {torch.float32: 1e-5, torch.float64: 1e-10}


def double(*values):
    return torch.tensor(values, dtype=torch.float64)


def integral(f, *cuts):
    """Of a function that is smooth between the cuts."""
    nodes, weights = np.polynomial.legendre.leggauss(200)
    total = 0.0
    for a, b in pairwise(cuts):
        total += (b - a) / 2 * float(weights @ f((a + b) / 2 + (b - a) / 2 * nodes))
    return total


def slopes(f, *at, step=1e-4):
    """The derivatives of f, by differences of fourth order."""
    found = []
    for i in range(len(at)):
        near = [f(*(v + (j == i) * k * step for j, v in enumerate(at))) for k in (-2, -1, 1, 2)]
        found.append((near[0] - 8 * near[1] + 8 * near[2] - near[3]) / (12 * step))
    return np.array(found)


def gradients(f, *at):
    leaves = [double(*v) if np.ndim(v) else torch.tensor(v, dtype=torch.float64) for v in at]
    for leaf in leaves:
        leaf.requires_grad_()
    return torch.cat([g.flatten() for g in torch.autograd.grad(f(*leaves), leaves)]).numpy()


def agrees(draws, exact):
    """Means of draws, (n, ...), within five standard errors, which resolve a fiftieth of what is measured."""
    mean, error = draws.mean(0), draws.std(0) / len(draws) ** 0.5
    assert (error < 0.02 * np.abs(exact).max()).all()
    assert (np.abs(mean - exact) < 5 * error).all(), (mean, exact, error)


def pathwise(f, n, *at):
    """The gradients of f at each of n draws; f takes parameters of batch shape (n,)."""
    leaves = [torch.tensor(v, dtype=torch.float64).expand(n, *np.shape(v)).clone().requires_grad_() for v in at]
    found = torch.autograd.grad(f(*leaves).sum(), leaves)
    return torch.cat([g.reshape(n, -1) for g in found], 1).numpy()


# ---------------------------------------------------------------------- horseshoe


def horseshoe(z, loc, scale):
    u = ((mpmath.mpf(z) - mpmath.mpf(loc)) / mpmath.mpf(scale)) ** 2 / 2
    # beyond, mpmath's E1 underflows to its own scale; the asymptotic series ends below 50 digits
    if u > 1e4:
        log_g = -mpmath.log(u) + mpmath.log(sum((-1) ** k * mpmath.factorial(k) / u**k for k in range(13)))
    else:
        log_g = u + mpmath.log(mpmath.e1(u))
    return log_g - mpmath.log(scale) - mpmath.log(2 * mpmath.pi**3) / 2


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [1e-8, 1.0, 300.0])
def test_horseshoe_from_the_pole_to_the_tails(scale, dtype):
    # either side of where the series ends, sqrt(6) scales out; in units of the scale down to 1e-30 and up to 1e15
    d = torch.tensor([1e-30, -1e-16, 1e-7, -1e-3, 0.03, 1.0, 2.44, -2.46, 7.0, 40.0, 1e3, -1e8, 1e15], dtype=dtype)
    scale = torch.tensor(scale, dtype=dtype)
    z = d * scale
    exact = np.array([float(horseshoe(float(v), 0.0, float(scale))) for v in z])
    own = Horseshoe(torch.zeros((), dtype=dtype), scale).log_prob(z)
    assert own.dtype == dtype
    assert own.numpy() == pytest.approx(exact, rel=CLOSE[dtype])


def test_horseshoe_at_its_pole_is_finite():
    d = Horseshoe(torch.tensor(3.0), torch.tensor(0.5))
    z = torch.tensor(3.0, requires_grad=True)
    log_p = d.log_prob(z)
    assert torch.isfinite(log_p)
    assert log_p > d.log_prob(torch.tensor(3.0).nextafter(torch.tensor(4.0))) > d.log_prob(torch.tensor(3.001))
    log_p.backward()
    assert z.grad == 0
    far = Horseshoe(torch.tensor(0.0), torch.tensor(1e-30)).log_prob(torch.tensor([1e30, -3e38]))
    assert torch.isfinite(far).all()


def slope(d):
    """d log p / dz of the standard horseshoe, to 50 digits."""
    d = mpmath.mpf(d)
    u = d**2 / 2
    return float(d - 2 / (d * mpmath.exp(u) * mpmath.e1(u)))


@pytest.mark.parametrize("d", [0.0011, -0.02, 0.5, 2.44, -2.46, 12.0, 40.0])
def test_horseshoe_gradients(d):
    z, loc, scale = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (1.0 + 0.3 * d, 1.0, 0.3))
    by_z, by_loc, by_scale = torch.autograd.grad(Horseshoe(loc, scale).log_prob(z), (z, loc, scale))
    assert float(by_z) == pytest.approx(slope(d) / 0.3, rel=1e-9)
    assert float(by_loc) == -float(by_z)
    assert float(by_scale) == pytest.approx((-d * slope(d) - 1) / 0.3, rel=1e-9)
    torch.autograd.gradgradcheck(lambda *v: Horseshoe(*v[1:]).log_prob(v[0]), (z, loc, scale))


@pytest.mark.parametrize("d", [1e-12, -1e-5, 0.0009])
def test_horseshoe_gradients_are_held_at_the_edge(d):
    z, loc, scale = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.3 * d, 0.0, 0.3))
    by_z, by_loc, by_scale = torch.autograd.grad(Horseshoe(loc, scale).log_prob(z), (z, loc, scale))
    assert float(by_z) == -float(by_loc) == pytest.approx(math.copysign(1, d) * slope(EDGE) / 0.3, rel=1e-9)
    assert float(by_scale) == pytest.approx((-d * slope(d) - 1) / 0.3, rel=1e-9)  # this one is exact
    assert np.isfinite(float(by_z))


def on_a_log_grid():
    t = torch.linspace(-60, 45, 4001, dtype=torch.float64)  # smooth in t, where the trapezoidal rule is all but exact
    z = t.exp()
    return z.numpy(), (Horseshoe(double(0.0), double(1.0)).log_prob(z) + t).exp().numpy() * float(t[1] - t[0])


def test_horseshoe_is_normalised():
    _, share = on_a_log_grid()
    assert 2 * share.sum() == pytest.approx(1, abs=1e-10)


@pytest.mark.parametrize("dtype", DTYPES)
def test_horseshoe_draws(dtype):
    z, share = on_a_log_grid()
    below = np.cumsum(share) - share / 2
    loc, scale = torch.tensor(2.0, dtype=dtype), torch.tensor(0.3, dtype=dtype)
    draws = Horseshoe(loc, scale).sample((20_000,))
    assert draws.dtype == dtype
    standard = ((draws.double() - 2) / scale.double()).numpy()

    def cdf(x):
        return 0.5 + np.sign(x) * np.interp(np.log(np.abs(x) + 1e-300), np.log(z), below)

    assert stats.kstest(standard, cdf).pvalue > 1e-3
    assert (np.abs(standard) > 100).mean() == pytest.approx(2 * (0.5 - cdf(100.0) + 0.5), abs=0.003)


def test_gradient_of_the_kl_to_a_horseshoe():
    """Of N(m, s) from Horseshoe(0, t), where single gradients would have infinite variance at the pole."""
    m, s, t = 0.3, 0.5, 0.7

    def log_p(z):
        u = (z / t) ** 2 / 2
        return np.log(special.exp1(u)) + u - math.log(t) - math.log(2 * math.pi**3) / 2

    def expected(f):  # under q
        t_grid = np.linspace(-45, 2, 3001)  # on which nothing is left of the pole
        z = np.exp(t_grid) * np.array([[-1], [1]])
        return float((f(z) * stats.norm.pdf(z, m, s) * np.abs(z)).sum() * (t_grid[1] - t_grid[0]))

    def by_scale(z):
        u = (z / t) ** 2 / 2
        return 1 / t + (2 * u - 2 / (special.exp1(u) * np.exp(u))) / t

    # by the derivatives of q, which meet no pole
    exact = [
        -expected(lambda z: (z - m) / s**2 * log_p(z)),
        -1 / s - expected(lambda z: ((z - m) ** 2 / s**3 - 1 / s) * log_p(z)),
        expected(by_scale),
    ]

    def estimate(loc, scale, width):
        z = dist.Normal(loc, scale).rsample()
        return dist.Normal(loc, scale).log_prob(z) - Horseshoe(torch.zeros_like(width), width).log_prob(z)

    found = pathwise(estimate, 400_000, m, s, t)
    agrees(found, np.array(exact))
    assert np.abs(found).max() < 1e3  # as no gradient exceeds that at the edge


def test_horseshoe_has_no_moments():
    d = Horseshoe(torch.tensor(1.0), torch.tensor(1.0))
    for what in ("mean", "variance"):
        with pytest.raises(NotImplementedError, match=f"no {what}"):
            getattr(d, what)
    assert d.mode == 1


# ---------------------------------------------------------------------- rectified normal


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("t", [-45.0, -8.0, -0.3, 0.0, 2.0, 8.0, 30.0])
def test_rectified_normal_log_prob(t, dtype):
    loc, scale = torch.tensor(0.3 * t, dtype=dtype), torch.tensor(0.3, dtype=dtype)
    d = RectifiedNormal(loc, scale)
    m, s = mpmath.mpf(float(loc)), mpmath.mpf(float(scale))
    atom = mpmath.log(mpmath.erfc(m / s / mpmath.sqrt(2)) / 2)
    assert float(d.log_prob(torch.zeros((), dtype=dtype))) == pytest.approx(float(atom), rel=CLOSE[dtype], abs=0)
    z = torch.tensor([1e-20, 0.01, 0.5, 3.0, 15.0], dtype=dtype)
    exact = [-(((mpmath.mpf(float(v)) - m) / s) ** 2) / 2 - mpmath.log(s * mpmath.sqrt(2 * mpmath.pi)) for v in z]
    # log p is a sum of two numbers, of which the larger sets the rounding
    assert d.log_prob(z).numpy() == pytest.approx(np.array(exact, float), rel=CLOSE[dtype], abs=CLOSE[dtype] / 10)


@pytest.mark.parametrize(("loc", "scale"), [(0.0, 1.0), (-1.0, 0.5), (2.0, 0.7)])
def test_rectified_normal_is_normalised_and_has_its_moments(loc, scale):
    d = RectifiedNormal(*double(loc, scale))
    atom = math.exp(d.log_prob(double(0.0)))

    def moment(k):
        return integral(lambda z: d.log_prob(torch.tensor(z)).exp().numpy() * z**k, 1e-300, 5.0, 20.0)

    assert atom + moment(0) == pytest.approx(1, abs=1e-10)
    assert float(d.mean) == pytest.approx(moment(1), abs=1e-10)
    assert float(d.variance) == pytest.approx(moment(2) - moment(1) ** 2, abs=1e-10)
    assert float(d.mode) == max(loc, 0)


@pytest.mark.parametrize("t", [-30.0, -8.0, 8.0])
def test_rectified_moments_far_from_zero(t):
    m = mpmath.mpf(t)
    density, above = mpmath.exp(-(m**2) / 2) / mpmath.sqrt(2 * mpmath.pi), mpmath.erfc(-m / mpmath.sqrt(2)) / 2
    mean = m * above + density
    variance = (m**2 + 1) * above + m * density - mean**2
    d = RectifiedNormal(*double(t, 1.0))
    assert float(d.mean) == pytest.approx(float(mean), rel=1e-10, abs=0)
    assert float(d.variance) == pytest.approx(float(variance), rel=1e-6, abs=0)  # 30^4 roundings


def test_rectified_normal_draws():
    loc, scale, n = 0.4, 0.8, 20_000
    draws = RectifiedNormal(torch.tensor(loc), torch.tensor(scale)).sample((n,)).numpy()
    p = stats.norm.cdf(-loc / scale)
    assert stats.binomtest(int((draws == 0).sum()), n, p).pvalue > 1e-3
    rest = draws[draws > 0]
    assert stats.kstest(rest, lambda z: (stats.norm.cdf(z, loc, scale) - p) / (1 - p)).pvalue > 1e-3


def test_rectified_cdf():
    d = RectifiedNormal(*double(0.4, 0.8))
    atom = float(d.log_prob(double(0.0)).exp())
    assert float(d.cdf(double(0.0))) == pytest.approx(atom)
    assert (d.icdf(double(0.0, atom / 2, atom * 0.999)) == 0).all()
    p = double(atom + 1e-9, 0.5, 0.999)
    assert d.cdf(d.icdf(p)).numpy() == pytest.approx(p.numpy(), rel=1e-12)
    far = RectifiedNormal(*double(20.0, 1.0))
    assert float(far.cdf(double(0.0))) == pytest.approx(stats.norm.cdf(-20), rel=1e-10, abs=0)
    assert float(RectifiedNormal(*double(0.0, 1.0), validate_args=False).cdf(double(-0.1))) == 0


def rectified_kl(loc, scale, other_loc, other_scale):
    """By quadrature."""
    q, p = stats.norm(loc, scale), stats.norm(other_loc, other_scale)
    gain = q.cdf(0) * (q.logcdf(0) - p.logcdf(0))
    return gain + integral(
        lambda z: q.pdf(z) * (q.logpdf(z) - p.logpdf(z)), 0, max(loc, 0) + 4 * scale, loc + 14 * scale
    )


@pytest.mark.parametrize("at", [(0.3, 0.5, 0.0, 1.0), (-1.0, 0.7, 0.5, 0.4), (1.0, 0.2, -0.5, 2.0)])
def test_kl_of_rectified_normals(at):
    def kl(*v):
        return kl_divergence(RectifiedNormal(*v[:2]), RectifiedNormal(*v[2:]))

    assert float(kl(*double(*at))) == pytest.approx(rectified_kl(*at), rel=1e-10)
    assert gradients(kl, *at) == pytest.approx(slopes(rectified_kl, *at), rel=1e-6, abs=1e-8)


def exact_rectified_kl(loc, scale, other_loc, other_scale):
    loc, scale, other_loc, other_scale = (mpmath.mpf(float(v)) for v in (loc, scale, other_loc, other_scale))

    def below(x):
        return mpmath.erfc(-x / mpmath.sqrt(2)) / 2

    def log_below(x):
        return mpmath.log(below(x)) if x < 0 else mpmath.log1p(-below(-x))

    a, b = -loc / scale, -other_loc / other_scale
    r, c = scale / other_scale, (loc - other_loc) / other_scale
    density, above = mpmath.exp(-(a**2) / 2) / mpmath.sqrt(2 * mpmath.pi), below(-a)
    first, second = density, above + a * density
    rest = above * (c**2 / 2 - mpmath.log(r)) + c * r * first + (r**2 - 1) / 2 * second
    return float(below(a) * (log_below(a) - log_below(b)) + rest)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("t", [-30.0, -8.0, -1.0, 0.0, 1.0, 8.0, 30.0])
def test_kl_of_rectified_normals_keeps_its_digits(t, dtype):
    """Where nearly all of q is at 0, nearly none is, and where q and p are nearly the same."""
    for scale, away, ratio in [(0.3, 0.0, 1.001), (0.3, 1e-3, 1.0), (2.0, 0.7, 3.0), (1.0, -4.0, 0.2)]:
        at = [torch.tensor(v, dtype=dtype) for v in (t * scale, scale, t * scale + away, scale * ratio)]
        found = float(kl_divergence(RectifiedNormal(*at[:2]), RectifiedNormal(*at[2:])))
        # differences of 1e-3 leave 1e-6 of terms that are rounded by the digits that a^2 / 2 loses
        least = 0 if dtype == torch.float64 else 1e-37
        assert found == pytest.approx(exact_rectified_kl(*at), rel=max(CLOSE[dtype], 1e-7), abs=least)
        assert found >= -1e-16
    same = RectifiedNormal(torch.tensor(0.3 * t, dtype=dtype), torch.tensor(0.3, dtype=dtype))
    assert abs(float(kl_divergence(same, copy.deepcopy(same)))) < 1e-15


def test_pathwise_gradients_of_a_rectified_kl_would_be_biased():
    """As documented: which is why it says that it has none."""
    at = (0.3, 0.5, 0.0, 1.0)

    def estimate(*v):
        q, p = RectifiedNormal(*v[:2]), RectifiedNormal(*v[2:])
        z = q.rsample()
        return q.log_prob(z) - p.log_prob(z)

    found = pathwise(estimate, 100_000, *at)
    error = found.std(0) / len(found) ** 0.5
    assert (np.abs(found.mean(0) - slopes(rectified_kl, *at))[:2] > 10 * error[:2]).any()


# ---------------------------------------------------------------------- pieces of a normal


@pytest.mark.parametrize("start", [-1000.0, -40.0, -8.0, -1.0, -0.1, 0.0, 0.3, 5.0, 39.0, 100.0])
@pytest.mark.parametrize("width", [1e-6, 1e-3, 0.1, 0.49, 0.51, 3.0, 20.0, 2000.0])
def test_mass_and_moments_of_a_piece(start, width):
    a, b = double(start, start + width)
    found = piece(a, b)
    x, y, anchor = (mpmath.mpf(float(v)) for v in (a, b, found.anchor))
    x, y, anchor, sign = (x, y, anchor, 1) if x + y > 0 else (-y, -x, -anchor, -1)
    above, beyond = (mpmath.erfc(v / mpmath.sqrt(2)) / 2 for v in (x, y))
    mass = above - beyond
    at_x, at_y = (mpmath.exp(-v * v / 2) / mpmath.sqrt(2 * mpmath.pi) / mass for v in (x, y))
    mean, square = at_x - at_y, 1 + x * at_x - y * at_y
    first, second = mean - anchor, square - 2 * anchor * mean + anchor**2
    exact = [float(v) for v in (mpmath.log(mass / (y - x)), sign * first, second)]
    size = float(mpmath.sqrt(second))
    assert float(found.log_density) == pytest.approx(exact[0], rel=1e-13, abs=1e-13)
    # 1 - a E[t] in a tail loses the fourth power of its distance
    tail = 1e-16 * max(abs(start), abs(start + width) if start < 0 else 0, 10) ** 4 if abs(exact[0]) > 30 else 1e-13
    if width > 1e-5:  # the middle itself is rounded
        assert float(found.first) == pytest.approx(exact[1], rel=0, abs=max(tail, 1e-11) * size)
    assert float(found.second) == pytest.approx(exact[2], rel=4 * tail + 1e-12, abs=0)


def test_inverse_of_the_log_of_the_distribution_function():
    x = double(-1e5, -1e3, -40.0, -24.3, -24.2, -8.0, 0.5, 5.0)
    assert log_ndtri(torch.special.log_ndtr(x)).numpy() == pytest.approx(x.numpy(), rel=1e-10)
    assert log_ndtri(double(-math.inf, 0.0)).tolist() == [-math.inf, math.inf]


# ---------------------------------------------------------------------- piecewise normal

BREAKS = [-0.4, 0.3]
LOC, SCALE, LOGITS = [-1.0, 0.1, 1.5], [0.8, 0.3, 0.5], [0.2, -0.7, 0.5]
OTHER = {"loc": [0.2, -0.5, 0.4], "scale": [1.1, 0.5, 1.4]}


class Pieces:
    """The same, from scipy's truncated normals and weights found from break to break."""

    def __init__(self, breaks, loc, scale, logits=None):
        self.cuts = [-math.inf, *breaks, math.inf]
        ends = zip(self.cuts, self.cuts[1:], loc, scale, strict=False)
        self.parts = [stats.truncnorm((a - m) / s, (b - m) / s, m, s) for a, b, m, s in ends]
        log_w = [0.0]
        for b, left, right in zip(breaks, self.parts, self.parts[1:], strict=False):
            log_w.append(log_w[-1] + left.logpdf(b) - right.logpdf(b))
        self.weights = special.softmax(log_w if logits is None else logits)

    def logpdf(self, z):
        k = np.searchsorted(self.cuts[1:-1], z, side="right")
        logs = np.stack([part.logpdf(z) + np.log(w) for part, w in zip(self.parts, self.weights, strict=True)])
        return np.take_along_axis(logs, np.expand_dims(k, 0), 0)[0]

    def cdf(self, z):
        return sum(part.cdf(z) * w for part, w in zip(self.parts, self.weights, strict=True))

    def expectation(self, f):
        cuts = [-12.0, *self.cuts[1:-1], 12.0]
        return sum(
            w * integral(lambda z, part=part: part.pdf(z) * f(z), a, (a + b) / 2, b)
            for w, part, a, b in zip(self.weights, self.parts, cuts, cuts[1:], strict=False)
        )


def split(v):
    return list(v[:3]), list(v[3:6]), list(v[6:9]) or None


@pytest.mark.parametrize("logits", [None, LOGITS])
def test_piecewise_normal_against_scipy(logits):
    own = PiecewiseNormal(double(*BREAKS), double(*LOC), double(*SCALE), logits and double(*logits))
    other = Pieces(BREAKS, LOC, SCALE, logits)
    z = np.linspace(-4, 4, 201)
    assert own.log_prob(torch.tensor(z)).numpy() == pytest.approx(other.logpdf(z), rel=1e-10, abs=1e-11)
    assert own.cdf(torch.tensor(z)).numpy() == pytest.approx(other.cdf(z), rel=1e-10)
    assert own.weights.numpy() == pytest.approx(other.weights, rel=1e-12)
    assert integral(lambda z: own.log_prob(torch.tensor(z)).exp().numpy(), -12, -4, *BREAKS, 4, 12) == pytest.approx(1)
    mean = other.expectation(lambda z: z)
    assert float(own.mean) == pytest.approx(mean, rel=1e-10)
    assert float(own.variance) == pytest.approx(other.expectation(lambda z: (z - mean) ** 2), rel=1e-10)
    assert (own.log_prob(own.mode) >= own.log_prob(torch.tensor(z))).all()
    near = own.log_prob(double(*BREAKS).unsqueeze(-1) + double(-1e-9, 1e-9))
    assert ((near.diff().abs() < 1e-7) == (logits is None)).all()
    assert (own.has_rsample, own.closed_form) == (logits is None, logits is not None)


def exact_piecewise(z, breaks, loc, scale, logits):
    breaks, loc, scale = ([mpmath.mpf(v) for v in vs] for vs in (breaks, loc, scale))

    def normal(k, z):
        return -(((z - loc[k]) / scale[k]) ** 2) / 2 - mpmath.log(scale[k] * mpmath.sqrt(2 * mpmath.pi))

    def mass(k):
        a = (breaks[k - 1] - loc[k]) / scale[k] if k else -mpmath.inf
        b = (breaks[k] - loc[k]) / scale[k] if k < len(breaks) else mpmath.inf
        a, b = (a, b) if a + b > 0 else (-b, -a)
        return (mpmath.erfc(a / mpmath.sqrt(2)) - mpmath.erfc(b / mpmath.sqrt(2))) / 2

    if logits is None:
        height = [mpmath.mpf(0)]
        for k, b in enumerate(breaks):
            height.append(height[-1] + normal(k, b) - normal(k + 1, b))
        total = mpmath.log(sum(mpmath.exp(h) * mass(k) for k, h in enumerate(height)))
    else:
        height = [v - mpmath.log(mass(k)) for k, v in enumerate(map(mpmath.mpf, logits))]
        total = mpmath.log(sum(mpmath.exp(mpmath.mpf(v)) for v in logits))
    k = sum(z >= b for b in breaks)
    return float(height[k] + normal(k, mpmath.mpf(z)) - total)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("logits", [None, LOGITS])
@pytest.mark.parametrize(
    ("loc", "scale"),
    [
        (LOC, SCALE),
        ([40.0, -20.0, -50.0], [0.8, 0.3, 0.7]),
        ([0.0, 0.0, 0.0], [1.0, 1e6, 0.01]),
        ([-1.0, 9.0, 3.0], SCALE),
    ],
)
def test_piecewise_normal_in_the_tails(loc, scale, logits, dtype):
    """Far out, and with segments that lie up to seventy standard deviations from their normals, or are next to flat."""
    breaks, loc, scale = (torch.tensor(v, dtype=dtype) for v in (BREAKS, loc, scale))
    given = None if logits is None else torch.tensor(logits, dtype=dtype)
    z = torch.tensor([-1e4, -40.0, -1.0, -0.401, -0.4, 0.0, 0.1, 0.299, 0.31, 2.0, 60.0, 1e4], dtype=dtype)
    logs = None if given is None else given.tolist()
    exact = [exact_piecewise(float(v), breaks.tolist(), loc.tolist(), scale.tolist(), logs) for v in z]
    own = PiecewiseNormal(breaks, loc, scale, given).log_prob(z).numpy()
    # the terms reach 1e4, of which float64 keeps 1e-12
    assert own == pytest.approx(np.array(exact), rel=CLOSE[dtype], abs=1e-10)


EDGES = {
    "plain": (LOC, SCALE),
    "in the tails": ([40.0, -20.0, -50.0], [0.8, 0.3, 0.7]),
    "flat": ([0.0, 0.0, 0.0], [1.0, 1e5, 0.5]),
}


@pytest.mark.parametrize("logits", [None, LOGITS])
@pytest.mark.parametrize("at", EDGES)
def test_piecewise_normal_draws_and_inverse(at, logits):
    loc, scale = EDGES[at]
    d = PiecewiseNormal(double(*BREAKS), double(*loc), double(*scale), logits and double(*logits))
    draws = d.sample((10_000,))
    assert torch.isfinite(draws).all()
    assert stats.kstest(draws.numpy(), lambda z: d.cdf(torch.tensor(z)).numpy()).pvalue > 1e-3
    # whose rise is the density, which is exact
    z = draws[:200]
    step = 1e-5 * (z - torch.tensor([*BREAKS]).unsqueeze(-1)).abs().amin(0).clamp(max=1)
    rise = (d.cdf(z + step) - d.cdf(z - step)) / (2 * step)
    assert rise.numpy() == pytest.approx(d.log_prob(z).exp().numpy(), rel=2e-4, abs=1e-4)
    p = torch.linspace(0.001, 0.999, 57, dtype=torch.float64)
    assert d.cdf(d.icdf(p)).numpy() == pytest.approx(p.numpy(), abs=1e-9)
    assert d.icdf(double(0.0, 1.0)).tolist() == [-math.inf, math.inf]
    small = double(1e-30, 1e-200)
    assert d.cdf(d.icdf(small)).numpy() == pytest.approx(small.numpy(), rel=1e-8, abs=0)
    assert d.cdf(double(-1e9, 1e9)).tolist() == [0, 1]


@pytest.mark.parametrize("logits", [[], LOGITS])
def test_gradients_of_draws_of_a_piecewise_normal(logits):
    """Those of E[f(z)], f continuous, are right whether p jumps or not."""

    def exact(*v):
        return Pieces(BREAKS, *split(v)).expectation(lambda z: np.sin(2 * z) + z**2)

    def estimate(*v):
        z = PiecewiseNormal(double(*BREAKS), v[0], v[1], v[2] if logits else None).rsample()
        return torch.sin(2 * z) + z.square()

    at = [LOC, SCALE] + ([logits] if logits else [])
    agrees(pathwise(estimate, 60_000, *at), slopes(exact, *np.concatenate(at)))


def test_draws_of_learned_breaks():
    def exact(*breaks):
        return Pieces(breaks, LOC, SCALE).expectation(lambda z: np.sin(2 * z) + z**2)

    def estimate(breaks):
        z = PiecewiseNormal(breaks, double(*LOC), double(*SCALE)).rsample()
        return torch.sin(2 * z) + z.square()

    agrees(pathwise(estimate, 100_000, BREAKS), slopes(exact, *BREAKS))


def piecewise_kl(p):
    def kl(*v):
        q = Pieces(BREAKS, *split(v))
        return q.expectation(lambda z: q.logpdf(z) - p.logpdf(z))

    return kl


@pytest.mark.parametrize("logits", [[], LOGITS])
def test_kl_of_piecewise_normals(logits):
    p = Pieces(BREAKS, **OTHER, logits=logits[::-1] or None)
    breaks, loc, scale = double(*BREAKS), double(*OTHER["loc"]), double(*OTHER["scale"])
    own = PiecewiseNormal(breaks, loc, scale, double(*logits[::-1]) if logits else None)

    def kl(*v):
        return kl_divergence(PiecewiseNormal(breaks, *v), own)

    at = [LOC, SCALE] + ([logits] if logits else [])
    exact, flat = piecewise_kl(p), np.concatenate(at)
    assert float(kl(*(double(*v) for v in at))) == pytest.approx(exact(*flat), rel=1e-9)
    assert gradients(kl, *at) == pytest.approx(slopes(exact, *flat), rel=1e-6, abs=1e-7)
    assert abs(float(kl_divergence(own, copy.deepcopy(own)))) < 1e-12


def test_pathwise_gradients_of_the_kl_are_right_without_jumps_alone():
    breaks, other = double(*BREAKS), {name: double(*v) for name, v in OTHER.items()}

    def estimate(*v):
        q, p = PiecewiseNormal(breaks, *v), PiecewiseNormal(breaks, **other)
        z = q.rsample()
        return q.log_prob(z) - p.log_prob(z)

    exact = piecewise_kl(Pieces(BREAKS, **OTHER))
    agrees(pathwise(estimate, 100_000, LOC, SCALE), slopes(exact, *LOC, *SCALE))
    jumps = pathwise(estimate, 100_000, LOC, SCALE, LOGITS)
    error = jumps.std(0) / len(jumps) ** 0.5
    assert (np.abs(jumps.mean(0) - slopes(exact, *LOC, *SCALE, *LOGITS)) > 10 * error).any()


@pytest.mark.parametrize("logits", [[], LOGITS])
def test_kl_between_normal_and_piecewise_normal(logits):
    breaks = double(*BREAKS)
    piecewise = PiecewiseNormal(breaks, double(*LOC), double(*SCALE), double(*logits) if logits else None)
    reference = Pieces(BREAKS, LOC, SCALE, logits or None)

    def to_pieces(m, s):
        q = stats.norm(m, s)
        return integral(lambda z: q.pdf(z) * (q.logpdf(z) - reference.logpdf(z)), -8, *BREAKS, 8)

    def from_pieces(m, s):
        return reference.expectation(lambda z: reference.logpdf(z) - stats.norm.logpdf(z, m, s))

    for exact, kl in (
        (to_pieces, lambda m, s: kl_divergence(dist.Normal(m, s), piecewise)),
        (from_pieces, lambda m, s: kl_divergence(piecewise, dist.Normal(m, s))),
    ):
        at = (0.2, 0.6)
        assert float(kl(*double(*at))) == pytest.approx(exact(*at), rel=1e-9)
        assert gradients(kl, *at) == pytest.approx(slopes(exact, *at), rel=1e-6)
    # and under what pairs wrap around codes
    wide = dist.Normal(torch.zeros(4, 2).double(), 1.0).to_event(1)
    pieces = piecewise.expand(torch.Size([4, 2])).to_event(1)
    assert kl_divergence(wide, pieces).shape == (4,)
    assert kl_divergence(wide, pieces).numpy() == pytest.approx(np.full(4, 2 * to_pieces(0.0, 1.0)))


def test_kl_where_segments_lie_in_tails():
    """Of densities that hold 40 standard deviations from their locs, by quadrature of what mpmath makes of them."""
    breaks, logits = [-1.0, 1.0], [0.0, 1.0, 0.5]
    at = {"q": ([30.0, -40.0, -39.0], [1.0, 1.0, 1.0]), "p": ([-1.0, 30.0, 2.0], [1.0, 0.9, 1.0])}

    def log(z, which):
        return exact_piecewise(float(z), breaks, *at[which], logits)

    q, p = (PiecewiseNormal(double(*breaks), *(double(*v) for v in at[name]), double(*logits)) for name in "qp")
    nodes, weights = np.polynomial.legendre.leggauss(24)
    ends, exact = [-9, -4, -2, -1.3, -1, -0.9, -0.6, 0.3, 1, 1.2, 1.6, 2.5, 4], 0.0
    for a, b in pairwise(ends):
        for x, w in zip(nodes, weights, strict=True):
            z = (a + b) / 2 + (b - a) / 2 * x
            log_q = log(z, "q")
            exact += (b - a) / 2 * w * math.exp(log_q) * (log_q - log(z, "p"))
    kl = kl_divergence(q, p)
    assert float(kl) == pytest.approx(exact, rel=1e-8)


# ---------------------------------------------------------------------- piecewise constant

BINS = [-1.0, -0.2, 0.5, 2.0]


def test_piecewise_constant_against_scipy():
    weights = special.softmax(LOGITS)
    own, other = PiecewiseConstant(double(*BINS), double(*LOGITS)), stats.rv_histogram((weights, BINS), density=False)
    z = np.linspace(-1, 2, 91)[:-1] + 0.001
    assert own.log_prob(torch.tensor(z)).exp().numpy() == pytest.approx(other.pdf(z), rel=1e-12)
    assert own.cdf(torch.tensor(z)).numpy() == pytest.approx(other.cdf(z), rel=1e-12)
    assert float(own.mean) == pytest.approx(other.mean(), rel=1e-12)
    assert float(own.variance) == pytest.approx(other.var(), rel=1e-10)
    assert integral(lambda z: own.log_prob(torch.tensor(z)).exp().numpy(), *BINS) == pytest.approx(1, abs=1e-12)
    assert (own.log_prob(own.mode) >= own.log_prob(torch.tensor(z))).all()
    outside = PiecewiseConstant(double(*BINS), double(*LOGITS), validate_args=False).log_prob(double(-1.1, 2.1))
    assert outside.tolist() == [-math.inf, -math.inf]
    draws = own.sample((20_000,)).numpy()
    assert stats.kstest(draws, other.cdf).pvalue > 1e-3
    p = torch.linspace(0, 1, 41, dtype=torch.float64)
    assert own.cdf(own.icdf(p)).numpy() == pytest.approx(p.numpy(), abs=1e-14)
    assert own.icdf(double(0.0, 1.0)).tolist() == [-1, 2]


@pytest.mark.parametrize("dtype", DTYPES)
def test_piecewise_constant_with_rare_and_narrow_bins(dtype):
    edges, logits = torch.tensor([0.0, 1e-20, 1.0, 1e9], dtype=dtype), torch.tensor([-300.0, 80.0, -5e3], dtype=dtype)
    weights = [mpmath.exp(mpmath.mpf(float(v))) for v in logits]
    exact = [
        float(mpmath.log(w / sum(weights) / (mpmath.mpf(float(b)) - mpmath.mpf(float(a)))))
        for w, a, b in zip(weights, edges, edges[1:], strict=False)
    ]
    found = PiecewiseConstant(edges, logits).log_prob(torch.tensor([5e-21, 0.5, 1e8], dtype=dtype))
    assert found.numpy() == pytest.approx(np.array(exact), rel=CLOSE[dtype], abs=1e-12)


def test_gradients_of_draws_and_kl_of_a_piecewise_constant():
    def expected(*logits):
        p = stats.rv_histogram((special.softmax(logits), BINS), density=False)
        return integral(lambda z: p.pdf(z) * (np.sin(2 * z) + z**2), *BINS)

    def estimate(logits):
        z = PiecewiseConstant(double(*BINS), logits).rsample()
        return torch.sin(2 * z) + z.square()

    agrees(pathwise(estimate, 100_000, LOGITS), slopes(expected, *LOGITS))
    weights = special.softmax([1.0, 0.0, -1.0])

    def exact(*logits):
        return float(special.rel_entr(special.softmax(logits), weights).sum())

    def kl(logits):
        return kl_divergence(
            PiecewiseConstant(double(*BINS), logits), PiecewiseConstant(double(*BINS), double(1, 0, -1))
        )

    assert float(kl(double(*LOGITS))) == pytest.approx(exact(*LOGITS), rel=1e-12)
    assert gradients(kl, LOGITS) == pytest.approx(slopes(exact, *LOGITS), rel=1e-8)


# ---------------------------------------------------------------------- what all have


def made(name, dtype=torch.float32, batch=(3, 1)):
    def some(*shape):
        return torch.randn(shape, dtype=dtype)

    def increasing(n):
        return torch.linspace(-1, 1, n, dtype=dtype)

    def pieces(n, *logits):
        return PiecewiseNormal(increasing(n - 1), some(*batch, n), some(1, n).exp(), *logits)

    loc, scale = some(*batch), some(1).exp()
    return {
        "horseshoe": lambda: Horseshoe(loc, scale),
        "rectified": lambda: RectifiedNormal(loc, scale),
        "piecewise normal": lambda: pieces(4),
        "piecewise normal with jumps": lambda: pieces(4, some(1, 4)),
        "one normal": lambda: pieces(1),
        "piecewise constant": lambda: PiecewiseConstant(increasing(5), some(*batch, 4)),
    }[name]()


NAMES = [
    "horseshoe",
    "rectified",
    "piecewise normal",
    "piecewise normal with jumps",
    "one normal",
    "piecewise constant",
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_shapes_expand_and_broadcast(name, dtype):
    d = made(name, dtype)
    wide = d.expand(torch.Size([2, 3, 5]))
    assert (d.batch_shape, wide.batch_shape, d.event_shape) == ((3, 1), (2, 3, 5), ())
    x = wide.sample((4,))
    assert (x.shape, x.dtype) == ((4, 2, 3, 5), dtype)
    assert not x.requires_grad
    assert wide.support.check(x).all()
    assert len(x.unique()) > 0.3 * x.numel()  # each its own draw
    torch.testing.assert_close(wide.log_prob(x), d.log_prob(x))
    assert wide.log_prob(x).shape == (4, 2, 3, 5)
    assert wide.log_prob(x).dtype == dtype
    assert torch.isfinite(wide.log_prob(x)).all()
    assert d.log_prob(x[0, 0, :1, :1]).shape == (3, 1)
    assert d.to_event(2).log_prob(x[0, 0, :, :1]).shape == ()
    torch.testing.assert_close(d.to_event(1).log_prob(x[0, 0, :, :1]), d.log_prob(x[0, 0, :, :1]).sum(-1))
    assert (wide.has_rsample, wide._validate_args) == (d.has_rsample, d._validate_args)
    assert getattr(wide, "closed_form", False) == getattr(d, "closed_form", False) == (not d.has_rsample)
    assert type(d).__name__ in repr(d)


@pytest.mark.parametrize("name", NAMES)
def test_pickled_and_copied(name):
    d = made(name)
    x = d.sample((7,))
    for other in (pickle.loads(pickle.dumps(d)), copy.deepcopy(d)):
        assert torch.equal(other.log_prob(x), d.log_prob(x))
        assert other.has_rsample == d.has_rsample


@pytest.mark.parametrize("name", NAMES[1:])
def test_inverse_in_single_precision(name):
    d = made(name)
    p = torch.tensor([0.97, 0.99, 0.999]).reshape(-1, 1, 1)  # above what is rectified to 0, but for the share of it
    z = d.icdf(p)
    assert z.shape == (3, 3, 1)
    found = d.cdf(z)
    above = z > 0 if name == "rectified" else torch.ones_like(z, dtype=torch.bool)
    torch.testing.assert_close(found[above], p.expand_as(z)[above], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["piecewise normal", "piecewise normal with jumps", "piecewise constant"])
def test_gradients_of_the_inverse(name):
    d = made(name, torch.float64, batch=())
    p = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    (by_p,) = torch.autograd.grad(d.icdf(p), p)
    assert float((by_p * d.log_prob(d.icdf(p)).exp()).detach()) == pytest.approx(1, rel=1e-9)
    assert torch.autograd.gradcheck(d.cdf, (d.icdf(p).detach().requires_grad_(),))


@pytest.mark.parametrize("name", NAMES)
def test_values_are_validated(name):
    d = made(name)
    with pytest.raises(ValueError, match="within the support"):
        d.log_prob(torch.tensor(math.nan))
    if name in ("rectified", "piecewise constant"):
        with pytest.raises(ValueError, match="within the support"):
            d.log_prob(torch.tensor(-2.0))
    with pytest.raises(ValueError, match="not broadcastable"):
        d.log_prob(torch.zeros(2, 1))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Horseshoe(torch.tensor(0.0), torch.tensor(0.0)), "parameter scale"),
        (lambda: Horseshoe(torch.tensor(math.nan), torch.tensor(1.0)), "parameter loc"),
        (lambda: RectifiedNormal(torch.tensor(0.0), torch.tensor(-1.0)), "parameter scale"),
        (lambda: PiecewiseNormal(torch.tensor([0.0, 0.0]), torch.zeros(3), torch.ones(3)), "parameter breaks"),
        (lambda: PiecewiseNormal(torch.tensor([0.0]), torch.zeros(2), torch.tensor([1.0, -1.0])), "parameter scale"),
        (lambda: PiecewiseNormal(torch.zeros(1), torch.zeros(2), torch.ones(2), torch.full((2,), math.nan)), "logits"),
        (
            lambda: PiecewiseNormal(torch.zeros(1), torch.zeros(3), torch.ones(3)),
            "loc: expected 2 segments for 1 breaks",
        ),
        (lambda: PiecewiseNormal(torch.zeros(1), torch.zeros(2), torch.ones(1)), "scale: expected 2 .* found 1"),
        (lambda: PiecewiseConstant(torch.tensor([0.0, 1.0, 0.5]), torch.zeros(2)), "parameter edges"),
        (lambda: PiecewiseConstant(torch.tensor([0.0, 1.0]), torch.zeros(2)), "edges: expected 3 for 2 bins, found 2"),
    ],
)
def test_parameters_are_validated(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_kl_of_others_is_not_known():
    a, b = (PiecewiseNormal(torch.tensor([v]), torch.zeros(2), torch.ones(2)) for v in (0.0, 0.1))
    c, d = (PiecewiseConstant(torch.tensor([0.0, v, 2.0]), torch.zeros(2)) for v in (0.5, 0.6))
    rectified = RectifiedNormal(torch.tensor(0.0), torch.tensor(1.0))
    pairs = [(a, b), (c, d), (a, c), (rectified, dist.HalfNormal(1.0)), (rectified, rectified.to_event(0).mask(True))]
    for q, p in [*pairs, (a.expand([2]).to_event(1), b.expand([2]).to_event(1))]:
        with pytest.raises(NotImplementedError):
            kl_divergence(q, p)
