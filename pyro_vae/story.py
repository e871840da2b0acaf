"""What generative stories have in common."""

from typing import Any

import pyro
from pyro.nn import PyroModule

SHARED = "shared"  # how sites that all data share are marked, in `infer`


class Story(PyroModule):
    r"""p(x, z, theta) = p(theta) prod_n p(x_n, z_n | theta)

    A generative story, whose parts may have attributes that are random: those that are :class:`pyro.nn.PyroSample` are
    drawn before the data plate opens, once for all data, and stay what they are until the story ends.

    Sites: named after where they stand, such as ``prior.scale``.

    >>> class Scaled(pyro.nn.PyroModule):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.scale = pyro.nn.PyroSample(dist.HalfCauchy(1.0))
    ...     def forward(self):
    ...         return dist.Normal(torch.zeros(2), self.scale).to_event(1)
    >>> pair = pv.vae(9, latent=2, prior=Scaled())
    >>> drawn = pyro.poutine.trace(pair.model).get_trace(n=3).nodes
    >>> drawn["prior.scale"]["value"].shape, drawn["z"]["value"].shape
    (torch.Size([]), torch.Size([3, 2]))
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Draw what all data share, and tell the story."""
        with self._pyro_context:
            for path, module in self.named_modules():
                for name, prior in getattr(module, "_pyro_samples", {}).items():
                    module._pyro_context, module._pyro_name = self._pyro_context, f"{self._pyro_name}.{path}"
                    prior = prior if hasattr(prior, "sample") else prior(module)
                    site = ".".join(filter(None, (path, name)))
                    value = pyro.sample(site, prior, infer={SHARED: True})  # type: ignore[arg-type]
                    if value.shape != prior.batch_shape + prior.event_shape:
                        raise ValueError(
                            f"{site}: shared by all data, and cannot stand in a plate; draw one particle after "
                            "another (vectorize_particles=False)"
                        )
                    self._pyro_context.set(module._pyro_get_fullname(name), value)  # where the module looks for it
            return super().__call__(*args, **kwargs)
