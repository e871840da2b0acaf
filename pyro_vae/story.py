"""What generative stories have in common."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import pyro
from pyro import poutine
from pyro.nn import PyroModule
from torch import Tensor, nn

SHARED = "shared"  # how sites that all data share are marked, in `infer`
FLIPS = "flips"  # of a draw whose numbers are as likely on either side of a value: this value, signs, how many data


class Random(NamedTuple):
    """An attribute that is drawn, of a module somewhere in a pair."""

    site: str
    module: PyroModule
    name: str

    @property
    def prior(self) -> Any:
        """Its distribution, which may depend on those that were drawn before."""
        prior: Any = self.module._pyro_samples[self.name]
        return prior if hasattr(prior, "sample") else prior(self.module)

    def put(self, program: PyroModule, value: Tensor, flips: Any) -> None:
        """Leave a value where the module finds it, until the program ends that runs now."""
        path = self.site.rpartition(".")[0]
        if self.module is not program:
            self.module._pyro_context, self.module._pyro_name = program._pyro_context, f"{program._pyro_name}.{path}"
        where = self.module._pyro_get_fullname(self.name)
        program._pyro_context.set(where, value)
        if flips is not None:
            program._pyro_context.set(where + FLIPS, flips)


def randoms(root: nn.Module, prefix: str = "") -> Iterator[Random]:
    """The attributes of a module, and of those below it, that are :class:`pyro.nn.PyroSample`."""
    for path, module in root.named_modules():
        for name in getattr(module, "_pyro_samples", ()):
            yield Random(".".join(filter(None, (prefix, path, name))), module, name)


class Story(PyroModule):
    r"""p(x, z, theta) = p(theta) prod_n p(x_n, z_n | theta)

    A generative story, whose parts may have attributes that are random: those that are :class:`pyro.nn.PyroSample`,
    such as the weights of a :class:`pyro_vae.nets.VariationalLinear`, are drawn before the data plate opens, once for
    all data, and stay what they are until the story ends.

    Sites: named after where they stand, such as ``prior.scale``. Those of the guide's networks are drawn too, as
    ``guide.posterior...``, for what a guide draws has a prior.

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

    of_guide: tuple[Random, ...] = ()  # random attributes of the guide's, which are the guide's to hold

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Draw what all data share, and tell the story."""
        with self._pyro_context:
            self.draw_shared()
            return super().__call__(*args, **kwargs)

    def draw_shared(self) -> None:
        """p(theta) alone."""
        with self._pyro_context:
            for random in (*randoms(self), *self.of_guide):
                prior = random.prior
                with poutine.trace() as drawn:
                    value = pyro.sample(random.site, prior, infer={SHARED: True})  # type: ignore[arg-type]
                shape = prior.batch_shape + prior.event_shape
                if value.numel() != shape.numel():
                    raise ValueError(
                        f"{random.site}: shared by all data, and cannot stand in a plate; draw one particle after "
                        "another (vectorize_particles=False)"
                    )
                nodes: dict[str, Any] = dict(drawn.trace.nodes)
                value = value.reshape(shape)  # Predictive conditions on values with dimensions of size 1 on the left
                random.put(self, value, nodes[random.site]["infer"].get(FLIPS))
