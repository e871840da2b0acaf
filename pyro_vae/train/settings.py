"""What makes a run the run that it is, in words: a checkpoint of other settings is not resumed."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from pyro_vae import saving, storage, tracing
from pyro_vae.data import Batches
from pyro_vae.data.feed import derived
from pyro_vae.infer.pacing import Paced
from pyro_vae.variant import Variant


def settings(
    variant: Variant,
    stepper: Any,
    paced: Sequence[Paced],
    schedule: Any,
    parts: Mapping[str, Batches],
    seed: int,
) -> dict[str, str]:
    """Each setting by name. Functions, such as a learning rate's, have no words and cannot be told apart."""
    optimizer = getattr(stepper, "optimizer", None)
    trained = {name: p.new_zeros(0) for name, p in nn.Module.named_parameters(variant) if p.requires_grad}
    words = {
        "seed": str(seed),
        "pair": _pair(variant),
        "temper": str(list(paced)),
        "handler": "None" if variant.handler is None else _words(variant.handler),
        "objective": _words(getattr(stepper, "loss", None)),
        "stepper": _words(stepper),
        "optimizer": _words(optimizer, getattr(optimizer, "defaults", {})),
        "lr_schedule": _words(schedule),
        "parameters": f"{len(trained)} trained, {storage.digest(trained)[:16]}",
    }
    if (opponent := getattr(stepper, "opponent", None)) is not None:
        words["discriminator_optim"] = _words(opponent, opponent.defaults)
        words["discriminator"] = f"{type(stepper.discriminator).__name__}, {_digest(stepper.discriminator)}"
    for name, part in parts.items():
        # before any transform, whose draws differ between devices
        step = next(iter(part.epoch(derived(seed))))
        first = {f"{site}{i or ''}": value for i, (_, batch) in enumerate(step) for site, value in batch.items()}
        words[name] = f"{part.size} data in {part.steps} batches, such as {storage.digest(first)[:16]}"
        if name == "train":
            words |= _fills(step[-1][1])
    return words


def _fills(batch: Mapping[str, Any]) -> dict[str, str]:
    """What the guide reads in place of what is hidden, where a handler around the run says that anything may be."""
    absent = {site: torch.full_like(v[:1], torch.nan) for site, v in batch.items() if v.is_floating_point()}
    read = {site: v for site, v in tracing.filled(absent).items() if not v.isnan().any()}
    return {f"fill of {site}": f"{v.mean():g} on average, {storage.digest({site: v})[:16]}" for site, v in read.items()}


def _pair(variant: Variant) -> str:
    """Two pairs whose parameters have the same shapes may tell different stories."""
    built = str(variant.recipe and saving.config(variant.recipe))
    return f"{variant.recipe.name if variant.recipe else 'of your own'}, {_digest(variant, built)}"


def _digest(module: nn.Module, built: str = "") -> str:
    words = built + nn.Module.__repr__(module)  # every module and what it says of itself
    return storage.digest({}, re.sub(r" at 0x[0-9a-f]+", "", words))[:16]  # but where it lies in memory


def _words(thing: Any, held: Mapping[str, Any] | None = None) -> str:
    """The kind of a thing and its plain settings."""
    held = getattr(thing, "__dict__", {}) if held is None else held
    plain = [f"{name}={value!r}" for name, value in sorted(held.items()) if name[0] != "_" and _is_plain(value)]
    return f"{type(thing).__name__}({', '.join(plain)})"


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(_is_plain(v) for item in value.items() for v in item)
    if isinstance(value, list | tuple):
        return all(_is_plain(v) for v in value)
    return isinstance(value, bool | int | float | str)


def machine(device: str) -> dict[str, str]:
    """What a run must meet again to be the same bit by bit."""
    return {"torch": torch.__version__, "threads": str(torch.get_num_threads()), "device": device}
