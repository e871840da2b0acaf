"""Classes of the embedded digits that nobody has told, in plain Pyro: summed over, beside a continuous style."""

import tempfile

import pyro
import torch
from pyro.infer import SVI, TraceEnum_ELBO
from pyro.optim import Adam

import pyro_vae as pv
from pyro_vae.evaluation import clustering

pyro.set_rng_seed(1)
x = pv.data.load("digits", binarise="threshold").x
test = pv.data.load("digits", "test", binarise="threshold")

pair = pv.joint_vae((1, 8, 8), classes=10, latent=4, estimator="enumerate", hidden=(128,))
elbo = TraceEnum_ELBO(max_plate_nesting=1)
svi = SVI(*pair.trained(pv.temper({"z": 2.0})), Adam({"lr": 5e-3}), elbo)  # styles are dear, classes are not

for epoch in range(20):
    shuffled = x[torch.randperm(len(x))]
    loss = sum(svi.step(x=batch) for batch in shuffled.split(64)) / len(x)
    print(f"epoch {epoch}: loss {loss:.2f} nats per datum")

with tempfile.TemporaryDirectory() as folder:
    loaded = pv.load(pair.save(folder))

for name, one in (("trained", pair), ("loaded", loaded)):
    print(f"{name}: log-likelihood {one.log_likelihood(x=test.x, particles=50, seed=0).mean():.4f}")

c = loaded.encode(x=test.x)["c"].probs[:, 0].argmax(-1)
print(f"clustering accuracy {clustering(c, test.labels.long()):.3f}")
