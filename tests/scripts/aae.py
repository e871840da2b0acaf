"""Codes of the embedded digits in a ring of ten normals: the game, step by step, in a loop of one's own."""

import tempfile
from functools import partial

import pyro
import torch

import pyro_vae as pv

pyro.set_rng_seed(0)
x = pv.data.load("digits", binarise="threshold").x
test = pv.data.load("digits", "test", binarise="threshold").x


def apart(pair):
    """MMD^2 of the codes of unseen digits and draws of the prior."""
    with torch.no_grad():
        codes, prior = pair.encode(x=test)["z"].sample(), pair.model.prior().sample((len(test),))
    return pv.infer.squared_mmd(codes, prior, scale=3.0)


pair = pv.aae((1, 8, 8), prior=pv.priors.Ring)
print(f"MMD^2 before: {apart(pair):.3f}")
adam = partial(torch.optim.Adam, lr=2e-3, betas=(0.5, 0.999))
game = pv.infer.AAE(*pair, adam, pair.discriminator, weight=10.0)

for epoch in range(30):
    shuffled = x[torch.randperm(len(x))]
    loss = sum(game.step(x=batch) for batch in shuffled.split(64)) / len(x)
    print(f"epoch {epoch}: loss {loss:.2f} nats per datum")
print(f"the discriminator was right: {game.figures()['discriminator']:.3f}")

with tempfile.TemporaryDirectory() as folder:
    loaded = pv.load(pair.save(folder))

for name, one in (("trained", pair), ("loaded", loaded)):
    print(f"{name}: log-likelihood {one.log_likelihood(x=test, particles=50, seed=0).mean():.4f}")

print(f"MMD^2 after: {apart(loaded):.3f}")
told = loaded.reconstruct(x=test, mean=True, seed=0)
print(f"pixels told from the codes: {((told > 0.5) == test.bool()).float().mean():.3f}")
