"""Several processes that train one pair, each on its share of every batch."""

import atexit
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.utils._pytree import tree_map_only


class Team:
    r"""g = sum_r n_r g_r / sum_r n_r,   g_r the gradient of the mean over the n_r data of process r

    The processes that ``torchrun`` has started, or one alone. What is pooled is the gradient of a sum over data: it is
    that of one process that sees all of these data, whatever share each of them has. A term that all data share comes
    with the weight of a batch in all data (:class:`pyro_vae.infer.minibatch`), and is pooled with them. Buffers, such
    as running averages, are those of the first process, as with torch's DDP.

    Why not DDP itself: it wraps the forward pass of one module and averages over processes. A loss of Pyro runs two
    programs and the backward pass in one call, and the shares of a batch need not be equal.
    """

    def __init__(self) -> None:
        if distributed.is_available() and distributed.is_initialized():
            self.rank, self.size = distributed.get_rank(), distributed.get_world_size()
        else:
            self.size = int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1
            self.rank = int(os.environ["RANK"]) if self.size > 1 else 0
        self.modules: Sequence[nn.Module] = ()

    @property
    def leads(self) -> bool:
        """Whether this process is the one that evaluates, logs and writes."""
        return self.rank == 0

    @property
    def device(self) -> torch.device | None:
        """Its own CUDA device, where there are several."""
        several = self.size > 1 and torch.cuda.is_available()
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", self.rank))) if several else None

    def join(self, device: torch.device | None) -> None:
        """Meet the others, by what ``torchrun`` left in the environment."""
        if self.size == 1:
            return
        cuda = device is not None and device.type == "cuda"
        if cuda:
            torch.cuda.set_device(device)
        if distributed.is_initialized():
            return
        with self._whole():  # the others wait while the first evaluates; those that are lost are noticed otherwise
            distributed.init_process_group("nccl" if cuda else "gloo", timeout=timedelta(days=1))
        atexit.register(_leave)

    def pool(self, parameters: Sequence[Tensor], loss: float, size: float) -> float:
        """Put the gradient of all data of this step in the place of that of this process's; the sum of the losses."""
        present = [float(p.grad is not None) for p in parameters]
        told = torch.tensor([*present, loss, size], dtype=torch.float64, device=parameters[0].device)
        with self._whole():
            distributed.all_reduce(told)
        *anywhere, total, everyone = told.tolist()
        if not math.isfinite(total):  # all stop here
            if math.isfinite(loss):
                raise FloatingPointError(f"the loss of another process is {total}; its own words tell why")
            return total
        moved = [p for p, found in zip(parameters, anywhere, strict=True) if found]
        for parameter in moved:
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        gradients = [p.grad for p in moved if p.grad is not None]
        torch._foreach_mul_(gradients, size / everyone)
        with self._whole():
            _together(gradients, distributed.all_reduce)
            buffers = [b for module in self.modules for b in module.buffers() if b.is_floating_point()]
            _together(buffers, partial(distributed.broadcast, src=0))
        return total

    def sum(self, number: float) -> float:
        """Over all processes."""
        numbers = [number] * self.size
        if self.size > 1:
            with self._whole():
                distributed.all_gather_object(numbers, number)
        return sum(numbers)

    def told(self, thing: Any) -> Any:
        """What the first process has."""
        things = [tree_map_only(Tensor, Tensor.cpu, thing) if self.size > 1 else thing]
        if self.size > 1:
            with self._whole():
                distributed.broadcast_object_list(things, 0)
        return things[0]

    @contextmanager
    def _whole(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            why = str(error).strip().partition("\n")[0]
            raise ConnectionError(
                f"process {self.rank} of {self.size} has lost another one, whose own words tell why; a run with a "
                f"checkpoint goes on from it with resume ({why})"
            ) from error


def _together(tensors: Sequence[Tensor], send: Callable[[Tensor], Any]) -> None:
    """Send some tensors as one."""
    if tensors:
        flat = torch.cat([tensor.detach().flatten() for tensor in tensors])
        send(flat)
        for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.detach().copy_(part.view_as(tensor))


def _leave() -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()
