"""Importance-weighted training."""

from typing import Any

from pyro.infer import RenyiELBO

from pyro_vae import checks, families
from pyro_vae.distributions import RelaxedCodes
from pyro_vae.tracing import is_local, latent_sites, shared_sites


class IWAE(RenyiELBO):
    r"""L_K = E[log (1/K) sum_k p(x, z_k) / q(z_k | x)],   z_k ~ q(z | x)

    Between the ELBO (K = 1) and log p(x). The limit alpha = 0 of Pyro's Renyi bound, with all particles at
    once; ``loss`` is minus L_K summed over the batch, in nats.

    Args:
        particles: K, at least 2.
        max_plate_nesting: how deep the plates of the pair nest, 1 where there is the data plate alone.

    Raises:
        ValueError: for fewer than two particles; where a latent site stands outside the data plate, since
            one weight per datum then does not exist; where the guide draws from a distribution without
            reparameterised gradients.

    Source: Burda, Grosse & Salakhutdinov 2016, arXiv:1509.00519.

    >>> IWAE(particles=5).num_particles
    5
    """

    def __init__(self, particles: int = 50, max_plate_nesting: int = 1) -> None:
        if checks.positive_int("particles", particles) < 2:
            raise ValueError("particles: IWAE takes at least 2; one particle is pyro.infer.Trace_ELBO")
        nesting = checks.positive_int("max_plate_nesting", max_plate_nesting)
        super().__init__(alpha=0.0, num_particles=particles, vectorize_particles=True, max_plate_nesting=nesting)

    def _get_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> Any:
        model_trace, guide_trace = super()._get_trace(model, guide, args, kwargs)
        for name in shared_sites(model_trace):
            raise ValueError(f"IWAE: the site {name!r} is shared by all data and has no weight per datum")
        for name, site in latent_sites(guide_trace).items():
            if not is_local(site):
                raise ValueError(f"IWAE: the site {name!r} stands outside the data plate and has no weight per datum")
            if isinstance(families.base(site["fn"]), RelaxedCodes):
                raise ValueError(
                    f"IWAE: the site {name!r} is relaxed, which has a KL and no weight of each draw; use "
                    "pyro.infer.Trace_ELBO"
                )
            if not site["fn"].has_rsample:
                use = "pv.infer.AnalyticKL" if families.jumps(site["fn"]) else "pyro.infer.TraceEnum_ELBO"
                raise ValueError(
                    f"IWAE: the site {name!r} has no reparameterised gradient, and its own would be lost; use {use}"
                )
        return model_trace, guide_trace
