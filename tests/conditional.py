"""Linear-Gaussian pairs under a condition, where everything is known in closed form.

    z | c ~ N(A c + a, diag d^2),   x | z, c ~ N(W z + B c + b, s^2 I),   W' W diagonal
    x | c ~ N(W (A c + a) + B c + b, W diag(d^2) W' + s^2 I)

c is a vector, or a class label that is read one-hot. W has orthogonal columns, so that the posterior is diagonal.
"""

import math

import torch
from pyro_vae.guides import CVAEGuide, M2Guide
from pyro_vae.models import CVAEModel
from torch import nn

import pyro_vae as pv

LATENT, DATA, WIDTH, NOISE = 2, 4, 3, 0.7


class Truth:
    """The constants, and the densities that follow from them."""

    def __init__(self):
        generator = torch.Generator().manual_seed(2)

        def draw(*shape):
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        self.W = torch.linalg.qr(draw(DATA, LATENT))[0] * torch.tensor([2.0, 0.8], dtype=torch.float64)
        self.A, self.a, self.B, self.b = draw(LATENT, WIDTH), draw(LATENT), draw(DATA, WIDTH), draw(DATA)
        self.d = torch.tensor([0.6, 1.3], dtype=torch.float64)

    def prior_mean(self, c):
        return c @ self.A.T + self.a

    def mean(self, z, c):
        return z @ self.W.T + c @ self.B.T + self.b

    def posterior(self, x, c):
        """Mean and standard deviation of z given x and c."""
        precision = self.d**-2 + (self.W**2).sum(0) / NOISE**2
        residual = x - c @ self.B.T - self.b
        loc = (self.prior_mean(c) / self.d**2 + residual @ self.W / NOISE**2) / precision
        return loc, (precision**-0.5).expand_as(loc)

    def evidence(self, x, c):
        """log p(x | c)"""
        covariance = self.W @ (self.d**2 * self.W).T + NOISE**2 * torch.eye(DATA, dtype=torch.float64)
        loc = self.mean(self.prior_mean(c), c)
        return torch.distributions.MultivariateNormal(loc, covariance).log_prob(x)

    def joint(self, x):
        """log p(x, c) of every class under p(c) uniform, (batch, classes)"""
        classes = torch.eye(WIDTH, dtype=torch.float64)
        return torch.stack([self.evidence(x, c.expand(len(x), -1)) for c in classes], -1) - math.log(WIDTH)


def raw(scale):
    """What the bounded scale of our distributions makes ``scale`` of."""
    return 7 * torch.atanh(torch.log(scale) / 7)


class Net(nn.Module):
    """A function of tensors, and labels one-hot, as a network."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.like = nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def forward(self, *inputs):
        one_hot = [nn.functional.one_hot(i, WIDTH) if i.dtype == torch.long else i for i in inputs]
        return self.function(*(i.double() for i in one_hot)) + self.like  # zero, with a gradient


def _parts(shape, shift):
    """Prior, likelihood and posterior; ``shift`` moves the posterior away from the truth."""
    truth = Truth()

    def prior(c):
        loc = truth.prior_mean(c)
        return torch.cat([loc, raw(truth.d).expand_as(loc)], -1)

    def posterior(x, c):
        loc, scale = truth.posterior(x, c)
        return torch.cat([loc + shift, raw(scale)], -1)

    return (
        pv.priors.Conditional(LATENT, Net(prior), shape),
        pv.likelihoods.Normal(Net(truth.mean), [(LATENT,), shape], DATA, scale=NOISE),
        pv.posteriors.DiagonalNormal(Net(posterior), [(DATA,), shape], LATENT),
    )


def vector_pair(shift=0.0):
    """c is a vector that is given."""
    prior, likelihood, posterior = _parts((WIDTH,), shift)
    model = CVAEModel(pv.priors.Given(WIDTH), prior, likelihood)
    return pv.Variant(model, CVAEGuide(posterior), conditions=("c",)).double()


def class_pair(shift=0.0):
    """c is a class that is given."""
    prior, likelihood, posterior = _parts((), shift)
    model = CVAEModel(pv.priors.Classes(WIDTH), prior, likelihood)
    return pv.Variant(model, CVAEGuide(posterior), conditions=("c",)).double()


def semi_supervised(logits=None, weight=0.0):
    """c is a class, latent where it is not given; q(c | x) is the truth, or has ``logits`` of its own."""
    prior, likelihood, posterior = _parts((), 0.0)
    classifier = pv.posteriors.Classifier(Net(logits or Truth().joint), DATA, WIDTH)
    model = CVAEModel(pv.priors.Classes(WIDTH), prior, likelihood)
    return pv.Variant(model, M2Guide(classifier, posterior, weight), labels=("c",)).double()
