"""The two halves of the embedded digits in plain Pyro: one code explains both, and each has one of its own besides."""

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
halves, held_out = ({"left": images[..., :4], "right": images[..., 4:]} for images in (x, test))

shapes = {"left": (1, 8, 4), "right": (1, 8, 4)}
pair = pv.dag_vae(shapes, parents={"left": ["both", "a"], "right": ["both", "b"]}, latent=4)
scheduler = ExponentialLR({"optimizer": torch.optim.Adam, "optim_args": {"lr": 5e-3}, "gamma": 0.9})
elbo = Trace_ELBO(num_particles=2, vectorize_particles=True, max_plate_nesting=1)
svi = SVI(*pair, scheduler, elbo)

for epoch in range(8):
    batches = torch.randperm(len(x)).split(64)
    loss = sum(svi.step(**{part: half[i] for part, half in halves.items()}) for i in batches) / len(x)
    scheduler.step()
    print(f"epoch {epoch}: loss {loss:.2f} nats per datum")

with tempfile.TemporaryDirectory() as folder:
    loaded = pv.load(pair.save(folder))

for name, one in (("trained", pair), ("loaded", loaded)):
    print(f"{name}: log-likelihood {one.log_likelihood(particles=50, seed=0, **held_out).mean():.4f}")

# right halves of which only the left ones are seen: E[right | left] by draws of the model, without the guide
with torch.no_grad():
    draws = poutine.trace(loaded.model).get_trace(n=3000)
    left, right = (draws.nodes[part]["fn"].base_dist for part in shapes)
    weights = torch.stack([left.log_prob(seen).flatten(1).sum(1).softmax(0) for seen in held_out["left"]])
    told = (weights @ right.probs.flatten(1)).unflatten(1, shapes["right"]).round()
blind = halves["right"].mean(0).round()
for name, guess in (("seen", told), ("not seen", blind)):
    hits = (guess == held_out["right"]).float().mean()
    print(f"pixels of right halves, their left ones {name}: {hits:.3f}")
