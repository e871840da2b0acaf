"""Compiled steps held against ordinary ones: the same first weights, the same seeds, the same of everything else.

Losses may differ by the rounding of their terms, which Pyro adds up in double precision and a graph does not. Gradients
are computed by the same operations in the same order: they differ where a number on a schedule, which an ordinary step
holds in double precision, is a single tensor in a graph, and where a compiler changes the order.
"""

import copy
import warnings
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from pyro.nn import PyroModule
from torch import nn

import pyro_vae as pv
from pyro_vae import tracing
from pyro_vae.infer import SVI, CompiledSVI
from pyro_vae.infer.pacing import Paced
from pyro_vae.train import loop

SHAPE = (1, 4, 4)
EXACT = 1e-6  # of a gradient, as a part of its largest number
NORM = 2.0  # of the gradients at which they are clipped, which is less than most first gradients have


def adam(parameters):
    return torch.optim.Adam(parameters, lr=1e-3, fused=True)


class Twin(NamedTuple):
    pair: Any
    svi: Any

    @property
    def graphs(self):
        return [graph for graphs in self.svi._graphs.values() for graph in graphs]

    def at(self, epoch):
        """With all schedules where they are then."""
        for handler in tracing.handlers(self.svi.model):
            if isinstance(handler, Paced):
                handler.epoch = epoch


def suited(pair, batch):
    """The ELBO that fit would take."""
    with pyro.validation_enabled(False):
        traces = tracing.paired(pair.model, pair.guide, batch)
    return loop._suited(pair, traces) or Trace_ELBO()


def twins(pair, objective=None, temper=None, *, optim=adam, clip=NORM, backend="eager", dynamic=False, size=100):
    """A pair under an ordinary SVI, and its copy under a compiled one."""
    both = []
    for cls, options in ((SVI, {}), (CompiledSVI, {"backend": backend, "dynamic": dynamic})):
        own, loss, weight = copy.deepcopy((pair, objective, temper))
        programs = own.trained(weight, pv.infer.minibatch(size) if own.shares else None)
        both.append(Twin(own, cls(*programs, optim, loss, clip=clip, **options)))
    return both


def same(found, wanted, name="", tolerance=EXACT):
    """Two tensors, by the largest number of the wanted one."""
    assert found.dtype == wanted.dtype, name
    gap = float((found.detach().double() - wanted.detach().double()).abs().max()) if wanted.numel() else 0.0
    assert gap <= tolerance * float(wanted.detach().abs().max()), f"{name} differs by {gap}"


def loss_of(twin, batch, seed, act):
    torch.manual_seed(seed)
    loss = float(getattr(twin.svi, act)(**batch))
    return loss, torch.get_rng_state()


def same_losses(ordinary, compiled, batch, seed, act="step"):
    """And as many random numbers drawn."""
    (wanted, state), (found, own) = (loss_of(twin, batch, seed, act) for twin in (ordinary, compiled))
    # the terms of a loss are up to some thousand nats; where they cancel, their rounding stays
    assert found == pytest.approx(wanted, rel=2e-6, abs=2e-3)
    assert torch.equal(own, state), "another number of draws"


def same_gradients(ordinary, compiled, batch, seed=0, tolerance=EXACT):
    same_losses(ordinary, compiled, batch, seed, act="gradients")
    found = dict(compiled.pair.named_parameters())
    for name, wanted in ordinary.pair.named_parameters():
        assert (found[name].grad is None) == (wanted.grad is None), name
        if wanted.grad is not None:
            same(found[name].grad, wanted.grad, name, tolerance)


def same_state(ordinary, compiled, tolerance=1e-5):
    """By a hundredth of a step of Adam, which is as long for a gradient of 1e-9 as for one of 1."""
    found = compiled.pair.state_dict()
    for name, wanted in ordinary.pair.state_dict().items():
        torch.testing.assert_close(found[name], wanted, rtol=tolerance, atol=tolerance, msg=name)


def same_steps(ordinary, compiled, batches, schedule=lambda step: 0.0, **tolerances):
    """The gradients of a first step, and whatever a few steps move."""
    batches = list(batches)
    for step, batch in enumerate([batches[0], *batches]):
        for twin in (ordinary, compiled):
            twin.at(schedule(max(step - 1, 0)))
        if step == 0:
            same_gradients(ordinary, compiled, batch, **tolerances)
        else:
            same_losses(ordinary, compiled, batch, step)
    same_state(ordinary, compiled)


def really_compiled(twin, graphs=1):
    assert not twin.svi._gave_up
    assert len(twin.graphs) == graphs


def told(act):
    """What a compiled SVI warned of meanwhile."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        act()
    return [words for warning in caught if "CompiledSVI" in (words := str(warning.message))]


# ---------------------------------------------------------------------- a story of one's own, of which a part is odd


class Story(PyroModule):
    """z ~ N(0, I), x ~ N(net(z), 0.5^2)"""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(2, 4)

    def forward(self, x=None, n=1):
        with pyro.plate("data", n if x is None else x.shape[0]):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(self.mean(z), 0.5).to_event(1), obs=x)

    def mean(self, z):
        return self.net(z)


class Guide(PyroModule):
    """z ~ N(net(x), 0.3^2)"""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(4, 2)

    def forward(self, x):
        with pyro.plate("data", x.shape[0]):
            pyro.sample("z", self.posterior(x))

    def posterior(self, x):
        return dist.Normal(self.code(x), 0.3).to_event(1)

    def code(self, x):
        return self.net(x)


def of(story=Story, guide=Guide, **given):
    torch.manual_seed(0)
    return pv.Variant(story(), guide(), **given)


def data(n=20, seed=1, dtype=torch.float32):
    return torch.randn(n, 4, generator=torch.Generator().manual_seed(seed), dtype=dtype)
