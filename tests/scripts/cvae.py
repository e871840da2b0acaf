"""A conditional VAE of the embedded digits in plain Pyro."""

import tempfile

import pyro
import torch
from pyro import poutine
from pyro.infer import SVI, Predictive, Trace_ELBO
from pyro.optim import ExponentialLR

import pyro_vae as pv

pyro.set_rng_seed(0)
train = pv.data.load("digits", binarise="threshold")
test = pv.data.load("digits", "test", binarise="threshold")
x, c = train.x, train.labels

pair = pv.cvae((1, 8, 8), latent=4, classes=10)
scheduler = ExponentialLR({"optimizer": torch.optim.Adam, "optim_args": {"lr": 5e-3}, "gamma": 0.9})
elbo = Trace_ELBO(num_particles=2, vectorize_particles=True, max_plate_nesting=1)
svi = SVI(*pair, scheduler, elbo)

for epoch in range(8):
    batches = torch.randperm(len(x)).split(64)
    loss = sum(svi.step(x=x[i], c=c[i]) for i in batches) / len(x)
    scheduler.step()
    print(f"epoch {epoch}: loss {loss:.2f} nats per datum")

with tempfile.TemporaryDirectory() as folder:
    loaded = pv.load(pair.save(folder))

for name, one in (("trained", pair), ("loaded", loaded)):
    bound = one.log_likelihood(x=test.x, c=test.labels, particles=50, seed=0).mean()
    print(f"{name}: log-likelihood {bound:.4f}")

with torch.no_grad():
    q = poutine.trace(loaded.guide).get_trace(x=test.x, c=test.labels).nodes["z"]["fn"]
print(f"posterior of {tuple(q.mean.shape)} codes, scales {q.stddev.min():.2f} to {q.stddev.max():.2f}")

# a hundred draws under each class: whose mean image are they nearest to?
digits = torch.arange(10)
draws = Predictive(loaded.model, num_samples=100, parallel=True)(c=digits)["x"]
means = torch.stack([x[c == digit].mean(0) for digit in digits])
nearest = (draws[:, :, None] - means).flatten(3).square().sum(-1).argmin(-1)
print(f"draws nearest to the mean of their class: {(nearest == digits).float().mean():.3f}")
