"""Numbers of a codebook for the embedded digits in plain Pyro, their prior learned along with them."""

import tempfile

import pyro
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import Adam

import pyro_vae as pv

pyro.set_rng_seed(0)
x = pv.data.load("digits", binarise="threshold").x
test = pv.data.load("digits", "test", binarise="threshold").x

pair = pv.vq_vae((1, 8, 8), codebook=16, width=8, hidden=(16,))
svi = SVI(*pair, Adam({"lr": 3e-3}), Trace_ELBO())

for epoch in range(15):
    shuffled = x[torch.randperm(len(x))]
    loss = sum(svi.step(x=batch) for batch in shuffled.split(64)) / len(x)
    print(f"epoch {epoch}: loss {loss:.2f} nats per datum")

with tempfile.TemporaryDirectory() as folder:
    loaded = pv.load(pair.save(folder))

for name, one in (("trained", pair), ("loaded", loaded)):
    print(f"{name}: log-likelihood {one.log_likelihood(x=test, particles=2, seed=0).mean():.4f}")

# what a datum is told by, by hand: the pixels given the codes, and the codes
z = loaded.encode(x=test)["z"].mode
pixels = loaded.model.likelihood(z).log_prob(test)
codes = loaded.model.prior().log_prob(z)
print(f"by hand: {(pixels + codes).mean():.4f}, ELBO {loaded.elbo(x=test).mean():.4f}")
print(f"entries in use: {int((z.sum((0, 1)) > 0).sum())} of 16")
