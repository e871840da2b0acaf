"""Discrete codes summed over, all of them or none."""

from typing import Any

from pyro.poutine.messenger import Messenger

from pyro_vae import families
from pyro_vae.distributions.codes import MOST
from pyro_vae.infer.relaxing import refuse_around


class enumerated(Messenger):  # named as Pyro names its handlers
    r"""sum_z q(z | x) (log p(x, z) - log q(z | x)),   over all values of the discrete latent sites

    An effect handler for both programs: it marks the discrete sites of the guide for
    :class:`pyro.infer.TraceEnum_ELBO`, which :func:`pyro_vae.fit` takes of itself, and lets none be sampled instead.

    Raises:
        ValueError: in use, where a discrete site has no enumerate support, as those of ``to_event`` have none; where
            there are more than 10,000 combinations of values; where the objective does not enumerate.

    Source: Kingma et al. 2014, arXiv:1406.5298, equation 7.

    >>> program = enumerated()(lambda: pyro.sample("z", pv.distributions.Codes(torch.zeros(2, 3))))
    >>> trace = pyro.poutine.trace(pyro.poutine.enum(program, first_available_dim=-1)).get_trace()
    >>> trace.nodes["z"]["value"].shape
    torch.Size([9, 2, 3])
    """

    def __enter__(self) -> "enumerated":
        self._combinations = 1
        return super().__enter__()

    def __repr__(self) -> str:
        return "enumerated()"

    def _pyro_sample(self, msg: Any) -> None:
        if not msg["is_observed"] and families.is_discrete(msg["fn"]):
            refuse_around("enumerated", msg)
            if msg["fn"].has_enumerate_support:
                msg["infer"]["enumerate"] = "parallel"

    def _pyro_post_sample(self, msg: Any) -> None:
        # where Pyro only looks how plates nest, it hides what it does
        if msg["is_observed"] or msg["stop"] or not families.is_discrete(msg["fn"]):
            return
        if "_enumerate_dim" not in msg["infer"]:  # in the model a site has what the guide found
            if not msg["fn"].has_enumerate_support:
                raise ValueError(
                    f"enumerated: the values of {families.family(msg['fn'])} at the site {msg['name']!r}, of event "
                    f"shape {tuple(msg['fn'].event_shape)}, cannot be enumerated, and would be sampled; expected "
                    "pv.distributions.Codes, or one site per code"
                )
            raise ValueError(
                f"enumerated: the site {msg['name']!r} was sampled, as the objective does not enumerate; expected "
                "pyro.infer.TraceEnum_ELBO, and this handler around the programs, inside of it"
            )
        self._combinations *= msg["value"].shape[msg["infer"]["_enumerate_dim"] - msg["fn"].event_dim]
        if self._combinations > MOST:
            raise ValueError(
                f"enumerated: {self._combinations:,} combinations of values up to the site {msg['name']!r}, more than "
                f"the {MOST:,} that can be summed over; use another estimator, such as pv.infer.relaxed"
            )
