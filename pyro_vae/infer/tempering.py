"""Weights on the KL: beta, warm-up and annealing, as one effect handler around both programs."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pyro_vae import checks
from pyro_vae.infer.pacing import Paced


@dataclass(frozen=True)
class WarmUp:
    """weight(t) = to * min(t / epochs, 1)

    Linear from 0, with t the number of epochs trained so far, fractions included.

    Source: Bowman et al. 2016, arXiv:1511.06349; Soenderby et al. 2016, arXiv:1602.02282.

    >>> WarmUp(epochs=10, to=4.0)(5.0)
    2.0
    """

    epochs: float
    to: float = 1.0

    def __post_init__(self) -> None:
        checks.real("WarmUp: epochs", self.epochs, above=0)
        checks.real("WarmUp: to", self.to, least=0)

    @property
    def full_at(self) -> float:
        """The epoch at which the weight first reaches its target."""
        return self.epochs

    def __call__(self, epoch: float) -> float:
        """The weight at an epoch."""
        return self.to * min(epoch / self.epochs, 1.0)


@dataclass(frozen=True)
class Cyclical:
    """weight(t) = to * min((t mod period) / (ramp * period), 1)

    A warm-up that starts again after every ``period`` epochs and takes the fraction ``ramp`` of each; the end
    of a period still belongs to it.

    Source: Fu et al. 2019, arXiv:1903.10145.

    >>> [Cyclical(period=4)(epoch) for epoch in (0, 1, 2, 3, 4)]
    [0.0, 0.5, 1.0, 1.0, 1.0]
    """

    period: float
    ramp: float = 0.5
    to: float = 1.0

    def __post_init__(self) -> None:
        checks.real("Cyclical: period", self.period, above=0)
        checks.real("Cyclical: to", self.to, least=0)
        if checks.real("Cyclical: ramp", self.ramp, above=0) > 1:
            raise ValueError(f"Cyclical: ramp: expected a fraction of the period in (0, 1], found {self.ramp}")

    @property
    def full_at(self) -> float:
        """The epoch at which the weight first reaches its target."""
        return self.ramp * self.period

    def __call__(self, epoch: float) -> float:
        """The weight at an epoch."""
        since = epoch % self.period or (self.period if epoch else 0.0)
        return self.to * min(since / (self.ramp * self.period), 1.0)


Schedule = WarmUp | Cyclical
Weight = float | Schedule


class temper(Paced):  # named as Pyro names its handlers
    r"""E_q[log p(x | z)] - sum_l w_l E_q[log q(z_l | ...) - log p(z_l | ...)]

    An effect handler for both programs: ``temper(4.0)(model), temper(4.0)(guide)``, or a context around a
    step. Latent sites count w times, observed ones once: 1 is the ELBO, and the loss is linear in w.
    With a prior that is learned its gradient is weighted alike.

    Args:
        weight: w, a number of at least 0; a schedule (:class:`WarmUp`, :class:`Cyclical`); or a mapping from
            latent sites to either, where sites that it lacks have weight 1.

    What a condition makes observed is weighed as data only inside: ``temper(4.0)(poutine.condition(model, data))``.

    A schedule reads the attribute ``epoch``, which :func:`pyro_vae.fit` sets before each step; in a loop of
    your own set it yourself.

    Raises:
        ValueError: where a weight is negative or not finite; on leaving a program that has no site of a
            name in the mapping; where a weighted site is enumerated in the model, whose sum over values no
            weight on single terms can temper.

    Source: Higgins et al. 2017, "beta-VAE", ICLR.

    >>> with temper(0.0):
    ...     trace = pyro.poutine.trace(lambda: pyro.sample("z", dist.Normal(0.0, 1.0))).get_trace()
    >>> trace.log_prob_sum()
    tensor(0.)
    """

    def __init__(self, weight: Weight | Mapping[str, Weight]) -> None:
        super().__init__()
        self.weights: dict[str, Weight] | None = None
        self._products: dict[Any, tuple[Any, Tensor]] = {}
        if isinstance(weight, Mapping):
            self.weights = {site: _weight(f"temper: {site}", w) for site, w in weight.items()}
        else:
            self.weight = _weight("temper", weight)

    def __repr__(self) -> str:
        return f"temper({self.weight if self.weights is None else self.weights})"

    @property
    def schedules(self) -> list[Schedule]:
        """The weights that change with the epoch."""
        return [w for w in self.numbers.values() if not isinstance(w, float)]

    @property
    def numbers(self) -> Mapping[str, Weight]:
        """The weights by site; "" stands for all sites."""
        return {"": self.weight} if self.weights is None else self.weights

    def __getitem__(self, site: str) -> float:
        """The present weight of a latent site."""
        if self.weights is None:
            return self.number("")
        return self.number(site) if site in self.weights else 1.0

    def _weighed(self, scale: Any, weight: Any) -> Any:
        """Their product; of tensors the same one for both programs, so that these are seen to weigh alike."""
        if not isinstance(weight, Tensor):
            return scale * weight
        key = id(scale) if isinstance(scale, Tensor) else scale, id(weight)
        if key not in self._products:
            self._products[key] = scale, scale * weight
        return self._products[key][1]

    @contextmanager
    def holding(self, values: Mapping[str, Any]) -> Iterator[None]:
        """With some weights held where they are, also by tensors."""
        try:
            with super().holding(values):
                yield
        finally:
            self._products.clear()

    def __enter__(self) -> "temper":
        self._seen: set[str] = set()
        self._observes, self._enumerated = False, ""
        return super().__enter__()

    def __exit__(self, kind: Any, value: Any, traceback: Any) -> None:
        super().__exit__(kind, value, traceback)
        if kind is not None:
            return
        unknown = [site for site in self.weights or () if site not in self._seen]
        if unknown and self._seen:
            raise ValueError(f"temper: no site {unknown[0]!r} in the program; it has {sorted(self._seen)}")
        if self._observes and self._enumerated:
            raise ValueError(
                f"temper: the site {self._enumerated!r} is enumerated in the model, where a weight on the KL has no "
                "meaning; enumerate it in the guide"
            )

    def _pyro_sample(self, msg: Any) -> None:
        if type(msg["fn"]).__name__ in ("_Subsample", "Unit") or msg["infer"].get("_deterministic"):
            return
        name = msg["name"]
        if msg["infer"].get("is_auxiliary"):  # the half of an automatic guide's site that has its density
            name = name.removesuffix("_unconstrained")
        self._seen.add(name)
        if msg["is_observed"]:
            self._observes = True
        else:
            msg["scale"] = self._weighed(msg["scale"], self[name])

    def _pyro_post_sample(self, msg: Any) -> None:
        # the model meets a site that the guide enumerated with the guide's own `infer`, marked here before
        if "_enumerate_dim" not in msg["infer"]:
            return
        weight = self[msg["name"]]
        if not isinstance(weight, Tensor) and weight == 1.0:
            return
        if not msg["infer"].setdefault("_tempered", False):
            msg["infer"]["_tempered"] = True
            self._enumerated = msg["name"]


def _weight(name: str, weight: Any) -> Weight:
    return weight if isinstance(weight, Schedule) else checks.real(name, weight, least=0)
