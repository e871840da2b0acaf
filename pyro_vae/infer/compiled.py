"""Stochastic variational inference at the speed of a loop written by hand: the same step, compiled."""

import traceback
import warnings
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pyro
import torch
from pyro.infer import ELBO
from pyro.optim import PyroOptim
from pyro.poutine.runtime import _PYRO_STACK
from torch import Tensor, nn

from pyro_vae import tracing
from pyro_vae.infer.capture import Untraceable, buffers_of, captured, unmoved
from pyro_vae.infer.pacing import Paced, traced
from pyro_vae.infer.queueing import Parts, Queue, leaves_out, number
from pyro_vae.infer.svi import SVI, Optimiser, alone

MOST = 12  # kinds of batches: more are a sign that none comes twice, as under handlers that are made for each step
_HERE = str(Path(__file__).parents[1])
Scheduled = list[tuple[Paced, str]]  # the numbers of handlers that change while training


class Graph(NamedTuple):
    """A loss with its gradients, compiled."""

    run: Callable[..., tuple[Tensor, ...]]
    fits: Callable[[int], bool]  # whether it is right for so many data
    size: int  # of the batch that it was made with
    trained: list[Tensor]  # the parameters that have gradients
    parameters: list[Tensor]  # all of them
    modules: Sequence[nn.Module]  # whose buffers it reads and moves
    scheduled: Scheduled

    def inputs(self, batch: Mapping[str, Tensor]) -> list[Tensor]:
        """What differs from step to step: the numbers on a schedule as they are at present, and the data."""
        like = self.parameters[0]
        scheduled = (torch.full((), h.number(n), dtype=precise(like), device=like.device) for h, n in self.scheduled)
        return [*scheduled, *batch.values()]

    def __call__(self, share: float, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The loss, and for each parameter that is ``trained`` its gradient times ``share``."""
        like = self.parameters[0]
        with torch.no_grad(), torch.autocast(like.device.type, enabled=False):
            return self.run(
                number(share, precise(like), like.device), *self.parameters, *buffers_of(self.modules), *inputs
            )


class CompiledSVI(SVI):
    r"""phi, theta <- optim(phi, theta, grad loss(phi, theta; batch) / batch size),   compiled

    The step of :class:`SVI`, with the same draws from the same seed (but for uniform noise in torch 2.11). The first
    batch of a kind (its sites, their shapes and types) is looked at in the ordinary, validated way; of functions, the
    first step is ordinary. Then the loss and its gradients are traced into one graph of tensor operations, in which
    nothing is left of Pyro, and which ``torch.compile`` makes fast. A batch like one before but with fewer data, such
    as the last one of an epoch, is an ordinary step; so are all while ``ordinary`` is set.

    Every step reads anew the batch, the values of parameters, the buffers, and the weights and temperatures of handlers
    on a schedule. Anything else, such as a number that a story keeps in an attribute, is what it was when the graph was
    made. A program that traces differently a second time, as it counts or draws by a generator of its own, is refused.

    Args:
        model, guide, optim, loss, clip: as for :class:`SVI`.
        dynamic: one graph for batches of all sizes, of a story that asks for ``x.shape[0]`` where it could ask for
            ``len(x)``.
        backend: of ``torch.compile``; ``"eager"`` runs the graph as it is.

    Warns:
        UserWarning: once, where a program is no graph, as one with a loop until values are right, or where the machine
            cannot compile; all steps are ordinary then.

    >>> pair = pv.vae(9, latent=2)
    >>> svi = CompiledSVI(*pair, pyro.optim.Adam({"lr": 1e-3}), pyro.infer.Trace_ELBO(), backend="eager")
    >>> x = pair.sample(16)
    >>> svi.step(x=x) > 0
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
        dynamic: bool = False,
        backend: str = "inductor",
    ) -> None:
        super().__init__(model, guide, optim, loss, clip=clip)
        self.dynamic, self.backend = dynamic, backend
        self._graphs: dict[Hashable, list[Graph]] = {}  # by kind of batch
        self._gave_up = False  # as the programs cannot be traced
        self.ordinary = False
        bare = [tracing.bare(program) for program in (model, guide)]
        self._functions = not all(isinstance(program, nn.Module) for program in bare)
        self._met = False  # as functions have their parameters once they have run
        self._handlers = list(dict.fromkeys(h for p in (model, guide) for h in tracing.handlers(p)))
        owners = [getattr(program, "__self__", None) for program in bare]  # of methods
        known = [module for module in (model, guide, *bare, *owners) if isinstance(module, nn.Module)]
        self.modules = list(dict.fromkeys(part for module in known for part in module.modules()))
        self._queue: Queue | None = None

    def _accumulate(self, batch: Mapping[str, Tensor], share: float) -> float:
        graph = self.graph(batch)
        if graph is None:
            return super()._accumulate(batch, share)
        return self.replay(graph, share, graph.inputs(batch)).item()

    @contextmanager
    def _adopting(self) -> Iterator[None]:
        with super()._adopting():
            yield
        self._met = True

    def replay(self, graph: Graph, share: float, inputs: Sequence[Tensor]) -> Tensor:
        """The loss, by its graph; gradients times ``share`` are added to those on the parameters."""
        loss, *gradients = graph(share, inputs)
        for parameter, gradient in zip(graph.trained, gradients, strict=True):
            parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
        return loss

    def queue(self, **batch: Tensor) -> Tensor:
        """One step, whose loss stays on its device; on CUDA nobody waits for it.

        Once a loss is not finite, that step and all that are queued after it leave the parameters where they are: look
        at the losses now and then.

        Raises:
            ValueError: where the optimiser is not fused, and cannot leave out a step.
        """
        return self.queue_together([(1.0, batch)])

    def queue_together(self, parts: Parts) -> Tensor:
        """One step on several batches, as :meth:`step_together`, whose loss stays on its device."""
        if not self.parameters:  # those of functions are made by their first step
            return torch.tensor(self.step_together(parts))
        if self._queue is None:
            self._queue = Queue(self)
        return self._queue.step(parts)

    def step_together(self, parts: Parts) -> float:
        """One step on several batches, as :class:`SVI` takes it; whatever was queued before, it moves."""
        if self._queue is not None:
            self._queue.failed.zero_()
        return super().step_together(parts)

    @property
    def can_queue(self) -> bool:
        """Whether queueing steps saves time: where they run beside the program, on CUDA."""
        cuda = bool(self.parameters) and self.parameters[0].is_cuda
        return cuda and leaves_out(self.optimizer) and self.pool is alone

    def graph(self, batch: Mapping[str, Tensor]) -> Graph | None:
        """The graph for a batch, made where there is none; None where its step is an ordinary one."""
        if self._gave_up or self.ordinary or not self.parameters or (self._functions and not self._met):
            return None
        if strangers := [name for name, value in batch.items() if not isinstance(value, Tensor)]:
            self._gave_up = True
            self._warn(f"takes ordinary steps from here on: {strangers[0]} is no tensor")
            return None
        size = size_of(batch)
        graphs = self._graphs.setdefault(self._kind(batch, size), [])
        for graph in graphs:
            if graph.fits(size):
                return graph
        if any(graph.size > size for graph in graphs):
            return None
        if len(self._graphs) > MOST:
            self._gave_up = True
            self._warn(f"takes ordinary steps from here on: {MOST} kinds of batches, each with a graph, are too many")
            return None
        if (made := self._compiled(batch)) is not None:  # which may have met new parameters
            self._graphs.setdefault(self._kind(batch, size), []).append(made)
        return made

    def _kind(self, batch: Mapping[str, Tensor], size: int) -> Hashable:
        """All but the number of data that a graph takes for granted."""
        kind = place_of(batch).type
        return (
            tuple([_looks(name, value, size) for name, value in batch.items()]),
            tuple([module.training for module in self.modules]),
            tuple([parameter.requires_grad for parameter in self.parameters]),
            (self.loss, *_PYRO_STACK),
            tuple([item for h in self._paced() for item in h.numbers.items() if isinstance(item[1], float)]),
            torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None,
        )

    def _paced(self) -> list[Paced]:
        """Handlers with numbers, of the programs and around the step."""
        return [h for h in (*self._handlers, *_PYRO_STACK) if isinstance(h, Paced)]

    def _compiled(self, batch: Mapping[str, Tensor]) -> Graph | None:
        """A graph for batches of this kind and size, after a look at the programs in the ordinary, validated way."""
        with tracing.forked(), unmoved(self.modules):
            if not self._functions:  # they may hold modules that nobody could put at rest
                with tracing.resting(nn.ModuleList(self.modules)), pyro.validation_enabled():
                    self.evaluate_loss(**batch)
            try:
                if self.dynamic:
                    try:
                        return self._fast(self._traced(batch, dynamic=True), batch)
                    except Untraceable as reason:
                        self.dynamic = False
                        self._warn(f"makes a graph for each size of a batch from here on: {reason}")
                return self._fast(self._traced(batch, dynamic=False), batch)
            except Untraceable as reason:
                self._gave_up = True
                self._warn(f"takes ordinary steps from here on: {reason}")
                return None

    def _warn(self, words: str) -> None:
        warnings.warn(f"CompiledSVI: {words}", stacklevel=_depth())

    def _traced(self, batch: Mapping[str, Tensor], *, dynamic: bool) -> Graph:
        scheduled = [(h, k) for h in self._paced() for k, number in h.numbers.items() if not isinstance(number, float)]
        like = self.parameters[0]
        settings = [torch.zeros((), dtype=precise(like), device=like.device) for _ in scheduled]
        loss = partial(self._loss, scheduled)
        graph, trained, fits = captured(loss, batch, self.parameters, self.modules, settings, dynamic=dynamic)
        moved = [self.parameters[i] for i in trained]
        return Graph(graph, fits, size_of(batch), moved, list(self.parameters), self.modules, scheduled)

    def _fast(self, graph: Graph, batch: Mapping[str, Tensor]) -> Graph:
        """A graph, compiled; it has run once."""
        from torch._inductor import config as inductor  # a second of imports, which other steps do without

        # what the kind and the size of a batch say need not be asked again
        options: Any = {} if self.dynamic else {"guard_filter_fn": lambda guards: [False] * len(guards)}
        inputs = [value.detach() for value in graph.inputs(batch)]
        for value in inputs if self.dynamic else ():
            if value.shape[:1] == (graph.size,):
                torch._dynamo.maybe_mark_dynamic(value, 0)
        try:
            # the draws of an ordinary step; what torch has to say of its own code is nothing to a user
            with inductor.patch(fallback_random=True), warnings.catch_warnings(action="ignore"):
                if self.backend != "eager":
                    dynamic = None if self.dynamic else False
                    run = torch.compile(graph.run, backend=self.backend, dynamic=dynamic, options=options)
                    graph = graph._replace(run=run)
                graph(1.0, inputs)
        except Exception as error:  # whatever a compiler, or a graph of what it was not made for, may lack
            first = str(error).partition("\n")[0]
            raise Untraceable(f"its graph does not run ({type(error).__name__}: {first})") from error
        return graph

    def _loss(self, scheduled: Scheduled, settings: Sequence[Tensor], **batch: Tensor) -> Any:
        """The loss with its gradients, in the ordinary way, under tensors in place of numbers on a schedule."""
        held: dict[Paced, dict[str, Tensor]] = {}
        for (handler, name), value in zip(scheduled, settings, strict=True):
            held.setdefault(handler, {})[name] = value
        with ExitStack() as stack:
            for handler, numbers in held.items():
                stack.enter_context(handler.holding(numbers))
            for context in (traced(), self.scope(), pyro.validation_enabled(False)):
                stack.enter_context(context)
            store = pyro.get_param_store()
            before: Any = store.get_state()
            loss = self.loss.loss_and_grads(self.model, self.guide, **batch)
            after: Any = store.get_state()
            if list(map(id, after["params"].values())) != list(map(id, before["params"].values())):
                store.set_state(before)
                raise Untraceable("a parameter that is made or put in the place of another one")
            return loss


def _looks(name: str, value: Tensor, size: int) -> Hashable:
    shape = value.shape[1:] if value.shape[:1] == (size,) else value.shape
    return name, shape, value.stride(), value.dtype, value.device


def precise(tensor: Tensor) -> torch.dtype:
    """Of numbers that weigh gradients of a tensor."""
    return torch.promote_types(tensor.dtype, torch.float32)


def _depth() -> int:
    """How far up the stack the caller of this library is, to whom a warning speaks."""
    names = [frame.filename for frame in traceback.extract_stack()[-2::-1]]
    return next((i for i, name in enumerate(names, 1) if not name.startswith(_HERE)), 1)


def place_of(batch: Mapping[str, Tensor]) -> torch.device:
    """Where data are."""
    return next(iter(batch.values())).device


def size_of(batch: Mapping[str, Tensor]) -> int:
    """How many data there are."""
    return next(iter(batch.values())).shape[0]
