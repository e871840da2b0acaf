"""Distributions on the sphere: against mpmath to 50 digits, against quadrature, and against their own draws."""

import copy
import math
import pickle

import mpmath
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from scipy import integrate, stats
from torch.distributions import kl_divergence

from pyro_vae.distributions.bessel import log_0f1, log_iv
from pyro_vae.distributions.spherical_uniform import SphericalUniform
from pyro_vae.distributions.von_mises_fisher import VonMisesFisher

mpmath.mp.dps = 60  # one setting for all suites, as mpmath has but one
DTYPES = [torch.float32, torch.float64]
EPS = {torch.float32: 1e-5, torch.float64: 1e-9}
DIMS = [2, 3, 4, 7, 20, 100, 500]
# both sides of where the series ends, and what rounds to a point or to the uniform distribution
CONCENTRATIONS = [1e-6, 1e-2, 1.0, 29.9, 30.1, 55.0, 400.0, 1e4, 1e6]


def big(x):
    return mpmath.mpf(float(x))


def bessel(v, x):
    return mpmath.besseli(mpmath.mpf(v), big(x))


def log_constant(d, k):
    """log C_d(k), to 50 digits."""
    v = mpmath.mpf(d) / 2 - 1
    return v * mpmath.log(big(k)) - (v + 1) * mpmath.log(2 * mpmath.pi) - mpmath.log(bessel(v, k))


def resultant(d, k):
    """E[loc . z] = I_{d/2} / I_{d/2 - 1}, to 50 digits."""
    return bessel(d / 2, k) / bessel(d / 2 - 1, k)


def area(d):
    return 2 * math.pi ** (d / 2) / math.gamma(d / 2)


def unit(*shape, dtype=torch.float64):
    x = torch.randn(*shape, dtype=torch.float64)
    return (x / x.norm(dim=-1, keepdim=True)).to(dtype)


def vmf(d, k, dtype=torch.float64, batch=()):
    return VonMisesFisher(unit(*batch, d, dtype=dtype), torch.tensor(k, dtype=dtype).expand(batch))


def angles(d, k):
    """A grid of angles to loc, and weights that sum to 1, from the density's definition alone."""
    t = (np.arange(200_000) + 0.5) * np.pi / 200_000
    log_g = k * (np.cos(t) - 1) + (d - 2) * np.log(np.sin(t))
    g = np.exp(log_g - log_g.max())
    return t, g / g.sum()


def sphere(n=80):
    """Points of S^2 and weights: Gauss and Legendre in height, evenly spaced in longitude, a product that is exact for
    polynomials of degree 2 n - 1."""
    height, weight = np.polynomial.legendre.leggauss(n)
    turn = np.arange(2 * n) * np.pi / n
    ring = np.sqrt(1 - height**2)[:, None]
    points = np.stack([ring * np.cos(turn), ring * np.sin(turn), np.broadcast_to(height[:, None], (n, 2 * n))], -1)
    return torch.from_numpy(points.reshape(-1, 3)), torch.from_numpy(np.repeat(weight * np.pi / n, 2 * n))


# ---------------------------------------------------------------------- Bessel functions


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", DIMS)
def test_bessel_functions(d, dtype):
    v, x = d / 2 - 1, torch.tensor(CONCENTRATIONS, dtype=dtype, requires_grad=True)
    exact = [mpmath.log(bessel(v, k)) for k in x.detach()]
    found = log_iv(v, x)
    assert found.dtype == dtype
    for own, e in zip(found.tolist(), exact, strict=True):
        assert abs(own - e) <= EPS[dtype] * max(abs(e), 1)
    (slope,) = torch.autograd.grad(found.sum(), x)
    for own, k in zip(slope.tolist(), x.tolist(), strict=True):
        e = resultant(d, k) + v / mpmath.mpf(k)
        assert abs(own - e) <= EPS[dtype] * e


@pytest.mark.parametrize("d", DIMS)
def test_small_logarithms_keep_their_digits_and_so_do_their_derivatives(d):
    """log E[exp(k w)], the mean of w and its variance, each to nine digits of its own however small it is."""
    v, x = d / 2 - 1, torch.tensor(CONCENTRATIONS, dtype=torch.float64, requires_grad=True)
    value = log_0f1(v, x)
    (first,) = torch.autograd.grad(value.sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    for own, slope, bend, k in zip(value.tolist(), first.tolist(), second.tolist(), x.tolist(), strict=True):
        a = resultant(d, k)
        exact = mpmath.log(bessel(v, k)) + mpmath.loggamma(v + 1) - v * mpmath.log(big(k) / 2)
        assert abs(own - exact) <= 1e-9 * exact
        assert abs(slope - a) <= 1e-9 * a
        variance = 1 - a**2 - (d - 1) / big(k) * a
        assert abs(bend - variance) <= 2e-9 * variance


# ---------------------------------------------------------------------- density


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", DIMS)
def test_density(d, dtype):
    """At the mode, opposite to it, at right angles, and at draws; unit vectors are only as long as they are rounded."""
    for k in CONCENTRATIONS:
        q = vmf(d, k, dtype)
        aside = unit(d) - q.loc
        aside = aside - (aside @ q.loc.double()) * q.loc
        z = torch.stack([q.loc, -q.loc, (aside / aside.norm()).to(dtype), *q.sample((2,)), unit(d, dtype=dtype)])
        log_p = q.log_prob(z)
        assert log_p.dtype == dtype
        constant, loc = log_constant(d, q.concentration), mpmath.matrix(q.loc.tolist())
        for own, point in zip(log_p.tolist(), z.tolist(), strict=True):
            other = mpmath.matrix(point)
            w = (loc.T * other)[0] / (mpmath.norm(loc) * mpmath.norm(other))
            exact = constant + big(q.concentration) * w
            assert abs(own - exact) <= EPS[dtype] * max(abs(exact), 1), (k, float(exact))


@pytest.mark.parametrize("k", [1e-6, 0.5, 5.0, 200.0])
def test_density_integrates_to_one_on_the_circle_and_on_the_sphere(k):
    turn = torch.arange(1000, dtype=torch.float64) * 2 * math.pi / 1000
    circle = torch.stack([turn.cos(), turn.sin()], -1)
    assert float(vmf(2, k).log_prob(circle).exp().mean()) * 2 * math.pi == pytest.approx(1, abs=1e-10)
    points, weights = sphere()
    q = vmf(3, k)
    p = weights * q.log_prob(points).exp()
    assert float(p.sum()) == pytest.approx(1, abs=1e-10)
    assert (p @ points - q.mean).abs().max() < 1e-10


@pytest.mark.parametrize("k", [1e-3, 3.0, 60.0, 5e3])
@pytest.mark.parametrize("d", [2, 4, 11, 90])
def test_density_integrates_to_one_over_the_angle(d, k):
    """The points at one angle t to loc are a sphere of radius sin t in one dimension less."""
    q = vmf(d, k)
    aside = unit(d) @ (torch.eye(d, dtype=torch.float64) - torch.outer(q.loc, q.loc))
    t = torch.linspace(0, math.pi, 20_001, dtype=torch.float64)
    z = t.cos().unsqueeze(-1) * q.loc + t.sin().unsqueeze(-1) * aside / aside.norm()
    ring = 2 if d == 2 else area(d - 1)
    p = q.log_prob(z).exp() * t.sin() ** (d - 2) * ring
    assert integrate.simpson(p.numpy(), x=t.numpy()) == pytest.approx(1, abs=1e-8)
    assert integrate.simpson((p * t.cos()).numpy(), x=t.numpy()) == pytest.approx(float(resultant(d, k)), abs=1e-8)
    assert float(q.mean @ q.loc) == pytest.approx(float(resultant(d, k)), rel=1e-9)
    assert torch.equal(q.mode, q.loc)


# ---------------------------------------------------------------------- draws


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("d", "k"),
    [(2, 1e-3), (2, 1.5), (2, 300.0), (3, 0.5), (3, 1e4), (5, 7.0), (10, 1e-3), (30, 40.0), (100, 1e4), (300, 10.0)],
)
def test_draws(d, k, dtype):
    q, n = vmf(d, k, dtype), 20_000
    z = q.sample((n,))
    assert z.dtype == dtype
    assert q.support.check(z).all()
    z, loc = z.double(), q.loc.double()
    angle = 2 * torch.asin(((z - loc).norm(dim=-1) / 2).clamp(max=1))  # the arc cosine would lose those near loc
    grid, weights = angles(d, k)
    # half a weight, where the grid point stands in the middle of what it stands for
    cdf = np.cumsum(weights) - weights / 2
    assert stats.kstest(angle.numpy(), lambda t: np.interp(t, grid, cdf, 0, 1)).pvalue > 1e-3
    aside = z - (z @ loc).unsqueeze(-1) * loc
    aside = aside / aside.norm(dim=-1, keepdim=True)
    across = unit(d)
    across = across - (across @ loc) * loc
    across = across / across.norm()
    along = (aside @ across).numpy()
    if d == 2:
        assert stats.binomtest(int((along > 0).sum()), n).pvalue > 1e-3
    else:
        beta = stats.beta((d - 2) / 2, (d - 2) / 2, -1, 2)
        assert stats.kstest(along, beta.cdf).pvalue > 1e-3
        near = angle < angle.median()  # a direction says nothing of the angle
        assert stats.ks_2samp(along[near], along[~near]).pvalue > 1e-3


@pytest.mark.parametrize("first", [1.0, -1.0, 0.0, 1e-9])
def test_draws_are_about_loc_wherever_it_points(first):
    loc = torch.tensor([first, 0.0, -math.sqrt(1 - first**2)], dtype=torch.float64)
    q, n = VonMisesFisher(loc, torch.tensor(4.0, dtype=torch.float64)), 40_000
    z = q.sample((n,))
    assert ((z.mean(0) - q.mean).abs() < 5 * z.std(0) / n**0.5).all()
    a = float(resultant(3, 4.0))
    exact = a / 4 * torch.eye(3) + (1 - 3 * a / 4 - a**2) * torch.outer(loc, loc)
    assert (z.T.cov() - exact).abs().max() < 5 / n**0.5 / 2  # a product of numbers up to 1 has deviation 1/2 at most


# ---------------------------------------------------------------------- gradients of draws


def distribution_function(d, k, angle):
    """F(angle) and its density, to many digits, by quadrature of the unnormalised density."""
    k, angle = mpmath.mpf(k), mpmath.mpf(angle)
    mode = mpmath.acos(2 * k / (d - 2 + mpmath.sqrt(4 * k**2 + (d - 2) ** 2)))
    reach = 12 / mpmath.sqrt(k * mpmath.cos(mode) + d - 2)

    def g(t):
        return mpmath.exp(k * (mpmath.cos(t) - mpmath.cos(mode))) * (mpmath.sin(t) / (mpmath.sin(mode) or 1)) ** (d - 2)

    low, high = max(mpmath.mpf(0), min(mode, angle) - reach), min(mpmath.pi, max(mode, angle) + reach)
    below = mpmath.quad(g, mpmath.linspace(low, angle, 5))
    total = below + mpmath.quad(g, mpmath.linspace(angle, high, 5))
    return below / total, g(angle) / total


QUANTILES = [(2, 0.25), (2, 64.0), (3, 0.001), (3, 8.0), (4, 1e3), (25, 4.0), (100, 128.0), (100, 1e4)]


def moving(d, k, n):
    """Angles to loc of n draws, and the concentrations that they can be differentiated in."""
    k = torch.full((n,), k, dtype=torch.float64, requires_grad=True)
    z = VonMisesFisher(torch.eye(d, dtype=torch.float64)[0], k).rsample()
    return k, torch.atan2(z[:, 1:].norm(dim=-1), z[:, 0])


@pytest.mark.parametrize(("d", "k"), QUANTILES)
def test_a_draw_moves_with_the_concentration_as_its_quantile_does(d, k):
    """Exact, draw by draw: dphi/dk = -(dF/dk) / (dF/dphi), F by quadrature to 20 digits and dF/dk by differences."""
    concentration, angle = moving(d, k, 3)
    (slope,) = torch.autograd.grad(angle.sum(), concentration)
    h = k * mpmath.mpf(1e-5)
    with mpmath.workdps(25):
        for own, t in zip(slope.tolist(), angle.tolist(), strict=True):
            upper, lower = (distribution_function(d, k + step, t)[0] for step in (h, -h))
            exact = -(upper - lower) / (2 * h) / distribution_function(d, k, t)[1]
            assert abs(own - exact) <= 1e-7 * abs(exact)


@pytest.mark.parametrize(("d", "k"), QUANTILES)
def test_second_derivatives_of_draws(d, k):
    """Quantiles at k - h, k and k + h, by one step of Newton's from where the first derivative leads."""
    concentration, angle = moving(d, k, 2)
    (slope,) = torch.autograd.grad(angle.sum(), concentration, create_graph=True)
    (bend,) = torch.autograd.grad(slope.sum(), concentration)
    h = k * mpmath.mpf(1e-4)
    with mpmath.workdps(25):
        for own, first, t in zip(bend.tolist(), slope.tolist(), angle.tolist(), strict=True):
            level, moved = distribution_function(d, k, t)[0], []
            for step in (h, -h):
                guess = t + step * first
                reached, density = distribution_function(d, k + step, guess)
                moved.append(guess + (level - reached) / density)
            exact = (moved[0] - 2 * mpmath.mpf(t) + moved[1]) / h**2
            assert abs(own - exact) <= 1e-5 * (abs(exact) + abs(first) / k)


def of_each_draw(d, k, n, f, dtype=torch.float64):
    """The h = loc |h| and log k of n draws, one pair each, and the gradients of f(q, z) in them."""
    h = unit(d, dtype=dtype).expand(n, d).clone().requires_grad_()
    log_k = torch.full((n,), math.log(k), dtype=dtype, requires_grad=True)
    q = VonMisesFisher(h / h.norm(dim=-1, keepdim=True), log_k.exp())
    return h, log_k, torch.autograd.grad(f(q, q.rsample()).sum(), [h, log_k])


def agrees(draws, exact, rounding=0.0):
    """Whether the mean of draws lies within five standard errors of what is exact."""
    draws, exact = draws.double(), torch.as_tensor(exact).double()
    error = draws.std(0) / len(draws) ** 0.5
    return bool(((draws.mean(0) - exact).abs() <= 5 * error + rounding).all())


NOT_SMOOTH = {
    "a ramp": lambda z, a: torch.relu(z @ a - 0.3),
    "a fold": lambda z, a: (z @ a).abs(),
    "a corner": lambda z, a: z.amax(-1),
    "a wave": lambda z, a: torch.sin(6 * (z @ a)),
}


@pytest.mark.parametrize("name", NOT_SMOOTH)
@pytest.mark.parametrize("k", [0.4, 3.0, 50.0])
def test_gradients_of_expectations_on_the_sphere(k, name):
    """By quadrature the gradient of E f is E[f (k w - k A)] in log k, and k E[f (z - w loc)] in h."""
    a = unit(3)
    h, _, (in_h, in_log_k) = of_each_draw(3, k, 40_000, lambda _, z: NOT_SMOOTH[name](z, a))
    points, weights = sphere(400)
    q = VonMisesFisher(h[0].detach(), torch.tensor(k, dtype=torch.float64))
    p, w = weights * q.log_prob(points).exp(), points @ q.loc
    f = NOT_SMOOTH[name](points, a)
    assert agrees(in_log_k, k * (p * f) @ (w - float(resultant(3, k))))
    assert agrees(in_h, k * (p * f) @ (points - w.unsqueeze(-1) * q.loc))


@pytest.mark.parametrize(("d", "k"), [(2, 0.3), (2, 40.0), (6, 5.0), (40, 30.0), (100, 1e3)])
def test_gradients_in_the_concentration_in_many_dimensions(d, k):
    """E max(w - c, 0), c the mean of w, by quadrature over the angle."""
    t, p = angles(d, k)
    w = np.cos(t)
    c = float(p @ w)
    exact = k * p @ (np.maximum(w - c, 0) * (w - c))
    _, _, (_, draws) = of_each_draw(d, k, 20_000, lambda q, z: torch.relu((q.loc.detach() * z).sum(-1) - c))
    assert agrees(draws, exact)
    assert abs(float(draws.mean())) > 20 * float(draws.std()) / 20_000**0.5  # no zero that anything would agree with


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("d", "k"), [(2, 3.0), (3, 0.5), (8, 20.0), (50, 200.0)])
def test_gradients_of_the_divergence_by_draws(d, k, dtype):
    """E[log q - log p] of draws, differentiated through them, against the closed form's gradient."""
    for p in (SphericalUniform(torch.zeros(d, dtype=dtype)), vmf(d, k / 3, dtype)):
        h, log_k, (in_h, in_log_k) = of_each_draw(d, k, 20_000, lambda q, z, p=p: q.log_prob(z) - p.log_prob(z), dtype)
        one_h, one_k = h[0].detach().clone().requires_grad_(), log_k[0].detach().clone().requires_grad_()
        closed = kl_divergence(VonMisesFisher(one_h / one_h.norm(), one_k.exp()), p)
        exact = torch.autograd.grad(closed, [one_h, one_k], allow_unused=True, materialize_grads=True)
        assert agrees(in_log_k, exact[1])
        # where p is uniform, turning q changes nothing, of any draw
        assert agrees(in_h, exact[0], rounding=8 * torch.finfo(dtype).eps * k)


@pytest.mark.parametrize("d", [2, 3, 10, 100, 1000])
def test_nothing_overflows(d):
    """Single precision, loc at the poles of every reflection, concentrations from next to none to 1e6."""
    poles = torch.cat([torch.eye(d)[[0, 0, 1]] * torch.tensor([[1.0], [-1.0], [1.0]]), unit(2, d, dtype=torch.float32)])
    k = torch.tensor([1e-6, 1e-3, 1.0, 100.0, 1e4, 1e6]).unsqueeze(-1).requires_grad_()
    h = poles.clone().requires_grad_()
    q = VonMisesFisher(h / h.norm(dim=-1, keepdim=True), k)
    z = q.rsample((200,))
    assert z.shape == (200, 6, 5, d)
    assert q.support.check(z).all()
    uniform = SphericalUniform(torch.zeros(d))
    for value in (z, q.log_prob(z), q.entropy(), q.mean, kl_divergence(q, uniform), kl_divergence(q, q)):
        assert value.isfinite().all()
        weights = torch.randn(value.shape)
        for gradient in torch.autograd.grad((value * weights).sum(), [h, k], retain_graph=True, allow_unused=True):
            assert gradient is None or gradient.isfinite().all()
    assert (kl_divergence(q, uniform) > 0).all()


def test_a_concentration_that_is_no_number_gives_no_draw_and_no_endless_search():
    q = VonMisesFisher(unit(2, 3), torch.tensor([math.nan, 2.0], dtype=torch.float64), validate_args=False)
    assert q.sample().isnan().all(-1).tolist() == [True, False]


# ---------------------------------------------------------------------- divergences and entropy


@pytest.mark.parametrize("k", [1e-6, 0.2, 3.0, 31.0, 1e3])
@pytest.mark.parametrize("d", [2, 3, 9, 60])
def test_divergences_and_entropy(d, k):
    """E_q[log q - log p] over the angle to loc, where the other loc's cosine averages to cos(t) loc . loc'."""
    q, p = vmf(d, k), vmf(d, 5.0)
    t, weights = angles(d, k)
    mean, c = float(weights @ np.cos(t)), float(log_constant(d, k))
    entropy = -(c + k * mean)
    assert float(q.entropy()) == pytest.approx(entropy, rel=1e-8, abs=1e-8)
    assert float(kl_divergence(q, SphericalUniform(q.loc))) == pytest.approx(
        math.log(area(d)) - entropy, rel=1e-8, abs=1e-8
    )
    exact = -entropy - float(log_constant(d, 5.0)) - 5 * mean * float(q.loc @ p.loc)
    assert float(kl_divergence(q, p)) == pytest.approx(exact, rel=1e-8, abs=1e-8)
    assert float(kl_divergence(q, q)) == 0


@pytest.mark.parametrize("k", [0.3, 4.0, 40.0])
def test_divergences_on_the_sphere(k):
    points, weights = sphere()
    q = vmf(3, k)
    mass = weights * q.log_prob(points).exp()
    for p in (vmf(3, 2.0), SphericalUniform(q.loc)):
        exact = float(mass @ (q.log_prob(points) - p.log_prob(points)))
        assert float(kl_divergence(q, p)) == pytest.approx(exact, abs=1e-9)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", [2, 10, 500])
def test_a_small_divergence_from_the_uniform_keeps_its_digits(d, dtype):
    """k^2 / (2 d) to first order, 1e-15 where k is 1e-6: nothing cancels."""
    k = torch.tensor([1e-6, 1e-4], dtype=dtype, requires_grad=True)
    q = VonMisesFisher(unit(2, d, dtype=dtype), k)
    kl = kl_divergence(q, SphericalUniform(q.loc))
    (slope,) = torch.autograd.grad(kl.sum(), k)
    assert kl.detach().numpy() == pytest.approx((k.detach() ** 2 / (2 * d)).numpy(), rel=1e-5)
    assert slope.numpy() == pytest.approx((k.detach() / d).numpy(), rel=1e-5)


def test_divergences_broadcast_and_refuse_another_sphere():
    q = vmf(4, 2.0, batch=(3, 1))
    assert kl_divergence(q, SphericalUniform(torch.zeros(2, 4))).shape == (3, 2)
    assert kl_divergence(q, vmf(4, 1.0, batch=(2,))).shape == (3, 2)
    for p in (SphericalUniform(torch.zeros(3)), vmf(3, 1.0)):
        with pytest.raises(ValueError, match="one sphere"):
            kl_divergence(q, p)


# ---------------------------------------------------------------------- in Pyro


def directional(d=4, kappa=3.0, n=5):
    """A uniform direction seen n times through noise: the model, its posterior, and the log evidence."""
    x = VonMisesFisher(unit(d), torch.tensor(kappa, dtype=torch.float64)).sample((n,))

    def model():
        z = pyro.sample("z", SphericalUniform(x[0]))
        with pyro.plate("data", n):
            pyro.sample("x", VonMisesFisher(z, torch.tensor(kappa, dtype=torch.float64)), obs=x)

    total = x.sum(0)
    posterior = VonMisesFisher(total / total.norm(), kappa * total.norm())
    evidence = n * log_constant(d, kappa) - math.log(area(d)) - log_constant(d, posterior.concentration)
    return model, posterior, float(evidence)


def test_the_bound_is_the_evidence_at_the_exact_posterior():
    """Draw by draw: log p(x, z) - log q(z) does not depend on z."""
    model, posterior, evidence = directional()

    def guide():
        pyro.sample("z", posterior)

    for _ in range(20):
        assert -Trace_ELBO().loss(model, guide) == pytest.approx(evidence, abs=1e-9)


@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceMeanField_ELBO])
def test_inference_finds_the_posterior(elbo):
    model, posterior, _ = directional()

    def guide():
        start = torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=torch.float64)
        loc = pyro.param("loc", start, constraint=dist.constraints.sphere)
        k = pyro.param("k", start[0], constraint=dist.constraints.positive)
        pyro.sample("z", VonMisesFisher(loc, k))

    svi = SVI(model, guide, pyro.optim.ClippedAdam({"lr": 0.2, "lrd": 0.98}), elbo())
    for _ in range(200):
        svi.step()
    found = VonMisesFisher(pyro.param("loc").detach(), pyro.param("k").detach())
    assert float(kl_divergence(found, posterior)) < 0.02


# ---------------------------------------------------------------------- uniform


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("d", "exact"), [(2, 2 * math.pi), (3, 4 * math.pi), (4, 2 * math.pi**2), (60, area(60))])
def test_uniform(d, exact, dtype):
    p = SphericalUniform(torch.zeros(d, dtype=dtype))
    z = p.sample((20_000,))
    assert z.dtype == p.log_prob(z).dtype == p.entropy().dtype == dtype
    assert p.support.check(z).all()
    assert p.log_prob(z[:3]).tolist() == pytest.approx([-math.log(exact)] * 3, rel=1e-6)
    assert float(p.entropy()) == pytest.approx(math.log(exact), rel=1e-6)
    assert torch.equal(p.mean, torch.zeros(d, dtype=dtype))
    across = unit(d)
    beta = stats.beta((d - 1) / 2, (d - 1) / 2, -1, 2)
    assert stats.kstest((z.double() @ across).numpy(), beta.cdf).pvalue > 1e-3


def test_uniform_is_normalised():
    points, weights = sphere()
    assert float(weights @ SphericalUniform(points[0]).log_prob(points).exp()) == pytest.approx(1, abs=1e-12)


# ---------------------------------------------------------------------- what both have


MAKE = {
    "von Mises-Fisher": lambda: VonMisesFisher(unit(3, 1, 5), torch.rand(1, dtype=torch.float64) + 0.5),
    "uniform": lambda: SphericalUniform(torch.zeros(3, 1, 5, dtype=torch.float64)),
}


@pytest.mark.parametrize("name", MAKE)
def test_shapes_expand_and_validation(name):
    d = MAKE[name]()
    assert d.has_rsample
    wide = d.expand(torch.Size([2, 3, 4]))
    assert (d.batch_shape, wide.batch_shape) == ((3, 1), (2, 3, 4))
    assert d.event_shape == wide.event_shape == (5,)
    x = wide.rsample((6,))
    assert x.shape == (6, 2, 3, 4, 5)
    assert wide.log_prob(x).shape == (6, 2, 3, 4)
    torch.testing.assert_close(wide.log_prob(x), d.log_prob(x))
    assert wide.mean.shape == (2, 3, 4, 5)
    assert wide.entropy().shape == (2, 3, 4)
    assert not x[0, 0, 0, 0].allclose(x[0, 0, 0, 1])  # copies are drawn each for itself
    assert d.to_event(2).log_prob(x[0, 0, :, :1]).shape == ()
    assert d.expand((0, 3, 1)).rsample().shape == (0, 3, 1, 5)
    for wrong in (1.01 * x, x + 0.3, x * math.nan):
        with pytest.raises(ValueError, match=r"outside the support of .* divide each by its norm"):
            wide.log_prob(wrong)
    with pytest.raises(ValueError, match="must match event_shape"):
        wide.log_prob(unit(4))
    with pytest.raises(ValueError, match="not broadcastable"):
        wide.log_prob(unit(7, 5))


@pytest.mark.parametrize("name", MAKE)
@pytest.mark.parametrize("again", [copy.deepcopy, lambda d: pickle.loads(pickle.dumps(d))], ids=["copy", "pickle"])
def test_copies(name, again):
    d = MAKE[name]()
    same = again(d)
    torch.manual_seed(3)
    x = d.sample((2,))
    torch.manual_seed(3)
    assert torch.equal(same.sample((2,)), x)
    assert torch.equal(same.log_prob(x), d.log_prob(x))


@pytest.mark.parametrize(
    ("loc", "k", "message"),
    [
        ([0.6, 0.81], 1.0, "parameter loc"),
        ([math.nan, 1.0], 1.0, "parameter loc"),
        ([0.6, 0.8], 0.0, "parameter concentration"),
        ([0.6, 0.8], -1.0, "parameter concentration"),
        ([0.6, 0.8], math.nan, "parameter concentration"),
        ([1.0], 1.0, "2 or more dimensions"),
        (1.0, 1.0, "2 or more dimensions"),
    ],
)
def test_parameters_are_validated(loc, k, message):
    with pytest.raises(ValueError, match=message):
        VonMisesFisher(torch.tensor(loc), torch.tensor(k), validate_args=True)


@pytest.mark.parametrize("shape", [(), (1,), (3, 1)])
def test_there_is_no_sphere_of_one_dimension(shape):
    with pytest.raises(ValueError, match="2 or more dimensions"):
        SphericalUniform(torch.zeros(shape))
