"""Semi-supervised learning of the embedded digits in plain Pyro: a hundred labels, and the rest summed over."""

import tempfile

import pyro
import torch
from pyro.infer import SVI, Predictive, TraceEnum_ELBO
from pyro.optim import ExponentialLR

import pyro_vae as pv

pyro.set_rng_seed(0)
train = pv.data.load("digits", binarise="threshold", labelled=100)
test = pv.data.load("digits", "test", binarise="threshold")
known = train.labels >= 0
labelled, c, unlabelled = train.x[known], train.labels[known], train.x[~known]

pair = pv.m2((1, 8, 8), latent=8, classes=10, weight=30.0)
scheduler = ExponentialLR({"optimizer": torch.optim.Adam, "optim_args": {"lr": 3e-3}, "gamma": 0.9})
# with labels there is nothing to sum over, of which Pyro would warn
elbo = TraceEnum_ELBO(2, vectorize_particles=True, max_plate_nesting=1, strict_enumeration_warning=False)
svi = SVI(*pair, scheduler, elbo)

for epoch in range(8):
    loss = seen = 0
    for batch in unlabelled[torch.randperm(len(unlabelled))].split(64):
        i = torch.randint(len(c), (64,))
        loss += svi.step(x=batch) + svi.step(x=labelled[i], c=c[i])
        seen += len(batch) + len(i)
    scheduler.step()
    print(f"epoch {epoch}: loss {loss / seen:.2f} nats per datum")

with tempfile.TemporaryDirectory() as folder:
    loaded = pv.load(pair.save(folder))

for name, one in (("trained", pair), ("loaded", loaded)):
    print(f"{name}: log-likelihood {one.log_likelihood(x=test.x, particles=50, seed=0).mean():.4f}")

accuracy = (loaded.classify(test.x).argmax(-1) == test.labels).float().mean()
print(f"accuracy {accuracy:.3f} with {len(c)} labels")
draws = Predictive(loaded.guide, num_samples=100, parallel=True)(x=test.x)["c"]
print(
    f"accuracy {(draws.mode(0).values == test.labels).float().mean():.3f} of the class that the guide draws most often"
)
