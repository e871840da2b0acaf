"""A linear-Gaussian hierarchy of two levels, built by the recipe, where everything is known in closed form.

    z2 ~ N(0, I),   z1 | z2 ~ N(A z2 + a, S^2),   x | z1, z2 ~ N(W z1 + V z2 + b, s^2 I)

A and S are diagonal, and the columns of W and V orthogonal, so that all posteriors are diagonal and both guides can
reach them (the one from the data upwards where V = 0).
"""

from functools import partial

import torch

import pyro_vae as pv

NOISE, DATA = 0.6, 6
SCALE = torch.tensor([0.5, 0.8], dtype=torch.float64)  # S
SLOPE = torch.tensor([1.5, -0.7], dtype=torch.float64)  # A
OFFSET = torch.tensor([0.3, -0.2], dtype=torch.float64)  # a
BASIS = torch.linalg.qr(torch.randn(DATA, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64))[0]
W = BASIS[:, :2] * torch.tensor([2.0, 1.2], dtype=torch.float64)
V = BASIS[:, 2:] * torch.tensor([0.8, 1.7], dtype=torch.float64)
B = torch.randn(DATA, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


def pair(guide="top-down", skip=False, exact=True):
    """The pair at the story above, its guide at the exact posterior or as it is built."""
    torch.manual_seed(0)
    likelihood = partial(pv.likelihoods.Normal, scale=NOISE)
    built = pv.hvae(DATA, latents=(2, 2), guide=guide, skip=skip, likelihood=likelihood, hidden=()).double()
    model = built.model
    with torch.no_grad():
        fill(linear(model.priors[0]), torch.diag(SLOPE), OFFSET, SCALE)
        decoder = linear(model.likelihood)
        decoder.weight.copy_(torch.cat([W, V], 1) if skip else W)
        decoder.bias.copy_(B)
        if exact:
            parameters = up() if guide == "bottom-up" else down(skip)
            for posterior, own in zip(built.guide.posteriors, parameters, strict=True):
                fill(linear(posterior), *own)
    return built


def linear(part):
    """The one layer of a part without hidden layers."""
    (layer,) = [module for module in part.modules() if isinstance(module, torch.nn.Linear)]
    return layer


def fill(layer, slope, offset, scale):
    """loc = slope y + offset, and a constant scale."""
    layer.weight.copy_(torch.cat([slope, torch.zeros_like(slope)]))
    layer.bias.copy_(torch.cat([offset, 7 * torch.atanh(scale.log() / 7)]))


def down(skip):
    """What x says of z1, in proportion to p(x | z1), and q(z2 | x)."""
    norm = (W**2).sum(0)
    read = W.T / norm[:, None]  # the least squares of z1
    spread = SCALE**2 + NOISE**2 / norm  # of these about A z2 + a
    precision = 1 + SLOPE**2 / spread
    slope, offset = (SLOPE / spread)[:, None] * read, -SLOPE / spread * (read @ B + OFFSET)
    if skip:
        precision = precision + (V**2).sum(0) / NOISE**2
        slope, offset = slope + V.T / NOISE**2, offset - V.T @ B / NOISE**2
    top = slope / precision[:, None], offset / precision, precision**-0.5
    return (read, -read @ B, NOISE / norm.sqrt()), top


def up():
    """q(z1 | x) and q(z2 | z1)."""
    norm, prior = (W**2).sum(0), SLOPE**2 + SCALE**2
    precision = 1 / prior + norm / NOISE**2
    first = W.T / NOISE**2 / precision[:, None], (OFFSET / prior - W.T @ B / NOISE**2) / precision, precision**-0.5
    precision = 1 + SLOPE**2 / SCALE**2
    second = torch.diag(SLOPE / SCALE**2 / precision), -SLOPE * OFFSET / SCALE**2 / precision, precision**-0.5
    return first, second


def evidence(skip=False):
    """p(x)."""
    top = W @ torch.diag(SLOPE) + (V if skip else 0.0)
    covariance = top @ top.T + W @ torch.diag(SCALE**2) @ W.T + NOISE**2 * torch.eye(DATA, dtype=torch.float64)
    return torch.distributions.MultivariateNormal(W @ OFFSET + B, covariance)


def information(skip=False):
    """I(x; z2) in nats."""
    (_, _, scale) = down(skip)[1]
    return -float(scale.log().sum())


def kl_of_top(x, skip=False):
    """KL(q(z2 | x) || p(z2)) of each datum, for the exact posterior."""
    slope, offset, scale = down(skip)[1]
    loc = x @ slope.T + offset
    return 0.5 * (loc**2 + scale**2 - 1 - 2 * scale.log()).sum(-1)
