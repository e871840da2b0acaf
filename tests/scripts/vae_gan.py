"""Grey images of the embedded digits, compared by what a discriminator sees in them, in a loop of one's own.

What the pair is trained by moves with the discriminator; the loss that is told is of pixels, for which nothing trains.
"""

import tempfile
from functools import partial

import pyro
import torch
from pyro import poutine

import pyro_vae as pv

pyro.set_rng_seed(0)
x = pv.data.load("digits").x
test = pv.data.load("digits", "test").x


def error(pair):
    """Squared, of an unseen image, told from its code."""
    told = pair.reconstruct(x=test, mean=True, seed=0)
    return (told - test).square().flatten(1).sum(1).mean()


pair = pv.vae_gan((1, 8, 8), latent=8)
adam = partial(torch.optim.Adam, lr=1e-3, betas=(0.5, 0.999))
game = pv.infer.VAEGAN(*pair, adam, pair.discriminator, scale=0.1)

for epoch in range(20):
    shuffled = x[torch.randperm(len(x))]
    for batch in shuffled.split(64):
        game.step(x=batch)
    print(f"epoch {epoch}: loss {error(pair):.3f} and the discriminator {game.figures()['discriminator']:.3f} right")

with tempfile.TemporaryDirectory() as folder:
    loaded = pv.load(pair.save(folder))

for name, one in (("trained", pair), ("loaded", loaded)):
    print(f"{name}: log-likelihood {one.log_likelihood(x=test, particles=50, seed=0).mean():.4f}")

with torch.no_grad(), pv.infer.perceived(loaded.discriminator.features, scale=0.1):
    trace = poutine.trace(loaded.model).get_trace(x=test)
print(f"what is scored: {', '.join(trace.observation_nodes)}")
mean_image = (x.mean(0) - test).square().flatten(1).sum(1).mean()
print(f"squared error {error(loaded):.3f}, of the mean image {mean_image:.3f}")
sharp = loaded.sample(270, mean=True, seed=0)
print(f"spread of the pixels: {sharp.std(0).mean():.3f} of draws; {test.std(0).mean():.3f} of data")
