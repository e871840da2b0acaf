"""Priors whose units are independent."""

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae import checks, distributions
from pyro_vae.posteriors import bounded_scale


class StandardNormal(nn.Module):
    r"""p(z) = N(z; 0, I),   whatever the conditions

    Shapes: event (\*latent,).

    Args:
        latent: dimensions of the code, or its shape.

    Raises:
        ValueError: where ``latent`` is not a positive whole number, or several.

    >>> StandardNormal(3)().event_shape
    torch.Size([3])
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, latent: Sequence[int] | int) -> None:
        super().__init__()
        self.latent = checks.latent(latent)
        # buffers follow .to(device); not persistent, since they hold nothing that was learned
        self.register_buffer("loc", torch.zeros(self.latent), persistent=False)
        self.register_buffer("scale", torch.ones(self.latent), persistent=False)

    def forward(self, *conditions: Tensor) -> dist.Distribution:
        """The distribution of one code, which no condition changes."""
        return dist.Normal(self.loc, self.scale).to_event(self.loc.dim())


class Normal(nn.Module):
    r"""p(z) = N(z; loc, diag scale^2),   scale = exp(7 tanh(s / 7)),   loc and s learned

    Shapes: event (\*latent,).

    Args:
        latent: dimensions of the code, or its shape.

    Raises:
        ValueError: where ``latent`` is not a positive whole number, or several.

    >>> Normal(3)()
    Independent(Normal(loc: torch.Size([3]), scale: torch.Size([3])), 1)
    """

    def __init__(self, latent: Sequence[int] | int) -> None:
        super().__init__()
        self.latent = checks.latent(latent)
        self.loc, self.s = nn.Parameter(torch.zeros(self.latent)), nn.Parameter(torch.zeros(self.latent))

    def forward(self, *conditions: Tensor) -> dist.Distribution:
        """The distribution of one code, which no condition changes."""
        return dist.Normal(self.loc, bounded_scale(self.s)).to_event(self.loc.dim())


class Centred(nn.Module):
    """Units about 0, with a scale that is fixed, or learned for each."""

    s: Tensor

    def __init__(self, latent: Sequence[int] | int, scale: float | str = 1.0) -> None:
        super().__init__()
        self.latent, self.scale = checks.latent(latent), scale
        if isinstance(scale, str):
            checks.known("scale", scale, ["learned"])
            self.s = nn.Parameter(torch.zeros(self.latent))
        else:
            s = torch.full(self.latent, checks.real("scale", scale, above=0)).log()
            self.register_buffer("s", s, persistent=False)

    def width(self) -> Tensor:
        """The scale of each unit."""
        return bounded_scale(self.s) if isinstance(self.scale, str) else self.s.exp()


class Laplace(Centred):
    r"""p(z) = prod_u exp(-|z_u| / scale) / (2 scale)

    Shapes: event (\*latent,).

    Args:
        latent: dimensions of the code, or its shape.
        scale: the mean of |z|, fixed; or ``"learned"``, one for each unit.

    Raises:
        ValueError: where ``scale`` is not positive.

    >>> Laplace(3)().event_shape
    torch.Size([3])
    """

    def forward(self, *conditions: Tensor) -> dist.Distribution:
        """The distribution of one code, which no condition changes."""
        scale = self.width()
        return dist.Laplace(torch.zeros_like(scale), scale).to_event(scale.dim())


class StudentT(Centred):
    r"""p(z) = prod_u t(z_u / scale; df) / scale

    Shapes: event (\*latent,).

    Args:
        latent: dimensions of the code, or its shape.
        df: degrees of freedom, 1 for a Cauchy; tails as those of |z|^-(df + 1).
        scale: fixed; or ``"learned"``, one for each unit.

    Raises:
        ValueError: where ``df`` or ``scale`` is not positive.

    >>> StudentT(3, df=2.0)().event_shape
    torch.Size([3])
    """

    def __init__(self, latent: Sequence[int] | int, df: float = 4.0, scale: float | str = 1.0) -> None:
        super().__init__(latent, scale)
        self.df = checks.real("df", df, above=0)

    def forward(self, *conditions: Tensor) -> dist.Distribution:
        """The distribution of one code, which no condition changes."""
        scale = self.width()
        df = torch.full_like(scale, self.df)
        return dist.StudentT(df, torch.zeros_like(scale), scale).to_event(scale.dim())


class Horseshoe(Centred):
    r"""p(z) = prod_u int N(z_u; 0, scale^2 l^2) HalfCauchy(l; 1) dl

    The marginal, with a pole at 0 and tails as those of z^-2: most units next to nothing, few of any size.
    :class:`HierarchicalHorseshoe` is the same density with the l as a site.

    Shapes: event (\*latent,).

    Args:
        latent: dimensions of the code, or its shape.
        scale: fixed; or ``"learned"``, one for each unit.

    Raises:
        ValueError: where ``scale`` is not positive.

    Source: Carvalho, Polson & Scott 2010, "The horseshoe estimator for sparse signals", Biometrika.

    >>> Horseshoe(3, scale=0.1)().event_shape
    torch.Size([3])
    """

    def forward(self, *conditions: Tensor) -> dist.Distribution:
        """The distribution of one code, which no condition changes."""
        scale = self.width()
        return distributions.Horseshoe(torch.zeros_like(scale), scale).to_event(scale.dim())


class SpikeAndSlab(nn.Module):
    r"""p(z) = prod_u (1 - w_u) N(z_u; 0, spike^2) + w_u N(z_u; 0, slab^2),   w learned

    A narrow normal in place of an atom at 0, so that the density is continuous and gradients are right.

    Shapes: event (\*latent,).

    Args:
        latent: dimensions of the code, or its shape.
        spike: the narrow scale.
        slab: the wide one.

    Raises:
        ValueError: where ``spike`` is not positive, or ``slab`` not greater than it.

    Source: George & McCulloch 1993, "Variable selection via Gibbs sampling", JASA.

    >>> SpikeAndSlab(3)().event_shape
    torch.Size([3])
    """

    scales: Tensor

    def __init__(self, latent: Sequence[int] | int, spike: float = 0.1, slab: float = 1.0) -> None:
        super().__init__()
        self.latent, self.spike = checks.latent(latent), checks.real("spike", spike, above=0)
        self.slab = checks.real("slab", slab, above=spike)
        self.register_buffer("scales", torch.tensor([spike, slab]).expand(*self.latent, 2).clone(), persistent=False)
        self.logits = nn.Parameter(torch.zeros(*self.latent, 2))

    def forward(self, *conditions: Tensor) -> dist.Distribution:
        """The distribution of one code, which no condition changes."""
        parts = dist.Normal(torch.zeros_like(self.scales), self.scales)
        return dist.MixtureSameFamily(dist.Categorical(logits=self.logits), parts).to_event(len(self.latent))


class RectifiedNormal(nn.Module):
    r"""z_u = max(0, v_u),   v_u ~ N(loc_u, scale_u^2)

    A unit is off, exactly 0, with probability Phi(-loc / scale). The posterior is a rectified normal too, and the KL is
    taken in closed form.

    Shapes: event (\*latent,).

    Args:
        latent: dimensions of the code, or its shape.
        loc: where every unit's loc stands, or starts.
        learned: whether loc and scale are learned, for each unit.

    Raises:
        ValueError: where ``loc`` is not finite.

    Source: Hinton & Ghahramani 1997, "Generative models for discovering sparse distributed representations".

    >>> bool((RectifiedNormal(3)().sample((100,)) >= 0).all())
    True
    """

    centre: Tensor
    s: Tensor

    def __init__(self, latent: Sequence[int] | int, loc: float = -1.0, learned: bool = True) -> None:
        super().__init__()
        self.latent, self.loc, self.learned = checks.latent(latent), checks.real("loc", loc), learned
        start = {"centre": torch.full(self.latent, self.loc), "s": torch.zeros(self.latent)}
        for name, value in start.items():
            if learned:
                self.register_parameter(name, nn.Parameter(value))
            else:
                self.register_buffer(name, value, persistent=False)

    def forward(self, *conditions: Tensor) -> dist.Distribution:
        """The distribution of one code, which no condition changes."""
        return distributions.RectifiedNormal(self.centre, bounded_scale(self.s)).to_event(len(self.latent))


class PiecewiseNormal(nn.Module):
    r"""p(z) = prod_u PiecewiseNormal(z_u; breaks, loc_u, scale_u),   loc and scale of each segment learned

    Continuous, with up to as many modes as there are segments.

    Shapes: event (\*latent,).

    Args:
        latent: dimensions of the code, or its shape.
        breaks: where one segment ends and the next begins, of every unit.

    Raises:
        ValueError: where ``breaks`` do not increase.

    >>> PiecewiseNormal(3, breaks=(-1.0, 1.0))().event_shape
    torch.Size([3])
    """

    cuts: Tensor

    def __init__(self, latent: Sequence[int] | int, breaks: Sequence[float] = (-1.0, 0.0, 1.0)) -> None:
        super().__init__()
        self.latent, self.breaks = checks.latent(latent), tuple(breaks)
        self.register_buffer("cuts", checks.increasing("breaks", breaks), persistent=False)
        segments = len(self.breaks) + 1
        # one after the other, so that segments start apart and may come to differ
        self.loc = nn.Parameter(torch.linspace(-0.1, 0.1, segments).expand(*self.latent, segments).clone())
        self.s = nn.Parameter(torch.zeros(*self.latent, segments))

    def forward(self, *conditions: Tensor) -> dist.Distribution:
        """The distribution of one code, which no condition changes."""
        scale = bounded_scale(self.s, 3.0)
        return distributions.PiecewiseNormal(self.cuts, self.loc, scale).to_event(len(self.latent))


class SphericalUniform(nn.Module):
    r"""p(z) = Gamma(d / 2) / (2 pi^(d / 2)),   |z| = 1

    Shapes: event (latent,).

    Args:
        latent: d, dimensions of the space that the sphere lies in, at least 2.

    Raises:
        ValueError: where ``latent`` is less than 2.

    Source: Davidson et al. 2018, arXiv:1804.00891.

    >>> SphericalUniform(3)().sample().norm().round(decimals=4)
    tensor(1.)
    """

    like: Tensor

    def __init__(self, latent: Sequence[int] | int) -> None:
        super().__init__()
        self.latent = checks.latent(latent)
        checks.on_sphere(self.latent)
        self.register_buffer("like", torch.zeros(self.latent), persistent=False)

    def forward(self, *conditions: Tensor) -> dist.Distribution:
        """The distribution of one code, which no condition changes."""
        return distributions.SphericalUniform(self.like)
