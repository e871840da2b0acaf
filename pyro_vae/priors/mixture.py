"""Mixtures: of normals with parameters of their own, and of posteriors."""

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae import checks
from pyro_vae.posteriors import bounded_scale


class Mixture(nn.Module):
    r"""p(z) = sum_k w_k N(z; loc_k, diag scale_k^2),   k = 1, ..., components, all learned

    Shapes: event (\*latent,).

    Args:
        latent: dimensions of the code, or its shape.
        components: how many normals.

    Raises:
        ValueError: where ``components`` is not a positive whole number.

    Source: Dilokthanakul et al. 2016, arXiv:1611.02648; as a baseline, Tomczak & Welling 2018, arXiv:1705.07120.

    >>> Mixture(3, components=10)().event_shape
    torch.Size([3])
    """

    def __init__(self, latent: Sequence[int] | int, components: int = 100) -> None:
        super().__init__()
        self.latent, self.components = checks.latent(latent), checks.positive_int("components", components)
        self.logits = nn.Parameter(torch.zeros(components))
        self.loc = nn.Parameter(torch.randn(components, *self.latent))
        self.s = nn.Parameter(torch.zeros(components, *self.latent))

    def forward(self, *conditions: Tensor) -> dist.Distribution:
        """The distribution of one code, which no condition changes."""
        parts = dist.Normal(self.loc, bounded_scale(self.s)).to_event(len(self.latent))
        return dist.MixtureSameFamily(dist.Categorical(logits=self.logits), parts)

    @torch.no_grad()
    def initialise(self, codes: Tensor, seed: int = 0) -> None:
        r"""Start at the clusters of ``codes``, (n, \*latent), found by k-means: their weights, means and deviations.

        Raises:
            ValueError: where there are fewer codes than components, or of another shape.
        """
        from sklearn.cluster import KMeans

        if tuple(codes.shape[1:]) != self.latent or len(codes) < self.components:
            wanted = ", ".join(map(str, self.latent))
            raise ValueError(
                f"codes: expected at least {self.components} of shape ({wanted}), found {tuple(codes.shape)}"
            )
        rows = codes.detach().flatten(1).double().cpu()
        distinct = len(rows.unique(dim=0))
        if distinct < self.components:
            raise ValueError(f"codes: expected at least {self.components} that differ, found {distinct}")
        found = torch.as_tensor(KMeans(self.components, n_init=1, random_state=seed).fit_predict(rows.numpy()))
        for k in range(self.components):
            part = rows[found == k]
            # of one code alone there is no deviation: the common one of all is divided among the components
            spread = (
                part.std(0) if len(part) > 1 else rows.std(0, correction=0) / self.components ** (1 / rows.shape[1])
            )
            self.loc[k] = part.mean(0).reshape(self.latent).to(self.loc)
            self.s[k] = spread.clamp(min=1e-2).log().reshape(self.latent).to(self.s)
            self.logits[k] = len(part) / len(rows)
        self.logits.log_()


class Vamp(nn.Module):
    r"""p(z) = (1 / K) sum_k q(z | u_k),   u_1, ..., u_K in the space of the data

    The prior that a guide would choose for itself, the mixture of its posteriors over all data, as far as K
    pseudo-inputs stand for these. They are learned, or kept where :meth:`initialise` put them. A recipe hands over the
    posterior at the top of its guide, which must be a function of x alone.

    Shapes: event (\*latent,).

    Args:
        latent: dimensions of the code, or its shape.
        posterior: ``(x) -> distribution`` over the code. Its parameters stay the guide's.
        data_shape: shape of one datum.
        pseudo_inputs: K.
        trainable: whether they are learned.
        bounds: the least and the greatest value of data, beyond which no pseudo-input goes; None for any real number.

    Raises:
        ValueError: where ``pseudo_inputs`` is not a positive whole number.

    Source: Tomczak & Welling 2018, arXiv:1705.07120.

    >>> pair = pv.vae(9, latent=2, prior=Vamp)
    >>> pair.model.prior().event_shape
    torch.Size([2])
    """

    u: Tensor

    def __init__(
        self,
        latent: Sequence[int] | int,
        posterior: nn.Module,
        data_shape: Sequence[int] | int,
        pseudo_inputs: int = 100,
        trainable: bool = True,
        bounds: tuple[float, float] | None = None,
    ) -> None:
        super().__init__()
        self.latent, self.data_shape = checks.latent(latent), checks.shape("data_shape", data_shape)
        self.pseudo_inputs, self.bounds = checks.positive_int("pseudo_inputs", pseudo_inputs), bounds
        low, high = bounds or (-1.0, 1.0)
        u = low + (high - low) * torch.rand(pseudo_inputs, *self.data_shape)
        if trainable:
            self.u = nn.Parameter(u)
        else:
            self.register_buffer("u", u)
        self._posterior = (posterior,)  # a tuple registers nothing: its parameters are the guide's

    def forward(self, *conditions: Tensor) -> dist.Distribution:
        """The distribution of one code."""
        u = self.u if self.bounds is None else self.u.clamp(*self.bounds)
        parts = self._posterior[0](u)
        weights = dist.Categorical(logits=u.new_zeros(len(u)))
        return dist.MixtureSameFamily(weights, parts)

    @torch.no_grad()
    def initialise(self, x: Tensor, seed: int = 0) -> None:
        r"""Put the pseudo-inputs at random ones of the data ``x``, (n, \*data_shape).

        Raises:
            ValueError: where there are fewer data than pseudo-inputs, or of another shape.
        """
        if x.shape[1:] != self.u.shape[1:] or len(x) < len(self.u):
            wanted = ", ".join(map(str, self.data_shape))
            raise ValueError(f"x: expected at least {len(self.u)} of shape ({wanted}), found {tuple(x.shape)}")
        if not x.isfinite().all():
            raise ValueError("x: holds NaN or infinite values, which no posterior reads")
        chosen = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[: len(self.u)]
        self.u.copy_(x[chosen.to(x.device)])
