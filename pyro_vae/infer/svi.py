"""Stochastic variational inference with the face of Pyro's SVI and one torch optimiser."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer import ELBO, Trace_ELBO
from pyro.optim import PyroOptim
from torch import Tensor, nn

from pyro_vae.infer.diagnosis import diagnose

Optimiser = Callable[[Iterable[Tensor]], torch.optim.Optimizer]
# of the gradients of the mean over so many data, which are on the parameters, and the loss summed over them, to those
# of the data of several processes together
Pool = Callable[[Sequence[Tensor], float, float], float]


def alone(parameters: Sequence[Tensor], loss: float, size: float) -> float:
    """What one process makes of its gradients and its loss: what they are."""
    return loss


class SVI:
    """phi, theta <- optim(phi, theta, grad loss(phi, theta; batch) / batch size)

    ``step(**batch)`` and ``evaluate_loss(**batch)`` are those of :class:`pyro.infer.SVI`, and so is the value:
    the loss summed over the batch, in nats. What differs: one torch optimiser holds all parameters (fused
    updates and global clipping work), the gradients are those of the mean over the batch (one learning rate
    and one clip for every batch size), and Pyro's global parameter store is neither read nor written.

    Args:
        model, guide: the two programs, for example ``*variant``.
        optim: ``parameters -> torch.optim.Optimizer``, or an optimiser of :mod:`pyro.optim`, whose settings
            are then used for one torch optimiser.
        loss: a :class:`pyro.infer.ELBO`.
        clip: largest norm of the gradient of all parameters together; None for no limit.

    >>> pair = pv.vae(9, latent=2)
    >>> svi = SVI(*pair, pyro.optim.Adam({"lr": 1e-3}), pyro.infer.Trace_ELBO())
    >>> svi.step(x=pair.sample(16)) > 0
    True
    """

    def __init__(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        optim: Optimiser | PyroOptim,
        loss: ELBO | None = None,
        *,
        clip: float | None = None,
    ) -> None:
        self.model, self.guide = model, guide
        self.loss: Any = Trace_ELBO() if loss is None else loss
        self.clip = clip
        self.scope: Callable[[], AbstractContextManager[None]] = getattr(model, "scope", self._own_store)
        self.pool: Pool = alone
        self._store: Any = {"params": {}, "constraints": {}}
        self._make = _one_optimiser(optim) if isinstance(optim, PyroOptim) else optim
        self.optimizer: torch.optim.Optimizer | None = None
        modules = [m for m in (model, guide) if isinstance(m, nn.Module)]
        self.parameters: list[Tensor] = list(
            dict.fromkeys(p for m in modules for p in m.parameters() if p.requires_grad)
        )
        if self.parameters:
            self.optimizer = self._make(self.parameters)

    @contextmanager
    def _own_store(self) -> Any:
        with pyro.get_param_store().scope(self._store) as self._store:
            yield

    def gradients(self, **batch: Tensor) -> float:
        """The loss, with the gradients of its mean over the batch left on the parameters."""
        return self._gradients([(1.0, batch)])

    def _gradients(self, parts: Sequence[tuple[float, Mapping[str, Tensor]]]) -> float:
        """Those of the batches together, each by its weight."""
        if self.optimizer is not None:
            self.optimizer.zero_grad(set_to_none=True)
        size = sum(weight * len(next(iter(batch.values()))) for weight, batch in parts)
        loss = sum(weight * self._accumulate(batch, weight / size) for weight, batch in parts)
        return self.pool(self.parameters, loss, size)

    def _accumulate(self, batch: Mapping[str, Tensor], share: float) -> float:
        """The loss summed over a batch; its gradients times ``share`` are added to those on the parameters."""
        self._scale_gradients(1 / share)  # what is there already keeps the share that it has
        with self._adopting():
            loss = self._backward(batch)
        self._scale_gradients(share)
        return loss

    def _backward(self, batch: Mapping[str, Tensor]) -> float:
        """The loss summed over a batch, its gradients added to those on the parameters."""
        return self.loss.loss_and_grads(self.model, self.guide, **batch)

    def _present(self) -> list[Tensor]:
        return [p.grad for p in self.parameters if p.grad is not None]

    def _scale_gradients(self, by: float) -> None:
        if gradients := self._present():
            torch._foreach_mul_(gradients, by)

    @contextmanager
    def _adopting(self) -> Iterator[None]:
        """The pair's own store; parameters that plain functions create in it are trained from then on."""
        with self.scope(), poutine.trace(param_only=True) as captured:
            yield
            nodes: dict[str, Any] = dict(captured.trace.nodes)
            self._adopt(site["value"].unconstrained() for site in nodes.values())

    def _adopt(self, parameters: Iterable[Tensor]) -> None:
        known = {id(p) for p in self.parameters}
        new = [p for p in dict.fromkeys(parameters) if id(p) not in known and p.requires_grad]
        if not new:
            return
        self.parameters += new
        if self.optimizer is None:
            self.optimizer = self._make(new)
        else:
            self.optimizer.add_param_group({"params": new})

    def update(self) -> None:
        """Clip the gradients and take one step of the optimiser."""
        if self.optimizer is None:
            raise ValueError("SVI: model and guide have no parameters to train")
        if self.clip is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.clip, error_if_nonfinite=False)
        self.optimizer.step()

    def step(self, **batch: Tensor) -> float:
        """One step; returns the loss before it, summed over the batch.

        Raises:
            FloatingPointError: where the loss is not finite, before any parameter has moved.
        """
        return self.step_together([(1.0, batch)])

    def step_together(self, parts: Sequence[tuple[float, Mapping[str, Tensor]]]) -> float:
        """One step on several batches of different sites, such as data with labels and data without.

        Each comes with the weight of its data, greater than 0; returns the weighted sum of the losses.
        """
        loss = self._gradients(parts)
        if not math.isfinite(loss):
            with self.scope(), pyro.validation_enabled(False):
                causes = " ".join(diagnose(self.model, self.guide, batch) for _, batch in parts)
                raise FloatingPointError(f"the loss is {loss}: {causes}")
        self.update()
        return loss

    def evaluate_loss(self, **batch: Tensor) -> float:
        """The loss summed over the batch; moves nothing."""
        with torch.no_grad(), self._adopting():
            return float(self.loss.loss(self.model, self.guide, **batch))

    def state_dict(self) -> dict[str, Any]:
        """What the optimiser remembers; the parameters themselves are the pair's."""
        return {} if self.optimizer is None else self.optimizer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the moments of another run; its step sizes come along."""
        if self.optimizer is not None:
            self.optimizer.load_state_dict(state)


def _one_optimiser(optim: PyroOptim) -> Optimiser:
    """One torch optimiser with the settings of a Pyro optimiser, which would make one per parameter."""
    make: Any = optim.pt_optim_constructor
    settings = optim.pt_optim_args
    if callable(settings):
        raise ValueError("optim: settings per parameter need one optimiser each; pass parameters -> torch optimiser")
    return lambda parameters: make(parameters, **settings)
