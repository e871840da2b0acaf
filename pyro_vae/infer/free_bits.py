"""Free bits: a share of the KL that costs nothing."""

from collections.abc import Mapping
from typing import Any

import torch
from pyro.infer import Trace_ELBO
from pyro.infer.util import torch_item
from pyro.poutine.util import site_is_factor
from torch import Tensor
from torch.distributions import Independent, kl_divergence

from pyro_vae import checks
from pyro_vae.tracing import Site, latent_sites


class FreeBits(Trace_ELBO):
    r"""E_q[log p(x | z)] - sum_j max(lambda_j, mean_x KL_j),   KL_j the KL of group j

    A group whose KL, averaged over the batch, is below lambda_j has no gradient of its own: the pair may
    use that much for free, and gains nothing by closing the channel. ``loss`` stays minus the ELBO, in
    nats summed over the batch; only gradients and the value returned by a training step are of the objective.

    KL_j is the closed form where PyTorch knows it and the prior depends on nothing that the guide draws later; else,
    as at z1 where a guide draws z2 from it, the estimate from the draws.

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
        num_particles = checks.positive_int("num_particles", num_particles)
        nesting = checks.positive_int("max_plate_nesting", max_plate_nesting)
        super().__init__(num_particles=num_particles, vectorize_particles=num_particles > 1, max_plate_nesting=nesting)

    def _get_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> Any:
        model_trace, guide_trace = super()._get_trace(model, guide, args, kwargs)
        drawn = latent_sites(guide_trace)
        unknown = [name for name in self.nats if name not in drawn] if isinstance(self.nats, Mapping) else []
        if unknown:
            raise ValueError(f"FreeBits: nats: no latent site {unknown[0]!r}; the guide has {sorted(drawn)}")
        for name, site in drawn.items():
            if not site["fn"].has_rsample:
                raise ValueError(f"FreeBits: the site {name!r} has no reparameterised gradient ({site['fn']})")
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
        loss = torch.zeros(())
        for name, site in model_trace.nodes.items():
            if site["type"] == "sample" and name not in guide_trace:
                loss = loss - site["log_prob_sum"] / self.num_particles
        for site in guide_trace.nodes.values():
            if site["type"] == "sample" and site_is_factor(site):
                loss = loss + site["log_prob_sum"] / self.num_particles  # a term of the objective and of no group
        drawn = list(latent_sites(guide_trace))
        above = [name for name in model_trace.nodes if name in drawn]
        for i, name in enumerate(drawn):
            site = guide_trace.nodes[name]
            # else the prior depends on what was drawn from this very draw, over which a closed form would not average
            closed = set(above[: above.index(name)]) <= set(drawn[:i])
            kl = self._kl(name, site, model_trace.nodes[name], closed=closed)  # (*batch, groups)
            particles = 0 if self.num_particles == 1 else 1
            kl = kl.sum(tuple(range(particles, kl.dim() - 2))) if kl.dim() - particles > 2 else kl  # plates inside
            mean, nats = kl.flatten(0, -2).mean(0), self._nats(name) if free else 0.0
            loss = loss + site["scale"] * (mean.clamp(min=nats) if nats else mean).sum() * kl.shape[-2]
        return loss

    def _nats(self, site: str) -> float:
        """The nats that are free to each group of a latent site."""
        return self.nats.get(site, 0.0) if isinstance(self.nats, Mapping) else self.nats

    def _kl(self, name: str, q: Site, p: Site, *, closed: bool) -> Tensor:
        """KL of each datum and group, of shape (..., batch, groups), or its estimate from the draws."""
        posterior, prior = q["fn"], p["fn"]
        if self.per == "unit":
            if not (_factorises(posterior) and _factorises(prior)):
                raise ValueError(f"FreeBits: the site {name!r} does not factorise into units; use per='site'")
            posterior, prior = posterior.base_dist, prior.base_dist
        try:
            if not closed:
                raise NotImplementedError
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
