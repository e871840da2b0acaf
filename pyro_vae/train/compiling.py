"""When a training is compiled."""

import torch

# steps that earn back the time of compiling one of the smaller pairs (see benchmarks/speed.py), on the safe side
ENOUGH = {"cpu": 10_000, "cuda": 5_000}


def compiles(asked: bool | None, before: bool | None, steps: int, device: torch.device | None) -> bool:
    """As it was in the run that goes on; else as it is asked for; else where there are steps enough.

    Raises:
        ValueError: where the run that goes on was another.
    """
    if before is not None:
        if asked is not None and asked != before:
            raise ValueError(f"resume: compile: the run has {before}, found {asked}")
        return before
    if asked is not None:
        return asked
    kind = "cpu" if device is None else device.type
    return kind in ENOUGH and steps >= ENOUGH[kind]
