"""Options of the command line, read off the signatures and docstrings of the functions that they are for."""

import inspect
import re
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

from cyclopts import CoercionError, Parameter
from docstring_parser import parse

from pyro_vae.cli.parts import PARTS, choices, spelt

SIMPLE = (bool, int, float, str, Path)


def options(function: Callable[..., Any], group: str, skip: Sequence[str] = ()) -> Iterator[inspect.Parameter]:
    """The parameters of a function that can be told in words, each with its help, for a group of options.

    Modules, optimisers and other things that have no words are left out.
    """
    told = helps(function)
    for parameter in inspect.signature(function).parameters.values():
        kind = _kind(parameter)
        if kind is None or parameter.name in skip:
            continue
        text = told.get(parameter.name, "")
        if parameter.name in PARTS:
            text += f" NAME or NAME:KEY=VALUE,...; the names: {', '.join(sorted(choices(parameter.name)))}."
        several = get_origin(kind) is Sequence
        convert = whole(parameter.name) if kind in (int, Sequence[int]) else None
        note = Parameter(
            help=text.strip(), group=group, consume_multiple=several, negative_iterable=(), converter=convert
        )
        default = parameter.default
        if default is not None and default is not parameter.empty and parameter.name in PARTS:
            default = spelt(default)
        yield parameter.replace(annotation=Annotated[kind | None, note], kind=parameter.KEYWORD_ONLY, default=default)


def whole(name: str) -> Callable[[Any, Sequence[Any]], Any]:
    """Whole numbers, as they are written: cyclopts would make 2 of 2.5."""

    def convert(kind: Any, tokens: Sequence[Any]) -> Any:
        wrong = [token.value for token in tokens if not re.fullmatch(r"[-+]?\d{1,18}", token.value)]
        if wrong:
            raise CoercionError(msg=f"{name}: expected a whole number, found {wrong[0]!r}")
        numbers = [int(token.value) for token in tokens]
        return numbers if get_origin(kind) is Sequence else numbers[0]

    return convert


def helps(function: Callable[..., Any]) -> dict[str, str]:
    """What the docstring of a function, and of those that it extends, says of each argument, as plain text."""
    extended = getattr(function, "extends", None)
    told = helps(extended) if extended else {}
    for entry in parse(function.__doc__ or "").params:
        for name in entry.arg_name.split(","):
            told[name.strip()] = plain(entry.description or "")
    return told


def plain(text: str) -> str:
    """Without the marks that documentation tools read."""
    text = re.sub(r":\w+:`~?([^`]*)`", r"\1", text)
    return " ".join(text.replace("``", "").replace("\\*", "*").split())


def title(function: Callable[..., Any]) -> str:
    """The first line of a docstring."""
    return plain((function.__doc__ or "").strip().partition("\n")[0])


def _kind(parameter: inspect.Parameter) -> Any:
    """The type of an option, or None where there are no words for it."""
    if parameter.name in PARTS:
        return str
    if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
        return None
    annotation = parameter.annotation
    union = get_origin(annotation) in (Union, types.UnionType)
    kinds = [t for t in (get_args(annotation) if union else (annotation,)) if t is not type(None)]
    several = [t for t in kinds if get_origin(t) in (Sequence, tuple) and get_args(t)[0] in SIMPLE]
    lists = [Sequence[get_args(t)[0]] for t in several]  # type: ignore[misc]
    mapping = dict[str, str] if any(get_origin(t) is Mapping for t in kinds) else None  # where no fewer words will do
    return next((t for t in (*lists, Path, float, int, bool, str) if t in (*lists, *kinds)), mapping)
