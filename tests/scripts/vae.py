"""A VAE of the embedded digits in plain Pyro."""

import tempfile

import pyro
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import ExponentialLR

import pyro_vae as pv

pyro.set_rng_seed(0)
x = pv.data.load("digits", binarise="threshold").x
test = pv.data.load("digits", "test", binarise="threshold").x

pair = pv.vae((1, 8, 8), latent=8)
scheduler = ExponentialLR({"optimizer": torch.optim.Adam, "optim_args": {"lr": 5e-3}, "gamma": 0.9})
elbo = Trace_ELBO(num_particles=2, vectorize_particles=True, max_plate_nesting=1)
svi = SVI(*pair, scheduler, elbo)

for epoch in range(8):
    shuffled = x[torch.randperm(len(x))]
    loss = sum(svi.step(x=batch) for batch in shuffled.split(64)) / len(x)
    scheduler.step()
    print(f"epoch {epoch}: loss {loss:.2f} nats per datum")

with tempfile.TemporaryDirectory() as folder:
    loaded = pv.load(pair.save(folder))

for name, one in (("trained", pair), ("loaded", loaded)):
    print(f"{name}: log-likelihood {one.log_likelihood(x=test, particles=50, seed=0).mean():.4f}")

with torch.no_grad():
    q = poutine.trace(loaded.guide).get_trace(x=test).nodes["z"]["fn"]
    images = loaded.model.likelihood(q.mean).mean
print(f"posterior of {tuple(q.mean.shape)} codes, scales {q.stddev.min():.2f} to {q.stddev.max():.2f}")
print(f"pixels told from the means of the codes: {((images > 0.5) == test.bool()).float().mean():.3f}")
