"""Priors of any shape: normalising flows, and one unit after the other."""

from collections.abc import Sequence
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
import zuko
from pyro.contrib.zuko import ZukoToPyro
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_vae import checks, distributions
from pyro_vae.posteriors import bounded_scale

dist.enable_validation(dist.is_validation_enabled())  # which importing zuko switches off for the whole process

FLOWS = ("BPF", "MAF", "NAF", "NICE", "NSF", "SOSPF", "UNAF")


class Flow(nn.Module):
    r"""p(z) = N(f(z); 0, I) |det df / dz|,   f a sequence of invertible maps, learned

    Any of :mod:`zuko.flows`: neural splines (``"NSF"``), affine maps (``"MAF"``), ..., autoregressive, or coupling with
    ``passes=2``. Autoregressive ones are scored in one pass and drawn from in as many as there are units.

    Shapes: event (latent,).

    Args:
        latent: dimensions of the code.
        flow: the name of a class of :mod:`zuko.flows`: BPF, MAF, NAF, NICE, NSF, SOSPF, UNAF.
        transforms: how many maps.
        hidden: widths of the hidden layers of the network of each.
        passes: in how many passes a map is inverted: by default as many as units (autoregressive), 2 for coupling.

    Raises:
        ValueError: where ``flow`` is unknown, the code is no vector, or zuko refuses an argument.

    Source: Rezende & Mohamed 2015, arXiv:1505.05770; Papamakarios et al. 2017, arXiv:1705.07057 (MAF); Durkan et al.
    2019, arXiv:1906.04032 (NSF); as a prior, Chen et al. 2017, arXiv:1611.02731.

    >>> Flow(3, transforms=2, hidden=(16,))().sample((5,)).shape
    torch.Size([5, 3])
    """

    def __init__(
        self,
        latent: Sequence[int] | int,
        flow: str = "NSF",
        transforms: int = 3,
        hidden: Sequence[int] = (64, 64),
        passes: int | None = None,
    ) -> None:
        super().__init__()
        self.latent = _vector(latent)
        self.flow, self.transforms = checks.known("flow", flow, FLOWS), checks.positive_int("transforms", transforms)
        self.hidden, self.passes = checks.shape("hidden", hidden), passes
        settings: dict[str, Any] = {"hidden_features": self.hidden}
        if passes is not None:
            settings["passes"] = checks.positive_int("passes", passes)
        try:
            self.net = getattr(zuko.flows, flow)(self.latent[0], transforms=transforms, **settings)
        except (TypeError, ValueError, AssertionError) as error:
            raise ValueError(f"flow: {flow}: {error}") from None

    def forward(self, *conditions: Tensor) -> dist.Distribution:
        """The distribution of one code, which no condition changes."""
        return NormalizingFlow(self.net())


class Autoregressive(nn.Module):
    r"""p(z) = prod_i sum_k w_k(z_{<i}) N(z_i; loc_k(z_{<i}), scale_k(z_{<i})^2)

    One masked network reads all units and tells of each by those before it.

    Shapes: event (latent,).

    Args:
        latent: dimensions of the code.
        components: how many normals each unit is a mixture of.
        hidden: widths of the hidden layers.

    Raises:
        ValueError: where the code is no vector, or ``components`` is not a positive whole number.

    Source: Germain et al. 2015, arXiv:1502.03509 (MADE); Chen et al. 2017, arXiv:1611.02731.

    >>> Autoregressive(3, hidden=(16,))().sample((5,)).shape
    torch.Size([5, 3])
    """

    def __init__(self, latent: Sequence[int] | int, components: int = 5, hidden: Sequence[int] = (64, 64)) -> None:
        super().__init__()
        self.latent, self.components = _vector(latent), checks.positive_int("components", components)
        self.hidden = checks.shape("hidden", hidden)
        width = self.latent[0]
        if width < 2:
            raise ValueError(f"latent: expected at least 2 dimensions, one after the other, found {width}")
        # the parameters of each unit, which see the units before it
        before = torch.ones(width, width, dtype=torch.bool).tril(-1).repeat_interleave(3 * components, 0)
        self.net = zuko.nn.MaskedMLP(before, hidden_features=self.hidden)

    def forward(self, *conditions: Tensor) -> dist.Distribution:
        """The distribution of one code, which no condition changes."""
        like = next(self.net.parameters())
        return distributions.Autoregressive(self.conditionals, self.latent[0], like=like)

    def conditionals(self, z: Tensor) -> dist.Distribution:
        """Of each unit, given those before it."""
        logits, loc, s = self.net(z).unflatten(-1, (*self.latent, 3, self.components)).unbind(-2)
        parts = dist.Normal(loc, bounded_scale(s))
        return dist.MixtureSameFamily(dist.Categorical(logits=logits), parts)


class NormalizingFlow(ZukoToPyro):
    """Zuko's, with a support, and with draws without gradients."""

    support: ClassVar = constraints.real_vector
    arg_constraints: ClassVar = {}

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws, without gradients."""
        return self.dist.sample(torch.Size(sample_shape))

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws, with gradients to the flow."""
        return self.dist.rsample(torch.Size(sample_shape))

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "NormalizingFlow":
        """The same, more often."""
        return NormalizingFlow(self.dist.expand(torch.Size(batch_shape)))


def _vector(latent: Sequence[int] | int) -> tuple[int, ...]:
    shape = checks.latent(latent)
    if len(shape) != 1:
        raise ValueError(f"latent: expected the dimensions of a vector, found the shape {shape}")
    return shape
