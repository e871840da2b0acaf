"""Objectives on the codes of a batch: MMD, total correlation and DIP against closed forms, numpy and differences."""

import copy
import math
from functools import partial

import gaussian
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import integrate

import pyro_vae as pv
from pyro_vae.infer import DIP, MMD, SVI, AnalyticKL, TotalCorrelation, squared_mmd, temper
from pyro_vae.infer.aggregate import AggregateELBO
from pyro_vae.infer.mmd import gram
from pyro_vae.infer.total_correlation import total_correlation

WIDTHS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
A, B = ((0.3, -1.0), (0.8, 1.5)), ((0.0, 0.4), (1.0, 0.5))  # means and scales of two normals in the plane
OBJECTIVES = {
    "MMD": MMD(weight=3.0, kl=0.5),
    "rbf": MMD(weight=3.0, kernel="rbf", scale=1.3),
    "TotalCorrelation": TotalCorrelation(weight=4.0),
    "DIP": DIP(off_diagonal=2.0, diagonal=0.7),
    "DIP of means": DIP(off_diagonal=2.0, of="means"),
}


def expected_rbf(a, b, c):
    """E exp(-|a - b|^2 / c), a and b independent normals."""
    shift, variance = np.subtract(a[0], b[0]), np.square(a[1]) + np.square(b[1])
    return np.prod((1 + 2 * variance / c) ** -0.5 * np.exp(-(shift**2) / (c + 2 * variance)))


def expected_kernel(a, b, kernel, scale):
    total = 0.0
    for width in WIDTHS:
        c = width * 2 * len(a[0]) * scale**2
        if kernel == "rbf":
            total += expected_rbf(a, b, c)
        else:  # c / (c + d) is the mean of exp(-t d / c), t exponential
            total += integrate.quad(lambda t, c=c: math.exp(-t) * expected_rbf(a, b, c / t), 1e-12, np.inf)[0]
    return total


def expected_mmd(a, b, kernel, scale):
    k = partial(expected_kernel, kernel=kernel, scale=scale)
    return k(a, a) + k(b, b) - 2 * k(a, b)


def normal(at, *n):
    loc, scale = torch.tensor(at, dtype=torch.float64)
    return loc + scale * torch.randn(*n, 2, dtype=torch.float64)


# ---------------------------------------------------------------------- MMD


@pytest.mark.parametrize("scale", [1.0, 2.5])
@pytest.mark.parametrize("kernel", ["imq", "rbf"])
def test_mmd_is_that_of_two_normals_without_bias(kernel, scale):
    torch.manual_seed(1)
    found = torch.stack([squared_mmd(normal(A, 15), normal(B, 25), kernel, scale) for _ in range(1500)])
    exact, error = expected_mmd(A, B, kernel, scale), float(found.std()) / 1500**0.5
    with_diagonal = (len(WIDTHS) - expected_kernel(A, A, kernel, scale)) / 15
    assert 8 * error < with_diagonal  # which the mean over all pairs would be off by, and more
    assert abs(float(found.mean()) - exact) < 4 * error


@pytest.mark.parametrize("kernel", ["imq", "rbf"])
def test_mmd_of_one_distribution_is_nought_on_average_and_negative_as_often(kernel):
    torch.manual_seed(1)
    found = torch.stack([squared_mmd(normal(A, 6), normal(A, 9), kernel) for _ in range(1500)])
    assert abs(float(found.mean())) < 4 * float(found.std()) / 1500**0.5
    assert 0.3 < float((found < 0).float().mean()) < 0.8


def test_a_kernel_is_its_formula_and_knows_identical_draws():
    a, b = normal(A, 3), normal(B, 4)
    squared = torch.cdist(a, b).square()
    for kernel, k in (("imq", lambda c: c / (c + squared)), ("rbf", lambda c: torch.exp(-squared / c))):
        wanted = sum(k(width * 2 * 2 * 1.7**2) for width in WIDTHS)
        torch.testing.assert_close(gram(a, b, kernel, scale=1.7), wanted)
        torch.testing.assert_close(gram(a, a, kernel).diagonal(), torch.full((3,), float(len(WIDTHS))).double())


def test_mmd_of_sites_takes_their_joint_draws_from_the_prior():
    """z1 follows z2 in the prior, and neither in the guide: their marginals agree, and the two together do not."""

    def model(x):
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            z1 = pyro.sample("z1", dist.Normal(z2, 0.01).to_event(1))
            pyro.sample("x", dist.Normal(z1, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z2", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("z1", dist.Normal(torch.zeros(2), 1.0).to_event(1))

    draws = MMD(weight=1.0).draws(model, guide, x=torch.zeros(500, 2))
    assert draws.codes.shape == draws.prior.shape == (500, 4)
    apart = draws.prior[:, :2] - draws.prior[:, 2:]
    assert float(apart.std()) == pytest.approx(0.01, rel=0.2)
    assert float((draws.codes[:, :2] - draws.codes[:, 2:]).std()) == pytest.approx(2**0.5, rel=0.2)
    assert float(MMD(weight=1.0).penalty(draws)) > 0.1


# ---------------------------------------------------------------------- total correlation and covariances


def around(scale):
    """q(z | x) = N(x, scale^2 I), under a standard normal prior."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, scale).to_event(1))

    return model, guide


@pytest.mark.parametrize("scale", [0.4, 1.0])
def test_total_correlation_is_that_of_a_normal(scale):
    """q(z) = N(0, C), C = Sigma + scale^2 I, of total correlation -1/2 log det corr(C)."""
    torch.manual_seed(0)
    sigma = torch.tensor([[1.0, 0.8, -0.3], [0.8, 1.5, 0.2], [-0.3, 0.2, 0.7]]).double()
    covariance = sigma + scale**2 * torch.eye(3).double()
    exact = -0.5 * float(torch.logdet(covariance) - covariance.diagonal().log().sum())
    n, chol, pair = 1500, torch.linalg.cholesky(sigma), around(scale)
    xs = [torch.randn(n, 3).double() @ chol.T for _ in range(12)]
    found = torch.stack([total_correlation(AggregateELBO().draws(*pair, x=x)) for x in xs])
    # each draw's own datum is among those that stand for q(z), which adds q(z | x) / (n q(z)) to the joint density
    bias = float(torch.linalg.det(covariance)) ** 0.5 / scale**3 / n
    error = float(found.std()) / len(xs) ** 0.5
    assert 4 * error + bias < 0.2 * exact
    assert abs(float(found.mean()) - exact) < 4 * error + bias


def test_of_independent_units_there_is_none():
    torch.manual_seed(0)
    xs = [torch.randn(800, 2).double() for _ in range(12)]
    found = torch.stack([total_correlation(AggregateELBO().draws(*around(0.5), x=x)) for x in xs])
    assert abs(float(found.mean())) < 4 * float(found.std()) / 12**0.5 + 1.25 / 0.25 / 800


def test_total_correlation_sums_over_the_batch_as_written():
    """log q(z_i) = log mean_k q(z_i | x_k), by hand in numpy."""
    draws = AggregateELBO().draws(*around(0.6), x=torch.randn(7, 3).double())
    z, x = draws.codes.numpy(), draws.guide_trace.nodes["z"]["fn"].mean.numpy()
    density = np.exp(-0.5 * ((z[:, None] - x) / 0.6) ** 2) / (0.6 * math.sqrt(2 * math.pi))
    wanted = np.mean(np.log(density.prod(-1).mean(1)) - np.log(density.mean(1)).sum(-1))
    assert float(total_correlation(draws)) == pytest.approx(wanted, rel=1e-10)
    assert float(TotalCorrelation(weight=3.5).penalty(draws)) == pytest.approx(2.5 * wanted, rel=1e-10)


@pytest.mark.parametrize("units", [1, 3])
@pytest.mark.parametrize(
    ("objective", "off", "diagonal", "codes"),
    [
        (DIP(2.0), 2.0, 2.0, True),
        (DIP(2.0, 0.5), 2.0, 0.5, True),
        (DIP(2.0, of="means"), 2.0, 20.0, False),
        (DIP(2.0, 0.5, of="means"), 2.0, 0.5, False),
    ],
)
def test_dip_is_that_of_numpy(objective, off, diagonal, codes, units):
    pair, x = gaussian.pair(shift=0.3), gaussian.pair().sample(9, seed=1)
    draws = objective.draws(*pair, x=x)
    q = draws.guide_trace.nodes["z"]["fn"].base_dist
    q = draws.guide_trace.nodes["z"]["fn"] = dist.Normal(q.loc[:, :units], q.scale[:, :units]).to_event(1)
    c = np.atleast_2d(np.cov(q.mean.detach().numpy().T, ddof=0))
    if codes:
        c = c + np.diag(q.variance.detach().numpy().mean(0))
    others = c[~np.eye(units, dtype=bool)]
    wanted = off * (others**2).sum() + diagonal * ((np.diag(c) - 1) ** 2).sum()
    assert objective.penalty(draws).item() == pytest.approx(wanted, rel=1e-10)


# ---------------------------------------------------------------------- the objectives


def objective_at(objective, programs, x, seed=5):
    torch.manual_seed(seed)
    return objective.objective(*programs, x=x)


def gradients(loss, pair):
    return torch.autograd.grad(loss, list(pair.parameters()))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_gradients_are_those_of_differences(name):
    objective, pair = OBJECTIVES[name], gaussian.pair(shift=0.4)
    x, parameters = gaussian.pair().sample(8, seed=2), list(pair.parameters())
    found = gradients(objective_at(objective, pair, x), pair)
    torch.manual_seed(3)
    for _ in range(5):
        direction, at = [torch.randn_like(p) for p in parameters], []
        for step in (1e-5, -2e-5):
            with torch.no_grad():
                torch._foreach_add_(parameters, direction, alpha=step)
                at.append(objective_at(objective, pair, x).item())
        with torch.no_grad():
            torch._foreach_add_(parameters, direction, alpha=1e-5)
        slope = sum(float((g * d).sum()) for g, d in zip(found, direction, strict=True))
        assert slope == pytest.approx((at[0] - at[1]) / 2e-5, rel=1e-6)


@pytest.mark.parametrize("objective", [TotalCorrelation(1.0), MMD(0.0, kl=1.0), DIP(0.0), AggregateELBO()])
def test_without_a_penalty_it_is_the_elbo(objective):
    pair, x = gaussian.pair(shift=0.4), gaussian.pair().sample(8, seed=2)
    torch.manual_seed(5)
    wanted = AnalyticKL().differentiable_loss(*pair, x=x)
    found = objective_at(objective, pair, x)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(gradients(found, pair), gradients(wanted, pair))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_penalty_is_in_nats_per_datum_and_the_loss_is_minus_the_elbo(name):
    objective, pair, x = OBJECTIVES[name], gaussian.pair(shift=0.4), gaussian.pair().sample(8, seed=2)
    kl = gaussian.kl(pair.model, pair.guide, x).sum()
    torch.manual_seed(5)
    loss = AnalyticKL().loss(*pair, x=x)
    weight = {"MMD": 0.5, "rbf": 0.0}.get(name, 1.0)
    torch.manual_seed(5)
    draws = objective.draws(*pair, x=x)
    wanted = loss + (weight - 1) * kl + 8 * objective.penalty(draws)
    torch.testing.assert_close(objective_at(objective, pair, x), wanted)
    torch.manual_seed(5)
    assert objective.loss(*pair, x=x) == pytest.approx(loss, rel=1e-12)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_under_temper_the_kl_alone_is_weighed(name):
    pair, x = gaussian.pair(shift=0.4), gaussian.pair().sample(8, seed=2)
    at = {b: objective_at(OBJECTIVES[name], pair.trained(temper(b)), x) for b in (0.0, 1.0, 0.3, 2.5)}
    kl = gaussian.kl(pair.model, pair.guide, x).sum() * {"MMD": 0.5, "rbf": 0.0}.get(name, 1.0)
    for b in at:
        torch.testing.assert_close(at[b], at[0.0] + b * kl)
    torch.testing.assert_close(at[1.0], objective_at(OBJECTIVES[name], pair, x))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_step_of_pyros_svi_is_one_of_ours(name):
    pair, x = gaussian.pair(shift=0.4), gaussian.pair().sample(8, seed=2)
    before, other = [p.detach().clone() for p in pair.parameters()], copy.deepcopy(pair)
    ours = SVI(*pair, partial(torch.optim.SGD, lr=8e-3), OBJECTIVES[name])
    theirs = pyro.infer.SVI(*other, pyro.optim.SGD({"lr": 1e-3}), OBJECTIVES[name])
    for seed in range(3):
        losses = []
        for svi in (ours, theirs):
            torch.manual_seed(seed)
            losses.append(svi.step(x=x))
        assert losses[0] == pytest.approx(losses[1], rel=1e-12)
        torch.manual_seed(seed)
        wanted = AnalyticKL().loss(*pair, x=x)
        torch.manual_seed(seed)
        assert theirs.evaluate_loss(x=x) == pytest.approx(wanted, rel=1e-12)
    for a, b, old in zip(pair.parameters(), other.parameters(), before, strict=True):
        torch.testing.assert_close(a, b)
        assert not torch.equal(a, old)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_batch_of_one_datum(name):
    """Of one there is no MMD and no total correlation; of its covariance as much as is known."""
    objective, pair, x = OBJECTIVES[name], gaussian.pair(), gaussian.pair().sample(1, seed=2)
    loss = objective_at(objective, pair, x)
    assert all(torch.isfinite(g).all() for g in gradients(loss, pair))
    torch.manual_seed(5)
    draws = objective.draws(*pair, x=x)
    if "DIP" not in name:
        assert torch.as_tensor(objective.penalty(draws)).item() == 0
    else:
        variance = 0 if objective.of == "means" else draws.guide_trace.nodes["z"]["fn"].variance[0]
        wanted = objective.diagonal * (variance - torch.ones(3).double()).square().sum()
        torch.testing.assert_close(objective.penalty(draws), wanted)


# ---------------------------------------------------------------------- pairs without a density


X = pv.data.load("digits", binarise="threshold").x[:400]


@pytest.mark.parametrize(
    ("prior", "posterior"),
    [(pv.priors.SwissRoll, None), (pv.priors.SwissRoll, pv.posteriors.Delta), (None, pv.posteriors.Delta)],
    ids=["sampled", "sampled, points", "points"],
)
def test_codes_that_have_no_density_are_drawn_to_their_prior(prior, posterior):
    settings = {"prior": prior, "posterior": posterior}
    pair = pv.vae((1, 8, 8), latent=2, **{k: v for k, v in settings.items() if v is not None})
    objective = MMD(weight=200.0, scale=1.0 if prior is None else 3.0)

    def apart():
        with torch.no_grad():
            torch.manual_seed(0)
            return float(objective.penalty(objective.draws(*pair, x=X)))

    before = apart()
    run = pv.fit(pair, X, objective=objective, epochs=10, lr=3e-3, batch_size=100, progress=False)
    assert apart() < 0.2 * before
    assert run.history["objective"][-1] > run.history["objective"][0]
    assert run.history["reconstruction"][-1] > run.history["reconstruction"][0] + 3
    assert "elbo" not in run.history
    # there is no ELBO to evaluate: what is left is the objective
    torch.manual_seed(0)
    loss = objective.loss(*pair, x=X)
    torch.testing.assert_close(loss, objective_at(objective, pair, X, seed=0).item())


def test_classes_are_no_codes():
    """With labels and without: the codes are z alone, drawn from the prior of their class where it is told."""
    pair = pv.aae((1, 8, 8), classes=4, prior=partial(pv.priors.Ring, components=4, scale=0.01))
    c = torch.arange(4).repeat(5)
    draws = MMD(1.0).draws(*pair, x=X[:20], c=c)
    assert set(draws.sites) == {"z"}
    angles = c * math.pi / 2
    torch.testing.assert_close(draws.prior, 4 * torch.stack([angles.cos(), angles.sin()], -1), atol=0.06, rtol=0)
    assert torch.equal(draws.conditions, torch.nn.functional.one_hot(c, 4).float())
    without = MMD(1.0).draws(*pair, x=X[:20])
    assert set(without.sites) == {"z"}
    assert torch.equal(without.conditions, torch.zeros(20, 4))
    labels = torch.where(torch.arange(400) < 40, torch.arange(400) % 4, -1)
    run = pv.fit(pair, {"x": X, "c": labels}, objective=MMD(10.0), epochs=1, progress=False)
    assert math.isfinite(run.history["objective"][0])


# ---------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("objective", [TotalCorrelation(2.0), DIP(1.0)])
def test_several_sites_and_dependent_units_are_refused(objective):
    ladder = pv.hvae((1, 8, 8), latents=(2, 2))
    with pytest.raises(ValueError, match=r"expected a pair with one latent site, found \['z1', 'z2'\]"):
        pv.fit(ladder, X, objective=objective, epochs=1, progress=False)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.MultivariateNormal(x, torch.eye(2)))

    with pytest.raises(ValueError, match="z: expected a posterior with independent units, found MultivariateNormal"):
        objective.objective(around(1.0)[0], guide, x=torch.zeros(3, 2))


@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=list(OBJECTIVES))
def test_draws_without_gradients_are_refused(objective):
    pair = pv.discrete_vae((1, 8, 8), codes=2, categories=3, estimator="score")
    with pytest.raises(ValueError, match="'z' has no reparameterised gradient"):
        objective.objective(pair.model, pair.guide, x=X[:4])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: MMD(-1.0), "weight: expected"),
        (lambda: MMD(1.0, kl=-1.0), "kl: expected"),
        (lambda: MMD(1.0, kernel="gauss"), "kernel: .*'gauss'"),
        (lambda: MMD(1.0, scale=0.0), "scale: expected"),
        (lambda: TotalCorrelation(-0.1), "weight: expected"),
        (lambda: DIP(-1.0), "off_diagonal: expected"),
        (lambda: DIP(1.0, -1.0), "diagonal: expected"),
        (lambda: DIP(1.0, of="both"), "of: .*'both'"),
        (lambda: squared_mmd(torch.zeros(1, 2), torch.zeros(3, 2)), "a: expected at least 2 draws, found 1"),
        (lambda: squared_mmd(torch.zeros(3, 2), torch.zeros(1, 2)), "b: expected at least 2 draws, found 1"),
        (lambda: gram(torch.zeros(3, 2), torch.zeros(1, 2), scale=-1.0), "scale: expected"),
    ],
)
def test_bad_input(make, words):
    with pytest.raises(ValueError, match=words):
        make()
