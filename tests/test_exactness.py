"""Numbers against closed forms, on a linear-Gaussian pair."""

import gaussian
import pyro
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO

import pyro_vae as pv
from pyro_vae.infer import IWAE, SVI, FreeBits


@pytest.fixture
def x():
    return gaussian.pair().sample(64, seed=3)


def wrong_pair():
    return gaussian.pair(shift=0.4)


def test_elbo_at_the_exact_posterior_is_the_evidence(x):
    pair = gaussian.pair()
    torch.testing.assert_close(pair.elbo(x=x), gaussian.evidence(pair.model, x), atol=1e-4, rtol=0)


def test_importance_weights_are_constant_at_the_exact_posterior(x):
    pair = gaussian.pair()
    report = pv.evaluate(pair, x, particles=50)
    assert report.effective_sample_size == pytest.approx(50, rel=1e-6)
    assert report.log_likelihood == pytest.approx(float(gaussian.evidence(pair.model, x).mean()), abs=1e-4)


def test_importance_weighted_estimate_rises_to_the_evidence(x):
    pair = wrong_pair()
    evidence = float(gaussian.evidence(pair.model, x).mean())
    bounds = [
        float(torch.stack([pair.log_likelihood(x=x, particles=k, seed=s) for s in range(5)]).mean())
        for k in (1, 10, 100, 10_000)
    ]
    assert bounds == sorted(bounds)
    assert bounds[0] < evidence - 0.3  # the posterior really is wrong
    assert bounds[-1] == pytest.approx(evidence, abs=0.01)
    assert bounds[-2] < evidence


def test_elbo_is_the_closed_form_within_its_error(x):
    pair = wrong_pair()
    draws = torch.stack([pair.elbo(x=x, seed=s).mean() for s in range(400)])
    error = draws.std() / len(draws) ** 0.5
    assert abs(draws.mean() - gaussian.elbo(pair.model, pair.guide, x).mean()) < 4 * error


def test_monte_carlo_kl_agrees_with_the_analytic_one(x):
    pair = wrong_pair()
    (_, terms), *_ = pair.terms(4000, x=x[:1], seed=0, rows=10**6)
    draws = terms.kl["z"][:, 0]
    error = draws.std() / len(draws) ** 0.5
    assert abs(draws.mean() - gaussian.kl(pair.model, pair.guide, x[:1])) < 4 * error


def test_report_adds_up_and_agrees_with_the_closed_form(x):
    pair = wrong_pair()
    report = pv.evaluate(pair, x, particles=2000)
    assert report.elbo == pytest.approx(report.reconstruction - sum(report.kl.values()), abs=1e-6)
    assert report.elbo == pytest.approx(gaussian.elbo(pair.model, pair.guide, x).mean().item(), abs=0.02)
    assert report.kl["z"] == pytest.approx(float(gaussian.kl(pair.model, pair.guide, x).mean()), abs=0.02)


def gradients(pair, loss, x, seed=0):
    svi = SVI(*pair, lambda p: torch.optim.SGD(p, lr=1.0), loss)
    torch.manual_seed(seed)
    value = svi.gradients(x=x)
    return value / len(x), {n: p.grad.clone() for n, p in pair.named_parameters()}


@pytest.mark.parametrize("loss", [Trace_ELBO(), TraceMeanField_ELBO(), IWAE(particles=7), FreeBits(0.0)])
def test_gradients_agree_with_finite_differences(x, loss):
    pair = wrong_pair()
    _, gradient = gradients(pair, loss, x)
    step = 1e-5
    for name, parameter in pair.named_parameters():
        direction = torch.randn(parameter.shape, dtype=parameter.dtype, generator=torch.Generator().manual_seed(5))
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter += sign * step * direction
            values.append(gradients(pair, loss, x)[0])
            with torch.no_grad():
                parameter -= sign * step * direction
        difference = (values[0] - values[1]) / (2 * step)
        assert float((gradient[name] * direction).sum()) == pytest.approx(difference, rel=1e-5, abs=1e-7), name


def test_gradient_of_the_elbo_agrees_with_the_closed_form(x):
    pair = wrong_pair()
    runs = [gradients(pair, Trace_ELBO(), x, seed=s)[1] for s in range(400)]
    exact = torch.autograd.grad(-gaussian.elbo(pair.model, pair.guide, x).mean(), list(pair.parameters()))
    for (name, _), expected in zip(pair.named_parameters(), exact, strict=True):
        draws = torch.stack([run[name] for run in runs])
        error = draws.std(0) / len(draws) ** 0.5
        assert ((draws.mean(0) - expected).abs() < 5 * error + 1e-9).all(), name


def losses(pair, weight, x, loss):
    torch.manual_seed(0)
    model, guide = pair.trained(pv.temper(weight))
    return loss.loss(model, guide, x=x)


@pytest.mark.parametrize("loss", [Trace_ELBO(), TraceMeanField_ELBO()])
def test_the_loss_is_linear_in_beta(x, loss):
    pair = wrong_pair()
    torch.manual_seed(0)
    plain = loss.loss(pair.model, pair.guide, x=x)
    values = {beta: losses(pair, beta, x, loss) for beta in (0.0, 0.5, 1.0, 4.0)}
    assert values[1.0] == pytest.approx(plain, rel=1e-12)
    slope = values[1.0] - values[0.0]
    for beta, value in values.items():
        assert value == pytest.approx(values[0.0] + beta * slope, rel=1e-9)
    if isinstance(loss, TraceMeanField_ELBO):
        assert slope == pytest.approx(float(gaussian.kl(pair.model, pair.guide, x).sum()), rel=1e-9)


def test_temper_leaves_every_metric_alone(x):
    bare = wrong_pair()
    tempered = pv.Variant(bare.model, bare.guide, handler=pv.temper(7.0))
    assert torch.equal(bare.elbo(x=x, seed=0), tempered.elbo(x=x, seed=0))
    assert pv.evaluate(bare, x, particles=3) == pv.evaluate(tempered, x, particles=3)


def test_a_mapping_weighs_its_sites_only(x):
    pair = wrong_pair()
    assert losses(pair, {"z": 3.0}, x, Trace_ELBO()) == pytest.approx(losses(pair, 3.0, x, Trace_ELBO()))


def test_factors_are_trained_and_left_out_of_every_metric(x):
    pair = gaussian.pair()

    def model(x):
        pair.model(x=x)
        pyro.factor("extra", torch.tensor(-100.0))

    other = pv.Variant(model, pair.guide)
    torch.testing.assert_close(other.elbo(x=x, seed=0), pair.elbo(x=x, seed=0))
    torch.manual_seed(0)
    plain = SVI(*pair, lambda p: torch.optim.SGD(p, lr=1.0)).evaluate_loss(x=x)
    torch.manual_seed(0)
    assert SVI(*other, lambda p: torch.optim.SGD(p, lr=1.0)).evaluate_loss(x=x) == pytest.approx(plain + 100)


@pytest.mark.parametrize("particles", [1, 5])
def test_free_bits_clamp_the_batch_mean(x, particles):
    pair = wrong_pair()
    kl = gaussian.kl(pair.model, pair.guide, x)
    loc = (x - pair.guide.c) @ pair.guide.A.T
    variance = (2 * pair.guide.s).exp()
    units = (0.5 * (loc**2 + variance - 1 - variance.log())).mean(0).detach()
    for per, mean, floor in (("site", kl.mean(), 10.0), ("site", kl.mean(), 0.1), ("unit", units, 0.5)):
        free, plain = FreeBits(floor, per=per, num_particles=particles), FreeBits(0.0, num_particles=particles)
        torch.manual_seed(0)
        objective = free.objective(pair.model, pair.guide, x=x).item()
        torch.manual_seed(0)
        unclamped = plain.objective(pair.model, pair.guide, x=x).item()
        expected = float((mean.clamp(min=floor) - mean).sum()) * len(x)
        assert objective - unclamped == pytest.approx(expected, rel=1e-9, abs=1e-8)
        torch.manual_seed(0)
        honest = free.loss(pair.model, pair.guide, x=x)
        assert honest == pytest.approx(unclamped, rel=1e-9)


def test_below_the_floor_the_kl_has_no_gradient(x):
    pair = wrong_pair()
    _, clamped = gradients(pair, FreeBits(1e6), x)
    _, without_kl = gradients(pair, TraceMeanField_ELBO(), x)
    tempered = pv.Variant(pair.model, pair.guide, handler=pv.temper(0.0))
    _, zero = gradients(tempered, TraceMeanField_ELBO(), x)
    for name in clamped:
        torch.testing.assert_close(clamped[name], zero[name])
    assert not torch.equal(clamped["guide.s"], without_kl["guide.s"])


def test_iwae_loss_is_the_importance_weighted_bound(x):
    pair = wrong_pair()
    particles = 20
    draws = []
    for seed in range(50):
        torch.manual_seed(seed)
        draws.append(-IWAE(particles=particles).loss(pair.model, pair.guide, x=x) / len(x))
    expected = torch.stack([pair.log_likelihood(x=x, particles=particles, seed=s).mean() for s in range(50)])
    draws = torch.tensor(draws, dtype=torch.float64)
    error = (draws.var() + expected.var()).sqrt() / 50**0.5
    assert abs(draws.mean() - expected.mean()) < 4 * error


def test_training_reaches_the_evidence():
    pair = gaussian.pair(exact=False)
    x = pair.sample(512, seed=0)
    pv.fit(pair, x, epochs=60, batch_size=64, lr=2e-2, progress=False)
    sample = torch.cov(x.T, correction=0)
    values, _ = torch.linalg.eigh(sample)
    noise = gaussian.NOISE**2
    # the best evidence that any W, b can reach with this noise: Tipping & Bishop 1999, section 3.2
    top = values.flip(0)[: gaussian.LATENT].clamp(min=noise)
    rest = values.flip(0)[gaussian.LATENT :]
    best = -0.5 * (
        gaussian.DATA * torch.log(torch.tensor(2 * torch.pi))
        + top.log().sum()
        + len(rest) * torch.log(torch.tensor(noise))
        + gaussian.LATENT
        + rest.sum() / noise
    )
    assert float(pair.elbo(x=x, particles=100, seed=0).mean()) == pytest.approx(float(best), abs=0.05)
