"""A hierarchical VAE of the embedded digits in plain Pyro: two levels, their KL warmed up from the top downwards."""

import tempfile

import pyro
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import ClippedAdam

import pyro_vae as pv

pyro.set_rng_seed(0)
x = pv.data.load("digits", binarise="threshold").x
test = pv.data.load("digits", "test", binarise="threshold").x

pair = pv.hvae((1, 8, 8), latents=(8, 4), guide="top-down", skip=False)
weights = pv.temper({"z1": pv.infer.WarmUp(epochs=4), "z2": pv.infer.WarmUp(epochs=8)})
svi = SVI(weights(pair.model), weights(pair.guide), ClippedAdam({"lr": 3e-3}), Trace_ELBO())

for epoch in range(16):
    weights.epoch = epoch
    shuffled = x[torch.randperm(len(x))]
    for batch in shuffled.split(64):
        svi.step(x=batch)
    loss = Trace_ELBO().loss(pair.model, pair.guide, x=x) / len(x)  # without weights
    print(f"epoch {epoch}: loss {loss:.2f} nats per datum")

with tempfile.TemporaryDirectory() as folder:
    loaded = pv.load(pair.save(folder))

for name, one in (("trained", pair), ("loaded", loaded)):
    print(f"{name}: log-likelihood {one.log_likelihood(x=test, particles=50, seed=0).mean():.4f}")

with torch.no_grad():
    codes = poutine.trace(loaded.guide).get_trace(x=test)  # q(z2 | x) q(z1 | x, z2)
    dreams = {}
    for held in (("z1", "z2"), ("z2",), ()):
        values = {site: codes.nodes[site]["value"] for site in held}
        dreamt = poutine.trace(poutine.condition(loaded.model, data=values)).get_trace(n=len(test))
        dreams[held] = dreamt.nodes["x"]["fn"].mean
for held, mean in dreams.items():
    agreement = ((mean > 0.5) == test.bool()).float().mean()
    print(f"pixels told where {' and '.join(held) or 'nothing'} is held: {agreement:.3f}")
