"""Pairs on disk: ``config.json`` tells how the pair was built, ``weights.safetensors`` holds what it learned.

Nothing that is read can execute code: weights are plain tensors, and the configuration may name only
things of this library.
"""

import functools
import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from pyro_vae import storage
from pyro_vae.storage import FORMAT

CONFIG, WEIGHTS = "config.json", "weights.safetensors"
PRIORS, SCHEDULES = "pyro_vae.priors", "pyro_vae.infer"
NAMEABLE = ("pyro_vae.likelihoods", "pyro_vae.nets", "pyro_vae.posteriors", PRIORS)


@dataclass
class Built:
    """The recipe that made a pair and the arguments that it was given."""

    name: str
    arguments: dict[str, Any]


def kept(value: Any) -> Any:
    """An argument as :func:`decode` gives it back: a copy, which its owner may no longer change."""
    if isinstance(value, Mapping):
        return {name: kept(v) for name, v in value.items()}
    return tuple(kept(v) for v in value) if isinstance(value, tuple | list) else value


def save(pair: Any, folder: str | Path) -> Path:
    """Write a pair into ``folder``; each file appears whole or not at all.

    Raises:
        FileExistsError: where ``folder`` is a file.
    """
    folder = Path(folder)
    storage.check_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    storage.write_state(folder / WEIGHTS, pair.state_dict())
    storage.write_json(folder / CONFIG, config(pair.recipe))
    return folder


def read_config(folder: Path, name: str = CONFIG) -> dict[str, Any]:
    """A file of settings that we wrote: the configuration of a saved pair.

    Raises:
        FileNotFoundError: where the folder or the file is missing.
        ValueError: where the file is no configuration of ours.
    """
    path = folder / name
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected a folder written by Variant.save or pv.fit")
    try:
        config = json.loads(path.read_text())
        version = config["pyro_vae"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not a configuration of pyro_vae ({error!r})") from None
    if version != FORMAT:
        raise ValueError(f"{path}: written in format {version}, this version reads format {FORMAT}")
    return config


def read_weights(pair: nn.Module, folder: Path) -> None:
    """Fill a pair with the weights of a saved one.

    Raises:
        FileNotFoundError: where there are none.
        ValueError: where the file is damaged or foreign, or its tensors are not those of the pair.
    """
    path = folder / WEIGHTS
    state = storage.read_state(path)
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path}: not the weights of a pair")
    own = pair.state_dict()
    wrong = [
        f"{name}: saved {tuple(value.shape)}, expected {tuple(own[name].shape)}"
        for name, value in state.items()
        if name in own and own[name].shape != value.shape
    ]
    wrong += [f"{name}: not in the pair" for name in state if name not in own]
    wrong += [f"missing {name}" for name in own if name not in state]
    if wrong:
        raise ValueError(f"{path}: weights of another pair; {'; '.join(wrong[:3])}")
    kinds = {value.dtype for value in state.values() if value.is_floating_point()}
    if len(kinds) == 1:
        pair.to(kinds.pop())  # what was saved in double precision comes back in it
    pair.load_state_dict(state)


def config(built: Built | None) -> dict[str, Any]:
    """How a pair was built, as JSON takes it."""
    found: dict[str, Any] = {"pyro_vae": FORMAT, "recipe": None}
    if built is not None:
        try:
            arguments = {name: _encode(value) for name, value in built.arguments.items()}
        except TypeError as error:
            return found | {"why": f"{built.name} was given {error}"}
        found |= {"recipe": built.name, "arguments": arguments}
    return found


def _encode(value: Any) -> Any:
    """A recipe's argument as JSON; TypeError where it cannot be named."""
    if isinstance(value, np.generic | np.ndarray | Tensor):
        value = value.tolist()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple | list):
        return [_encode(v) for v in value]
    if isinstance(value, dict):
        return {"mapping": {str(k): _encode(v) for k, v in value.items()}}
    if isinstance(value, functools.partial) and not value.args:
        return _encode(value.func) | {"with": {k: _encode(v) for k, v in value.keywords.items()}}
    if isinstance(value, nn.Module) and getattr(import_module(PRIORS), type(value).__name__, None) is type(value):
        arguments = list(inspect.signature(type(value)).parameters)  # each is kept under its own name
        if all(hasattr(value, name) for name in arguments):
            told = {name: _encode(getattr(value, name)) for name in arguments}
            return {"class": f"{PRIORS}.{type(value).__name__}", "built": told}
    if is_dataclass(value) and getattr(import_module(SCHEDULES), type(value).__name__, None) is type(value):
        told = {field.name: _encode(getattr(value, field.name)) for field in fields(value)}
        return {"class": f"{SCHEDULES}.{type(value).__name__}", "built": told}
    module = next(
        (m for m in NAMEABLE if getattr(import_module(m), getattr(value, "__name__", ""), None) is value),
        None,
    )
    if module is None or not inspect.isclass(value):
        raise TypeError(f"a {type(value).__name__} of its own ({value!r:.60}), which JSON cannot hold")
    return {"class": f"{module}.{value.__name__}"}


def decode(value: Any) -> Any:
    """The argument that :func:`save` wrote.

    Raises:
        ValueError: where it names anything but a class of this library's own.
    """
    if isinstance(value, list):
        return tuple(decode(v) for v in value)
    if not isinstance(value, dict):
        return value
    if "mapping" in value:
        return {k: decode(v) for k, v in value["mapping"].items()}
    module, _, name = str(value.get("class")).rpartition(".")
    found = getattr(import_module(module), name, None) if module in (*NAMEABLE, SCHEDULES) else None
    if not inspect.isclass(found) or (module == SCHEDULES and not is_dataclass(found)):
        raise ValueError(f"unknown class {value.get('class')!r}")
    if "built" in value:
        return found(**{k: decode(v) for k, v in value["built"].items()})
    return functools.partial(found, **{k: decode(v) for k, v in value["with"].items()}) if "with" in value else found
