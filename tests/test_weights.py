"""Random weights: linear regression where everything is known, flips, families, KLs, and what a datum tells of them."""

import itertools
import math
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoLowRankMultivariateNormal, AutoMultivariateNormal, AutoNormal
from pyro.nn import PyroModule
from scipy import stats
from torch.distributions import MultivariateNormal, Normal, kl_divergence
from torch.nn import functional
from torch.special import log_ndtr

import pyro_vae as pv
from pyro_vae.infer import SVI, AnalyticKL, minibatch, shared_kl
from pyro_vae.nets import VariationalConv2d, VariationalLinear, VariationalMLP

NOISE = 0.5
FAMILIES = ("normal", "horseshoe", "rectified_normal", "piecewise_normal")
SYMMETRIC = FAMILIES[:2]
BOTH = pytest.mark.parametrize("objective", [Trace_ELBO(), AnalyticKL()], ids=lambda o: type(o).__name__)


class Regression(pv.Story):
    """p(y, W, b | c) = p(W) p(b) N(y; W c + b, NOISE^2)"""

    def __init__(self, layer):
        super().__init__("model")
        self.layer = layer

    def forward(self, c, y=None, n=1):
        with pyro.plate("data", len(c)):
            mean = self.layer(c)
            return pyro.sample("y", dist.Normal(mean, NOISE).to_event(mean.dim() - 1), obs=y)


class Nothing(PyroModule):
    """There are no codes."""

    def forward(self, c, y=None):
        pass


def regression(layer, *inside):
    model = Regression(layer)
    return pv.Variant(model, pv.completed(model, Nothing(), c=inside), conditions=("c",)).double()


def put(posterior, **numbers):
    """Let q have these numbers."""
    with torch.no_grad():
        for name, value in numbers.items():
            value = torch.as_tensor(value, dtype=torch.float64)
            unit = getattr(posterior, "unit", 1.0) if name == "loc" else 1.0
            getattr(posterior, name).copy_(value.log() if name == "scale" else value / unit)


def agree(draws, exact, most):
    """The mean of draws, (n, ...), is what it should be, within an error that is small enough to tell."""
    draws = draws.detach() if isinstance(draws, torch.Tensor) else torch.as_tensor(np.array(draws))
    error = draws.std(0) / len(draws) ** 0.5
    assert (error < most).all(), error
    gap = draws.mean(0) - torch.as_tensor(exact)
    assert (gap.abs() < 4 * error + 1e-6).all(), (gap, error)  # numbers that single precision has rounded


# ---------------------------------------------------------------------- linear regression


class Exact:
    """y ~ N(F w, NOISE^2 I),   w ~ N(0, diag(prior)^2),   F the conditions and, for the bias, a one"""

    def __init__(self, c, y, scale):
        self.c, self.y, self.scale = c, y, scale
        self.features = torch.cat([c, torch.ones(len(c), 1).double()], 1)
        spread = torch.tensor([scale] * c.shape[1] + [1.0]).double()
        self.prior = MultivariateNormal(0 * spread, spread.square().diag())
        precision = self.features.T @ self.features / NOISE**2 + spread.pow(-2).diag()
        mean = torch.linalg.solve(precision, self.features.T @ y / NOISE**2)
        self.posterior = MultivariateNormal(mean, precision_matrix=precision)
        self.mean_field = MultivariateNormal(mean, precision_matrix=precision.diagonal().diag())
        covariance = self.features @ self.prior.covariance_matrix @ self.features.T
        marginal = MultivariateNormal(0 * y, covariance + NOISE**2 * torch.eye(len(y)).double())
        self.evidence = float(marginal.log_prob(y))

    def fit(self, q):
        """E_q[log p(y | w)]"""
        spread = ((self.features @ q.covariance_matrix) * self.features).sum()
        return Normal(self.features @ q.mean, NOISE).log_prob(self.y).sum() - spread / (2 * NOISE**2)

    def elbo(self, q):
        return self.fit(q) - kl_divergence(q, self.prior)

    def pair(self, outputs=1):
        """As many regressions side by side: their weights are as many draws."""
        return regression(VariationalLinear(self.c.shape[1], outputs, scale=self.scale), self.c.shape[1])

    def batch(self, outputs=1):
        return {"c": self.c, "y": self.y[:, None].expand(-1, outputs).contiguous()}


def problem(design):
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(8, generator=generator, dtype=torch.float64)
    half = torch.tensor([1.0, 1.0, -1.0, -1.0]).double()
    c = torch.stack([half.repeat_interleave(2), 0.5 * half.repeat(2)], 1)
    if design == "correlated":
        c = torch.stack([c[:, 0] + 0.6, 0.8 * c[:, 0] + 1.4 * c[:, 1] - 0.3], 1)
    return Exact(c, c @ torch.tensor([0.8, -0.6]).double() + 0.4 + NOISE * noise, scale=1.5)


def q_of(pair):
    """q(W, b) of one output."""
    if not hasattr(pair.guide.shared, "sites"):
        q = pair.guide.shared.get_posterior()
        return MultivariateNormal(q.mean.detach(), q.covariance_matrix.detach())
    sites = pair.draw_shared().nodes
    weight, bias = (sites[f"layer.{name}"]["fn"] for name in ("weight", "bias"))
    spread = torch.cat([weight.stddev[0], bias.stddev]).detach()
    return MultivariateNormal(torch.cat([weight.mean[0], bias.mean]).detach(), spread.square().diag())


def by_steps(pair, exact, objective=None, steps=400):
    model, guide = pair.trained(minibatch(len(exact.c)))
    svi = SVI(model, guide, partial(torch.optim.Adam, lr=0.1), objective or AnalyticKL())
    schedule = torch.optim.lr_scheduler.ExponentialLR(svi.optimizer, 0.01 ** (1 / steps))
    with pyro.validation_enabled(False):
        for _ in range(steps):
            svi.step(**exact.batch())
            schedule.step()


def by_fit(pair, exact):
    decay = partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.01 ** (1 / 150))
    pv.fit(pair, exact.batch(), epochs=150, batch_size=3, lr=0.1, lr_schedule=decay, progress=False)


NEAR = 0.06  # nats that noise of the last steps may leave


def assert_close(q, wanted):
    """In mean and spread of each weight, and as a whole."""
    assert float(kl_divergence(q, wanted)) < NEAR
    assert ((q.mean - wanted.mean).abs() < 0.2 * wanted.stddev).all()
    assert (q.stddev / wanted.stddev).log().abs().max() < 0.2
    assert (q.covariance_matrix - wanted.covariance_matrix).norm() < 0.35 * wanted.covariance_matrix.norm()


def assert_bound(pair, exact, q):
    """The library's ELBO of all data, less what is shared, is the closed form."""
    fits = [float(terms.log_weights.sum()) for _, terms in pair.terms(300, seed=0, **exact.batch())]
    agree(fits, exact.fit(q), most=0.12)
    costs = [sum(shared_kl(pair, seed=seed).values()) for seed in range(20)]
    agree(costs, kl_divergence(q, exact.prior), most=0.1)


@pytest.mark.parametrize("train", [by_steps, by_fit])
def test_the_posterior_of_an_orthogonal_design_is_reached(train):
    """q(w) = p(w | y), a diagonal normal; the ELBO of all data = log p(y)"""
    exact = problem("orthogonal")
    torch.testing.assert_close(exact.mean_field.covariance_matrix, exact.posterior.covariance_matrix)
    pair = exact.pair()
    train(pair, exact)
    q = q_of(pair)
    assert_close(q, exact.posterior)
    assert_bound(pair, exact, q)
    assert float(exact.elbo(q)) == pytest.approx(exact.evidence, abs=NEAR)


def test_of_a_correlated_design_independent_weights_know_what_they_can():
    """q(w) = N(E[w | y], 1 / diag(P)),   P = F^T F / NOISE^2 + 1 / prior^2;   log p(y) - ELBO = KL(q(w) || p(w | y))"""
    exact = problem("correlated")
    gap = float(kl_divergence(exact.mean_field, exact.posterior))
    assert gap > 8 * NEAR
    pair = exact.pair()
    by_steps(pair, exact)
    q = q_of(pair)
    assert_close(q, exact.mean_field)
    assert_bound(pair, exact, q)
    assert exact.evidence - float(exact.elbo(q)) == pytest.approx(gap, abs=NEAR)


@pytest.mark.parametrize(
    ("guide", "objective"),
    [(AutoMultivariateNormal, Trace_ELBO()), (partial(AutoLowRankMultivariateNormal, rank=3), AnalyticKL())],
    ids=["full", "low rank"],
)
def test_an_automatic_guide_knows_of_correlations(guide, objective):
    """q(w) = p(w | y), with its covariance; the ELBO of all data = log p(y)"""
    exact = problem("correlated")
    pair = pv.automatic(exact.pair(), guide)
    by_steps(pair, exact, objective, steps=600)
    q = q_of(pair)
    assert_close(q, exact.posterior)
    assert_bound(pair, exact, q)
    assert float(exact.elbo(q)) == pytest.approx(exact.evidence, abs=NEAR)


@pytest.mark.parametrize("size", [8, 4, 3, 1])
@pytest.mark.parametrize("design", ["orthogonal", "correlated"])
def test_at_the_exact_posterior_every_draw_tells_the_evidence(design, size):
    """sum over batches of log p(y_B | w) + |B| / N (log p(w) - log q(w)) = log p(y) for all w"""
    exact = problem(design)
    pair, q = exact.pair(), exact.posterior
    if design == "orthogonal":
        put(pair.model.layer.posteriors["weight"], loc=q.mean[None, :2], scale=q.stddev[None, :2])
        put(pair.model.layer.posteriors["bias"], loc=q.mean[2:], scale=q.stddev[2:])
    else:
        pair = pv.automatic(pair, AutoMultivariateNormal)
        put(pair.guide.shared, loc=q.mean)
        pair.guide.shared.scale = q.scale_tril.diagonal().clone()
        pair.guide.shared.scale_tril = q.scale_tril / q.scale_tril.diagonal()[:, None]
    pair.eval()  # a flip is another w for each datum
    model, guide = pair.trained(minibatch(8))
    for seed in range(3):
        total = 0.0
        for start in range(0, 8, size):
            torch.manual_seed(seed)  # the same w for all batches
            part = {name: value[start : start + size] for name, value in exact.batch().items()}
            total -= Trace_ELBO().loss(model, guide, **part)
        assert total == pytest.approx(exact.evidence, abs=1e-6)


# ---------------------------------------------------------------------- batches and gradients

OUTPUTS = 200


def elsewhere(exact, outputs=OUTPUTS):
    """A pair whose q is far from the posterior, and that q of each output."""
    pair = exact.pair(outputs)
    loc, spread = torch.tensor([0.3, 0.5, -0.4]).double(), torch.tensor([0.4, 0.2, 0.3]).double()
    put(pair.model.layer.posteriors["weight"], loc=loc[:2].expand(outputs, 2), scale=spread[:2].expand(outputs, 2))
    put(pair.model.layer.posteriors["bias"], loc=loc[2:].expand(outputs), scale=spread[2:].expand(outputs))
    return pair, loc, spread


@BOTH
def test_the_bound_of_an_epoch_is_the_same_for_every_batch_size(objective):
    """sum over batches of E[loss] = -ELBO of all data, as minibatch(N) weighs what they share"""
    exact = problem("correlated")
    pair, loc, spread = elsewhere(exact)
    q = MultivariateNormal(loc, spread.square().diag())
    wanted = -exact.elbo(q).item()
    assert float(kl_divergence(q, exact.prior)) > 3  # which would count once more for every batch more
    model, guide = pair.trained(minibatch(8))
    batch = exact.batch(OUTPUTS)
    for size in (8, 4, 3, 2, 1):
        parts = [{name: value[i : i + size] for name, value in batch.items()} for i in range(0, 8, size)]
        epochs = [sum(objective.loss(model, guide, **part) for part in parts) / OUTPUTS for _ in range(20)]
        agree(epochs, wanted, most=0.4)


@pytest.mark.parametrize("batch_size", [8, 3])
def test_fit_maximises_the_bound_of_all_data(batch_size):
    """mean objective of the epochs at a q that stands still = ELBO of all data / N;   shared_kl = KL(q || p) / N"""
    exact = problem("correlated")
    pair, loc, spread = elsewhere(exact)
    q = MultivariateNormal(loc, spread.square().diag())
    run = pv.fit(pair, exact.batch(OUTPUTS), epochs=30, batch_size=batch_size, lr=1e-12, progress=False)
    agree(np.array(run.history["objective"]) / OUTPUTS, exact.elbo(q).item() / 8, most=0.05)
    wanted = OUTPUTS * float(kl_divergence(q, exact.prior)) / 8
    assert run.history["shared_kl"] == pytest.approx([wanted] * 30, rel=1e-6)


def gradients(pair, objective, batch, size, runs, names=("weight", "bias")):
    """Draws of the gradient with respect to each of q's numbers, one for each output and run."""
    parameters = [getattr(pair.model.layer.posteriors[name], n) for name in names for n in ("loc", "scale")]
    model, guide = pair.trained(minibatch(size))
    found = []
    for _ in range(runs):
        slopes = torch.autograd.grad(objective.differentiable_loss(model, guide, **batch), parameters)
        found.append(torch.cat([s.reshape(len(s), -1) for s in slopes], 1))
    return torch.cat(found)


@BOTH
@pytest.mark.parametrize("training", [True, False], ids=["flips", "no flips"])
def test_gradients_agree_with_the_closed_form(objective, training):
    """E[gradient of the loss of a batch] = gradient of -(sum_{n in B} E_q[log p(y_n | w)] - |B| / N KL(q || p))"""
    exact = problem("correlated")
    pair, *start = elsewhere(exact)
    loc, log_spread = start[0].requires_grad_(), start[1].log().requires_grad_()
    q = MultivariateNormal(loc, (2 * log_spread).exp().diag())
    part = Exact(exact.c[:5], exact.y[:5], exact.scale)
    loss = -part.elbo(q) - (1 - 5 / 8) * kl_divergence(q, exact.prior)
    by_loc, by_scale = torch.autograd.grad(loss, [loc, log_spread])
    pair.train(training)
    draws = gradients(pair, objective, part.batch(OUTPUTS), 8, runs=25)
    agree(draws, torch.cat([by_loc[:2], by_scale[:2], by_loc[2:], by_scale[2:]]), most=0.5)


@pytest.mark.parametrize("training", [True, False], ids=["flips", "no flips"])
def test_flips_average_the_noise_of_gradients(training):
    """Var[d loss / d M_j] = sum_k (sum_n c_nj c_nk s_k)^2 / NOISE^4;   of flips sum_{n, k} (c_nj c_nk s_k)^2 / NOISE^4

    For N data that are all alike that is N^2 against N.
    """
    c = 1 + 0.1 * torch.randn(32, 2).double()
    exact = Exact(c, c.sum(1), 1.0)
    spread = torch.tensor([0.3, 0.2]).double()
    pair = regression(VariationalLinear(2, OUTPUTS, bias=False), 2).train(training)
    put(pair.model.layer.posteriors["weight"], loc=torch.ones(OUTPUTS, 2), scale=spread.expand(OUTPUTS, 2))
    draws = gradients(pair, AnalyticKL(), exact.batch(OUTPUTS), 32, 20, names=["weight"])[:, :2].detach()
    products = c[:, :, None] * c[:, None, :] * spread
    alone, together = products.square().sum((0, 2)) / NOISE**4, products.sum(0).square().sum(1) / NOISE**4
    assert (together > 20 * alone).all()
    centred = draws - draws.mean(0)
    wanted = alone if training else together
    agree(centred.square() / wanted, torch.ones(2).double(), most=0.1)


# ---------------------------------------------------------------------- flips


class Codes(pv.Story):
    """p(x, z) = N(z; 0, I) N(x; z, NOISE^2 I)"""

    def __init__(self, units):
        super().__init__("model")
        self.register_buffer("centre", torch.zeros(units))

    def forward(self, x=None, n=1):
        with pyro.plate("data", n if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(self.centre, 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(z, NOISE).to_event(1), obs=x)


class Encoder(torch.nn.Module):
    """q(z | x, W) = N(z; W x, 0.6^2 I)"""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return dist.Normal(self.layer(x), 0.6).to_event(1)


def encoding(layer):
    model = Codes(2)
    return pv.Variant(model, pv.completed(model, pv.guides.VAEGuide(Encoder(layer)))).double()


def ran(pair, **batch):
    """What both programs drew."""
    guide_trace = poutine.trace(pair.guide).get_trace(**batch)
    return guide_trace.nodes, poutine.trace(poutine.replay(pair.model, trace=guide_trace)).get_trace(**batch).nodes


def layer_of(kind, family="normal"):
    if kind == "conv":
        return VariationalConv2d(2, 2, 2, padding=1, family=family), (2, 3, 3)
    return VariationalLinear(2, 2, family=family), (2,)


def spread_out(layer):
    """q wide, so that draws differ from their centre."""
    for name, q in layer.posteriors.items():
        put(q, scale=torch.full_like(q.scale, 0.05 if "scale" in name else 0.5))


def outputs(kind, family, data, training=True, guide=None):
    """The layer, what it gave for a batch of copies of one datum, in a pair, and what was drawn for it."""
    layer, inside = layer_of(kind, family)
    datum = torch.linspace(-1, 2, math.prod(inside)).reshape(inside).double()
    x = datum.expand(data, *inside).contiguous()
    pair = encoding(layer) if kind == "encoder" else regression(layer, *inside)
    spread_out(layer)
    if guide is not None:
        pair = pv.automatic(pair, guide)
    pair.train(training)
    if kind == "encoder":
        nodes, _ = ran(pair, x=x)
        y, prefix = nodes["z"]["fn"].mean, "guide.posterior.layer."
    else:
        _, nodes = ran(pair, c=x)
        y, prefix = nodes["y"]["fn"].mean, "layer."
    drawn = {name.removeprefix(prefix): site["value"] for name, site in nodes.items() if name.startswith(prefix)}
    return layer, x, y.detach(), {name: value.detach() for name, value in drawn.items()}


def applied(layer, x, weight, bias=None):
    if isinstance(layer, VariationalConv2d):
        return functional.conv2d(x, weight, bias, stride=layer.stride, padding=layer.padding)
    return functional.linear(x, weight, bias)


def whole(drawn, weight=None):
    """W of its factors: of a horseshoe V l g."""
    weight = drawn["weight"] if weight is None else weight
    return weight * drawn.get("local_scale", 1.0) * drawn.get("global_scale", 1.0)


@pytest.mark.parametrize("family", SYMMETRIC)
@pytest.mark.parametrize("kind", ["linear", "conv", "encoder"])
def test_in_training_each_datum_has_a_flip_of_the_weights(kind, family):
    """y_n = (M + (r_n s_n^T) * (W - M)) x_n + b,   r_n and s_n signs, all as likely"""
    layer, x, y, drawn = outputs(kind, family, data=2000)
    centre, _ = numbers_of(layer.posteriors["weight"])
    found = torch.zeros(len(x), dtype=torch.long)
    flips = [v for v in itertools.product([1.0, -1.0], repeat=4) if v[0] > 0]  # all signs turned are the same flip
    for i, signs in enumerate(flips):
        r, s = torch.tensor(signs).double().view(2, 2)
        shape = (2, 2) + (1,) * (centre.dim() - 2)
        weight = centre + torch.outer(r, s).view(shape) * (drawn["weight"] - centre)
        wanted = applied(layer, x[:1], whole(drawn, weight), drawn["bias"])
        found += (i + 1) * torch.isclose(y, wanted, atol=1e-9, rtol=0).flatten(1).all(1)
    counts = torch.bincount(found, minlength=len(flips) + 1)
    assert counts[0] == 0  # every datum's is one of them
    assert stats.chisquare(counts[1:]).pvalue > 1e-4


def test_flips_leave_the_distribution_of_each_output_and_take_away_what_data_have_in_common():
    """E[y] = M x + b,   Var[y_j] = sum_k (s_jk x_k)^2 + Var[b_j];   of equal data Cov[y_n, y_m] = Var[b], not Var[y]"""
    outside, draws = 200, 30
    layer = VariationalLinear(2, outside)
    pair = regression(layer, 2)
    spread_out(layer)
    put(layer.posteriors["bias"], scale=torch.full((outside,), 0.3))
    x = torch.tensor([[1.0, -0.5]]).double().expand(2, 2)
    mean = applied(layer, x[0], *(numbers_of(layer.posteriors[name])[0] for name in ("weight", "bias")))
    variance = 0.25 * float(x[0].square().sum()) + 0.3**2
    for training, common in ((True, 0.3**2), (False, variance)):
        pair.train(training)
        y = torch.cat([ran(pair, c=x)[1]["y"]["fn"].mean.detach() - mean for _ in range(draws)], 1)
        agree(y.T, torch.zeros(2).double(), most=0.02)
        agree(y.T.square(), torch.full((2,), variance).double(), most=0.02)
        agree(y[0] * y[1], common, most=0.02)


AUTOMATIC = (AutoNormal, AutoMultivariateNormal)
UNFLIPPED = [  # at rest, where q is not symmetric, and under automatic guides, which may not be
    *((family, False, None) for family in FAMILIES),
    *((family, True, None) for family in FAMILIES if family not in SYMMETRIC),
    *((family, True, guide) for family in FAMILIES if family != "rectified_normal" for guide in AUTOMATIC),
]


@pytest.mark.parametrize(("family", "training", "guide"), UNFLIPPED)
@pytest.mark.parametrize("kind", ["linear", "conv", "encoder"])
def test_without_flips_all_data_see_one_draw(kind, family, training, guide):
    """y_n = W x_n + b"""
    layer, x, y, drawn = outputs(kind, family, 3, training, guide)
    torch.testing.assert_close(y, applied(layer, x, whole(drawn), drawn["bias"]), atol=1e-9, rtol=0)


USES = {
    "calls": lambda layer, c: layer(c) + layer(c),
    "positions": lambda layer, c: layer(c.unsqueeze(1).expand(-1, 2, -1)).sum(1),
    "rows": lambda layer, c: layer(c.repeat_interleave(2, 0)).unflatten(0, (-1, 2)).sum(1),
}


class TwoUses(Regression):
    """p(y, W | c) = p(W) N(y; W c + W c, NOISE^2), the two products as a network may come by them"""

    def __init__(self, layer, way):
        super().__init__(layer)
        self.way = USES[way]

    def forward(self, c, y=None, n=1):
        with pyro.plate("data", len(c)):
            return pyro.sample("y", dist.Normal(self.way(self.layer, c), NOISE).to_event(1), obs=y)


@pytest.mark.parametrize("way", USES)
def test_a_datum_sees_one_draw_of_the_weights_wherever_they_are_used(way):
    """y_n = 2 (M + f_n (W - M)) c_n, f_n = 1 or -1: two flips would average what the weights do not know of a datum"""
    layer = VariationalLinear(1, 50, bias=False)
    model = TwoUses(layer, way)
    pair = pv.Variant(model, pv.completed(model, Nothing(), c=(1,)), conditions=("c",)).double().train()
    spread_out(layer)
    c = torch.tensor([[1.0], [-0.5], [2.0]]).double()
    _, nodes = ran(pair, c=c)
    centre, _ = numbers_of(layer.posteriors["weight"])
    found = nodes["y"]["fn"].mean - 2 * functional.linear(c, centre)
    wanted = 2 * functional.linear(c, nodes["layer.weight"]["value"] - centre)
    torch.testing.assert_close(found.abs(), wanted.abs())


@pytest.mark.parametrize("family", FAMILIES)
def test_draws_from_the_prior_are_not_flipped(family):
    """y_n = W x_n + b, W ~ p(W): in training too, for a layer alone and for a story that is told without its guide"""
    layer, inside = layer_of("linear", family)
    pair = regression(layer, *inside).train()
    x = torch.randn(1, 2).double().expand(5, 2)
    ran(pair, c=x)  # which leaves no centre behind
    for y in (layer(x), poutine.trace(pair.model).get_trace(c=x).nodes["y"]["fn"].mean):
        torch.testing.assert_close(y, y[:1].expand(5, 2))
    assert not torch.allclose(layer(x), layer(x))


# ---------------------------------------------------------------------- families


def log_density(family, z, loc, scale, breaks=None):
    """log q of each family by its own words, of the piecewise normal short of a constant; of ``z = 0`` an atom's."""
    if family == "rectified_normal":
        return torch.where(z == 0, log_ndtr(-loc / scale), Normal(loc, scale).log_prob(z))
    if family == "normal":
        return Normal(loc, scale).log_prob(z)
    pieces = Normal(loc, scale)
    at = pieces.log_prob(breaks[:, None])  # of each piece at each break
    heights = torch.cat([torch.zeros(1).double(), torch.stack([at[k, k] - at[k, k + 1] for k in range(2)]).cumsum(0)])
    k = torch.bucketize(z, breaks, right=True)
    return Normal(loc[k], scale[k]).log_prob(z) + heights[k]


def expectations(family, q, p, breaks=None, f=torch.zeros_like):
    """E_q[f] and KL(q || p) by quadrature; ``q`` and ``p`` are loc and scale."""
    nodes, weights = (torch.as_tensor(v) for v in np.polynomial.legendre.leggauss(300))
    edges = {"normal": [-12.0, 12.0], "rectified_normal": [0.0, 12.0]}.get(family)
    edges = [-12.0, *breaks.tolist(), 12.0] if edges is None else edges
    spans = list(itertools.pairwise(edges))
    z = torch.cat([(a + b) / 2 + (b - a) / 2 * nodes for a, b in spans])
    w = torch.cat([(b - a) / 2 * weights for a, b in spans])
    if family == "rectified_normal":
        z, w = torch.cat([torch.zeros(1).double(), z]), torch.cat([torch.ones(1).double(), w])
    logs = [log_density(family, z, *numbers, breaks) for numbers in (q, p)]
    log_q, log_p = (log - (w * log.exp()).sum().log() for log in logs)
    mass = w * log_q.exp()
    return (mass * f(z)).sum(), (mass * (log_q - log_p)).sum()


def numbers_of(weights):
    """loc and scale of what a layer draws, number by number, in double precision."""
    fn = weights().base_dist
    return fn.loc.detach().double(), fn.scale.detach().double()


def prior_draws(family, scale, outside=500, inside=400):
    """W of a layer alone, called with the identity."""
    layer = VariationalLinear(inside, outside, family=family, scale=scale, bias=False)
    with poutine.trace() as drawn:
        weight = layer(torch.eye(inside)).T
    sites = {name: site["value"] for name, site in drawn.trace.nodes.items()}
    torch.testing.assert_close(weight, whole(sites), atol=1e-6, rtol=1e-6)
    return weight.detach().double().numpy().ravel()


def piecewise_cdf(scale):
    """Of N(0, scale^2) outside of 0.05 scale, and N(0, (0.05 scale)^2) inside, without a jump."""
    z = np.linspace(-8, 8, 64_001) * scale
    edge = 0.05 * scale
    inside = stats.norm.pdf(z, 0, edge) * stats.norm.pdf(edge, 0, scale) / stats.norm.pdf(edge, 0, edge)
    density = np.where(np.abs(z) < edge, inside, stats.norm.pdf(z, 0, scale))
    mass = np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return partial(np.interp, xp=z, fp=mass / mass[-1])


@pytest.mark.parametrize("scale", [None, 0.3])
@pytest.mark.parametrize("family", ["normal", *FAMILIES[2:]])
def test_a_layer_alone_draws_from_its_prior(family, scale):
    """W ~ N(0, scale^2);   W = max(0, u), u ~ N(0, scale^2);   pieces of N(0, scale^2), N(0, (scale / 20)^2)"""
    w, s = prior_draws(family, scale), scale or 1.0
    count = len(w)
    if family == "normal":
        assert stats.kstest(w, stats.norm(0, s).cdf).pvalue > 1e-3
        assert abs(w.mean()) < 4 * s / count**0.5
        assert w.var() == pytest.approx(s**2, rel=4 * (2 / count) ** 0.5)
    elif family == "rectified_normal":
        assert (w >= 0).all()
        assert abs((w == 0).mean() - 0.5) < 4 * 0.5 / count**0.5
        assert stats.kstest(w[w > 0], stats.halfnorm(0, s).cdf).pvalue > 1e-3
    else:
        assert stats.kstest(w, piecewise_cdf(s)).pvalue > 1e-3
        assert stats.kstest(w, stats.norm(0, s).cdf).pvalue < 1e-3  # the narrow piece tells


def held_scale(g, draws=4000):
    """Weights of a horseshoe, one to a unit, all under one global scale."""
    layer = VariationalLinear(draws, 1, family="horseshoe", bias=False)
    with poutine.trace() as drawn:
        layer(torch.zeros(1, draws))
    (name,) = (name for name in drawn.trace.nodes if name.endswith("global_scale"))
    with poutine.condition(data={name: torch.tensor(g)}):
        return layer(torch.eye(draws)).detach().double().numpy().ravel()


def test_under_a_given_global_scale_weights_are_horseshoes():
    """V l g ~ Horseshoe(0, g),   V ~ N(0, 1), l ~ HalfCauchy(1)"""
    g = 0.7
    w = held_scale(g)
    grid = torch.linspace(-60, 30, 90_001).double()  # of log |w|
    density = (pv.distributions.Horseshoe(torch.tensor(0.0).double(), g).log_prob(grid.exp()) + grid).exp()
    below = 2 * torch.cumulative_trapezoid(density, grid).numpy()
    assert below[-1] == pytest.approx(1, abs=1e-6)
    assert stats.kstest(np.abs(w), partial(np.interp, xp=grid[1:].exp().numpy(), fp=below)).pvalue > 1e-3
    assert abs((w > 0).mean() - 0.5) < 4 * 0.5 / 4000**0.5
    assert stats.kstest(w / 1.5, held_scale(g)).pvalue < 1e-3  # another scale would be told


@pytest.mark.parametrize("shape", [(3, 4), (2, 4, 3, 3)])
def test_a_horseshoe_has_one_scale_for_each_unit_that_comes_in_and_one_for_the_layer(shape):
    """l_i ~ HalfCauchy(1), (inside,);   g ~ HalfCauchy(scale)"""
    make = VariationalLinear if len(shape) == 2 else partial(VariationalConv2d, kernel_size=3)
    layer = make(4, shape[0], family="horseshoe", scale=0.2)
    local = (4, *[1] * (len(shape) - 2))
    for name, event, scale in (("local_scale", local, 1.0), ("global_scale", (), 0.2)):
        prior = layer.priors[name]()
        assert prior.event_shape == event
        values = torch.rand(event) + 0.1
        wanted = stats.halfcauchy(scale=scale).logpdf(values.numpy()).sum()
        assert float(prior.log_prob(values)) == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_scale_is_that_of_the_prior(family):
    """p(w; scale) = p(w / scale; 1) / scale, of a horseshoe's V l g that of g; b ~ N(0, 1) whatever the scale"""
    scale, site = 0.2, "global_scale" if family == "horseshoe" else "weight"
    one, other = (VariationalLinear(3, 2, family=family, scale=s) for s in (None, scale))
    value = torch.rand(one.priors[site].shape) * scale + 0.01 * scale
    wanted = one.priors[site]().log_prob(value / scale) - value.numel() * math.log(scale)
    torch.testing.assert_close(other.priors[site]().log_prob(value), wanted, atol=1e-4, rtol=1e-4)
    for name in {*one.priors} - {site}:
        value = torch.rand(one.priors[name].shape)
        assert torch.equal(one.priors[name]().log_prob(value), other.priors[name]().log_prob(value))
    value = torch.randn(2)
    assert float(other.priors["bias"]().log_prob(value)) == pytest.approx(stats.norm.logpdf(value).sum(), rel=1e-5)


def test_posteriors_keep_the_supports_of_their_priors():
    """max(0, N(m, s^2)) is 0 with probability Phi(-m / s), and never less"""
    layer = VariationalLinear(2000, 1, family="rectified_normal", bias=False)
    put(layer.posteriors["weight"], loc=torch.full((1, 2000), 0.3), scale=torch.full((1, 2000), 0.5))
    w = layer.posteriors["weight"]().sample()
    assert (w >= 0).all()
    share = stats.norm.cdf(-0.6)
    assert abs(float((w == 0).float().mean()) - share) < 4 * (share * (1 - share) / 2000) ** 0.5


def test_pieces_meet_at_the_breaks():
    """q(b_k - 0) = q(b_k + 0), wherever the pieces have moved, and q is there what its pieces say"""
    q = VariationalLinear(1, 1, family="piecewise_normal", bias=False).posteriors["weight"].double()
    put(q, loc=[[[-0.4, 0.02, 0.3]]], scale=[[[0.5, 0.04, 0.2]]])
    assert q.breaks.tolist() == pytest.approx([-0.05, 0.05])
    for at in q.breaks:
        below, above = (q().log_prob((at + side).reshape(1, 1)) for side in (-1e-9, 1e-9))
        torch.testing.assert_close(below, above, atol=1e-6, rtol=0)
    z = torch.linspace(-2, 2, 9).double()
    loc, scale = (v[0, 0] for v in numbers_of(q))
    ours = torch.stack([q().log_prob(v.reshape(1, 1)) for v in z]).detach()
    rise = log_density("piecewise_normal", z, loc, scale, q.breaks)
    torch.testing.assert_close(ours - ours[0], rise - rise[0])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_posteriors_start_where_layers_of_torch_start(kind, family):
    """E_q[W], E_q[b] ~ U(-a, a),   a = 1 / sqrt(units that come in)"""
    ours, plain = {
        "linear": (partial(VariationalLinear, 40, 300), partial(torch.nn.Linear, 40, 300)),
        "conv": (partial(VariationalConv2d, 10, 300, 2), partial(torch.nn.Conv2d, 10, 300, 2)),
    }[kind]
    layer, other = ours(family=family), plain()
    centres = {name: numbers_of(q)[0] for name, q in layer.posteriors.items()}
    factors = {name: value.exp() if "scale" in name else value for name, value in centres.items()}
    weight = whole(factors)
    weight = weight[..., 0] if family == "piecewise_normal" else weight
    for found, like in ((weight, other.weight), (centres["bias"], other.bias)):
        assert found.shape == like.shape
        assert found.abs().max() <= 40**-0.5 * (1 + 1e-6)
        assert stats.kstest(found.flatten().numpy(), like.detach().flatten().numpy()).pvalue > 1e-3
        assert stats.kstest(found.flatten().numpy(), stats.uniform(-(40**-0.5), 2 * 40**-0.5).cdf).pvalue > 1e-3


@pytest.mark.parametrize("family", ["normal", "horseshoe", "piecewise_normal"])
def test_an_automatic_guide_starts_where_the_posteriors_stand(family):
    """median = E_q[w]: m;   exp(m + s^2 / 2) of a log-normal scale;   of pieces by quadrature"""
    layer = VariationalLinear(2, 3, family=family)
    pair = regression(layer, 2)
    spread_out(layer)
    other = pv.automatic(pair, partial(AutoMultivariateNormal, init_scale=0.01))
    found = other.guide.shared.median()
    assert set(found) == {f"layer.{name}" for name in layer.priors}
    for name, q in layer.posteriors.items():
        m, s = numbers_of(q)
        wanted = (m + s.square() / 2).exp() if "scale" in name else m
        if hasattr(q, "breaks"):
            numbers = zip(m.flatten(0, 1), s.flatten(0, 1), strict=True)
            means = [expectations(family, n, n, q.breaks, lambda z: z)[0] for n in numbers]
            wanted = torch.stack(means).view(3, 2)
        torch.testing.assert_close(found[f"layer.{name}"].detach(), wanted, atol=1e-5, rtol=1e-5)
    assert not {id(p) for p in pair.parameters()} & {id(p) for p in other.parameters()}


def test_no_automatic_guide_draws_exact_zeros():
    """Where p(w = 0) = 1/2, a q that has a density everywhere never explains half of what p draws."""
    pair = regression(VariationalLinear(2, 3, family="rectified_normal"), 2)
    with pytest.raises(ValueError, match=r"^variant: layer\.weight: its prior has an atom"):
        pv.automatic(pair)


# ---------------------------------------------------------------------- layers


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("make", "inside"),
    [
        (lambda f: VariationalLinear(3, 4, family=f), (3,)),
        (lambda f: VariationalLinear(3, 4, family=f, bias=False), (3,)),
        (lambda f: VariationalConv2d(3, 4, 3, family=f), (3, 6, 6)),
        (lambda f: VariationalConv2d(3, 4, (2, 3), stride=2, padding=1, family=f), (3, 6, 6)),
        (lambda f: VariationalConv2d(3, 4, 1, stride=3, family=f, bias=False), (3, 6, 6)),
    ],
)
def test_given_weights_are_applied_as_torch_does(make, inside, family):
    """y = W x + b, W = V l g of a horseshoe"""
    layer = make(family)
    pair = regression(layer, *inside)
    shapes = {name: prior().event_shape for name, prior in layer.priors.items()}
    values = {name: torch.rand(shape).double() + 0.1 for name, shape in shapes.items()}
    x = torch.randn(5, *inside).double()
    given = {f"layer.{name}": value for name, value in values.items()}
    nodes = poutine.trace(poutine.condition(pair.model, data=given)).get_trace(c=x).nodes
    bias = values.get("bias")
    if isinstance(layer, VariationalLinear):
        wanted = functional.linear(x, whole(values), bias)
        many = x.view(5, 1, 3).expand(5, 2, 3)
        alone = poutine.condition(make(family).double(), data=values)
        torch.testing.assert_close(alone(many), wanted.view(5, 1, 4).expand(5, 2, 4))
    else:
        plain = torch.nn.Conv2d(3, 4, layer.shape[2:], layer.stride, layer.padding, bias=bias is not None).double()
        with torch.no_grad():
            plain.weight.copy_(whole(values))
            if bias is not None:
                plain.bias.copy_(bias)
        wanted = plain(x).detach()
    torch.testing.assert_close(nodes["y"]["fn"].mean, wanted)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pair_decodes_with_the_weights_that_its_guide_drew(family, monkeypatch):
    """E[x | z] = sigmoid(W z + b), one draw of W for all data, however many are decoded at a time"""
    pair = pv.vae(9, latent=2, decoder=VariationalLinear(2, 9, family=family)).train()
    kept, prefix = pair.draw_shared(), "likelihood.decoder.net."
    drawn = {name.removeprefix(prefix): site["value"] for name, site in kept.nodes.items() if name.startswith(prefix)}
    assert set(drawn) == {*pair.model.likelihood.decoder.net.priors}
    z = torch.randn(7, 2)
    with monkeypatch.context() as patch:
        patch.setattr(pair, "draw_shared", lambda: kept)
        found = pair.decode({"z": z}, rows=2)
    wanted = functional.linear(z, whole(drawn), drawn["bias"]).sigmoid()
    torch.testing.assert_close(found, wanted)
    same = pair.decode({"z": z[:1].expand(7, 2)}, rows=2, seed=1)
    torch.testing.assert_close(same, same[:1].expand(7, 9))
    assert not torch.allclose(same[0], wanted[0])


@pytest.mark.parametrize("family", ["normal", "horseshoe"])
def test_sizes_of_units_are_those_of_their_weights(family):
    """size_i^2 = mean_j E[W_ji^2],   E[V^2] = m^2 + s^2,   E[l^2] = exp(2 m + 2 s^2)"""
    layer = VariationalLinear(3, 400, family=family)
    pair = pv.vae(400, latent=3, decoder=layer)
    for name, weights in layer.posteriors.items():
        put(weights, scale=torch.full_like(weights.scale, 0.03 if "scale" in name else 0.8))
    q = {name: numbers_of(weights) for name, weights in layer.posteriors.items()}
    size = (q["weight"][0].square() + q["weight"][1].square()).mean(0)
    for name in layer.scales:
        loc, scale = q[name]
        size = size * (2 * loc + 2 * scale.square()).exp()
    found = pv.weights_report(pair, draws=200)["likelihood.decoder.net"]
    torch.testing.assert_close(found.size.double(), size.sqrt(), atol=0, rtol=0.01)
    assert found.kl == pytest.approx(sum(shared_kl(pair, draws=200).values()), rel=1e-6)


# ---------------------------------------------------------------------- what weights cost


def decoding(family, data=4):
    """A pair whose decoder's weights are spread out, each differently."""
    pair = pv.vae(data, latent=2, decoder=VariationalLinear(2, data, family=family, scale=0.8)).double()
    layer = pair.model.likelihood.decoder.net
    for q in layer.posteriors.values():
        wide = torch.rand_like(q.scale) * 0.4 + 0.2
        put(q, loc=(0.05 if hasattr(q, "breaks") else 0.5) * torch.randn_like(q.loc), scale=wide)
    return pair, layer


def summed(family, layer, name):
    """KL(q || p) of all numbers that a layer draws under a name, by quadrature of each."""
    dims = len(layer.priors[name].shape)
    rows = [number.flatten(0, dims - 1) for w in (layer.posteriors, layer.priors) for number in numbers_of(w[name])]
    breaks = getattr(layer.priors[name], "breaks", None)
    kl = [expectations(family, (a, b), (c, d), breaks)[1] for a, b, c, d in zip(*rows, strict=True)]
    return float(torch.stack(kl).sum())


@pytest.mark.parametrize("family", FAMILIES)
def test_costs_of_weights_are_their_kl_site_by_site(family):
    """KL(q(w) || p(w)), in closed form, against quadrature"""
    pair, layer = decoding(family)
    found = shared_kl(pair)
    assert sorted(found) == sorted(f"likelihood.decoder.net.{name}" for name in layer.priors)
    kinds = {"bias": "normal", "weight": "normal" if family == "horseshoe" else family}
    for name, kind in kinds.items():
        nats = found[f"likelihood.decoder.net.{name}"]
        assert nats == pytest.approx(summed(kind, layer, name), rel=1e-6)
        if kind == "normal":
            numbers = [numbers_of(w[name]) for w in (layer.posteriors, layer.priors)]
            q, p = (Normal(*v) for v in numbers)
            assert nats == pytest.approx(float(kl_divergence(q, p).sum()), rel=1e-9)


def test_costs_of_scales_are_estimated():
    """E_q[log q(l) - log p(l)], log-normal q and half-Cauchy p, by Gauss-Hermite quadrature"""
    pair, layer = decoding("horseshoe")
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    runs = [shared_kl(pair, draws=20, seed=seed) for seed in range(15)]
    for name, scale in (("local_scale", 1.0), ("global_scale", 0.8)):
        loc, spread = (v.numpy()[..., None] for v in numbers_of(layer.posteriors[name]))
        values = np.exp(loc + spread * nodes)
        logs = stats.lognorm.logpdf(values, spread, scale=np.exp(loc)) - stats.halfcauchy.logpdf(values, scale=scale)
        wanted = (logs @ weights).sum() / weights.sum()
        agree([run[f"likelihood.decoder.net.{name}"] for run in runs], wanted, most=0.1)


@pytest.mark.parametrize("guide", [AutoMultivariateNormal, AutoNormal])
def test_costs_under_an_automatic_guide_add_up(guide):
    """sum over sites = KL(q(W, b) || p(W, b)), q one normal, in the guide a site of its own"""
    exact = problem("correlated")
    pair = pv.automatic(exact.pair(), partial(guide, init_scale=0.5))
    with torch.no_grad():
        numbers = pair.guide.shared.quantiles([0.5, 0.8413447460685429])
    median, above = (torch.cat([numbers[f"layer.{n}"][i].flatten() for n in ("weight", "bias")]) for i in (0, 1))
    q = MultivariateNormal(median, (above - median).square().diag())
    runs = [sum(shared_kl(pair, draws=20, seed=seed).values()) for seed in range(20)]
    agree(runs, float(kl_divergence(q, exact.prior)), most=0.1)


def test_reports_and_histories_tell_the_cost():
    """Report.shared_kl = sum over sites of KL(q || p);   history: the same, divided by how many data there are"""
    pair, layer = decoding("normal")
    x = pair.sample(10, seed=0)
    report = pv.evaluate(pair, x, particles=2)
    wanted = summed("normal", layer, "weight") + summed("normal", layer, "bias")
    assert report.shared_kl == pytest.approx(wanted, rel=1e-6)
    assert report.shared_kl == pytest.approx(sum(shared_kl(pair).values()))
    run = pv.fit(pair, x, epochs=2, batch_size=4, lr=0.05, progress=False)
    after = summed("normal", layer, "weight") + summed("normal", layer, "bias")
    assert abs(after - wanted) > 0.5
    assert run.history["shared_kl"][-1] == pytest.approx(after / 10, rel=1e-6)
    plain = pv.vae(4, latent=2)
    assert pv.evaluate(plain, x, particles=2).shared_kl is None
    assert "shared_kl" not in pv.fit(plain, x, epochs=1, progress=False).history
    assert shared_kl(plain) == {}


def test_who_trains_by_hand_has_to_say_how_many_data_there_are():
    pair, _ = decoding("normal")
    with pytest.raises(ValueError, match=r"^pair: draws what all data share, .*minibatch\(size\)"):
        SVI(*pair, partial(torch.optim.Adam, lr=0.1))


# ---------------------------------------------------------------------- closed KLs of shared sites


@pytest.mark.parametrize("family", FAMILIES)
def test_closed_kls_leave_the_expectation(family):
    """E[AnalyticKL] = E[Trace_ELBO] = -ELBO"""
    pair = pv.vae(4, latent=2, decoder=VariationalMLP(2, 4, hidden=(3,), family=family))
    x = pair.sample(5, seed=0)
    model, guide = pair.trained(minibatch(5))
    closed, plain = (
        np.array([objective.loss(model, guide, x=x) for _ in range(80)]) for objective in (AnalyticKL(), Trace_ELBO())
    )
    cost = sum(shared_kl(pair, draws=100).values())
    assert cost > 20 * plain.std() / 80**0.5  # and would be missed
    agree(plain - closed, 0.0, most=1.0)
    if family != "horseshoe":  # of which the scales' are estimated
        assert closed.std() < plain.std()


@pytest.mark.parametrize(
    ("family", "loc", "scale", "objective"),
    [
        ("rectified_normal", 0.2, 0.4, AnalyticKL()),
        ("piecewise_normal", [-0.3, 0.1, 0.2], [0.4, 0.2, 0.3], AnalyticKL()),
        ("piecewise_normal", [-0.3, 0.1, 0.2], [0.4, 0.2, 0.3], Trace_ELBO()),
    ],
)
def test_gradients_of_other_families_agree_with_quadrature(family, loc, scale, objective):
    """d/d(loc, log scale) of -(sum_n E_q[log N(y_n; w c_n, NOISE^2)] - KL(q || p))"""
    many = 400
    c, y = torch.tensor([0.5, 1.0, -0.7]).double(), torch.tensor([0.4, 0.9, 0.1]).double()
    pair = regression(VariationalLinear(1, many, family=family, bias=False), 1)
    posterior = pair.model.layer.posteriors["weight"]
    numbers = [torch.as_tensor(v).double() for v in (loc, scale)]
    shape = (many, 1, *numbers[0].shape)
    put(posterior, loc=numbers[0].expand(shape), scale=numbers[1].expand(shape))
    at = [numbers[0].requires_grad_(), numbers[1].log().requires_grad_()]
    breaks = getattr(posterior, "breaks", None)
    log_p, kl = expectations(
        family,
        (at[0], at[1].exp()),
        [number[0, 0] for number in numbers_of(pair.model.layer.priors["weight"])],
        breaks,
        lambda w: Normal(w[:, None] * c, NOISE).log_prob(y).sum(1),
    )
    wanted = torch.cat([g.reshape(-1) for g in torch.autograd.grad(kl - log_p, at)])
    batch = {"c": c[:, None], "y": y[:, None].expand(3, many).contiguous()}
    model, guide = pair.trained(minibatch(3))
    losses = [objective.loss(model, guide, **batch) / many for _ in range(10)]
    agree(losses, (kl - log_p).detach(), most=0.1)
    agree(gradients(pair, objective, batch, 3, 20, names=["weight"]), wanted, most=0.1)


# ---------------------------------------------------------------------- what a datum tells of weights


class Noisy(Regression):
    """p(y, z, W | c) = p(W) N(z; 0, 0.5^2) N(y; W c + z, NOISE^2)"""

    def forward(self, c, y=None, n=1):
        with pyro.plate("data", len(c)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1).to(c), 0.5).to_event(1))
            return pyro.sample("y", dist.Normal(self.layer(c) + z, NOISE).to_event(1), obs=y)


class Blind(PyroModule):
    """q(z) = N(z; 0, 0.5^2)"""

    def forward(self, c, y=None):
        with pyro.plate("data", len(c)):
            pyro.sample("z", dist.Normal(torch.zeros(1).to(c), 0.5).to_event(1))


def learned(c, y, spread, noise):
    """KL(N(m, v) || N(0, spread^2)),   v = 1 / (1 / spread^2 + c^2 / noise^2),   m = v c y / noise^2"""
    v = 1 / (spread**-2 + c**2 / noise**2)
    m = v * c * y / noise**2
    return 0.5 * ((v + m**2) / spread**2 - 1 - (v / spread**2).log())


def one_weight(spread, story=Regression, guide=Nothing):
    model = story(VariationalLinear(1, 1, bias=False))
    pair = pv.Variant(model, pv.completed(model, guide(), c=(1,)), conditions=("c",)).double()
    put(pair.model.layer.posteriors["weight"], loc=[[0.0]], scale=[[spread]])
    return pair


C = torch.tensor([[1.0], [1.0], [0.0], [0.3], [-2.0]]).double()
Y = torch.tensor([[0.2], [2.0], [1.0], [-1.0], [1.5]]).double()


def test_what_a_datum_tells_of_a_weight_is_known():
    """KL(p(w | y) || p(w)), both normal; nothing where y is not of w, or w is known already"""
    pair = one_weight(1.0).train()
    found = pv.weight_information(pair, particles=2000, codes=1, c=C, y=Y)
    wanted = learned(C, Y, 1.0, NOISE)[:, 0]
    torch.testing.assert_close(found, wanted, atol=0.08, rtol=0)
    assert wanted.max() > 1.5
    assert abs(float(found[2])) < 1e-9
    known = pv.weight_information(one_weight(1e-3), particles=100, codes=1, c=C, y=Y)
    assert (known.abs() < 1e-3).all()


def test_over_data_that_the_pair_tells_it_is_the_mutual_information():
    """E_{y ~ p(y)} KL(p(w | y) || p(w)) = log(1 + c^2 / NOISE^2) / 2"""
    y = torch.randn(4000, 1).double() * (1 + NOISE**2) ** 0.5
    found = pv.weight_information(one_weight(1.0), particles=600, codes=1, c=torch.ones(4000, 1).double(), y=y)
    assert float(found.mean()) == pytest.approx(0.5 * math.log(1 + NOISE**-2), abs=0.05)


def test_codes_explain_a_part_of_a_datum():
    """As above with p(y | w) = N(y; w c, 0.5^2 + NOISE^2), whose codes are drawn from their prior"""
    pair = one_weight(1.0, Noisy, Blind)
    found = pv.weight_information(pair, particles=100, codes=25, c=C, y=Y)
    wanted = learned(C, Y, 1.0, (0.5**2 + NOISE**2) ** 0.5)[:, 0]
    torch.testing.assert_close(found, wanted, atol=0.25, rtol=0)


def test_a_datum_tells_no_more_than_the_draws_can():
    """0 <= log K - H(w) <= log K, and log K where one draw alone explains it"""
    y = torch.tensor([[0.0], [1e3]]).double()
    found = pv.weight_information(one_weight(1.0), particles=8, c=torch.ones(2, 1).double(), y=y)
    assert found.min() >= 0
    assert float(found[1]) == pytest.approx(math.log(8), rel=1e-9)


def test_what_a_datum_tells_does_not_depend_on_rows_and_leaves_the_generator_alone():
    pair, before = one_weight(1.0), torch.get_rng_state()
    runs = [pv.weight_information(pair, particles=20, codes=1, c=C, y=Y, rows=rows) for rows in (None, 2)]
    torch.testing.assert_close(*runs)  # without codes the draws of the weights are all there is
    assert torch.equal(before, torch.get_rng_state())
    assert not torch.equal(runs[0], pv.weight_information(pair, particles=20, codes=1, seed=1, c=C, y=Y))


def test_what_a_datum_tells_needs_weights_that_may_differ():
    with pytest.raises(ValueError, match=r"^particles: expected at least 2"):
        pv.weight_information(one_weight(1.0), particles=1, c=C, y=Y)
    with pytest.raises(ValueError, match=r"^variant: draws nothing that all data share"):
        pv.weight_information(pv.vae(4, latent=2), x=torch.zeros(3, 4))


# ---------------------------------------------------------------------- an encoder's weights


@pytest.fixture
def encoder():
    """A pair with its encoder's weights drawn, data, and their ELBO in closed form, datum by datum."""
    layer = VariationalLinear(2, 2, scale=0.7, bias=False)
    pair = encoding(layer)
    loc, spread = torch.tensor([[0.5, 0.1], [-0.2, 0.6]]).double(), torch.tensor([[0.3, 0.2], [0.1, 0.25]]).double()
    put(layer.posteriors["weight"], loc=loc, scale=spread)
    x = torch.tensor([[1.0, -0.5], [0.3, 1.2], [-1.5, 0.4]]).double()
    mean, variance = x @ loc.T, x.square() @ spread.square().T + 0.6**2  # of z
    fit = Normal(mean, NOISE).log_prob(x) - variance / (2 * NOISE**2)
    prior = Normal(0.0, 1.0).log_prob(mean) - variance / 2
    elbo = (fit + prior + Normal(0.0, 0.6).entropy()).sum(-1)  # q(z | x, W) has the same spread at every W
    cost = float(kl_divergence(Normal(loc, spread), Normal(0.0, 0.7)).sum())
    return pair, x, elbo, cost


SITE = "guide.posterior.layer.weight"


def test_an_encoders_weights_are_drawn_by_both_programs(encoder):
    """p(x, z, W) = p(W) p(x, z),   q(W) q(z | x, W)"""
    pair, x, _, cost = encoder
    in_guide, in_model = ran(pair, x=x)
    assert in_guide[SITE]["value"] is in_model[SITE]["value"]
    assert in_model[SITE]["fn"].stddev.unique().tolist() == pytest.approx([0.7])
    assert shared_kl(pair) == pytest.approx({SITE: cost})


def test_the_elbo_of_a_datum_leaves_out_what_the_encoders_weights_cost(encoder):
    """E_{q(W) q(z | x, W)}[log p(x, z) - log q(z | x, W)]"""
    pair, x, elbo, _ = encoder
    draws = torch.cat([terms.log_weights for _, terms in pair.terms(300, seed=0, x=x)])
    agree(draws, elbo, most=0.2)
    torch.testing.assert_close(pair.elbo(particles=300, seed=0, x=x), draws.mean(0))


@BOTH
@pytest.mark.parametrize("training", [True, False], ids=["flips", "no flips"])
def test_the_loss_counts_an_encoders_weights_once(encoder, objective, training):
    """E[loss] = -sum_n ELBO_n + KL(q(W) || p(W)), of which a batch carries its share"""
    pair, x, elbo, cost = encoder
    pair.train(training)
    assert cost > 2
    losses = [objective.loss(pair.model, pair.guide, x=x) for _ in range(250)]
    agree(losses, -float(elbo.sum()) + cost, most=0.5)
    model, guide = pair.trained(minibatch(30))
    losses = [objective.loss(model, guide, x=x[:1]) for _ in range(120)]
    agree(losses, -float(elbo[0]) + cost / 30, most=0.4)
