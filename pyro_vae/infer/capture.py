"""A function of tensors and its gradients as one graph of tensor operations, with the Pyro program traced away."""

import contextlib
import functools
import itertools
import linecache
import os
import random
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import CodeType
from typing import Any, NamedTuple

import numpy as np
import pyro
import torch
from pyro.infer import tracegraph_elbo
from pyro.infer.util import Dice
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only

#: what Pyro asks of values that a graph does not have, and the answer: no loss is NaN, for who runs the graph looks at
#: it; and some enumerated value has probability 0, which makes Pyro leave it out
_ANSWERS: dict[CodeType, bool] = {
    pyro.util.warn_if_nan.__code__: False,
    Dice.compute_expectation.__code__: False,
}
_PYRO = str(Path(str(pyro.__file__)).parent) + os.sep
#: files whose lines say nothing to who wrote a story
_FOREIGN = (
    str(Path(torch.__file__).parent) + os.sep,
    _PYRO,
    str(functools.__file__),
    str(contextlib.__file__),
    *(str(Path(__file__).with_name(name)) for name in ("capture.py", "compiled.py")),
)


_STRANGER = "a buffer that changes, of a module that is part of neither model nor guide"
_IN_PLACE = re.compile("[^_]_$|^__i(add|sub|mul|truediv|floordiv|mod|pow|and|or|xor|lshift|rshift)__$|^__setitem__$")


class Untraceable(Exception):
    """A program that is no graph of tensor operations; says which of its lines."""


class Captured(NamedTuple):
    """A loss and its gradients as one graph."""

    graph: fx.GraphModule
    trained: list[int]  # the parameters that have gradients
    fits: Callable[[int], bool]  # whether it is right for so many data


def captured(
    loss: Callable[..., Any],
    batch: Mapping[str, Tensor],
    parameters: Sequence[Tensor],
    modules: Sequence[nn.Module] = (),
    settings: Sequence[Tensor] = (),
    *,
    dynamic: bool = False,
) -> Captured:
    r"""(w, parameters, buffers, settings, batch) -> (L, w dL/dp for each parameter p that L depends on)

    ``loss(settings, **batch)`` leaves its gradients on the parameters and returns L, as the ``loss_and_grads`` of Pyro
    do. It is run once, on tensors that have shapes and no values; what it did to tensors is the graph. The buffers are
    those of the ``modules``, and are changed in place. A ``dynamic`` graph takes any number of data.

    Raises:
        Untraceable: where the program asks for a value, or draws from generators that are not torch's; where the graph
            is to be dynamic and the program asks for ``len`` of a tensor, which is one number once and for all.
    """
    names, buffers = list(batch), buffers_of(modules)
    found: list[int] = []
    first = next(iter(batch.values()))

    def step(share: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        values = iter(rest)
        leaves = [next(values).detach().requires_grad_(p.requires_grad) for p in parameters]
        held = [next(values) for _ in buffers]
        given = [next(values) for _ in settings]
        stand_ins = dict(zip(map(id, (*parameters, *buffers)), (*leaves, *held), strict=True))
        traced = _Traced(stand_ins, (*parameters, *buffers))
        # to follow draws, Pyro would wrap them in a class of tensors that has no place in a graph
        followed = _replaced(tracegraph_elbo, track_provenance=traced.track, get_provenance=traced.origins_of)
        seeded = _replaced(torch, manual_seed=_seeds, set_rng_state=_seeds)
        with _buffers_kept(modules, stand_ins), followed, seeded, traced, torch.enable_grad():
            value = loss(given, **dict(zip(names, values, strict=True)))
        gradients = {i: leaf.grad for i, leaf in enumerate(leaves) if leaf.grad is not None}
        found[:] = gradients
        return torch.as_tensor(value).detach(), *(gradient * share for gradient in gradients.values())

    def traced() -> tuple[fx.GraphModule, Callable[[int], bool]]:
        shapes = ShapeEnv()
        fake = FakeTensorMode(shape_env=shapes, allow_non_fake_inputs=True)

        def stand_in(tensor: Tensor, dynamic: bool = False) -> Tensor:
            sizes = [DimDynamic.STATIC] * tensor.dim()
            if dynamic and tensor.shape[:1] == first.shape[:1]:
                sizes[0] = DimDynamic.DUCK
            return fake.from_tensor(tensor, symbolic_context=StatelessSymbolicContext(sizes))

        inputs = [stand_in(t) for t in (torch.ones((), device=first.device), *parameters, *buffers, *settings)]
        data = [stand_in(t.detach(), dynamic) for t in batch.values()]  # two sites may have one tensor for their data
        graph = make_fx(step, tracing_mode="symbolic", _allow_non_fake_inputs=True)(*inputs, *data)
        if any(p.grad is not g for p, g in zip(parameters, before, strict=True)):
            raise Untraceable("a torch.autograd.Function that is applied to a parameter itself")
        return graph, functools.partial(_holds, shapes, data[0].shape[0])

    if any(p._backward_hooks or getattr(p, "_post_accumulate_grad_hooks", None) for p in parameters):
        raise Untraceable("a hook on a parameter")
    before = [p.grad for p in parameters]
    try:
        with _other_generators_at_rest():
            (graph, fits), (again, _) = traced(), traced()
        if not _alike(graph, again):
            raise Untraceable("something that differs from run to run, such as a counter or a generator of its own")
        for node in graph.graph.nodes:
            if node.target is torch.ops.aten.view.default:  # what comes may lie otherwise in memory than was thought
                node.target = torch.ops.aten.reshape.default
        graph.recompile()
        if any(_writes(node) for node in graph.graph.nodes):
            raise Untraceable(_STRANGER)
    except Untraceable:
        raise
    except Exception as error:
        raise Untraceable(
            f"{_innermost(traceback.extract_tb(error.__traceback__))} ({type(error).__name__})"
        ) from error
    finally:
        for parameter, gradient in zip(parameters, before, strict=True):
            parameter.grad = gradient
    return Captured(graph, found, fits)


def _holds(shapes: ShapeEnv, size: Any, number: int) -> bool:
    """Whether so many data meet all that a graph takes for granted of their number."""
    if not isinstance(size, torch.SymInt):
        return number == size
    symbol = size.node.expr
    return number > 1 and all(bool(guard.expr.subs(symbol, number)) for guard in shapes.guards)


def _alike(one: fx.GraphModule, other: fx.GraphModule) -> bool:
    """Whether two graphs do the same to the same constants."""
    constants = [[getattr(g, n.target) for n in g.graph.nodes if n.op == "get_attr"] for g in (one, other)]
    return one.code == other.code and all(map(torch.equal, *constants))


def _writes(node: fx.Node) -> bool:
    """Whether it changes a tensor that is no input."""
    schema = getattr(node.target, "_schema", None)
    written = [i for i, a in enumerate(schema.arguments) if a.alias_info and a.alias_info.is_write] if schema else []
    arguments = [node.args[i] for i in written if i < len(node.args)]
    return any(isinstance(a, fx.Node) and a.op == "get_attr" for a in arguments)


def buffers_of(modules: Sequence[nn.Module]) -> list[Tensor]:
    """The buffers of some modules, each once."""
    return list(dict.fromkeys(buffer for module in modules for _, buffer in _held(module)))


@contextlib.contextmanager
def unmoved(modules: Sequence[nn.Module]) -> Iterator[None]:
    """What modules hold, and the generators of Python and NumPy, are in the end what they were.

    That is what the attributes of all modules are that run meanwhile, and of those given the values of buffers.
    """
    values = [(buffer, buffer.clone()) for buffer in buffers_of(modules)]
    kept: dict[nn.Module, list[tuple[dict[str, Any], dict[str, Any]]]] = {}
    gradients: list[tuple[Tensor, Tensor | None]] = []

    def keep(module: nn.Module, *_: Any) -> None:
        if module not in kept:
            kept[module] = [(held, dict(held)) for held in (vars(module), module._buffers)]
            gradients.extend((p, p.grad) for p in module._parameters.values() if p is not None)

    for module in modules:
        keep(module)
    hook = nn.modules.module.register_module_forward_pre_hook(keep)
    states = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        yield
    finally:
        hook.remove()
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        for held, before in itertools.chain.from_iterable(kept.values()):
            held.clear()
            held.update(before)
        for parameter, gradient in gradients:
            parameter.grad = gradient
        with torch.no_grad():
            for buffer, value in values:
                buffer.copy_(value)


def _held(module: nn.Module) -> list[tuple[str, Tensor]]:
    return [(name, buffer) for name, buffer in module._buffers.items() if buffer is not None]


@contextlib.contextmanager
def _buffers_kept(modules: Sequence[nn.Module], stand_ins: Mapping[int, Tensor]) -> Iterator[None]:
    """Where a program puts a new tensor in the place of a buffer, the buffer is changed in its stead."""
    before = [(module._buffers, name, b) for module in modules for name, b in _held(module)]
    try:
        yield
        for held, name, buffer in before:
            now = held[name]
            if now is not None and now is not buffer:
                stand_ins[id(buffer)].copy_(now.detach())
    finally:
        for held, name, buffer in before:
            held[name] = buffer


class _Traced(TorchFunctionMode):
    """Puts stand-ins in the place of parameters and buffers, wherever a program keeps them; see ``_ANSWERS``."""

    def __init__(self, stand_ins: Mapping[int, Tensor], originals: Sequence[Tensor]) -> None:
        super().__init__()
        self.stand_ins = stand_ins
        self.origins: dict[int, tuple[Tensor, frozenset[str]]] = {}
        self.originals = {id(stand_ins[id(tensor)]): tensor for tensor in originals}

    def __call__(self, hook: Callable[[Tensor], Any]) -> Callable[[Tensor], Any]:
        """A function that runs under this mode, whenever that is."""

        def run(gradient: Tensor) -> Any:
            with self:
                return hook(gradient)

        return run

    def track(self, value: Tensor, origins: frozenset[str]) -> Tensor:
        """Note that a value depends on the draws at some sites, whose score functions weigh it."""
        self.origins[id(value)] = value, origins
        return value

    def origins_of(self, values: Any) -> frozenset[str]:
        """The sites of which values are known to depend."""
        found = [self.origins.get(id(leaf)) for leaf in tree_leaves(values, is_leaf=_is_size)]
        return frozenset().union(*(known[1] for known in found if known is not None))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        caller = sys._getframe(1).f_code
        if func is Tensor.__bool__ and caller in _ANSWERS:
            return _ANSWERS[caller]
        if func is Tensor.__len__ and isinstance(args[0].shape[0], torch.SymInt):
            where = _innermost(traceback.extract_stack())
            raise Untraceable(f"{where}, where x.shape[0] would leave the number of data open")
        args, kwargs = tree_map_only(Tensor, lambda t: self.stand_ins.get(id(t), t), (args, kwargs or {}), _is_size)
        if func is Tensor.item and caller.co_filename.startswith(_PYRO):  # a number that Pyro reports stays a tensor
            return args[0].detach()
        if func is Tensor.masked_select and caller is Dice.compute_expectation.__code__:
            return torch.where(args[1], args[0], 0.0)  # of which it only takes sums
        if _IN_PLACE.search(getattr(func, "__name__", "")) and not isinstance(args[0], FakeTensor):
            raise Untraceable(_STRANGER)
        if func is Tensor.register_hook:  # which runs on the way back, where there is no mode
            args = args[0], self(args[1])
        result = func(*args, **kwargs)
        if self.origins and (origins := self.origins_of((args, kwargs))):
            tree_map_only(Tensor, lambda t: self.track(t, origins), result)
        return self.originals.get(id(result), result)  # what changes in place stays where it is


@contextlib.contextmanager
def _replaced(module: Any, **ours: Any) -> Iterator[None]:
    """With functions of ours in the place of those of a module."""
    before = {name: getattr(module, name) for name in ours}
    vars(module).update(ours)
    try:
        yield
    finally:
        vars(module).update(before)


def _seeds(*_: Any, **__: Any) -> Any:
    raise Untraceable("a seed, or the state of a generator, that the program sets")


def _is_size(value: Any) -> bool:
    """A shape stays of its class, as not every function takes a tuple for one."""
    return isinstance(value, torch.Size)


@contextlib.contextmanager
def _other_generators_at_rest() -> Iterator[None]:
    """Refuse draws that the graph would repeat for ever."""
    before = _others()
    yield
    for name, state in _others().items():
        if state != before[name]:
            raise Untraceable(f"a draw of {name}")


def _others() -> dict[str, str]:
    return {"random": repr(random.getstate()), "numpy.random": repr(np.random.get_state(legacy=False))}  # noqa: NPY002


def _innermost(frames: traceback.StackSummary) -> str:
    """The innermost line that belongs neither to torch nor to Pyro, or else the innermost of all."""
    own = [f for f in frames if not f.filename.startswith(_FOREIGN)]
    frame = (own or frames)[-1]
    line = linecache.getline(frame.filename, frame.lineno or 0).strip()
    return f"{Path(frame.filename).name}, line {frame.lineno}, in {frame.name}: {line}"
