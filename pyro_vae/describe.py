"""Pairs in words: the equation, the sites and their shapes, the parameters."""

import functools
import inspect
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from pyro_vae import families, tracing
from pyro_vae.story import SHARED

if TYPE_CHECKING:
    from pyro_vae.variant import Variant


def variant(pair: "Variant") -> str:
    """What ``print(variant)`` shows."""
    lines = [_title(pair), f"  {_equation(pair.model, 'p(x, z)')}", f"  {_equation(pair.guide, 'q(z | x)')}"]
    rows = _sites(pair)
    lines += rows or ["  sites: shown once a batch has been seen"]
    roles = ["model", "guide", *["discriminator"] * (pair.discriminator is not None)]
    counts = {role: _parameters(getattr(pair, role)) for role in roles}
    lines.append("  parameters: " + ", ".join(f"{role} {count}" for role, count in counts.items()))
    return "\n".join(lines)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines whose first column is flush left and whose others, numbers, are flush right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    return [
        "  ".join([first.ljust(widths[0]), *(c.rjust(w) for c, w in zip(cells, widths[1:], strict=True))])
        for first, *cells in (header, *rows)
    ]


def _title(pair: "Variant") -> str:
    if pair.recipe is None:
        title = f"Variant({_name(pair.model)}, {_name(pair.guide)})"
    else:
        arguments = ", ".join(f"{k}={_short(v)}" for k, v in pair.recipe.arguments.items() if v is not None)
        title = f"{pair.recipe.name}({arguments})"
    return title + "".join(f", trained {word} {_short(how)}" for word, how in _ways(pair) if how is not None)


def _ways(pair: "Variant") -> list[tuple[str, Any]]:
    return [("under", pair.handler), ("by", getattr(pair.stepper, "func", pair.stepper))]


def _name(program: Any) -> str:
    return type(program).__name__ if isinstance(program, nn.Module) else getattr(program, "__name__", repr(program))


def _short(value: Any) -> str:
    if isinstance(value, nn.Module):
        return type(value).__name__
    if isinstance(value, functools.partial):
        settings = ", ".join(f"{k}={_short(v)}" for k, v in value.keywords.items())
        return f"{_short(value.func)}({settings})"
    if isinstance(value, type) or inspect.isfunction(value):
        return value.__name__
    return textwrap.shorten(repr(value), 60, placeholder=" ...")


def _equation(program: Any, default: str) -> str:
    """The first line of a story is its equation."""
    first = (program.__doc__ or "").strip().splitlines()[:1]
    return first[0].strip() if first and first[0].lstrip().startswith(("p(", "q(")) else default


def _sites(pair: "Variant") -> list[str]:
    try:
        given: dict[str, Any] = {k: v for k, v in (pair._seen() or {}).items() if k in pair.conditions}
        trace = pair.draw(1, **given)
    except Exception:  # a story that cannot be dreamt yet can still be named
        return []
    data = pair.data_names(trace)
    table = [("site", "role", "shape", "distribution")]
    for name, site in {**tracing.shared_sites(trace), **tracing.sites(trace)}.items():
        roles = {"condition": pair.conditions, "label": pair.labels, "data": data}
        kind = "shared" if site["infer"].get(SHARED) else "latent"
        role = next((role for role, names in roles.items() if name in names), kind)
        table.append((name, role, str(tuple(site["fn"].event_shape)), families.family(site["fn"])))
    widths = [max(len(row[i]) for row in table) for i in range(4)]
    return ["  " + "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in table]


def _parameters(program: Any) -> str:
    if not isinstance(program, nn.Module):
        return "in pyro.param"
    return f"{sum(p.numel() for p in torch.nn.Module.parameters(program)):,}"
