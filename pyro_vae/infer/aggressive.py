"""Aggressive training of the guide: it catches up with the posterior before the model moves on."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pyro.infer import ELBO
from pyro.optim import PyroOptim
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from pyro_vae import checks
from pyro_vae.infer.svi import SVI, Optimiser


class Aggressive(SVI):
    """phi <- optim(phi) at every step;   theta <- optim(theta) at each ``inner``-th, and after ``steps`` at every one

    Training against posterior collapse: early on q(z | x) lags behind p(z | x), and a model that sees codes which say
    little of x learns to do without them. Here the guide (phi) takes ``inner`` steps, each on a batch of its own, to
    one of the model (theta); after ``steps`` steps it is :class:`SVI`. In a step of the guide alone the model's
    parameters have no gradient and stay the same bit by bit, whatever the optimiser remembers of them, and ``clip``
    limits the guide's gradient. Parameters that both hold are the model's. Running averages of normalisation layers
    go on in the model too.

    The paper's phase ends once the mutual information of data and code, measured on held-out data after each epoch,
    no longer rises: ``pv.evaluate(...).mutual_information`` is that number. Here it ends after a number of ``steps``
    that is fixed beforehand, so that a run is what its settings say: too few, and the pair may still collapse; too
    many cost time, as the model takes one step in ``inner``. The paper's inner loop, too, goes on until the ELBO stops
    rising, for 100 steps at most, and its steps of the model move theta alone; here they move phi as well.

    Args:
        model, guide, optim, loss, clip: as those of :class:`SVI`. Parameters of plain functions are told apart by the
            program that asks for them.
        inner: steps of the guide to one of the model; 1 is :class:`SVI`.
        steps: how many steps the aggressive phase takes, those of the guide alone among them.

    Raises:
        ValueError: where ``inner`` or ``steps`` is no whole number of at least 1; at the first step, where the guide
            has no parameters of its own.

    Source: He, Spokoyny, Neubig & Berg-Kirkpatrick 2019, arXiv:1901.05534.

    >>> pair, x = pv.vae((1, 8, 8), latent=4), pv.data.load("digits", binarise="threshold").x
    >>> stepper = Aggressive(*pair, pyro.optim.Adam({"lr": 1e-3}), inner=5, steps=20)
    >>> run = pv.fit(pair, x, objective=stepper, epochs=3, progress=False)
    """

    def __init__(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        optim: Optimiser | PyroOptim,
        loss: ELBO | None = None,
        *,
        inner: int = 10,
        steps: int,
        clip: float | None = None,
    ) -> None:
        self.inner = checks.positive_int("inner", inner)
        self.steps = checks.positive_int("steps", steps)
        super().__init__(model, guide, optim, loss, clip=clip)
        self._taken = 0
        self._models = _registered(model)
        self._guides = _registered(guide) - self._models
        self._noting = _Noting()

    @property
    def guide_parameters(self) -> list[Tensor]:
        """The parameters that every step moves; those of plain functions once they have run."""
        models = self._models | (self._noting.met - self._guides)
        return [p for p in self.parameters if p not in models]

    @contextmanager
    def _adopting(self) -> Iterator[None]:
        """As for any SVI; what the model asks for is noted, as only a trace of a function tells."""
        model = self.model
        self.model = self._noting(model)
        try:
            with super()._adopting():
                yield
        finally:
            self.model = model

    def update(self) -> None:
        """Clip the gradients and take one step of the optimiser, in the aggressive phase mostly of the guide alone."""
        if self._taken < self.steps and (self._taken + 1) % self.inner:
            guides = set(self.guide_parameters)
            if not guides:
                raise ValueError("Aggressive: the guide has no parameters of its own; use pv.infer.SVI")
            for parameter in self.parameters:
                if parameter not in guides:
                    parameter.grad = None  # a gradient of 0 would let momentum and weight decay move it
        super().update()
        self._taken += 1

    def state_dict(self) -> dict[str, Any]:
        """What the optimiser remembers, and how many steps were taken."""
        return {"taken": self._taken, "optimizer": super().state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where another run was, in its aggressive phase or after it."""
        if state.keys() != {"taken", "optimizer"}:
            raise ValueError(f"state: expected that of an Aggressive, found one of {sorted(map(str, state))}")
        self._taken = state["taken"]
        super().load_state_dict(state["optimizer"])


class _Noting(Messenger):
    """Notes the parameters that a program asks for."""

    def __init__(self) -> None:
        super().__init__()
        self.met: set[Tensor] = set()

    def _pyro_post_param(self, msg: Any) -> None:
        self.met.add(msg["value"].unconstrained())


def _registered(program: Callable[..., Any]) -> set[Tensor]:
    return set(program.parameters()) if isinstance(program, nn.Module) else set()
