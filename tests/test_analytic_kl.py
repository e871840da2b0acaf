"""The ELBO with closed KLs: its value and gradients against quadrature and Pyro's own, and what it refuses."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from scipy import stats

from pyro_vae.distributions.piecewise_constant import PiecewiseConstant
from pyro_vae.distributions.piecewise_normal import PiecewiseNormal
from pyro_vae.distributions.rectified_normal import RectifiedNormal
from pyro_vae.infer import SVI, temper
from pyro_vae.infer.analytic_kl import AnalyticKL

AT = {"q": (0.3, 0.5), "p": (0.0, 1.0)}  # loc and scale of the rectified normals


def rectified(x=None, width=1.0):
    """A pair of one code, which the data depend on where there are any."""
    loc, scale = (torch.nn.Parameter(torch.tensor(v, dtype=torch.float64)) for v in AT["q"])

    def model(x=x, n=1):
        with pyro.plate("data", n if x is None else len(x)):
            z = pyro.sample("z", RectifiedNormal(*torch.tensor(AT["p"], dtype=torch.float64)))
            if x is not None:
                pyro.sample("x", dist.Normal(z, width), obs=x)

    def guide(x=x, n=1):
        with pyro.plate("data", n if x is None else len(x)):
            pyro.sample("z", RectifiedNormal(loc, scale))

    return model, guide, [loc, scale]


def loss_of(loc, scale, x=None, width=1.0):
    """Minus the ELBO of one datum, by quadrature."""
    q, p = stats.norm(loc, scale), stats.norm(*AT["p"])
    nodes, weights = np.polynomial.legendre.leggauss(200)
    z = (loc + 12 * scale) * (nodes + 1) / 2
    w = (loc + 12 * scale) / 2 * weights * q.pdf(z)
    loss = q.cdf(0) * (q.logcdf(0) - p.logcdf(0)) + w @ (q.logpdf(z) - p.logpdf(z))
    if x is not None:
        loss -= q.cdf(0) * stats.norm.logpdf(x, 0, width) + w @ stats.norm.logpdf(x, z, width)
    return loss


def slopes(f, *at, step=1e-4):
    return np.array(
        [
            (f(*(v + step * (i == j) for j, v in enumerate(at))) - f(*(v - step * (i == j) for j, v in enumerate(at))))
            / (2 * step)
            for i in range(len(at))
        ]
    )


def gradient(objective, model, guide, parameters):
    loss = objective.differentiable_loss(model, guide)
    return loss.item(), np.array([float(g) for g in torch.autograd.grad(loss, parameters)])


def agree(a, b, most=math.inf):
    """Means of two samples, (n, ...), one of which may be exact."""
    a, b = np.atleast_1d(a), np.atleast_1d(b)
    error = np.sqrt(a.var(0) / len(a) + b.var(0) / len(b))
    assert (error < most).all(), error
    assert (np.abs(a.mean(0) - b.mean(0)) < 5 * error + 1e-9).all(), (a.mean(0), b.mean(0), error)


def test_without_data_the_gradient_is_exact():
    model, guide, parameters = rectified()
    value, found = gradient(AnalyticKL(), model, guide, parameters)
    assert value == pytest.approx(loss_of(*AT["q"]), rel=1e-9)
    assert found == pytest.approx(slopes(loss_of, *AT["q"]), rel=1e-6)
    # where the difference of the logs, drawn pathwise, is far off

    def forced():
        z = RectifiedNormal(*parameters).expand([100_000]).rsample()
        return RectifiedNormal(*parameters).log_prob(z) - RectifiedNormal(*torch.tensor(AT["p"]).double()).log_prob(z)

    biased = np.array([float(g) for g in torch.autograd.grad(forced().mean(), parameters)])
    assert np.abs(biased - found).max() > 0.1


def test_gradients_of_a_rectified_code_agree_with_quadrature_and_the_score_function():
    x, n, width = 0.8, 4000, 0.7
    model, guide, parameters = rectified(torch.full((n,), x, dtype=torch.float64), width)

    def exact(*at):
        return loss_of(*at, x, width)

    runs = {
        kind: [gradient(objective, model, guide, parameters) for _ in range(40)]
        for kind, objective in (("closed", AnalyticKL()), ("score", Trace_ELBO()), ("two", AnalyticKL(num_particles=2)))
    }
    for kind, found in runs.items():
        values, slope = (np.array(v) / n for v in zip(*found, strict=True))
        agree(values, exact(*AT["q"]), most=0.01)
        agree(slope, slopes(exact, *AT["q"])[None], most=0.02 if kind == "score" else 0.005)
    spread = {kind: np.array([g for _, g in found]).std(0) for kind, found in runs.items()}
    assert (spread["closed"] < spread["score"]).all()
    assert (spread["two"] < spread["closed"]).all()


def test_jumps_in_pieces_are_drawn_pathwise():
    """E[sin z] - KL, whose gradient two densities with jumps take from their draws and from their KL."""
    edges, breaks = torch.tensor([-1.0, 0.0, 0.5, 2.0]).double(), torch.tensor([0.0, 0.5]).double()
    logits = torch.tensor([0.3, -0.5, 0.1], dtype=torch.float64, requires_grad=True)
    loc, scale = torch.zeros(3).double(), torch.ones(3).double()
    for make in (lambda v: PiecewiseConstant(edges, v), lambda v: PiecewiseNormal(breaks, loc, scale, v)):

        def model(make=make):
            with pyro.plate("data", 10_000):
                z = pyro.sample("z", make(torch.zeros(3).double()))
                pyro.factor("x", torch.sin(z))

        def guide(make=make):
            with pyro.plate("data", 10_000):
                pyro.sample("z", make(logits))

        q, p = make(logits), make(torch.zeros(3).double())
        grid = torch.linspace(-9, 9, 90_001).double()
        inside = grid if isinstance(q, PiecewiseNormal) else grid[(grid > -1) & (grid < 2)]
        log_q, log_p = q.log_prob(inside), p.log_prob(inside)
        expected = (log_q.exp() * (log_q - log_p - inside.sin())).sum() * float(grid[1] - grid[0])
        (exact,) = torch.autograd.grad(expected, logits)
        found = torch.stack(
            [torch.autograd.grad(AnalyticKL().differentiable_loss(model, guide), logits)[0] for _ in range(20)]
        )
        agree(found.numpy() / 10_000, exact.numpy()[None], most=0.003)


# ---------------------------------------------------------------------- any pair of programs


def two_level(order=("z1", "z2"), family=dist.Normal):
    """z2 -> z1 -> x; the guide draws in either order."""
    p = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.4, -0.3, -0.5, -0.8)]
    x = torch.tensor([0.5, -0.6, 1.0], dtype=torch.float64)

    def model():
        with pyro.plate("data", 3):
            z2 = pyro.sample("z2", family(p[0].expand(2), 1.0 + 0 * p[0]).to_event(1))
            z1 = pyro.sample("z1", family(z2 + p[1], 0.8 + 0 * p[0]).to_event(1))
            pyro.sample("x", dist.Normal(z1.sum(-1), 1.0), obs=x)

    def guide():
        with pyro.plate("data", 3):
            above = torch.zeros(3, 2, dtype=torch.float64)
            for name in order:
                scale = torch.stack([p[2].exp(), p[3].exp()])
                above = pyro.sample(name, family(0.3 * above + 0.2 * x[:, None] + p[2], scale).to_event(1))

    return model, guide, p


def elbo(particles):
    return Trace_ELBO(num_particles=particles, vectorize_particles=True, max_plate_nesting=1)


def averages(objective, model, guide, parameters, n=40):
    found = [gradient(objective, model, guide, parameters) for _ in range(n)]
    return np.array([[value, *slope] for value, slope in found])


@pytest.mark.parametrize("order", [("z1", "z2"), ("z2", "z1")])
def test_in_expectation_it_is_the_elbo(order):
    model, guide, parameters = two_level(order)
    closed = averages(AnalyticKL(num_particles=100), model, guide, parameters)
    plain = averages(elbo(100), model, guide, parameters)
    agree(closed, plain, most=0.3)
    assert closed[:, 0].std() < plain[:, 0].std()


def test_rectified_codes_on_two_levels_by_what_the_story_allows():
    model, guide, parameters = two_level(("z2", "z1"), RectifiedNormal)
    closed = averages(AnalyticKL(num_particles=100), model, guide, parameters)
    plain = averages(elbo(1000), model, guide, parameters)
    agree(closed, plain, most=0.3)
    model, guide, _ = two_level(("z1", "z2"), RectifiedNormal)
    with pytest.raises(ValueError, match=r"AnalyticKL: the site 'z1' needs the KL of RectifiedNormal .* may depend"):
        AnalyticKL().loss(model, guide)


def handlers():
    mask = torch.tensor([True, False, True])
    return {
        "scale": poutine.scale(scale=3.0),
        "temper": temper({"z2": 0.5, "z1": 2.0}),
        "mask": poutine.mask(mask=mask),
    }


@pytest.mark.parametrize("name", handlers())
def test_weights_and_masks(name):
    model, guide, parameters = two_level(("z2", "z1"), RectifiedNormal)
    around = handlers()[name]

    def wrapped(program):
        def run():
            with around:
                program()

        return run

    pair = wrapped(model), wrapped(guide)
    closed = averages(AnalyticKL(num_particles=100), *pair, parameters)
    plain = averages(elbo(1000), *pair, parameters)
    agree(closed, plain, most=0.6)
    with torch.no_grad():
        assert not np.isclose(closed[:, 0].mean(), AnalyticKL(num_particles=5000).loss(model, guide), atol=0.3)


def test_weights_that_differ_between_the_programs_leave_no_kl():
    model, guide, parameters = two_level()
    tempered = temper(2.0)(guide)
    both = (AnalyticKL(num_particles=100), elbo(100))
    agree(*(averages(objective, model, tempered, parameters) for objective in both), most=0.3)
    model, guide, _ = two_level(("z2", "z1"), RectifiedNormal)
    with pytest.raises(ValueError, match=r"'z2' needs the KL .* guide and model weigh or mask it differently"):
        AnalyticKL().loss(model, temper(2.0)(guide))


def test_factors_of_both_programs_count():
    model, guide, _ = rectified()

    def with_factor(program, by):
        def run():
            program()
            pyro.factor("extra", torch.tensor(by), has_rsample=True)

        return run

    plain = AnalyticKL().loss(model, guide)
    assert AnalyticKL().loss(with_factor(model, 5.0), guide) == pytest.approx(plain - 5)
    assert AnalyticKL().loss(with_factor(model, 5.0), with_factor(guide, 2.0)) == pytest.approx(plain - 3)
    assert AnalyticKL(num_particles=3).loss(with_factor(model, 5.0), guide) == pytest.approx(plain - 5)


def test_a_delta_keeps_its_log_density():
    """With which Pyro's automatic guides stand for draws that were transformed; its KL there leaves that out."""
    x = torch.tensor([0.5, 2.0])

    def model():
        rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
        with pyro.plate("data", 2):
            pyro.sample("x", dist.Exponential(rate), obs=x)

    guide = AutoNormal(model)
    guide()  # which looks at the model once, before it draws
    losses = []
    for objective in (AnalyticKL(), Trace_ELBO()):
        pyro.set_rng_seed(1)
        losses.append(objective.loss(model, guide))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_distributions_of_the_user_stay_as_they_are():
    q = RectifiedNormal(torch.zeros(2, 3), torch.ones(3))
    wrapped = q.to_event(1).mask(torch.tensor([True, False])).expand(torch.Size([2]))

    def program():
        with pyro.plate("data", 2):
            return pyro.sample("z", wrapped)

    assert AnalyticKL().loss(program, program) == pytest.approx(0, abs=1e-6)
    assert not q.has_rsample
    assert not wrapped.has_rsample


@pytest.mark.parametrize(
    ("posterior", "prior", "message"),
    [
        (RectifiedNormal, dist.Exponential(1.0), "of RectifiedNormal from Exponential.*none; use .*Trace_ELBO$"),
        (
            lambda m, s: dist.Laplace(m, s),
            PiecewiseNormal(torch.zeros(1), torch.zeros(2), torch.ones(2), torch.zeros(2)),
            r"of Laplace from PiecewiseNormal .* under `has_rsample_\(False\)`",
        ),
        (lambda m, s: dist.Poisson(s), dist.Poisson(1.0), "the site 'z' has no reparameterised gradient .*Poisson"),
    ],
)
def test_what_it_refuses(posterior, prior, message):
    q = posterior(torch.tensor(0.0), torch.tensor(1.0))
    with pytest.raises(ValueError, match=message):
        AnalyticKL().loss(lambda: pyro.sample("z", prior), lambda: pyro.sample("z", q))


def test_an_auxiliary_code_with_jumps_has_no_kl():
    def guide():
        pyro.sample("u", RectifiedNormal(torch.tensor(0.0), torch.tensor(1.0)), infer={"is_auxiliary": True})

    with pytest.raises(ValueError, match=r"the site 'u' .* but the model lacks it"):
        AnalyticKL().loss(lambda: None, guide)


def test_all_ways_of_asking_agree():
    x = torch.full((5,), 0.8, dtype=torch.float64)
    for particles in (1, 3):
        model, guide, parameters = rectified(x)
        objective = AnalyticKL(num_particles=particles)
        found = []
        for ask in (objective.differentiable_loss, objective.loss, objective.loss_and_grads):
            pyro.set_rng_seed(2)
            found.append(ask(model, guide))
        slope = torch.autograd.grad(found[0], parameters)
        assert found[0].item() == found[1] == found[2]
        assert [p.grad for p in parameters] == list(slope)


def test_settings_are_checked():
    for settings in ({"num_particles": 0}, {"max_plate_nesting": 1.5}):
        with pytest.raises(ValueError, match="expected a whole number"):
            AnalyticKL(**settings)


@pytest.mark.parametrize("kind", ["ours", "pyro's"])
def test_it_trains_under_both_steppers(kind):
    """Without data the optimum is the prior."""

    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", RectifiedNormal(torch.tensor(-0.5), torch.tensor(1.0)))

    def guide(x):
        loc, s = pyro.param("loc", torch.tensor(0.5)), pyro.param("s", torch.tensor(-0.5))
        with pyro.plate("data", len(x)):
            pyro.sample("z", RectifiedNormal(loc, s.exp()))

    x = torch.zeros(4)
    optim = pyro.optim.Adam({"lr": 0.05})
    svi = (SVI if kind == "ours" else pyro.infer.SVI)(model, guide, optim, loss=AnalyticKL())
    first = svi.evaluate_loss(x=x)
    assert first > 1
    for _ in range(300):
        svi.step(x=x)
    assert svi.evaluate_loss(x=x) == pytest.approx(0, abs=1e-3)
