"""Checks of what users pass in: one clear error each, naming the argument, what was found and what was expected."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_vae import families


def positive_int(name: str, value: Any) -> int:
    """``value`` as an int, where it is a whole number of at least one."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise ValueError(f"{name}: expected a whole number of at least 1, found {value!r}")
    return int(value)


def real(name: str, value: Any, *, least: float = -math.inf, above: float = -math.inf) -> float:
    """``value`` as a float, where it is finite, at least ``least`` and greater than ``above``."""
    if (
        isinstance(value, bool)
        or not isinstance(value, Real)
        or not math.isfinite(value)
        or value < least
        or value <= above
    ):
        wanted = "a finite number"
        wanted += f" of at least {least:g}" if least > -math.inf else ""
        wanted += f" greater than {above:g}" if above > -math.inf else ""
        raise ValueError(f"{name}: expected {wanted}, found {value!r}")
    return float(value)


def fraction(name: str, value: Any) -> float:
    """``value`` as a float, where it is at least 0 and less than 1."""
    if real(name, value, least=0) >= 1:
        raise ValueError(f"{name}: expected a number in [0, 1), found {value}")
    return float(value)


def instance(name: str, value: Any, kind: type) -> None:
    """Raise where ``value`` is none of ``kind``."""
    if not isinstance(value, kind):
        raise TypeError(f"{name}: expected a {kind.__name__}, found {type(value).__name__}")


def built_by(name: str, value: Any) -> None:
    """Raise where ``value`` is not something that is called to build a part, such as a class."""
    if not callable(value) or isinstance(value, nn.Module):
        raise TypeError(
            f"{name}: expected a class or a function that builds one, found {value!r:.60}; "
            "see pv.nets and pv.likelihoods"
        )


def shape(name: str, value: Any) -> tuple[int, ...]:
    """``value`` as a tuple of positive ints; a single int stands for a vector."""
    value = value.tolist() if hasattr(value, "tolist") else value  # arrays of numpy
    if isinstance(value, Integral):
        return (positive_int(name, value),)
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise ValueError(f"{name}: expected a shape such as (1, 28, 28), found {value!r}")
    return tuple(positive_int(f"{name}[{i}]", d) for i, d in enumerate(value))


def latent(value: Any, name: str = "latent") -> tuple[int, ...]:
    """The shape of a code: a number of dimensions, or (channels, height, width) of a spatial one."""
    return shape(name, value) if isinstance(value, Sequence) else (positive_int(name, value),)


def several(name: str, value: Any) -> int:
    """``value`` as an int, where it is a whole number of at least two, as of classes."""
    if positive_int(name, value) < 2:
        raise ValueError(f"{name}: expected at least 2, found {value}")
    return int(value)


def codes(value: Any) -> tuple[int, int]:
    """The shape of categorical codes, one-hot: how many there are, and of how many categories."""
    found = latent(value)
    if len(found) != 2:
        raise ValueError(f"latent: expected (codes, categories), found {value!r}")
    return found[0], several("latent: categories", found[1])


def increasing(name: str, value: Any) -> Tensor:
    """``value`` as a vector of finite numbers, each greater than the one before."""
    numbers = torch.as_tensor(value, dtype=torch.get_default_dtype())
    if numbers.dim() != 1 or not len(numbers) or not numbers.isfinite().all() or (numbers.diff() <= 0).any():
        raise ValueError(f"{name}: expected increasing numbers such as (-1.0, 0.0, 1.0), found {value!r:.60}")
    return numbers


def on_sphere(shape: tuple[int, ...]) -> int:
    """The dimensions of a code that lies on a sphere: a vector of at least two."""
    if len(shape) != 1 or shape[0] < 2:
        raise ValueError(f"latent: expected a vector of at least 2 dimensions, which a sphere lies in, found {shape}")
    return shape[0]


def inputs(name: str, value: Any) -> tuple[tuple[int, ...], ...]:
    """The shapes of a net's inputs: of one, or of several in a sequence, where () is that of a class label."""
    if not isinstance(value, Sequence) or not any(isinstance(inside, Sequence) for inside in value):
        return (shape(name, value),)
    return tuple(shape(f"{name}[{i}]", inside) if inside != () else () for i, inside in enumerate(value))


@contextmanager
def plainly(prefix: str = "") -> Iterator[None]:
    """Errors in one line, without the table of all shapes that Pyro appends, and with the name of what was passed."""
    try:
        yield
    except ValueError as error:
        text = " ".join(str(error).split("Trace Shapes:")[0].split())
        if text == str(error) and not prefix:
            raise
        raise ValueError(prefix + text) from None


def known(name: str, value: str, choices: Iterable[str]) -> str:
    """``value``, where it is one of ``choices``."""
    choices = sorted(choices)
    if value not in choices:
        close = get_close_matches(str(value), choices, 1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"{name}: unknown {value!r}, expected one of {', '.join(choices)}{hint}")
    return value


def zeros(like: Tensor, shapes: Iterable[tuple[int, ...]], n: int) -> list[Tensor]:
    """n zeros of each shape, on which a part of a pair may be tried; of shape (), a class label, whole ones."""
    return [like.new_zeros(n, *shape) if shape else like.new_zeros(n, dtype=torch.long) for shape in shapes]


def net(name: str, module: Callable[..., Tensor], inside: Sequence[tuple[int, ...]], outside: tuple[int, ...]) -> None:
    """Run ``module`` once on zeros, one input for each shape in ``inside``, and compare the shape of what comes out.

    ``outside`` may be reached in any arrangement (784 for (1, 28, 28)): the caller reshapes.
    """
    states = [m for m in module.modules() if m.training] if isinstance(module, nn.Module) else []
    parameter = next(iter(module.parameters()), None) if isinstance(module, nn.Module) else None
    like = torch.empty(0) if parameter is None else parameter
    examples = zeros(like, inside, 2)
    told = " and ".join(f"({', '.join(('batch', *map(str, dims)))})" for dims in inside)
    try:
        for m in states:
            m.training = False
        with torch.no_grad():
            result = module(*examples)
    except Exception as error:
        raise ValueError(f"{name}: fails on an input of shape {told.replace('batch', '2')}: {error}") from error
    finally:
        for m in states:
            m.training = True
    if not isinstance(result, Tensor) or len(result) != 2 or result[0].numel() != math.prod(outside):
        found = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
        raise ValueError(
            f"{name}: expected (batch, {_comma(outside)}) from an input of {told}, found {found} for a batch of 2"
        )


def _comma(dims: tuple[int, ...]) -> str:
    return ", ".join(map(str, dims))


def support(distribution: Any, value: Tensor, name: str = "x") -> None:
    """Raise where ``value`` holds anything that ``distribution`` cannot explain, and say what to do.

    A support that depends on parameters (a uniform's ends), or that is a property of each distribution,
    cannot be compared with other data than those that the distribution was made for, and is left to it;
    a distribution with ``advice`` says that all data have the one of its instance. Of a row of a table
    the column is named.
    """
    base = families.base(distribution)
    columns = getattr(base, "by_column", None)
    if columns and value.shape[-1:] != base.event_shape:
        return  # no table of this kind, which the check of its shape will say
    constraint = base.support if hasattr(base, "advice") else type(base).support
    finite = torch.isfinite(value) if value.is_floating_point() else torch.ones_like(value, dtype=torch.bool)
    fixed = isinstance(constraint, constraints.Constraint) and not constraints.is_dependent(constraint)
    inside = constraint.check(value) if fixed else finite
    if inside.all() and finite.all():
        return
    for column, part, cells in columns(value) if columns else ():
        support(part, cells, f"{name}, column {column!r}")
    inside = inside & finite if inside.shape == finite.shape else inside
    advice = getattr(base, "advice", "change the data or the likelihood")
    bad = int((~inside).sum()) or int((~finite).sum())
    found = f"from {value[finite].min():g} to {value[finite].max():g}" if finite.any() else "no finite value"
    strange = value[~inside & finite] if inside.shape == finite.shape else value[:0]
    found += f", such as {strange[0]:g}" if strange.numel() else ""
    found += f", {int((~finite).sum())} of them NaN or infinite" if not finite.all() else ""
    raise ValueError(
        f"{name}: {bad} of {inside.numel()} values lie outside the support of {families.family(base)} "
        f"({constraint}): "
        f"found values {found}. {advice}"
    )
