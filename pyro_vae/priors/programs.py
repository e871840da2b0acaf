"""Priors that are programs, with sample sites of their own; and those of which nothing but draws is known."""

from collections.abc import Callable, Sequence

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae import checks, distributions
from pyro_vae.nets import MLP, FlattenBatch
from pyro_vae.posteriors import diagonal_normal, twice
from pyro_vae.priors.normal import Centred


class Hierarchical(nn.Module):
    r"""p(z, u) = N(u; 0, I) N(z; loc(u), diag scale(u)^2),   scale(u) = exp(7 tanh(s(u) / 7))

    A prior with a latent site of its own, a mixture of infinitely many normals. Its guide is
    :class:`pyro_vae.guides.Amortised`.

    Sites: ``u`` latent, (batch, upper).

    Shapes: event (\*latent,).

    Args:
        latent: dimensions of the code, or its shape.
        upper: dimensions of u.
        hidden: widths of the hidden layers of the network from u to loc and s.
        site: the name of u.

    Raises:
        ValueError: where a number is not positive.

    Source: Klushyn et al. 2019, arXiv:1905.04982.

    >>> pair = pv.vae(9, latent=4, prior=Hierarchical)
    >>> list(pair.encode(x=torch.zeros(3, 9)))
    ['z', 'u']
    """

    zeros: Tensor

    def __init__(
        self, latent: Sequence[int] | int, upper: int = 8, hidden: Sequence[int] = (64,), site: str = "u"
    ) -> None:
        super().__init__()
        self.latent, self.upper = checks.latent(latent), checks.positive_int("upper", upper)
        self.hidden, self.site = checks.shape("hidden", hidden), site
        net = MLP(upper, twice(self.latent), hidden=self.hidden)
        self.net = FlattenBatch(net, (upper,), (2, *self.latent))
        self.register_buffer("zeros", torch.zeros(upper), persistent=False)

    def forward(self, *conditions: Tensor) -> dist.Distribution:
        """The distribution of the code, given a u that is drawn here."""
        u = pyro.sample(self.site, dist.Normal(self.zeros, 1.0).to_event(1))
        return diagonal_normal(self.net(u), len(self.latent))


class HierarchicalHorseshoe(Centred):
    r"""p(z, l) = prod_u HalfCauchy(l_u; 1) N(z_u; 0, scale^2 l_u^2)

    :class:`Horseshoe` as an explicit mixture, with the scales l as a latent site.

    Sites: ``l`` latent, (batch, \*latent).

    Shapes: event (\*latent,).

    Args:
        latent: dimensions of the code, or its shape.
        scale: fixed; or ``"learned"``, one for each unit.
        site: the name of l.

    Raises:
        ValueError: where ``scale`` is not positive.

    Source: Carvalho, Polson & Scott 2010, "The horseshoe estimator for sparse signals", Biometrika.

    >>> pair = pv.vae(9, latent=4, prior=HierarchicalHorseshoe)
    >>> list(pair.encode(x=torch.zeros(3, 9)))
    ['z', 'l']
    """

    def __init__(self, latent: Sequence[int] | int, scale: float | str = 1.0, site: str = "l") -> None:
        super().__init__(latent, scale)
        self.site = site

    def forward(self, *conditions: Tensor) -> dist.Distribution:
        """The distribution of the code, given scales that are drawn here."""
        scale = self.width()
        local = pyro.sample(self.site, dist.HalfCauchy(torch.ones_like(scale)).to_event(scale.dim()))
        return dist.Normal(torch.zeros_like(scale), scale * local).to_event(scale.dim())


class Sampled(nn.Module):
    r"""z ~ p(z), known by its draws alone

    A pair with such a prior is trained by :func:`pyro_vae.aae` or :class:`pyro_vae.infer.MMD`, dreams, encodes and
    reconstructs; all that asks for log p(z), the ELBO first, is refused.

    Shapes: event (\*latent,).

    Args:
        latent: dimensions of the code, or its shape.
        sampler: ``(n) -> tensor`` (n, \*latent).

    Raises:
        ValueError: where what ``sampler`` gives has another shape.

    Source: Makhzani et al. 2015, arXiv:1511.05644.

    >>> pair = pv.vae(9, latent=2, prior=Sampled(2, lambda n: torch.rand(n, 2)))
    >>> pair.sample(5).shape
    torch.Size([5, 9])
    """

    like: Tensor

    def __init__(self, latent: Sequence[int] | int, sampler: Callable[[int], Tensor]) -> None:
        super().__init__()
        self.latent, self.sampler = checks.latent(latent), sampler
        self.register_buffer("like", torch.zeros(()), persistent=False)
        found = tuple(torch.as_tensor(sampler(3)).shape)
        if found != (3, *self.latent):
            raise ValueError(f"sampler: expected draws of shape {(3, *self.latent)} for n=3, found {found}")

    def forward(self, *conditions: Tensor) -> dist.Distribution:
        """The distribution of one code, which no condition changes."""
        return distributions.Sampled(lambda n: torch.as_tensor(self.sampler(n)).to(self.like), self.latent)
