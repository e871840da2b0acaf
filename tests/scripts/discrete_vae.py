"""Categorical codes of the embedded digits in plain Pyro: relaxed, by the policy gradient, and summed over."""

import tempfile

import pyro
import torch
from pyro.infer import SVI, Predictive, Trace_ELBO, TraceEnum_ELBO, TraceGraph_ELBO
from pyro.optim import Adam

import pyro_vae as pv

pyro.set_rng_seed(0)
x = pv.data.load("digits", binarise="threshold").x
test = pv.data.load("digits", "test", binarise="threshold").x

# one story, three estimators; the objective is Pyro's own
pairs = {
    "relaxed": (pv.discrete_vae((1, 8, 8), codes=3, categories=8), Trace_ELBO()),
    "score": (pv.discrete_vae((1, 8, 8), codes=3, categories=8, estimator="score"), TraceGraph_ELBO()),
    "enumerate": (
        pv.discrete_vae((1, 8, 8), codes=3, categories=8, estimator="enumerate", hidden=(64,)),
        TraceEnum_ELBO(max_plate_nesting=1),
    ),
}
for name in reversed(pairs):
    pair, elbo = pairs[name]
    svi = SVI(*pair, Adam({"lr": 5e-3}), elbo)
    losses = []
    for _ in range(25 if name == "relaxed" else 10):
        shuffled = x[torch.randperm(len(x))]
        losses.append(sum(svi.step(x=batch) for batch in shuffled.split(64)) / len(x))
    print(f"{name}: from {losses[0]:.2f} to {losses[-1]:.2f}")
for epoch, loss in enumerate(losses):
    print(f"epoch {epoch}: loss {loss:.2f} nats per datum")

with tempfile.TemporaryDirectory() as folder:
    loaded = pv.load(pair.save(folder))

for name, one in (("trained", pair), ("loaded", loaded)):
    print(f"{name}: log-likelihood {one.log_likelihood(x=test, particles=50, seed=0).mean():.4f}")

# the bare guide draws codes: Pyro's Predictive finds what encode says
draws = Predictive(loaded.guide, num_samples=300, parallel=True)(x=test)["z"]
assert set(draws.unique().tolist()) == {0.0, 1.0}
told = loaded.encode(x=test)["z"].probs
print(f"draws and probabilities differ by {(draws.mean(0) - told).abs().mean():.4f} on average")
