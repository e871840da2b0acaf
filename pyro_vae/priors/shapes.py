"""Priors of a shape that the eye knows again: a ring of normals, a swiss roll, a square."""

import math
from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae import checks, distributions


class Ring(nn.Module):
    r"""p(z) = mean_k p(z | k),   p(z | k) = N(z; radius (cos t_k, sin t_k), scale^2 I),   t_k = 2 pi k / components

    Under a class label c the c-th normal alone, where it is told that there are such: a mode for each class.

    Shapes: event (2,).

    Args:
        latent: dimensions of the code, 2.
        components: how many normals; of a pair with labels, as many as classes.
        radius: of the circle on which their means lie.
        scale: their standard deviation.

    Raises:
        ValueError: where ``latent`` is not 2, or another argument is out of range.

    Source: Makhzani et al. 2015, arXiv:1511.05644, section 2.3.

    >>> Ring(components=4, radius=3.0)(torch.tensor([0, 2])).mean[:, 0]
    tensor([ 3., -3.])
    """

    means: Tensor

    def __init__(
        self, latent: Sequence[int] | int = 2, components: int = 10, radius: float = 4.0, scale: float = 0.5
    ) -> None:
        super().__init__()
        self.latent, self.components = _plane(latent), checks.positive_int("components", components)
        self.radius, self.scale = checks.real("radius", radius, above=0), checks.real("scale", scale, above=0)
        angles = 2 * math.pi * torch.arange(components) / components
        self.register_buffer("means", radius * torch.stack([angles.cos(), angles.sin()], -1), persistent=False)

    def forward(self, c: Tensor | None = None) -> dist.Distribution:
        """The distribution of one code, or of those of some classes."""
        if c is not None:
            _check(c, self.components, "components")
            return dist.Normal(self.means[c.long()], self.scale).to_event(1)
        parts = dist.Normal(self.means, self.scale).to_event(1)
        return dist.MixtureSameFamily(dist.Categorical(logits=self.means.new_zeros(self.components)), parts)


class SwissRoll(nn.Module):
    r"""z = radius u (cos t, sin t) + scale e,   t = 2 pi turns u,   u = sqrt(uniform),   e ~ N(0, I)

    A spiral on which all stretches are as likely as they are long, nearly, known by its draws alone. Under a class
    label c, of ``classes``, the uniform number is from its c-th part: a stretch for each class, from the inside out.

    Shapes: event (2,).

    Args:
        latent: dimensions of the code, 2.
        turns: of the spiral.
        radius: of its outer end.
        scale: of the noise around it.
        classes: how many stretches there are; of a pair with labels, as many as its classes.

    Raises:
        ValueError: where ``latent`` is not 2, or another argument is out of range; where a label is no class.

    Source: Makhzani et al. 2015, arXiv:1511.05644, section 2.3.

    >>> SwissRoll()().sample((1000,)).norm(dim=-1).max() < 6
    tensor(True)
    """

    like: Tensor

    def __init__(
        self,
        latent: Sequence[int] | int = 2,
        turns: float = 1.5,
        radius: float = 5.0,
        scale: float = 0.25,
        classes: int = 10,
    ) -> None:
        super().__init__()
        self.latent, self.turns = _plane(latent), checks.real("turns", turns, above=0)
        self.radius, self.scale = checks.real("radius", radius, above=0), checks.real("scale", scale, least=0)
        self.classes = checks.positive_int("classes", classes)
        self.register_buffer("like", torch.zeros(()), persistent=False)

    def forward(self, c: Tensor | None = None) -> dist.Distribution:
        """The distribution of one code, or of those of some classes."""

        if c is not None:
            _check(c, self.classes, "classes")

        def sampler(n: int) -> Tensor:
            uniform = torch.rand(n, dtype=self.like.dtype, device=self.like.device)
            if c is not None:
                uniform = (c.flatten().repeat(n // c.numel()) + uniform) / self.classes
            return self._at(uniform)

        return distributions.Sampled(sampler, self.latent, () if c is None else c.shape)

    def _at(self, uniform: Tensor) -> Tensor:
        u = uniform.sqrt()
        t = 2 * math.pi * self.turns * u
        spiral = self.radius * torch.stack([u * t.cos(), u * t.sin()], -1)
        return spiral + self.scale * torch.randn_like(spiral)


class Uniform(nn.Module):
    r"""p(z) = prod_i U(z_i; low, high)

    Shapes: event (\*latent,).

    Args:
        latent: dimensions of the code, or its shape.
        low, high: the ends of each side.

    Raises:
        ValueError: where ``high`` is not above ``low``.

    >>> Uniform(2, low=0.0, high=4.0)().log_prob(torch.ones(2)).exp()
    tensor(0.0625)
    """

    like: Tensor

    def __init__(self, latent: Sequence[int] | int, low: float = -2.0, high: float = 2.0) -> None:
        super().__init__()
        self.latent, self.low = checks.latent(latent), checks.real("low", low)
        self.high = checks.real("high", high, above=self.low)
        self.register_buffer("like", torch.zeros(self.latent), persistent=False)

    def forward(self, *conditions: Tensor) -> dist.Distribution:
        """The distribution of one code, which no condition changes."""
        return dist.Uniform(self.like + self.low, self.like + self.high).to_event(len(self.latent))


def _check(c: Tensor, classes: int, argument: str) -> None:
    if (c >= classes).any() or (c < 0).any():
        raise ValueError(f"{argument}: expected labels from 0 to {classes - 1}, found {int(c.min())} to {int(c.max())}")


def _plane(latent: Sequence[int] | int) -> tuple[int, ...]:
    shape = checks.latent(latent)
    if shape != (2,):
        raise ValueError(f"latent: expected 2 dimensions for a shape in the plane, found {shape}")
    return shape
