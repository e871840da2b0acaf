"""Free bits: a share of the KL that costs nothing."""

from collections.abc import Mapping
from typing import Any

from pyro.infer.util import torch_item
from torch import Tensor

from pyro_vae import checks, families
from pyro_vae.infer.analytic_kl import AnalyticKL, data_terms, why_estimated
from pyro_vae.tracing import Site, latent_sites


class FreeBits(AnalyticKL):
    r"""E_q[log p(x | z)] - sum_j max(lambda_j, mean_x KL_j),   KL_j the KL of group j

    A group whose KL, averaged over the batch, is below lambda_j has no gradient of its own: the pair may
    use that much for free, and gains nothing by closing the channel. ``loss`` stays minus the ELBO, in
    nats summed over the batch; only gradients and the value returned by a training step are of the objective.

    KL_j is the closed form or the estimate, as :class:`pyro_vae.infer.AnalyticKL` has it.

    Args:
        nats: lambda, in nats per datum and group; or a mapping from latent sites to that of their groups, 0 at sites
            that it lacks.
        per: a group is a latent ``"site"``, or each ``"unit"`` of it, where posterior and prior factorise.
        num_particles: draws per datum; they are averaged before the comparison.
        max_plate_nesting: how deep the plates of the pair nest, 1 where there is the data plate alone.

    Raises:
        ValueError: where ``nats`` is negative; in training, where it names a site that is not there; where units are
            asked of a site that does not factorise; where the guide draws from a distribution without
            reparameterised gradients.

    Source: Kingma et al. 2016, arXiv:1606.04934, appendix C.8.

    >>> FreeBits(0.5, per="unit").nats
    0.5
    """

    def __init__(
        self,
        nats: float | Mapping[str, float],
        per: str = "site",
        num_particles: int = 1,
        max_plate_nesting: int = 1,
    ) -> None:
        if isinstance(nats, Mapping):
            if not nats:
                raise ValueError("nats: expected nats for at least one latent site, found an empty mapping")
            self.nats: Any = {site: checks.real(f"nats: {site}", value, least=0) for site, value in nats.items()}
        else:
            self.nats = checks.real("nats", nats, least=0)
        self.per = checks.known("per", per, ["site", "unit"])
        super().__init__(num_particles, max_plate_nesting)

    def _get_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> Any:
        model_trace, guide_trace = super()._get_trace(model, guide, args, kwargs)
        drawn = latent_sites(guide_trace)
        unknown = [name for name in self.nats if name not in drawn] if isinstance(self.nats, Mapping) else []
        if unknown:
            raise ValueError(f"FreeBits: nats: no latent site {unknown[0]!r}; the guide has {sorted(drawn)}")
        return model_trace, guide_trace

    def objective(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Minus the objective, summed over the batch; differentiable."""
        return self._loss(model, guide, args, kwargs, free=True)

    differentiable_loss = objective  # under which a torch loop asks for it

    def loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """Minus the ELBO, summed over the batch."""
        return torch_item(self._loss(model, guide, args, kwargs, free=False))

    def _loss(self, model: Any, guide: Any, args: Any, kwargs: Any, *, free: bool) -> Tensor:
        (model_trace, guide_trace), *_ = self._get_traces(model, guide, args, kwargs)
        shared = self.costs(model_trace, guide_trace, {})
        loss = (sum(shared.values()) - data_terms(model_trace, guide_trace)) / self.num_particles
        obstacles = why_estimated(model_trace, guide_trace)
        for name, site in latent_sites(guide_trace).items():
            kl = self._kl(name, site, model_trace.nodes[name], obstacles[name])  # (*batch, groups)
            particles = 0 if self.num_particles == 1 else 1
            kl = kl.sum(tuple(range(particles, kl.dim() - 2))) if kl.dim() - particles > 2 else kl  # plates inside
            mean, nats = kl.flatten(0, -2).mean(0), self._nats(name) if free else 0.0
            loss = loss + site["scale"] * (mean.clamp(min=nats) if nats else mean).sum() * kl.shape[-2]
        return loss

    def _nats(self, site: str) -> float:
        """The nats that are free to each group of a latent site."""
        return self.nats.get(site, 0.0) if isinstance(self.nats, Mapping) else self.nats

    def _kl(self, name: str, q: Site, p: Any, obstacle: str) -> Tensor:
        """KL of each datum and group, of shape (..., batch, groups), or its estimate from the draws."""
        posterior, prior = q["fn"], p["fn"]
        if self.per == "unit":
            if not (families.factorises(posterior) and families.factorises(prior)):
                raise ValueError(f"FreeBits: the site {name!r} does not factorise into units; use per='site'")
            posterior, prior = posterior.base_dist, prior.base_dist
        kl = self._closed(name, posterior, prior, obstacle)
        if kl is None:
            kl = posterior.log_prob(q["value"]) - prior.log_prob(q["value"])
        batch = q["fn"].batch_shape
        return kl.expand(batch + kl.shape[len(batch) :]).reshape(*batch, -1)

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """Minus the objective, summed over the batch, with its gradients."""
        loss = self.objective(model, guide, *args, **kwargs)
        loss.backward()
        return torch_item(loss)
