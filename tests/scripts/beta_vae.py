"""A beta-VAE of the embedded digits in plain Pyro: what the two programs are trained under is kept with the pair."""

import tempfile

import pyro
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import ExponentialLR

import pyro_vae as pv

BETA = 0.5

pyro.set_rng_seed(0)
x = pv.data.load("digits", binarise="threshold").x
test = pv.data.load("digits", "test", binarise="threshold").x

pair = pv.beta_vae((1, 8, 8), beta=BETA, latent=8)
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

# model and guide without the weight on the KL, under handlers of Pyro's own
many = Trace_ELBO(num_particles=100, vectorize_particles=True, max_plate_nesting=1)
with torch.no_grad():
    guide = poutine.trace(loaded.guide).get_trace(x=test)
    q, p = guide.nodes["z"]["fn"], loaded.model.prior()
    rate = torch.distributions.kl_divergence(q.base_dist, p.base_dist).sum(-1).mean()
    bare = many.loss(loaded.model, loaded.guide, x=test) / len(test)
    trained = many.loss(*loaded, x=test) / len(test)
print(f"rate {rate:.3f}, minus ELBO {bare:.3f}, beta {BETA}: {bare + (BETA - 1) * rate:.3f}")
print(f"loss {trained:.3f} of the loaded pair as it is trained")
