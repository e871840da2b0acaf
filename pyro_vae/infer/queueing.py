"""Steps that nobody waits for: on CUDA, each is one graph of kernels, and losses are read when somebody asks."""

import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import cache
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from pyro_vae.infer.capture import buffers_of

Parts = Sequence[tuple[float, Mapping[str, Tensor]]]


class Queue:
    """The steps of a compiled SVI, whose losses stay on their device.

    Once a loss is not finite, that step and all that follow move no parameter: the optimiser leaves them out, as it
    does for a gradient scaler.

    Raises:
        ValueError: where the optimiser cannot do that.
    """

    def __init__(self, svi: Any) -> None:
        self.svi, self.optimizer = svi, svi.optimizer
        if not leaves_out(self.optimizer):
            found = type(self.optimizer).__name__
            raise ValueError(f"queue: {found} leaves out no step; expected Adam, AdamW or SGD with fused=True")
        self.failed = torch.zeros((), dtype=torch.float32, device=svi.parameters[0].device)
        self.optimizer.found_inf = self.failed
        self.recorded: dict[Hashable, _Recorded | None] = {}
        self.records = self.failed.is_cuda

    def step(self, parts: Parts) -> Tensor:
        """One step on several batches, each with its weight; returns the weighted sum of their losses."""
        graphs = [self.svi.graph(batch) for _, batch in parts]
        if None in graphs:
            return self._moved(self.failed.new_tensor(self.svi._gradients(parts)))
        size = sum(weight * len(next(iter(batch.values()))) for weight, batch in parts)
        weights = [weight for weight, _ in parts]
        inputs = [graph.inputs(batch) for graph, (_, batch) in zip(graphs, parts, strict=True)]

        def step(*flat: Tensor) -> Tensor:
            self.optimizer.zero_grad(set_to_none=True)
            rest = iter(flat)
            losses = [
                weight * self.svi.replay(graph, weight / size, list(islice(rest, len(own))))
                for weight, graph, own in zip(weights, graphs, inputs, strict=True)
            ]
            return self._moved(torch.stack(losses).sum())

        flat = [tensor for own in inputs for tensor in own]
        if not self.records:
            return step(*flat)
        key = (*map(id, graphs), *weights, *(tensor.shape for tensor in flat))
        if key not in self.recorded:  # the optimiser makes its moments in its first step
            self.recorded[key] = None
            return step(*flat)
        settings = self._settings()
        known = self.recorded[key]
        if known is None or known.settings != settings:
            try:
                known = self.recorded[key] = _Recorded(step, flat, settings)
            except RuntimeError as error:  # whatever may not happen while kernels are recorded
                self.records = False
                words = str(error).partition("\n")[0]
                warnings.warn(f"CompiledSVI: cannot be recorded as a CUDA graph: {words}", stacklevel=5)
                return step(*flat)
        return known(*flat)

    def _settings(self) -> Any:
        """What is part of a recorded step: numbers of the optimiser, and where the tensors are that it moves."""
        for group in self.optimizer.param_groups:
            if "capturable" in group:
                group["capturable"] = True
        groups = [{k: v for k, v in group.items() if k != "params"} for group in self.optimizer.param_groups]
        moments = [v for state in self.optimizer.state.values() for v in state.values() if isinstance(v, Tensor)]
        held = (*self.svi.parameters, *buffers_of(self.svi.modules), *moments)
        return groups, [tensor.data_ptr() for tensor in held]

    def _moved(self, loss: Tensor) -> Tensor:
        """The loss, after a step of the optimiser where it and all before it are finite."""
        self.failed.copy_(self.failed.bool() | ~loss.isfinite())
        self.svi.update()
        return loss


class _Recorded:
    """What ``step(*inputs)`` made a CUDA device do, to be done again with other inputs of the same shapes.

    The processor launches one graph in place of hundreds of kernels. Draws are those of the step itself, from the
    state that torch's generator is in.
    """

    def __init__(self, step: Callable[..., Tensor], inputs: Sequence[Tensor], settings: Any) -> None:
        self.settings = settings
        self.inputs = [tensor.clone() for tensor in inputs]
        self.graph = torch.cuda.CUDAGraph()
        place = inputs[0].device
        # other threads, such as one that pins a loader's batches, go on meanwhile
        with (
            torch.cuda.device(place),
            torch.cuda.graph(self.graph, stream=torch.cuda.Stream(place), capture_error_mode="thread_local"),
        ):
            self.result = step(*self.inputs)

    def __call__(self, *inputs: Tensor) -> Tensor:
        for place, tensor in zip(self.inputs, inputs, strict=True):
            place.copy_(tensor, non_blocking=True)
        self.graph.replay()
        return self.result.clone()


def leaves_out(optimizer: Any) -> bool:
    """Whether an optimiser can be told on its device to leave out a step."""
    return getattr(optimizer, "_step_supports_amp_scaling", False)


@cache
def number(value: float, dtype: torch.dtype, place: torch.device) -> Tensor:
    """A number where it is used; it is filled in there, so that nobody waits."""
    return torch.full((), value, dtype=dtype, device=place)
