"""Numbers of effect handlers that change while training."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from pyro.poutine.messenger import Messenger

Number = float | Callable[[float], float]  # or a schedule of it: epoch -> number


_traced = ContextVar("traced", default=False)


@contextmanager
def traced() -> Iterator[None]:
    """While a program is traced, which reads no schedule that is not held."""
    token = _traced.set(True)
    try:
        yield
    finally:
        _traced.reset(token)


class Paced(Messenger):
    """A handler with numbers, of which some may be on a schedule.

    A schedule reads the attribute ``epoch``, which :func:`pyro_vae.fit` sets before each step; in a loop of your own
    set it yourself.
    """

    def __init__(self) -> None:
        super().__init__()
        self.epoch = 0.0
        self._held: Mapping[str, Any] = {}

    @property
    def numbers(self) -> Mapping[str, Number]:
        """All numbers by name, or their schedules."""
        raise NotImplementedError

    def number(self, name: str) -> Any:
        """What a number is at present."""
        if name in self._held:
            return self._held[name]
        number = self.numbers[name]
        if isinstance(number, float):
            return number
        if _traced.get():
            raise ValueError("a schedule that is opened inside of a program would stand still; put it around both")
        return number(self.epoch)

    @contextmanager
    def holding(self, values: Mapping[str, Any]) -> Iterator[None]:
        """With some numbers held where they are, also by tensors."""
        self._held = values
        try:
            yield
        finally:
            self._held = {}
