"""A linear-Gaussian pair (probabilistic PCA), where everything is known in closed form.

    z ~ N(0, I),   x | z ~ N(W z + b, s^2 I)
    x ~ N(b, W W^T + s^2 I),   z | x ~ N(M^-1 W^T (x - b), s^2 M^-1),   M = W^T W + s^2 I

W has orthogonal columns, so that the exact posterior is diagonal and q can reach it.
"""

import math

import pyro
import pyro.distributions as dist
import torch
from torch import nn

import pyro_vae as pv

LATENT, DATA, NOISE = 3, 5, 0.7


class Story(nn.Module):
    """p(x, z) = N(z; 0, I) N(x; W z + b, s^2 I)"""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        basis, _ = torch.linalg.qr(torch.randn(DATA, LATENT, generator=generator, dtype=torch.float64))
        self.W = nn.Parameter(basis * torch.tensor([2.0, 1.0, 0.3], dtype=torch.float64))
        self.b = nn.Parameter(torch.randn(DATA, generator=generator, dtype=torch.float64))

    def forward(self, x=None, n=1):
        with pyro.plate("data", n if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(self.W.new_zeros(LATENT), 1).to_event(1))
            return pyro.sample("x", dist.Normal(z @ self.W.T + self.b, NOISE).to_event(1), obs=x)


class Inference(nn.Module):
    """q(z | x) = N(z; A (x - c), diag(exp(s))^2)"""

    def __init__(self):
        super().__init__()
        self.A = nn.Parameter(torch.zeros(LATENT, DATA, dtype=torch.float64))
        self.c = nn.Parameter(torch.zeros(DATA, dtype=torch.float64))
        self.s = nn.Parameter(torch.zeros(LATENT, dtype=torch.float64))

    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal((x - self.c) @ self.A.T, self.s.exp()).to_event(1))


def exact_posterior(story):
    """A, c and s of the guide that is p(z | x)."""
    W = story.W.detach()
    M = W.T @ W + NOISE**2 * torch.eye(LATENT, dtype=W.dtype)
    return torch.linalg.solve(M, W.T), story.b.detach(), 0.5 * torch.log(NOISE**2 / torch.diagonal(M))


def pair(exact=True, shift=0.0):
    """The pair, with its guide at the exact posterior, or ``shift`` away from it."""
    story, inference = Story(), Inference()
    if exact:
        A, c, s = exact_posterior(story)
        with torch.no_grad():
            inference.A.copy_(A)
            inference.c.copy_(c + shift)
            inference.s.copy_(s + shift)
    return pv.Variant(story, inference)


def evidence(story, x):
    """log p(x) in closed form."""
    W = story.W.detach()
    covariance = W @ W.T + NOISE**2 * torch.eye(DATA, dtype=W.dtype)
    return torch.distributions.MultivariateNormal(story.b.detach(), covariance).log_prob(x)


def kl(story, inference, x):
    """KL(q(z | x) || p(z)) in closed form, per datum."""
    loc = (x - inference.c) @ inference.A.T
    variance = (2 * inference.s).exp()
    return 0.5 * (loc**2 + variance - 1 - variance.log()).sum(-1).detach()


def elbo(story, inference, x):
    """E_q[log p(x | z)] - KL in closed form, per datum; differentiable."""
    loc = (x - inference.c) @ inference.A.T
    variance = (2 * inference.s).exp()
    error = x - loc @ story.W.T - story.b
    spread = (story.W**2 @ variance.unsqueeze(-1)).sum()
    fit = -0.5 * ((error**2).sum(-1) + spread) / NOISE**2 - 0.5 * DATA * math.log(2 * math.pi * NOISE**2)
    return fit - 0.5 * (loc**2 + variance - 1 - variance.log()).sum(-1)
