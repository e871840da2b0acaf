"""Discrete codes relaxed while training: the decoder reads draws on the simplex, the KL is that of the codes."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pyro.distributions import MaskedDistribution

from pyro_vae import checks, families
from pyro_vae.distributions import Codes, RelaxedCodes
from pyro_vae.infer.pacing import Number, Paced

_BEFORE = "_drawn_before"  # on a relaxed draw: the sites that the guide had drawn by then


@dataclass(frozen=True)
class Anneal:
    """temperature(t) = max(least, start * exp(-rate * t))

    Towards discrete codes, with t the number of epochs trained so far, fractions included.

    Raises:
        ValueError: where ``start`` or ``least`` is not greater than 0, or ``rate`` is negative.

    Source: Jang, Gu & Poole 2017, arXiv:1611.01144, section 4.2.

    >>> [round(Anneal(rate=0.1)(epoch), 2) for epoch in (0, 5, 100)]
    [1.0, 0.61, 0.5]
    """

    rate: float
    start: float = 1.0
    least: float = 0.5

    def __post_init__(self) -> None:
        checks.real("Anneal: rate", self.rate, least=0)
        checks.real("Anneal: start", self.start, above=0)
        checks.real("Anneal: least", self.least, above=0)

    def __call__(self, epoch: float) -> float:
        """The temperature at an epoch."""
        return max(self.least, self.start * math.exp(-self.rate * epoch))


class relaxed(Paced):  # named as Pyro names its handlers
    r"""E_y[log p(x | y)] - KL(q(z | x) || p(z)),   y_j = softmax((log q_j + g_j) / temperature),   g Gumbel noise

    An effect handler for both programs, under which one-hot latent sites are drawn relaxed, with pathwise gradients:
    what the decoder reads is relaxed, and the KL is that of the discrete codes, in closed form, under any objective
    that adds up log p - log q. The bare programs stay discrete, and so do all metrics.

    Where the model draws one site from another, the guide has to draw them in an order in which no prior depends on
    what the guide draws later. Objectives that average weights, as Renyi's, have no meaning here.

    Args:
        temperature: greater than 0, or a schedule of it, such as :class:`Anneal`, which reads the attribute ``epoch``
            that :func:`pyro_vae.fit` sets before each step.
        straight_through: one-hot draws, with the gradients of the relaxed ones.

    Raises:
        ValueError: where the temperature is not greater than 0; in use, where a discrete latent site is neither a
            :class:`pyro_vae.distributions.Codes` nor a ``OneHotCategorical(...).to_event(1)``, in guide or prior; where
            the prior of one depends on what the guide draws later; around verbs and metrics, which are of discrete
            codes.

    Source: Jang, Gu & Poole 2017, arXiv:1611.01144; Maddison, Mnih & Teh 2017, arXiv:1611.00712.

    >>> with relaxed(0.5):
    ...     y = pyro.sample("z", pv.distributions.Codes(torch.zeros(20, 10)))
    >>> torch.allclose(y.sum(-1), torch.ones(20)), bool((y < 1).all())
    (True, True)
    """

    def __init__(self, temperature: float | Anneal = 1.0, straight_through: bool = False) -> None:
        super().__init__()
        if not isinstance(temperature, Anneal):
            temperature = checks.real("temperature", temperature, above=0)
        checks.instance("straight_through", straight_through, bool)
        self.temperature, self.straight_through = temperature, straight_through

    @property
    def now(self) -> float:
        """The present temperature."""
        return self.number("temperature")

    @property
    def numbers(self) -> Mapping[str, Number]:
        """The temperature."""
        return {"temperature": self.temperature}

    def __repr__(self) -> str:
        return f"relaxed({self.temperature}{', straight_through=True' * self.straight_through})"

    def __enter__(self) -> "relaxed":
        self._drawn: set[str] = set()
        return super().__enter__()

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or not families.is_discrete(msg["fn"]):
            return
        refuse_around("relaxed", msg)
        msg["fn"] = self._relaxed(msg["name"], msg["fn"])

    def _relaxed(self, site: str, fn: Any) -> Any:
        if isinstance(fn, MaskedDistribution):
            return self._relaxed(site, fn.base_dist).mask(fn._mask)
        base = families.base(fn)
        if not isinstance(base, Codes | torch.distributions.OneHotCategorical) or fn.event_dim != 2:
            raise ValueError(
                f"relaxed: the site {site!r} is {families.family(fn)} of event shape {tuple(fn.event_shape)}; expected "
                "in guide and prior pv.distributions.Codes, or OneHotCategorical(...).to_event(1), of event shape "
                "(codes, categories), whose KL has a closed form; or another estimator"
            )
        return RelaxedCodes(base.logits, self.now, self.straight_through)

    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["is_observed"] or type(msg["fn"]).__name__ == "_Subsample":
            return
        if isinstance(families.base(msg["fn"]), RelaxedCodes):
            # the guide's draws tell what was drawn before them; in the model nothing else may stand above them
            before = msg["value"].__dict__.setdefault(_BEFORE, frozenset(self._drawn))
            later = sorted(self._drawn - before)
            if later:
                raise ValueError(
                    f"relaxed: the prior of {msg['name']!r} may depend on {later[0]!r}, which the guide draws later, "
                    "so that its KL has no closed form; draw them in the order of the model, or use another estimator"
                )
        self._drawn.add(msg["name"])


def refuse_around(handler: str, msg: Any) -> None:
    """Raise where a handler stands around a verb or a metric, which are of the bare pair, instead of the programs."""
    if msg["infer"].get("prepared"):
        raise ValueError(
            f"{handler}: found around fit, or a verb or metric of a pair; expected around its programs, as in "
            f"pv.Variant(model, guide, handler=pv.infer.{handler}(...))"
        )
