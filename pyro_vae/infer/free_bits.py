"""Free bits: a share of the KL that costs nothing."""

from typing import Any

import torch
from pyro.infer import TraceMeanField_ELBO
from pyro.infer.util import torch_item
from pyro.poutine.util import site_is_factor
from torch import Tensor
from torch.distributions import Independent, kl_divergence

from pyro_vae import checks
from pyro_vae.tracing import Site, latent_sites


class FreeBits(TraceMeanField_ELBO):
    r"""E_q[log p(x | z)] - sum_j max(lambda, mean_x KL_j),   KL_j the KL of group j

    A group whose KL, averaged over the batch, is below lambda has no gradient of its own: the pair may
    use that much for free, and gains nothing by closing the channel. ``loss`` stays minus the ELBO, in
    nats summed over the batch; only gradients and the value returned by a training step are of the objective.

    KL_j is the closed form where PyTorch knows it, else the estimate from the draws.

    Args:
        nats: lambda, in nats per datum and group.
        per: a group is a latent ``"site"``, or each ``"unit"`` of it, where posterior and prior factorise.
        num_particles: draws per datum; they are averaged before the comparison.
        max_plate_nesting: how deep the plates of the pair nest, 1 where there is the data plate alone.

    Raises:
        ValueError: where ``nats`` is negative; where units are asked of a site that does not factorise;
            where the guide draws from a distribution without reparameterised gradients.

    Source: Kingma et al. 2016, arXiv:1606.04934, appendix C.8.

    >>> FreeBits(0.5, per="unit").nats
    0.5
    """

    def __init__(self, nats: float, per: str = "site", num_particles: int = 1, max_plate_nesting: int = 1) -> None:
        self.nats = checks.real("nats", nats, least=0)
        self.per = checks.known("per", per, ["site", "unit"])
        num_particles = checks.positive_int("num_particles", num_particles)
        nesting = checks.positive_int("max_plate_nesting", max_plate_nesting)
        super().__init__(num_particles=num_particles, vectorize_particles=num_particles > 1, max_plate_nesting=nesting)

    def _get_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> Any:
        model_trace, guide_trace = super()._get_trace(model, guide, args, kwargs)
        for name, site in latent_sites(guide_trace).items():
            if not site["fn"].has_rsample:
                raise ValueError(f"FreeBits: the site {name!r} has no reparameterised gradient ({site['fn']})")
        return model_trace, guide_trace

    def objective(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Minus the objective, summed over the batch; differentiable."""
        (model_trace, guide_trace), *_ = self._get_traces(model, guide, args, kwargs)
        loss = torch.zeros(())
        for name, site in model_trace.nodes.items():
            if site["type"] == "sample" and name not in guide_trace:
                loss = loss - site["log_prob_sum"] / self.num_particles
        for site in guide_trace.nodes.values():
            if site["type"] == "sample" and site_is_factor(site):
                loss = loss + site["log_prob_sum"] / self.num_particles  # a term of the objective and of no group
        for name, site in latent_sites(guide_trace).items():
            kl = self._kl(name, site, model_trace.nodes[name])  # (*batch, groups)
            particles = 0 if self.num_particles == 1 else 1
            kl = kl.sum(tuple(range(particles, kl.dim() - 2))) if kl.dim() - particles > 2 else kl  # plates inside
            free = kl.flatten(0, -2).mean(0).clamp(min=self.nats).sum() * kl.shape[-2]
            loss = loss + site["scale"] * free
        return loss

    def _kl(self, name: str, q: Site, p: Site) -> Tensor:
        """KL of each datum and group, of shape (..., batch, groups)."""
        posterior, prior = q["fn"], p["fn"]
        if self.per == "unit":
            if not (_factorises(posterior) and _factorises(prior)):
                raise ValueError(f"FreeBits: the site {name!r} does not factorise into units; use per='site'")
            posterior, prior = posterior.base_dist, prior.base_dist
        try:
            kl = kl_divergence(posterior, prior)
        except NotImplementedError:
            kl = posterior.log_prob(q["value"]) - prior.log_prob(q["value"])
        batch = q["fn"].batch_shape
        return kl.expand(batch + kl.shape[len(batch) :]).reshape(*batch, -1)

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """Minus the objective, summed over the batch, with its gradients."""
        loss = self.objective(model, guide, *args, **kwargs)
        loss.backward()
        return torch_item(loss)


def _factorises(distribution: Any) -> bool:
    return isinstance(distribution, Independent) and not distribution.base_dist.event_shape
