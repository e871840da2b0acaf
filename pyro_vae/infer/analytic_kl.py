"""The ELBO with every KL that is known in closed form, and codes whose density jumps."""

import copy
from collections.abc import Collection, Mapping
from typing import Any

import torch
from pyro import poutine
from pyro.distributions import Delta
from pyro.distributions.util import scale_and_mask
from pyro.infer import Trace_ELBO
from pyro.infer.util import is_validation_enabled, torch_item
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import prune_subsample_sites, site_is_factor
from pyro.util import check_model_guide_match, check_site_shape
from torch import Tensor
from torch.distributions import kl_divergence

from pyro_vae import checks, families
from pyro_vae.tracing import Site, latent_sites, shared_sites


class AnalyticKL(Trace_ELBO):
    r"""E_q[log p(x | z)] - sum_j KL(q(z_j | ...) || p(z_j | ...))

    The ELBO, the z_j being codes and what all data share. Each KL is the closed form where PyTorch knows one and the
    prior depends on nothing that the guide draws later; else, as at z1 where a guide draws z2 from it, the estimate
    from the draws.

    A distribution with ``closed_form = True``, such as a rectified normal, can be drawn pathwise, but its density
    jumps, and pathwise gradients of an estimated KL are biased. Under other objectives such a code has the noisy
    gradients of the score function. Here it is drawn pathwise, and a KL without a closed form is an error. Whatever
    else the programs compute from the code should be continuous in it.

    Args:
        num_particles: draws per datum.
        max_plate_nesting: how deep the plates of the pair nest, 1 where there is the data plate alone.

    Raises:
        ValueError: in use, where the guide draws from a distribution without reparameterised gradients; where the
            posterior or the prior of a site has ``closed_form`` and their KL has none.

    >>> prior = lambda: pyro.sample("z", dist.Normal(0.0, 1.0))
    >>> posterior = lambda: pyro.sample("z", dist.Normal(1.0, 1.0))
    >>> AnalyticKL().loss(prior, posterior)
    0.5
    """

    def __init__(self, num_particles: int = 1, max_plate_nesting: int = 1) -> None:
        num_particles = checks.positive_int("num_particles", num_particles)
        nesting = checks.positive_int("max_plate_nesting", max_plate_nesting)
        super().__init__(num_particles=num_particles, vectorize_particles=num_particles > 1, max_plate_nesting=nesting)

    def _get_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> Any:
        # as Pyro does it, but that without validation densities are asked for only where a KL has no closed form
        guide_trace = poutine.trace(_Pathwise()(guide)).get_trace(*args, **kwargs)
        model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*args, **kwargs)
        if is_validation_enabled():
            check_model_guide_match(model_trace, guide_trace, self.max_plate_nesting)
        guide_trace, model_trace = prune_subsample_sites(guide_trace), prune_subsample_sites(model_trace)
        for trace in (model_trace, guide_trace) if is_validation_enabled() else ():
            trace.compute_log_prob(lambda name, site: families.has_density(site["fn"]))
            nodes: dict[str, Any] = dict(trace.nodes)
            for site in nodes.values():
                if site["type"] == "sample" and "log_prob" in site:
                    check_site_shape(site, self.max_plate_nesting)
        factors = {name: site for name, site in guide_trace.nodes.items() if site_is_factor(site)}
        for name, site in {**latent_sites(guide_trace), **shared_sites(guide_trace), **factors}.items():
            if not (site["fn"].has_rsample or self._idle(site)):
                raise self._error(name, f"has no reparameterised gradient ({site['fn']})")
        return model_trace, guide_trace

    def _idle(self, site: Site) -> bool:
        """Whether the objective does without the gradient of a draw."""
        return False

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Minus the ELBO, summed over the batch."""
        (model_trace, guide_trace), *_ = self._get_traces(model, guide, args, kwargs)
        loss = torch.zeros(()) - data_terms(model_trace, guide_trace)
        costs = self.costs(model_trace, guide_trace, latent_sites(guide_trace))
        return (loss + sum(costs.values())) / self.num_particles

    def costs(self, model_trace: Any, guide_trace: Any, codes: Mapping[str, Site]) -> dict[str, Any]:
        """The KLs of ``codes`` and of what all data share, each summed over the batch, or an estimate of it."""
        obstacles = why_estimated(model_trace, guide_trace)
        found: dict[str, Any] = {}
        for name, q in {**codes, **shared_sites(guide_trace)}.items():
            p = model_trace.nodes.get(name)
            kl = self._closed(name, q["fn"], p and p["fn"], obstacles[name])
            if kl is not None:
                found[name] = scale_and_mask(kl.expand(q["fn"].batch_shape), q["scale"], q["mask"]).sum()
            else:
                found[name] = log_prob_sum(guide_trace, [name]) - (log_prob_sum(model_trace, [name]) if p else 0.0)
        return found

    def loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """Minus the ELBO, summed over the batch."""
        return torch_item(self.differentiable_loss(model, guide, *args, **kwargs))

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """Minus the ELBO, summed over the batch, with its gradients."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        if loss.requires_grad:
            loss.backward()
        return torch_item(loss)

    def _closed(self, name: str, posterior: Any, prior: Any, obstacle: str) -> Tensor | None:
        """The KL in closed form; None where it has to be estimated, and can."""
        try:
            # which of a delta leaves out its log density, as of one that stands for a transformed draw
            if obstacle or isinstance(families.base(posterior), Delta):
                raise NotImplementedError
            return torch.as_tensor(kl_divergence(posterior, prior))
        except NotImplementedError:
            if not (families.jumps(posterior) or families.jumps(prior)):
                return None
        pair = f"the KL of {families.family(posterior)} from {families.family(prior)} in closed form"
        # pathwise draws would be biased there too
        use = "pyro.infer.Trace_ELBO"
        use += "" if families.jumps(posterior) else " and draw from it under `has_rsample_(False)`"
        raise self._error(name, f"needs {pair}, {obstacle or 'and there is none'}; use {use}")

    def _error(self, name: str, what: str) -> ValueError:
        return ValueError(f"{type(self).__name__}: the site {name!r} {what}")


class _Pathwise(Messenger):
    """Distributions whose density jumps are drawn pathwise; those of the user stay as they are."""

    def _pyro_sample(self, msg: Any) -> None:
        if families.jumps(msg["fn"]) and not msg["is_observed"]:
            msg["fn"] = _pathwise(msg["fn"])


def _pathwise(distribution: Any) -> Any:
    new = copy.copy(distribution)
    if hasattr(new, "base_dist"):
        new.base_dist = _pathwise(new.base_dist)
        return new
    return new.has_rsample_(True)


def data_terms(model_trace: poutine.Trace, guide_trace: poutine.Trace) -> Any:
    """The terms of the ELBO that belong to nothing that the guide draws: data, and factors of either program."""
    drawn = {**latent_sites(guide_trace), **shared_sites(guide_trace)}

    model_names, guide_names = ([n for n in trace.nodes if n not in drawn] for trace in (model_trace, guide_trace))
    return log_prob_sum(model_trace, model_names) - log_prob_sum(guide_trace, guide_names)


def log_prob_sum(trace: poutine.Trace, names: Collection[str]) -> Any:
    """The log density of some sites, weighed as they are, summed over all of them."""
    trace.compute_log_prob(site_filter=lambda name, site: name in names)
    nodes: dict[str, Any] = dict(trace.nodes)
    return sum(nodes[name]["log_prob_sum"] for name in names if nodes[name]["type"] == "sample")


def why_estimated(model_trace: poutine.Trace, guide_trace: poutine.Trace) -> dict[str, str]:
    """For each latent site why its KL has no closed form whatever the distributions are; "" where it may have one."""
    found = {}
    drawn = {**shared_sites(guide_trace), **latent_sites(guide_trace)}
    above = [name for name in model_trace.nodes if name in drawn]
    for i, (name, q) in enumerate(drawn.items()):
        found[name] = ""
        if name not in above:
            found[name] = "but the model lacks it"
        elif not set(above[: above.index(name)]) <= set(list(drawn)[:i]):
            # the prior depends on what was drawn from this very draw, over which a closed form would not average
            found[name] = "but its prior may depend on what the guide draws later"
        elif not _alike(q, model_trace.nodes[name]):
            found[name] = "but guide and model weigh or mask it differently"
    return found


def _alike(q: Site, p: Any) -> bool:
    def same(what: str) -> bool:
        if q[what] is p[what]:
            return True
        equal = q[what] == p[what]
        return bool(equal.all() if isinstance(equal, torch.Tensor) else equal)

    return same("scale") and same("mask")
