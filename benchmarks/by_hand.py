"""The pairs of benchmarks/speed.py as an expert writes them without Pyro: nets and a loss, nothing else."""

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy
from torch.nn.functional import one_hot


def mlp(*widths: int) -> nn.Sequential:
    """Linear layers with ReLU between them."""
    layers = [part for a, b in pairwise(widths) for part in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def drawn(loc: Tensor, log_var: Tensor) -> Tensor:
    return loc + torch.randn_like(loc) * (0.5 * log_var).exp()


def kl(loc: Tensor, log_var: Tensor) -> Tensor:
    """KL(q || N(0, I))."""
    return -0.5 * (1 + log_var - loc**2 - log_var.exp()).sum()


def log_normal(z: Tensor, loc: Tensor, log_var: Tensor) -> Tensor:
    return -0.5 * (log_var + math.log(2 * math.pi) + (z - loc) ** 2 * (-log_var).exp()).sum(-1)


class VAE(nn.Module):
    """784-400-20."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = mlp(784, 400, 40), mlp(20, 400, 784)

    def loss(self, x: Tensor) -> Tensor:
        loc, log_var = self.encoder(x.flatten(1)).chunk(2, -1)
        logits = self.decoder(drawn(loc, log_var))
        return cross_entropy(logits, x.flatten(1), reduction="sum") + kl(loc, log_var)


class ConvVAE(VAE):
    """Three strided convolutions each way, as pv.nets.Conv has them."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        down = [p for a, b in ((1, 32), (32, 64), (64, 128)) for p in (nn.Conv2d(a, b, 3, 2, 1), nn.ReLU())]
        self.encoder = nn.Sequential(nn.Unflatten(1, (1, 28, 28)), *down, nn.Flatten(), *mlp(2048, 256, 40))
        self.decoder = nn.Sequential(
            *mlp(20, 256, 2048),
            nn.ReLU(),
            nn.Unflatten(1, (128, 4, 4)),
            nn.ConvTranspose2d(128, 64, 3, 2, 1),
            nn.ReLU(),
            nn.ConvTranspose2d(64, 32, 3, 2, 1, 1),
            nn.ReLU(),
            nn.ConvTranspose2d(32, 1, 3, 2, 1, 1),
            nn.Flatten(),
        )


class HVAE(nn.Module):
    """The ladder in two levels, 32 and 16."""

    def __init__(self) -> None:
        super().__init__()
        self.d1, self.d2 = nn.Sequential(nn.Linear(784, 400), nn.ReLU()), nn.Sequential(nn.Linear(400, 400), nn.ReLU())
        self.q1, self.q2 = nn.Linear(400, 64), nn.Linear(400, 32)
        self.prior, self.decoder = mlp(16, 400, 64), mlp(48, 400, 784)

    def loss(self, x: Tensor) -> Tensor:
        d1 = self.d1(x.flatten(1))
        loc2, log_var2 = self.q2(self.d2(d1)).chunk(2, -1)
        z2 = drawn(loc2, log_var2)
        (loc, log_var), (prior_loc, prior_log_var) = self.q1(d1).chunk(2, -1), self.prior(z2).chunk(2, -1)
        a, b = log_var.exp(), prior_log_var.exp()
        loc1, log_var1 = (loc * b + prior_loc * a) / (a + b), log_var + prior_log_var - (a + b).log()
        z1 = drawn(loc1, log_var1)
        logits = self.decoder(torch.cat([z1, z2], -1))
        between = log_normal(z1, loc1, log_var1) - log_normal(z1, prior_loc, prior_log_var)
        return cross_entropy(logits, x.flatten(1), reduction="sum") + kl(loc2, log_var2) + between.sum()


class CVAE(nn.Module):
    """784-400-20 given one of 10 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder, self.prior = mlp(794, 400, 40), mlp(30, 400, 784), nn.Linear(10, 40)

    def loss(self, x: Tensor, c: Tensor) -> Tensor:
        hot = one_hot(c.long(), 10).to(x)
        loc, log_var = self.encoder(torch.cat([x.flatten(1), hot], -1)).chunk(2, -1)
        z = drawn(loc, log_var)
        logits = self.decoder(torch.cat([z, hot], -1))
        between = log_normal(z, loc, log_var) - log_normal(z, *self.prior(hot).chunk(2, -1))
        return cross_entropy(logits, x.flatten(1), reduction="sum") + between.sum()


class Vamp(VAE):
    """784-400-20 whose prior is the mean of the posteriors of 100 pseudo-inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.u = nn.Parameter(torch.rand(100, 784))

    def loss(self, x: Tensor) -> Tensor:
        loc, log_var = self.encoder(x.flatten(1)).chunk(2, -1)
        z = drawn(loc, log_var)
        logits = self.decoder(z)
        parts = log_normal(z[:, None], *self.encoder(self.u.clamp(0, 1)).chunk(2, -1))
        between = log_normal(z, loc, log_var) - (parts.logsumexp(-1) - math.log(100))
        return cross_entropy(logits, x.flatten(1), reduction="sum") + between.sum()


def products(batch: int, device: str) -> list[tuple[Tensor, Tensor]]:
    """The matrix products of a step of the VAE, forward and backward: the floor."""
    shapes = []
    for n, m in ((784, 400), (400, 40), (20, 400), (400, 784)):
        shapes += [((batch, n), (n, m)), ((n, batch), (batch, m))]
        shapes += [] if n == 784 else [((batch, m), (m, n))]  # nobody asks for the gradient of the data
    return [(torch.randn(a, device=device), torch.randn(b, device=device)) for a, b in shapes]
