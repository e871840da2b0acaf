"""Compiled steps are the ordinary ones: losses, gradients, what moves, what is drawn, and what is refused."""

import copy
import math
import random
import re
import warnings
from functools import partial

import contract
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import test_priors
import torch
from compiling import (
    SHAPE,
    Guide,
    Story,
    adam,
    data,
    of,
    really_compiled,
    same,
    same_gradients,
    same_losses,
    same_state,
    same_steps,
    suited,
    told,
    twins,
)
from contract import batch_of
from pyro import poutine
from pyro.infer import RenyiELBO, Trace_ELBO, TraceEnum_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO
from pyro.nn import PyroParam
from torch import nn
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import DataLoader, TensorDataset

import pyro_vae as pv
from pyro_vae import likelihoods, priors, tracing
from pyro_vae.infer import (
    DIP,
    IWAE,
    MMD,
    SVI,
    AnalyticKL,
    Anneal,
    CompiledSVI,
    Cyclical,
    FreeBits,
    TotalCorrelation,
    WarmUp,
    observed,
    temper,
)
from pyro_vae.train import loop

vae = partial(pv.vae, SHAPE, latent=3, hidden=(8,))
X = (torch.rand(32, *SHAPE, generator=torch.Generator().manual_seed(0)) > 0.5).float()


def made(build, seed=0):
    torch.manual_seed(seed)
    return build()


def norm_and_dropout():
    layers = nn.Linear(16, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 6)
    return vae(encoder=nn.Sequential(nn.Flatten(), *layers))


# ---------------------------------------------------------------------- every part

COLUMNS = {"columns": ["real", "binary", 3, "count"]}
LIKELIHOODS = {  # of data of four numbers
    "Bernoulli": likelihoods.Bernoulli,
    "Categorical": partial(likelihoods.Categorical, classes=3),
    "Columns": partial(likelihoods.Columns, **COLUMNS),
    "ContinuousBernoulli": likelihoods.ContinuousBernoulli,
    "DiscretizedLogistic": likelihoods.DiscretizedLogistic,
    "DiscretizedLogisticMixture": likelihoods.DiscretizedLogisticMixture,
    "Laplace": likelihoods.Laplace,
    "NegativeBinomial": likelihoods.NegativeBinomial,
    "Normal": partial(likelihoods.Normal, scale="learned"),
    "Poisson": likelihoods.Poisson,
    "StudentT": likelihoods.StudentT,
}
OBJECTIVES = {
    "Trace_ELBO of particles": lambda: Trace_ELBO(3),
    "particles in a plate": lambda: Trace_ELBO(3, vectorize_particles=True, max_plate_nesting=1),
    "TraceMeanField_ELBO": TraceMeanField_ELBO,
    "TraceGraph_ELBO": TraceGraph_ELBO,
    "TraceEnum_ELBO": lambda: TraceEnum_ELBO(max_plate_nesting=1, strict_enumeration_warning=False),
    "RenyiELBO": lambda: RenyiELBO(0.5, num_particles=3),
    "IWAE": lambda: IWAE(4),
    "AnalyticKL": AnalyticKL,
    "FreeBits": lambda: FreeBits(0.5),
    "FreeBits of units": lambda: FreeBits(0.1, per="unit"),
    "MMD": lambda: MMD(10.0),
    "MMD without the KL": lambda: MMD(10.0, kl=0.0, kernel="rbf"),
    "TotalCorrelation": lambda: TotalCorrelation(100),
    "DIP": lambda: DIP(1.0, 2.0),
    "DIP of means": lambda: DIP(1.0, of="means"),
}
ON_THE_SPHERE = {"SphericalUniform", "VonMisesFisher"}  # whose draws are rejected until they are right, see below
PAIRS = {
    **{f"recipe {name}": (partial(recipe, contract.SHAPE), None) for name, recipe in pv.RECIPES.items()},
    **{f"prior {n}": (partial(test_priors.make, "vae", p), None) for n, p in test_priors.OURS.items()},
    **{f"prior {n}": (partial(test_priors.make, "vae", p), None) for n, p in test_priors.THEIRS.items()},
    "prior Ring": (partial(pv.vae, SHAPE, latent=2, prior=priors.Ring), None),
    "prior SwissRoll": (partial(pv.vae, SHAPE, latent=2, prior=priors.SwissRoll), lambda: MMD(10.0)),
    "prior Horseshoe of a hierarchy": (partial(pv.hvae, SHAPE, (3, 3), prior=priors.Horseshoe), None),
    **{
        f"posterior {name}": (partial(test_priors.make, "vae", prior, getattr(pv.posteriors, name)), None)
        for name, prior in test_priors.POSTERIORS.items()
    },
    "posterior Delta": (partial(vae, posterior=pv.posteriors.Delta), lambda: MMD(10.0)),
    **{f"likelihood {n}": (partial(pv.vae, 4, 2, hidden=(8,), likelihood=p), None) for n, p in LIKELIHOODS.items()},
    **{f"objective {name}": (vae, objective) for name, objective in OBJECTIVES.items()},
    "objective AnalyticKL of levels": (partial(pv.hvae, SHAPE, (3, 3)), AnalyticKL),
    "objective FreeBits of levels": (partial(pv.hvae, SHAPE, (3, 3)), lambda: FreeBits(0.5)),
    **{
        f"discrete {name}": (partial(pv.discrete_vae, SHAPE, 2, 3, name, hidden=(8,)), None)
        for name in ("enumerate", "relaxed", "score", "straight-through")
    },
    "discrete score without a baseline": (partial(pv.discrete_vae, SHAPE, 2, 3, "score", baseline="none"), None),
    "discrete score with a critic": (partial(pv.discrete_vae, SHAPE, 2, 3, "score", baseline="neural"), None),
    "random weights": (partial(pv.vae, SHAPE, 3, decoder=partial(pv.nets.VariationalMLP, hidden=(8,))), None),
    "random weights of all": (
        partial(pv.vae, SHAPE, 3, net=partial(pv.nets.VariationalMLP, hidden=(8,), family="horseshoe")),
        None,
    ),
    "convolutions": (partial(pv.vae, (1, 8, 8), 3, net=pv.nets.Conv), None),
}
LOOPS = {name for name in PAIRS if name.split()[-1] in ON_THE_SPHERE}


def test_every_likelihood_is_here():
    parts = {n for n in likelihoods.__all__ if isinstance(getattr(likelihoods, n), type)}
    assert set(LIKELIHOODS) == {n for n in parts if issubclass(getattr(likelihoods, n), nn.Module)}


@pytest.mark.parametrize("name", sorted(set(PAIRS) - LOOPS))
def test_steps_are_the_ordinary_ones(name):
    build, objective = PAIRS[name]
    pair = made(build)
    batch = batch_of(pair, 30)
    both = twins(pair, objective() if objective else suited(pair, batch))
    same_steps(*both, [batch] * 3)
    really_compiled(both[1])


@pytest.mark.parametrize("name", sorted(LOOPS))
def test_draws_that_are_rejected_are_ordinary_steps(name):
    """The loop until all draws are right has no length that a graph could know."""
    pair = made(PAIRS[name][0])
    batch = batch_of(pair, 30)
    both = twins(pair)
    first, *later = (told(partial(same_steps, *both, [batch] * 2)) for _ in range(3))
    assert len(first) == 1
    assert re.search(r"CompiledSVI: .*ordinary steps.*von_mises_fisher\.py, line \d+, .*while left\.numel", first[0])
    assert later == [[], []]


@pytest.mark.parametrize("kind", ["labelled", "unlabelled", "together"])
def test_labels_are_summed_over_where_they_are_missing(kind):
    pair = made(partial(pv.m2, SHAPE, 3, classes=4, hidden=(8,)))
    batch = batch_of(pair, 30)
    without = {"x": batch["x"]}
    both = twins(pair, suited(pair, without))
    if kind != "together":
        same_steps(*both, [batch if kind == "labelled" else without] * 3)
        really_compiled(both[1])
        return
    parts = [(0.3, {name: value[:10] for name, value in batch.items()}), (1.0, without)]
    for step in range(3):
        losses = []
        for twin in both:
            torch.manual_seed(step)
            losses.append(twin.svi.step_together(parts))
        assert losses[1] == pytest.approx(losses[0], rel=1e-6)
        for wanted, found in zip(*(twin.pair.parameters() for twin in both), strict=True):
            same(found.grad, wanted.grad)
    same_state(*both)
    really_compiled(both[1], graphs=2)


# ---------------------------------------------------------------------- schedules

TEMPERS = {
    "warm-up": (vae, WarmUp(epochs=2)),
    "warm-up beyond 1": (partial(pv.beta_vae, SHAPE, latent=3), WarmUp(epochs=2, to=3.0)),
    "cycles": (vae, Cyclical(period=2)),
    "sites": (partial(pv.hvae, SHAPE, (3, 3)), {"z1": WarmUp(epochs=2), "z2": Cyclical(period=1)}),
    "a site, and a number": (partial(pv.hvae, SHAPE, (3, 3)), {"z1": WarmUp(epochs=2), "z2": 2.0}),
}
SCHEDULED = {
    "Trace_ELBO": Trace_ELBO,
    "AnalyticKL": AnalyticKL,
    "FreeBits": lambda: FreeBits(0.1),
    "TraceMeanField_ELBO": TraceMeanField_ELBO,
    "MMD": lambda: MMD(10.0),
}


@pytest.mark.parametrize("objective", SCHEDULED)
@pytest.mark.parametrize("name", TEMPERS)
def test_weights_on_a_schedule_change_in_one_graph(name, objective):
    build, weight = TEMPERS[name]
    pair = made(build)
    batch = batch_of(pair, 30)
    both = twins(pair, SCHEDULED[objective](), temper(weight))
    # from 0 past 1; a number that is a tensor has seven digits
    same_steps(*both, [batch] * 5, lambda step: step / 3, tolerance=3e-6)
    for epoch in (0.0, 0.7, 5.0):
        for twin in both:
            twin.at(epoch)
        same_gradients(*both, batch, tolerance=3e-6)
    really_compiled(both[1])


def test_a_weight_on_a_schedule_is_read_at_each_step():
    pair = made(vae)
    x = pair.sample(30, seed=0)
    compiled = twins(pair, AnalyticKL(), temper(WarmUp(epochs=2)))[1]
    losses = []
    for epoch in (0.0, 1.0, 2.0):
        compiled.at(epoch)
        torch.manual_seed(0)
        losses.append(compiled.svi.gradients(x=x))
    assert losses[1] - losses[0] == pytest.approx(losses[2] - losses[1], rel=1e-3)  # linear in the weight
    assert losses[2] - losses[0] > 0.1


@pytest.mark.parametrize("estimator", ["relaxed", "straight-through"])
def test_a_temperature_is_annealed_in_one_graph(estimator):
    pair = made(partial(pv.discrete_vae, SHAPE, 2, 3, estimator, temperature=Anneal(rate=0.5, least=0.2)))
    both = twins(pair)
    same_steps(*both, [batch_of(pair, 30)] * 5, float, tolerance=3e-6)
    really_compiled(both[1])


def test_a_temperature_and_a_weight_together():
    pair = made(partial(pv.discrete_vae, SHAPE, 2, 3, temperature=Anneal(rate=0.5, least=0.2)))
    both = twins(pair, None, temper(WarmUp(epochs=2)))
    same_steps(*both, [batch_of(pair, 30)] * 5, float, tolerance=3e-6)
    really_compiled(both[1])


def test_a_learning_rate_on_a_schedule():
    pair = made(vae)
    both = twins(pair)
    schedules = [StepLR(twin.svi.optimizer, step_size=2, gamma=0.1) for twin in both]
    for step in range(6):
        same_losses(*both, {"x": X}, step)
        for schedule in schedules:
            schedule.step()
    same_state(*both)
    really_compiled(both[1])


def test_a_constant_weight_that_is_changed_is_another_graph():
    both = twins(made(vae), None, temper(2.0))
    for weight, graphs in ((2.0, 1), (5.0, 2), (2.0, 2)):
        for twin in both:
            (handler,) = tracing.handlers(twin.svi.model)
            handler.weight = weight
        same_gradients(*both, {"x": X})
        really_compiled(both[1], graphs)


def test_a_schedule_that_takes_the_place_of_a_constant():
    both = twins(made(vae), None, temper(2.0))
    for weight in (2.0, WarmUp(epochs=4)):
        for twin in both:
            (handler,) = tracing.handlers(twin.svi.model)
            handler.weight, handler.epoch = weight, 1.0
        same_gradients(*both, {"x": X}, tolerance=3e-6)


@pytest.mark.parametrize("around", [temper(3.0), poutine.scale(scale=2.0), temper(WarmUp(epochs=4))])
def test_handlers_around_a_step(around):
    both = twins(made(vae))
    same_gradients(*both, {"x": X})
    alone = [p.grad.clone() for p in both[1].pair.parameters()]
    for epoch in (1.0, 3.0):
        around.epoch = epoch
        with around:
            same_gradients(*both, {"x": X}, tolerance=3e-6)
    really_compiled(both[1], graphs=2)
    assert not all(torch.equal(a, p.grad) for a, p in zip(alone, both[1].pair.parameters(), strict=True))
    same_gradients(*both, {"x": X})
    really_compiled(both[1], graphs=2)


def test_what_is_hidden_stays_hidden():
    x = X.masked_fill(torch.rand(X.shape) < 0.3, torch.nan)
    both = twins(made(vae))
    with observed(x=torch.isfinite):
        same_steps(*both, [{"x": x}, {"x": x.flip(1)}, {"x": x}])
    really_compiled(both[1])


# ---------------------------------------------------------------------- modes, buffers and parameters


def test_batch_norm_and_dropout_train_and_rest():
    both = twins(made(norm_and_dropout))
    same_steps(*both, [{"x": X}] * 3)
    really_compiled(both[1])
    for twin in both:
        twin.pair.eval()
    averages = [b.clone() for b in both[1].pair.buffers()]
    same_steps(*both, [{"x": X}] * 3)
    assert all(torch.equal(a, b) for a, b in zip(averages, both[1].pair.buffers(), strict=True))
    really_compiled(both[1], graphs=2)
    for twin in both:
        twin.pair.train()
    same_steps(*both, [{"x": X}] * 3)
    really_compiled(both[1], graphs=2)


def test_a_part_that_rests_alone():
    both = twins(made(norm_and_dropout))
    same_gradients(*both, {"x": X})
    for twin in both:
        next(m for m in twin.pair.modules() if isinstance(m, nn.Dropout)).eval()
    same_steps(*both, [{"x": X}] * 2)
    really_compiled(both[1], graphs=2)


class Centred(Guide):
    """Keeps a running mean, of which each is a new tensor."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(4))

    def code(self, x):
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.mean(0)
        return self.net(x - self.mean)


class Counting(Guide):
    """Counts its calls, whatever the mode."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def code(self, x):
        self.calls += 1
        return self.net(x) / self.calls


@pytest.mark.parametrize("guide", [Centred, Counting])
@pytest.mark.parametrize("sizes", [(20, 20, 20), (20, 7, 20, 20), (20, 7, 7, 20, 30, 20)])
def test_buffers_of_every_making_move_as_they_do(guide, sizes):
    both = twins(of(guide=guide))
    for step, size in enumerate(sizes):  # smaller batches are ordinary steps in between
        same_losses(*both, {"x": data(size, step)}, step)
        same_state(*both)
    really_compiled(both[1], graphs=len({20, *sizes} - {7}))


def test_buffers_that_somebody_replaces_between_steps():
    both = twins(of(guide=Centred))
    for step in range(3):
        same_losses(*both, {"x": data()}, step)
        same_state(*both)
        for twin in both:
            twin.pair.guide.mean = torch.full((4,), float(step))
    really_compiled(both[1])


def test_weights_that_are_loaded_between_steps():
    first, other = made(norm_and_dropout), made(norm_and_dropout, seed=1)
    both = twins(first)
    same_steps(*both, [{"x": X}] * 2)
    for twin in both:
        twin.pair.load_state_dict(other.state_dict())
    same_gradients(*both, {"x": X}, seed=3)
    really_compiled(both[1])


FROZEN = pytest.mark.filterwarnings("ignore:.* was not registered in the param store because requires_grad=False")


@FROZEN
def test_frozen_and_thawed():
    both = twins(made(vae))
    same_gradients(*both, {"x": X})
    for frozen in (True, False):
        for twin in both:
            twin.pair.guide.requires_grad_(not frozen)
        same_gradients(*both, {"x": X})
        assert all((p.grad is None) == frozen for p in both[1].pair.guide.parameters())
        same_losses(*both, {"x": X}, 1)
        same_state(*both)
    really_compiled(both[1], graphs=2)


@FROZEN
def test_frozen_from_the_start_and_then_changed():
    pair = made(vae)
    frozen = next(pair.guide.parameters()).requires_grad_(False)
    both = twins(pair)
    same_gradients(*both, {"x": X})
    for twin in both:
        next(twin.pair.guide.parameters()).data.mul_(2)
    same_gradients(*both, {"x": X})
    assert frozen.grad is None
    really_compiled(both[1])


class Tied(Guide):
    def __init__(self):
        super().__init__()
        self.twice = nn.Linear(4, 4, bias=False)
        self.again = nn.Linear(4, 4, bias=False)
        self.again.weight = self.twice.weight

    def code(self, x):
        return self.net(self.again(self.twice(x).tanh()))


class Spectral(Guide):
    def __init__(self):
        super().__init__()
        self.net = nn.utils.parametrizations.spectral_norm(nn.Linear(4, 2))


class Weighed(Guide):
    def __init__(self):
        super().__init__()
        self.net = nn.utils.parametrizations.weight_norm(nn.Linear(4, 2))


class Attentive(Guide):
    def __init__(self):
        super().__init__()
        self.look = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)

    def code(self, x):
        return self.net(self.look(x.unsqueeze(1)).squeeze(1))


class Recurrent(Guide):
    kind = nn.GRU

    def __init__(self):
        super().__init__()
        self.reads, self.net = self.kind(1, 3, batch_first=True), nn.Linear(3, 2)

    def code(self, x):
        return self.net(self.reads(x.unsqueeze(-1))[0][:, -1])


class Remembering(Recurrent):
    kind = nn.LSTM


class Positive(Guide):
    def __init__(self):
        super().__init__()
        self.scale = PyroParam(torch.full((2,), 0.3), constraint=dist.constraints.positive)

    def posterior(self, x):
        return dist.Normal(self.code(x), self.scale).to_event(1)


class Full(Guide):
    def __init__(self):
        super().__init__()
        self.below = nn.Linear(4, 4)

    def posterior(self, x):
        below = self.below(x).reshape(-1, 2, 2)
        return dist.MultivariateNormal(self.code(x), below @ below.mT + torch.eye(2))


class Held(Story):
    """Its prior is made once."""

    def __init__(self):
        super().__init__()
        self.prior = dist.MultivariateNormal(torch.zeros(2), precision_matrix=2 * torch.eye(2))

    def forward(self, x=None, n=1):
        with pyro.plate("data", n if x is None else x.shape[0]):
            z = pyro.sample("z", self.prior)
            return pyro.sample("x", dist.Normal(self.net(z), 0.5).to_event(1), obs=x)


class Twice(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, gradient):
        return 2 * gradient


class Doubled(Guide):
    def code(self, x):
        return Twice.apply(self.net(x))


PARTS = (Tied, Spectral, Weighed, Attentive, Recurrent, Positive, Full, Doubled)


@pytest.mark.parametrize("guide", PARTS, ids=lambda guide: guide.__name__)
def test_parts_of_every_making(guide):
    both = twins(of(guide=guide))
    same_steps(*both, [{"x": data()}, {"x": data(7)}, {"x": data()}])
    really_compiled(both[1])


@pytest.mark.parametrize("backend", ["eager", "inductor"])
def test_a_network_of_which_torch_makes_no_graph_that_runs(backend):
    """An LSTM on a CPU, in torch 2.15: its graph is made, and fails when it runs or is compiled."""
    both = twins(of(guide=Remembering), backend=backend)
    words = told(partial(same_steps, *both, [{"x": data()}] * 3))
    assert both[1].svi._gave_up == bool(words)
    assert len(words) < 2


@pytest.mark.parametrize("objective", [Trace_ELBO, AnalyticKL])
def test_a_distribution_that_a_story_keeps(objective):
    both = twins(of(Held), objective())
    same_steps(*both, [{"x": data()}, {"x": data(7)}, {"x": data()}])
    really_compiled(both[1])


# families by the generator of torch's that they draw with
FAMILIES = {
    "Beta": lambda a: dist.Beta(a.exp(), 1.0),
    "Cauchy": lambda a: dist.Cauchy(a, 1.0),
    "Exponential": lambda a: dist.Exponential(a.exp()),
    "Gamma": lambda a: dist.Gamma(a.exp(), 1.0),
    "Gumbel": lambda a: dist.Gumbel(a, 1.0),
    "HalfCauchy": lambda a: dist.HalfCauchy(a.exp()),
    "Laplace": lambda a: dist.Laplace(a, 1.0),
    "LogNormal": lambda a: dist.LogNormal(a, 0.3),
    "StudentT": lambda a: dist.StudentT(5.0, a, 1.0),
    "Weibull": lambda a: dist.Weibull(a.exp(), 2.0),
    "Bernoulli": lambda a: dist.Bernoulli(logits=a),
    "Geometric": lambda a: dist.Geometric(logits=a),
    "Poisson": lambda a: dist.Poisson(a.exp()),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_draws_of_every_family(name):
    """Also of those that fill a tensor made by ``new`` in place; each datum has draws of its own."""
    family = FAMILIES[name]

    class Of(Story):
        def forward(self, x=None, n=1):
            with pyro.plate("data", n if x is None else x.shape[0]):
                z = pyro.sample("z", family(torch.zeros(2)).to_event(1))
                return pyro.sample("x", dist.Normal(self.net(z.clamp(-5, 5)), 0.5).to_event(1), obs=x)

    class By(Guide):
        def posterior(self, x):
            return family(self.code(x)).to_event(1)

    both = twins(of(Of, By))
    same_steps(*both, [{"x": data()}] * 3)
    really_compiled(both[1])


def test_double_precision():
    both = twins(of().double(), None, temper(WarmUp(epochs=3)))
    x = data(30, dtype=torch.float64)
    for twin in both:
        twin.at(1.0)
    same_gradients(*both, {"x": x}, tolerance=1e-13)
    same_losses(*both, {"x": x}, 1)
    same_state(*both, tolerance=1e-12)


class Subsampled(Story):
    def forward(self, x=None, n=1):
        with pyro.plate("data", x.shape[0], subsample_size=8) as some:
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(self.net(z), 0.5).to_event(1), obs=x[some])


class Some(Guide):
    def forward(self, x):
        with pyro.plate("data", x.shape[0], subsample_size=8) as some:
            pyro.sample("z", self.posterior(x[some]))


def test_a_plate_that_draws_its_data():
    both = twins(of(Subsampled, Some))
    same_steps(*both, [{"x": data()}] * 3)
    really_compiled(both[1])


# ---------------------------------------------------------------------- sizes of a batch


def test_a_smaller_batch_is_an_ordinary_step_and_a_larger_one_another_graph():
    both = twins(made(norm_and_dropout))
    for step, (size, graphs) in enumerate([(20, 1), (7, 1), (20, 1), (1, 1), (32, 2), (20, 2), (32, 2), (31, 2)]):
        if size == 1:
            for twin in both:
                twin.pair.eval()  # one datum has no variance
            graphs = 1
        same_losses(*both, {"x": X[:size]}, step)
        same_state(*both)
        for twin in both:
            twin.pair.train()
        if size != 1:
            really_compiled(both[1], graphs + (step > 3))


def test_one_graph_for_every_size():
    both = twins(made(norm_and_dropout), dynamic=True)
    sizes = (20, 7, 32, 2, 31, 20)
    same_steps(*both, [{"x": X[:size]} for size in sizes])
    really_compiled(both[1])


def test_one_graph_for_every_size_of_a_batch_of_several_sites():
    pair = made(partial(pv.cvae, SHAPE, 3, classes=4))
    whole = batch_of(pair, 40)
    both = twins(pair, dynamic=True)
    same_steps(*both, [{name: value[:size] for name, value in whole.items()} for size in (20, 7, 40)])
    really_compiled(both[1])


class Branching(Guide):
    def code(self, x):
        return self.net(x) if x.shape[0] > 10 else -self.net(x)


def test_a_story_that_branches_on_the_size():
    both = twins(of(guide=Branching), dynamic=True)
    same_steps(*both, [{"x": data(size)} for size in (20, 7, 40, 3)])
    assert not both[1].svi._gave_up
    both = twins(of(guide=Branching))
    same_steps(*both, [{"x": data(size)} for size in (20, 7, 40, 3)])


class Counted(Guide):
    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.posterior(x))


def test_a_number_of_data_that_is_no_tensors_gets_a_graph_for_each_size():
    both = twins(of(guide=Counted), dynamic=True)
    (words,) = told(partial(same_losses, *both, {"x": data(20)}, 0))
    line = re.escape('with pyro.plate("data", len(x)):')
    assert re.search(rf"a graph for each size .*test_compiled\.py, line \d+, in forward: {line}.*x\.shape\[0\]", words)
    for step, (size, graphs) in enumerate([(20, 1), (30, 2), (30, 2)]):
        same_losses(*both, {"x": data(size)}, step)
        really_compiled(both[1], graphs)
    same_state(*both)


class Noisy(Story):
    """x ~ N(net(z), noise^2), the noise given as one number"""

    def forward(self, x=None, noise=None):
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(self.net(z), noise).to_event(1), obs=x)


class Told(Guide):
    def forward(self, x, noise):
        super().forward(x)


def test_a_number_beside_the_data():
    both = twins(of(Noisy, Told, conditions=("noise",)))
    for step, noise in enumerate((0.5, 0.7, 2.0)):
        same_losses(*both, {"x": data(), "noise": torch.tensor(noise)}, step)
    same_state(*both)
    really_compiled(both[1])


# ---------------------------------------------------------------------- automatic mixed precision


def test_autocast_is_a_graph_of_its_own():
    """bfloat16 has eight bits: where both compute in it, they agree to far more than it can tell from single."""
    both = twins(made(vae))
    single = twins(made(vae))[0]
    for step in range(2):
        with torch.autocast("cpu", torch.bfloat16):
            same_gradients(*both, {"x": X}, seed=step, tolerance=1e-2)
        torch.manual_seed(step)
        single.svi.gradients(x=X)
        rounded = torch.cat([p.grad.flatten() for p in both[1].pair.parameters()])
        exact = torch.cat([p.grad.flatten() for p in single.pair.parameters()])
        assert not torch.allclose(rounded, exact, rtol=1e-4, atol=1e-6)
        really_compiled(both[1], step + 1)
        same_gradients(*both, {"x": X}, seed=step)  # in single again
        really_compiled(both[1], 2)


# ---------------------------------------------------------------------- what is no graph


class Dice(Guide):
    def code(self, x):
        return self.net(x) * random.random()


class NumpyDice(Guide):
    def code(self, x):
        return self.net(x) * np.random.rand()  # noqa: NPY002


class Asking(Guide):
    def code(self, x):
        found = self.net(x)
        if found.mean().item() > 0:
            found = -found
        return found


class Looping(Guide):
    def code(self, x):
        found = self.net(x)
        while found.abs().max() > 0.1:
            found = found / 2
        return found


class Reckoning(Guide):
    def code(self, x):
        return self.net(x) * math.exp(-float(x.mean()))


class Applied(Guide):
    def code(self, x):
        return nn.functional.linear(x, Twice.apply(self.net.weight), self.net.bias)


def own_line(function, line):
    return rf"test_compiled\.py, line \d+, in {function}: {re.escape(line)}"


BAD = {
    "a draw of random": (Dice, r"a draw of random"),
    "a draw of numpy": (NumpyDice, r"a draw of numpy\.random"),
    "a condition": (Asking, own_line("code", "if found.mean().item() > 0:")),
    "a loop": (Looping, own_line("code", "while found.abs().max() > 0.1:")),
    "a number": (Reckoning, own_line("code", "return self.net(x) * math.exp(-float(x.mean()))")),
    "a function of a parameter": (Applied, r"a torch\.autograd\.Function that is applied to a parameter"),
}


def seeded_everywhere(act):
    def seeded(*given, seed=0, **named):
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        torch.manual_seed(seed)
        return act(*given, **named)

    return seeded


@pytest.mark.parametrize("name", BAD)
def test_programs_that_are_no_graphs_take_ordinary_steps(name):
    guide, words = BAD[name]
    both = twins(of(guide=guide))
    heard = []
    for step in range(3):
        losses = []
        for twin in both:
            heard += told(lambda: losses.append(seeded_everywhere(twin.svi.step)(seed=step, x=data())))  # noqa: B023
        assert losses[1] == losses[0]
    same_state(*both, tolerance=0)
    assert len(heard) == 1
    assert re.search(rf"CompiledSVI: .*ordinary steps from here on: .*{words}", heard[0])


def test_a_warning_names_the_line_of_the_caller():
    compiled = twins(of(guide=Looping))[1]
    with pytest.warns(UserWarning, match="CompiledSVI") as caught:
        compiled.svi.step(x=data())
    assert caught[0].filename == __file__


def test_a_machine_without_a_compiler_takes_ordinary_steps(monkeypatch):
    def none(*_, **__):
        def run(*_):
            raise RuntimeError("no compiler\nwith a long story")

        return run

    monkeypatch.setattr(torch, "compile", none)
    both = twins(made(norm_and_dropout), backend="inductor")
    (words,) = told(partial(same_losses, *both, {"x": X}, 0))
    assert re.search(r"takes ordinary steps from here on: .*RuntimeError: no compiler\)?$", words)
    same_steps(*both, [{"x": X}] * 2)
    assert both[1].graphs == []


@pytest.fixture
def unvalidated():
    """As in fit, where a loss is not finite instead of a parameter of a distribution."""
    with pyro.validation_enabled(False), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Encountered NaN: loss")  # Pyro's own
        yield


@pytest.mark.usefixtures("unvalidated")
def test_a_loss_that_is_not_finite_moves_no_parameter():
    both = twins(made(vae))
    same_losses(*both, {"x": X}, 0)
    before = copy.deepcopy(both[1].pair.state_dict())
    bad = X.clone()
    bad[3, 0, 1, 2] = torch.nan
    words = []
    for twin in both:
        with pytest.raises(FloatingPointError, match="the loss is nan: ") as caught:
            twin.svi.step(x=bad)
        words.append(str(caught.value))
    assert words[1] == words[0]
    assert all(torch.equal(value, before[name]) for name, value in both[1].pair.state_dict().items())
    same_losses(*both, {"x": X}, 1)
    same_state(*both)
    really_compiled(both[1])


@pytest.mark.parametrize("x", [X + 1, X / 2, -X], ids=["2", "half", "-1"])
def test_data_outside_the_support_are_refused_at_first_sight(x):
    compiled = twins(made(vae))[1]
    before = copy.deepcopy(compiled.pair.state_dict())
    with pytest.raises(ValueError, match="support"):
        compiled.svi.step(x=x)
    assert compiled.graphs == []
    assert all(torch.equal(value, before[name]) for name, value in compiled.pair.state_dict().items())
    assert compiled.svi.step(x=X) > 0


def test_an_error_of_the_programs_own_is_raised_as_it_is():
    class Broken(Guide):
        def code(self, x):
            raise KeyError("a word of its own")

    with pytest.raises(KeyError, match="a word of its own"):
        twins(of(guide=Broken))[1].svi.step(x=data())


def test_compiling_leaves_gradients_modes_and_the_store_as_they_were():
    pyro.param("theirs", torch.ones(2))
    pair = made(norm_and_dropout)
    next(m for m in pair.modules() if isinstance(m, nn.Dropout)).eval()
    modes = [m.training for m in pair.modules()]
    compiled = twins(pair)[1]
    compiled.svi.graph({"x": X})
    assert [m.training for m in compiled.pair.modules()] == modes
    assert all(p.grad is None for p in compiled.pair.parameters())
    assert all(torch.equal(a, b) for a, b in zip(compiled.pair.buffers(), pair.buffers(), strict=True))
    assert list(pyro.get_param_store().keys()) == ["theirs"]


def test_evaluation_moves_nothing_and_makes_no_graph():
    both = twins(made(norm_and_dropout))
    for act in ("evaluate_loss", "step", "evaluate_loss"):
        same_losses(*both, {"x": X}, 0, act)
    same_state(*both)
    really_compiled(both[1])


def test_copies_and_pickles_of_a_pair_that_was_compiled():
    both = twins(made(norm_and_dropout))
    same_losses(*both, {"x": X}, 0)
    again = twins(both[1].pair)
    same_steps(*again, [{"x": X}] * 2)
    same_steps(*both, [{"x": X}] * 2)


# ---------------------------------------------------------------------- functions


def linear_functions(net=None, start=None):
    """Plain functions, of which one registers a network and the other has parameters of its own."""
    decoder = nn.Linear(2, 4)
    net = net or nn.Linear(4, 2)

    def model(x):
        pyro.module("decoder", decoder)
        noise = pyro.param("noise", torch.tensor(0.5), constraint=dist.constraints.positive)
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), noise).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", net)
        shift = pyro.param("shift", start or torch.zeros(2))
        with pyro.plate("data", x.shape[0]):
            pyro.sample("z", dist.Normal(net(x) + shift, 0.3).to_event(1))

    return model, guide, net


def linear():
    return nn.Linear(4, 2)


def norm():
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Dropout(0.2), nn.Linear(5, 2))


def random_start():
    return torch.randn(2)


@pytest.mark.parametrize("start", [None, random_start], ids=["zeros", "drawn"])
@pytest.mark.parametrize("build", [linear, norm], ids=["linear", "batch norm"])
@pytest.mark.parametrize("wrapped", [False, True], ids=["functions", "variant"])
def test_functions(build, start, wrapped):
    """Also of parameters whose first values are drawn, from the caller's generator as ever."""
    found, words = [], []
    for cls in (SVI, partial(CompiledSVI, backend="eager")):
        torch.manual_seed(0)
        model, guide, net = linear_functions(build(), start)
        svi = cls(*(pv.Variant(model, guide) if wrapped else (model, guide)), adam, clip=2.0)
        losses, gradients = [], []
        for step in range(4):
            torch.manual_seed(step)
            x = data(7 if step == 2 else 20, step)
            words += told(lambda: losses.append(svi.step(x=x)))  # noqa: B023
            gradients.append([p.grad.clone() for p in svi.parameters])
        state = [*(p.detach().clone() for p in svi.parameters), *net.buffers()]
        found.append((losses, gradients, state, torch.get_rng_state()))
    (wanted, steps, weights, random), (losses, gradients, state, own) = found
    assert losses == pytest.approx(wanted, rel=1e-6)
    for these, those in zip(gradients, steps, strict=True):
        for a, b in zip(these, those, strict=True):
            same(a, b)
    for a, b in zip(state, weights, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    assert torch.equal(own, random)
    if build is linear:
        assert not svi._gave_up
        assert words == []
    else:  # averages of modules that nobody can find in a function need not be in a graph, but nor may they be lost
        assert svi._gave_up == (len(words) == 1)


def test_functions_are_compiled_once():
    model, guide, _ = linear_functions()
    svi = CompiledSVI(model, guide, adam, backend="eager")
    for _ in range(3):
        svi.step(x=data())
    assert sum(map(len, svi._graphs.values())) == 1


def test_nothing_to_train_is_told():
    def model(x):
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.repeat(1, 2), 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", x.shape[0]):
            pyro.sample("z", dist.Normal(x[:, :2], 1.0).to_event(1))

    with pytest.raises(ValueError, match="no parameters to train"):
        CompiledSVI(model, guide, adam, backend="eager").step(x=data())


# ---------------------------------------------------------------------- a queue

FUSED = {
    "Adam": partial(torch.optim.Adam, lr=1e-3, fused=True),
    "AdamW": partial(torch.optim.AdamW, lr=1e-3, fused=True),
    "SGD": partial(torch.optim.SGD, lr=1e-3, momentum=0.9, fused=True),
}


@pytest.mark.parametrize("name", FUSED)
def test_a_queue_takes_the_same_steps(name):
    both = twins(made(norm_and_dropout), None, temper(WarmUp(epochs=2)), optim=FUSED[name])
    for step, size in enumerate((30, 30, 7, 32, 30)):
        for twin in both:
            twin.at(step / 3)
        torch.manual_seed(step)
        wanted = both[0].svi.step(x=X[:size])
        torch.manual_seed(step)
        found = both[1].svi.queue(x=X[:size])
        assert torch.is_tensor(found)
        assert found.item() == pytest.approx(wanted, rel=2e-6)
        same_state(*both)


def test_a_queue_of_batches_of_several_kinds():
    pair = made(partial(pv.m2, SHAPE, 3, classes=4, hidden=(8,)))
    batch = batch_of(pair, 30)
    without = {"x": batch["x"]}
    both = twins(pair, suited(pair, without))
    parts = [(0.3, {name: value[:10] for name, value in batch.items()}), (1.0, without)]
    for step in range(3):
        torch.manual_seed(step)
        wanted = both[0].svi.step_together(parts)
        torch.manual_seed(step)
        assert both[1].svi.queue_together(parts).item() == pytest.approx(wanted, rel=1e-6)
    same_state(*both)


def test_a_queue_of_programs_that_are_no_graphs():
    both = twins(of(guide=Looping))
    with pytest.warns(UserWarning, match="ordinary steps"):
        both[1].svi.queue(x=data())
    both[0].svi.step(x=data())
    both = twins(of(guide=Looping))
    for step in range(3):
        torch.manual_seed(step)
        wanted = both[0].svi.step(x=data())
        torch.manual_seed(step)
        with warnings.catch_warnings(action="ignore"):
            assert both[1].svi.queue(x=data()).item() == pytest.approx(wanted, rel=1e-6)
    same_state(*both)


@pytest.mark.usefixtures("unvalidated")
@pytest.mark.parametrize("size", [32, 7], ids=["compiled", "ordinary"])
def test_after_a_loss_that_is_not_finite_a_queue_moves_nothing(size):
    compiled = twins(made(vae))[1]
    bad = X[:size].clone()
    bad[3, 0, 1, 2] = torch.nan
    losses, states = [], []
    for x in (X, X, bad, X, X[:5]):
        losses.append(compiled.svi.queue(x=x))
        optimizer = copy.deepcopy(compiled.svi.optimizer.state_dict()["state"])
        states.append((copy.deepcopy(compiled.pair.state_dict()), optimizer))
    assert torch.stack(losses).isfinite().tolist() == [True, True, False, True, True]
    assert not torch.equal(*(next(iter(states[i][0].values())) for i in (0, 1)))
    for parameters, moments in states[2:]:
        assert all(torch.equal(value, states[1][0][name]) for name, value in parameters.items())
        for index, held in moments.items():
            assert all(torch.equal(value, states[1][1][index][name]) for name, value in held.items())


def test_a_queue_needs_an_optimiser_that_can_leave_out_a_step():
    compiled = twins(made(vae), optim=partial(torch.optim.Adam, lr=1e-3))[1]
    with pytest.raises(ValueError, match=r"queue: Adam leaves out no step; expected .* with fused=True"):
        compiled.svi.queue(x=X)
    assert compiled.svi.step(x=X) > 0


def test_nothing_queues_on_a_cpu():
    assert not twins(made(vae))[1].svi.can_queue


# ---------------------------------------------------------------------- compiled for real

SMALL = partial(priors.PixelCNN, hidden=4, layers=1)
COMPILED = {  # the ways in which a graph is more than a forward pass of linear layers
    "vae": (vae, None),
    "hierarchy under a schedule": (partial(pv.hvae, SHAPE, (3, 2), hidden=(8,)), WarmUp(epochs=3)),
    "codebook": (partial(pv.vq_vae, (1, 8, 8), 8, 4, hidden=(8,), prior=SMALL), None),
    "batch norm and dropout": (norm_and_dropout, None),
    "labels summed over": (partial(pv.m2, SHAPE, 3, classes=3, hidden=(8,)), None),
}


# of uniform noise and whole numbers; how normal noise is drawn has not changed
redrawn = pytest.mark.xfail(torch.__version__.startswith("2.11"), reason="this compiler draws in a way of its own")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=redrawn) if n in ("codebook", "batch norm and dropout") else n for n in COMPILED],
)
def test_a_compiler_changes_nothing_but_the_order_of_sums(name):
    build, weight = COMPILED[name]
    pair = made(build)
    batch = batch_of(pair, 30)
    batch = {"x": batch["x"]} if pair.labels else batch
    both = twins(pair, suited(pair, batch), weight and temper(weight), backend="inductor")
    for step in range(3):
        for twin in both:
            twin.at(step)
        torch.manual_seed(step)
        wanted = both[0].svi.gradients(**batch)
        torch.manual_seed(step)
        assert both[1].svi.gradients(**batch) == pytest.approx(wanted, rel=1e-5)
        largest = max(float(p.grad.abs().max()) for p in both[0].pair.parameters() if p.grad is not None)
        for (label, p), own in zip(both[0].pair.named_parameters(), both[1].pair.parameters(), strict=True):
            torch.testing.assert_close(own.grad, p.grad, rtol=1e-4, atol=1e-4 * largest, msg=label)
    for own, wanted in zip(both[1].pair.buffers(), both[0].pair.buffers(), strict=True):
        torch.testing.assert_close(own, wanted, rtol=1e-4, atol=1e-5)
    really_compiled(both[1])


@redrawn
@pytest.mark.slow
def test_a_compiler_takes_any_number_of_data():
    both = twins(made(norm_and_dropout), backend="inductor", dynamic=True)
    for step, size in enumerate((20, 7, 32)):
        torch.manual_seed(step)
        wanted = both[0].svi.step(x=X[:size])
        torch.manual_seed(step)
        assert both[1].svi.step(x=X[:size]) == pytest.approx(wanted, rel=1e-5)
    really_compiled(both[1])


# ---------------------------------------------------------------------- on CUDA

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")


@needs_cuda
@pytest.mark.parametrize("backend", ["eager", "inductor"])
@pytest.mark.parametrize("name", ["vae", "batch norm and dropout", "codebook"])
def test_recorded_steps_are_the_ordinary_ones(name, backend):
    build, _ = COMPILED[name]
    pair = made(build).cuda()
    batch = {site: value.cuda() for site, value in batch_of(pair, 30).items()}
    both = twins(pair, suited(pair, batch), temper(WarmUp(epochs=3)), backend=backend)
    for step in range(6):  # the first are not recorded yet
        for twin in both:
            twin.at(step / 2)
        torch.manual_seed(step)
        wanted = both[0].svi.step(**batch)
        torch.manual_seed(step)
        assert both[1].svi.queue(**batch).item() == pytest.approx(wanted, rel=1e-5)
    same_state(*both, tolerance=1e-5 if backend == "eager" else 1e-3)  # a step of Adam is 1e-3
    (recorded,) = both[1].svi._queue.recorded.values()
    assert recorded is not None


@needs_cuda
def test_nobody_waits_for_a_queued_step():
    pair = made(vae).cuda()
    x = X.cuda()
    compiled = twins(pair, None, temper(WarmUp(epochs=3)))[1]
    for _ in range(3):
        compiled.svi.queue(x=x)
    torch.cuda.set_sync_debug_mode("error")
    try:
        losses = []
        for step in range(5):
            compiled.at(step / 2)
            losses.append(compiled.svi.queue(x=x))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.stack(losses).isfinite().all()


@needs_cuda
def test_a_recorded_queue_moves_nothing_after_a_loss_that_is_not_finite():
    compiled = twins(made(vae).cuda())[1]
    bad = X.clone()
    bad[3, 0, 1, 2] = torch.nan
    losses, states = [], []
    for x in (X, X, X, bad, X):
        losses.append(compiled.svi.queue(x=x.cuda()))
        states.append(copy.deepcopy(compiled.pair.state_dict()))
    assert torch.stack(losses).isfinite().tolist() == [True, True, True, False, True]
    assert all(torch.equal(value, states[2][name]) for state in states[3:] for name, value in state.items())


@needs_cuda
def test_a_learning_rate_on_a_schedule_is_recorded_anew():
    both = twins(made(vae).cuda())
    schedules = [StepLR(twin.svi.optimizer, step_size=3, gamma=0.1) for twin in both]
    for step in range(7):
        torch.manual_seed(step)
        both[0].svi.step(x=X.cuda())
        torch.manual_seed(step)
        both[1].svi.queue(x=X.cuda())
        for schedule in schedules:
            schedule.step()
    same_state(*both)


@needs_cuda
def test_a_run_on_cuda_is_the_ordinary_one():
    runs = {}
    for compiled in (False, True):
        pair = made(vae)
        run = pv.fit(pair, X.repeat(5, 1, 1, 1), epochs=3, batch_size=30, compile=compiled, progress=False)
        assert run.device.startswith("cuda")
        runs[compiled] = run
    assert runs[True].compiled
    assert not runs[False].compiled
    for a, b in zip(runs[False].variant.parameters(), runs[True].variant.parameters(), strict=True):
        torch.testing.assert_close(b, a, rtol=1e-3, atol=1e-3)  # a step of Adam
    assert runs[True].history["elbo"] == pytest.approx(runs[False].history["elbo"], abs=0.02)


# ---------------------------------------------------------------------- fit


class Eager(CompiledSVI):
    """Without the seconds of a compiler."""

    made = 0

    def __init__(self, *given, **named):
        super().__init__(*given, backend="eager", **named)
        type(self).made += 1


class Queueing(Eager):
    queues = True


@pytest.fixture
def eager(monkeypatch):
    monkeypatch.setattr(loop, "CompiledSVI", Eager)
    monkeypatch.setattr(Eager, "made", 0)


@pytest.fixture
def queueing(monkeypatch):
    monkeypatch.setattr(loop, "CompiledSVI", Queueing)


@pytest.fixture
def enough(monkeypatch):
    """Steps after which a training is compiled: those of three epochs, of 100 data in batches of 32."""
    monkeypatch.setattr("pyro_vae.train.compiling.ENOUGH", {"cpu": 12})


DATA = (torch.rand(100, *SHAPE, generator=torch.Generator().manual_seed(0)) > 0.5).float()


def trained(build=vae, x=DATA, **options):
    pair = made(build)
    settings = {"epochs": 3, "batch_size": 32, "device": "cpu", "progress": False} | options
    return pair, pv.fit(pair, x, **settings)


def equal(first, second):
    pairs = zip(first.state_dict().items(), second.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for (_, a), b in pairs)


def figures(run, but=()):
    return {name: values for name, values in run.history.items() if name not in ("seconds", *but)}


@pytest.mark.parametrize(
    "options",
    [{}, {"temper": WarmUp(epochs=2)}, {"clip": 1.0}, {"lr_schedule": partial(StepLR, step_size=1)}],
    ids=["plain", "schedule", "clip", "learning rate"],
)
def test_a_compiled_run_is_the_ordinary_one(options, eager):
    runs = {}
    for compiled in (False, True):
        pair, run = trained(norm_and_dropout, validation=DATA[:50], compile=compiled, **options)
        assert run.compiled is compiled
        runs[compiled] = pair, run
    assert Eager.made == 1
    for (name, wanted), found in zip(
        runs[False][0].state_dict().items(), runs[True][0].state_dict().values(), strict=True
    ):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5, msg=name)
    for name, values in figures(runs[False][1]).items():
        assert runs[True][1].history[name] == pytest.approx(values, rel=1e-5, abs=1e-4), name


@pytest.mark.parametrize(
    ("asked", "epochs", "compiled"),
    [(None, 2, False), (None, 3, True), (None, 4, True), (False, 4, False), (True, 1, True)],
)
def test_a_run_is_compiled_where_steps_are_enough(asked, epochs, compiled, eager, enough):
    _, run = trained(epochs=epochs, compile=asked)
    assert run.compiled is compiled
    assert Eager.made == compiled


def test_a_short_run_is_not_compiled_by_itself(eager):
    _, run = trained()
    assert not run.compiled
    assert Eager.made == 0


def test_games_and_steppers_are_never_compiled(eager, enough):
    def game(**options):
        return trained(objective=partial(pv.infer.FactorVAE, weight=2.0), epochs=4, **options)

    def stepper(**options):
        pair = made(vae)
        return pv.fit(pair, DATA, objective=SVI(*pair, adam), epochs=4, device="cpu", progress=False, **options)

    for train in (game, stepper, partial(trained, partial(pv.aae, SHAPE, hidden=(8,)))):
        with pytest.raises(ValueError, match="compile: a stepper takes steps of its own; expected"):
            train(compile=True)
        train(compile=False)
    assert not game()[1].compiled
    assert Eager.made == 0


def test_a_compiled_stepper_of_ones_own():
    pair, again = made(vae), made(vae)
    pv.fit(pair, DATA, objective=CompiledSVI(*pair, adam, backend="eager"), epochs=2, device="cpu", progress=False)
    pv.fit(again, DATA, objective=SVI(*again, adam), epochs=2, device="cpu", progress=False)
    for a, b in zip(pair.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("stepper", [Eager, Queueing])
def test_a_compiled_run_goes_on_bit_by_bit(stepper, monkeypatch, tmp_path):
    monkeypatch.setattr(loop, "CompiledSVI", stepper)
    options = {"validation": DATA[:50], "compile": True, "clip": 1.0, "temper": WarmUp(epochs=2)}
    whole, run = trained(norm_and_dropout, epochs=4, **options)
    trained(norm_and_dropout, epochs=2, out=tmp_path / "run", **options)
    del options["compile"]  # what it was, it stays
    again, rest = trained(norm_and_dropout, epochs=4, out=tmp_path / "run", resume=True, **options)
    assert rest.compiled
    assert equal(again, whole)
    assert figures(rest) == figures(run)


def test_a_run_that_is_resumed_for_longer_stays_what_it_was(eager, enough, tmp_path):
    whole, _ = trained(epochs=5, compile=False)
    _, first = trained(epochs=2, out=tmp_path / "run")
    again, run = trained(epochs=5, out=tmp_path / "run", resume=True)
    assert not first.compiled
    assert not run.compiled
    assert Eager.made == 0
    assert equal(again, whole)


def test_a_compiled_run_is_resumed_as_one_though_little_is_left(eager, enough, tmp_path):
    trained(epochs=1, compile=True, out=tmp_path / "run")
    _, run = trained(epochs=2, out=tmp_path / "run", resume=True)
    assert run.compiled
    assert Eager.made == 2


@pytest.mark.parametrize("compiled", [False, True])
def test_a_run_is_not_resumed_as_what_it_was_not(compiled, eager, tmp_path):
    trained(epochs=1, compile=compiled, out=tmp_path / "run")
    before = (tmp_path / "run" / "checkpoint.safetensors").read_bytes()
    with pytest.raises(ValueError, match=f"resume: compile: the run has {compiled}, found {not compiled}"):
        trained(epochs=2, compile=not compiled, out=tmp_path / "run", resume=True)
    assert (tmp_path / "run" / "checkpoint.safetensors").read_bytes() == before
    assert trained(epochs=2, compile=compiled, out=tmp_path / "run", resume=True)[1].epochs == 2


@pytest.mark.parametrize("name", ["plain", "labels", "loader"])
def test_a_queue_trains_as_steps_do(name, monkeypatch):
    x, build = DATA, norm_and_dropout
    if name == "labels":
        build = partial(pv.m2, SHAPE, 3, classes=4, hidden=(8,))
        x = {"x": DATA, "c": torch.where(torch.arange(100) % 5 == 0, torch.arange(100) % 4, -1)}
    if name == "loader":
        x = DataLoader(TensorDataset(DATA), batch_size=32, shuffle=True)
    runs = []
    for stepper in (Eager, Queueing):
        monkeypatch.setattr(loop, "CompiledSVI", stepper)
        runs.append(trained(build, x, compile=True, temper=None if name == "labels" else WarmUp(epochs=2)))
    assert equal(runs[0][0], runs[1][0])
    assert figures(runs[1][1], but=["objective"]) == figures(runs[0][1], but=["objective"])
    assert runs[1][1].history["objective"] == pytest.approx(runs[0][1].history["objective"], rel=1e-6)


@pytest.mark.parametrize("stepper", [Eager, Queueing])
def test_a_loss_that_is_not_finite_is_told_with_its_epoch_and_step(stepper, monkeypatch):
    x = torch.randn(100, 4)
    x[77, 2] = 3e25  # whose square is no single number
    build = partial(pv.vae, 4, latent=2, hidden=(8,), likelihood=likelihoods.Normal)
    words = []
    for compiled in (False, True):
        monkeypatch.setattr(loop, "CompiledSVI", stepper)
        with pytest.raises(FloatingPointError, match=r"^epoch 1, step \d: ") as caught:
            trained(build, x, compile=compiled, seed=1)
        words.append(str(caught.value))
    assert words[1] == words[0]


@pytest.mark.parametrize("stepper", [Eager, Queueing])
def test_data_of_a_stream_are_checked_as_they_come_by(stepper, monkeypatch):
    """As in an ordinary run: those in memory were all looked at before, a loader's were not."""
    monkeypatch.setattr(loop, "WATCHED", 25)  # of which the terms of the ELBO are measured after an epoch
    monkeypatch.setattr(loop, "CompiledSVI", stepper)
    bad = DATA.clone()
    bad[90] = 3.0  # in the last batch
    for compiled in (False, True):
        with pytest.raises(ValueError, match="support"):
            trained(x=DataLoader(TensorDataset(bad), batch_size=25), compile=compiled)


def test_what_cannot_be_compiled_trains_all_the_same(eager):
    build = partial(vae, prior=priors.SphericalUniform)
    ordinary, _ = trained(build)
    with pytest.warns(UserWarning, match="takes ordinary steps from here on") as caught:
        again, run = trained(build, compile=True)
    assert len(caught) == 1
    assert run.compiled  # as it was asked for
    assert equal(again, ordinary)
