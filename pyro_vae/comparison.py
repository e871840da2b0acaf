"""Several variants on the same data, side by side: each trained and evaluated once per seed."""

import copy
import inspect
import logging
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro.infer import ELBO
from torch import nn

from pyro_vae import checks, tracing
from pyro_vae.data import batches
from pyro_vae.evaluation import Report, evaluate
from pyro_vae.recipes import RECIPES
from pyro_vae.train import fit
from pyro_vae.variant import Variant

log = logging.getLogger("pyro_vae")

OURS = {"variant", "train", "validation", "seed", "out", "resume"}  # arguments of fit that compare itself sets
COLUMNS: dict[str, Callable[[Report], float | None]] = {
    "log-likelihood": lambda report: report.log_likelihood,
    "ELBO": lambda report: report.elbo,
    "rate": lambda report: report.rate,
    "distortion": lambda report: report.distortion,
}


@dataclass(frozen=True)
class Row:
    """One variant: what was found under each seed, and how many seconds each training took."""

    name: str
    reports: tuple[Report, ...]
    seconds: tuple[float, ...]


@dataclass(frozen=True)
class Comparison:
    """What :func:`compare` found; prints as a table. ``data`` says of what: "test data" or "training data"."""

    rows: tuple[Row, ...]
    data: str

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain numbers, ready for JSON."""
        variants = {
            row.name: {"reports": [report.to_dict() for report in row.reports], "seconds": list(row.seconds)}
            for row in self.rows
        }
        return {"data": self.data, "variants": variants}

    def __str__(self) -> str:
        table = [["", *COLUMNS, "active units", "seconds"]]
        for row in self.rows:
            figures = [_spread([figure(report) for report in row.reports], 2) for figure in COLUMNS.values()]
            table.append([row.name, *figures, _active(row.reports), _spread(row.seconds, 1)])
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = [
            "  ".join([name.ljust(widths[0]), *(c.rjust(w) for c, w in zip(cells, widths[1:], strict=True))])
            for name, *cells in table
        ]
        report, seeds = self.rows[0].reports[0], len(self.rows[0].reports)
        over = f"mean ± standard deviation over {seeds} seeds" if seeds > 1 else "1 seed"
        lines.append(f"{over}; nats per datum, {report.particles} particles, on {report.data} {self.data}")
        return "\n".join(lines)


def compare(
    variants: Mapping[str, Any],
    data: Any,
    *,
    test: Any = None,
    validation: Any = None,
    seeds: int = 3,
    particles: int = 100,
    **fit_options: Any,
) -> Comparison:
    r"""mean_s r(v, s) ± sd_s r(v, s) of every figure r of :func:`pyro_vae.evaluate`, v a variant, s = 0 ... seeds - 1

    Each variant is built and trained anew under each seed, and evaluated under one and the same seed, so that the
    spread is that of building and training. The variants handed in stay as they are. Each run that has ended is
    logged to ``pyro_vae`` at level INFO.

    Args:
        variants: a mapping from name to variant. A recipe's is built anew, and starts from other weights under
            each seed (but for modules that it was given as arguments, which are copied). Any other is copied as it
            is, and its seeds differ in training alone; to have it built anew, pass a function without arguments
            that builds it.
        data: what :func:`pyro_vae.fit` takes.
        test: what to evaluate on, by default ``data``, as the table then says.
        validation: handed to every training.
        seeds: how many trainings of each variant.
        particles: draws per datum of each evaluation.
        fit_options: for every training, such as ``epochs``, ``batch_size``, ``device``.

    Units: nats per datum; seconds are those of training.

    Raises:
        ValueError, TypeError: before any training, where an argument is wrong or the data do not fit a variant,
            which is named.
        FloatingPointError: where a training fails.

    Source: rate and distortion, Alemi et al. 2018, arXiv:1711.00464.

    >>> x = pv.data.load("digits", binarise="threshold").x[:200]
    >>> pairs = {"vae": pv.vae((1, 8, 8), latent=2), "beta": pv.beta_vae((1, 8, 8), latent=2)}
    >>> result = compare(pairs, x, seeds=2, particles=5, epochs=1, progress=False)
    >>> len(str(result).splitlines())
    4
    """
    _check_arguments(variants, seeds, particles, fit_options)
    sets = {name: x for name, x in (("data", data), ("validation", validation), ("test", test)) if x is not None}
    for name, variant in variants.items():
        with _named(name):
            pair = _built(variant, 0)
            for role, part in sets.items():
                _check_data(pair, part, role, fit_options.get("batch_size", 128))
    rows: list[Row] = []
    for name, variant in variants.items():
        reports, seconds = [], []
        for seed in range(seeds):
            with _named(name):
                pair = _built(variant, seed)
                # an objective of its own: some remember how deep the plates of the first pair nest
                run = fit(pair, data, validation=validation, seed=seed, **copy.deepcopy(fit_options))
                reports.append(evaluate(pair, data if test is None else test, particles=particles))
            seconds.append(run.seconds)
            done, total = len(rows) * seeds + seed + 1, len(variants) * seeds
            figures = f"log-likelihood {_spread([reports[-1].log_likelihood], 2)}, {run.seconds:.1f} s"
            log.info("compare: %s, seed %d: %s (run %d of %d)", name, seed, figures, done, total)
        rows.append(Row(name, tuple(reports), tuple(seconds)))
    return Comparison(tuple(rows), f"{'training' if test is None else 'test'} data")


def _check_arguments(variants: Any, seeds: Any, particles: Any, options: Mapping[str, Any]) -> None:
    if not isinstance(variants, Mapping):
        raise TypeError(f"variants: expected a mapping from name to variant, found {type(variants).__name__}")
    if not variants:
        raise ValueError("variants: empty; expected at least one, as in {'vae': pv.vae((1, 28, 28))}")
    checks.positive_int("seeds", seeds)
    checks.positive_int("particles", particles)
    for name in options:
        if name in OURS:
            raise ValueError(f"{name}: compare sets it itself, for each training; train one variant with pv.fit")
        checks.known("fit_options", name, set(inspect.signature(fit).parameters) - OURS)
    objective = options.get("objective")
    if objective is not None and not isinstance(objective, ELBO):
        raise TypeError(
            f"objective: expected a pyro.infer.ELBO, which serves every variant, found {type(objective).__name__}"
        )
    for name, variant in variants.items():
        if not isinstance(name, str):
            raise TypeError(f"variants: expected names that are strings, found {name!r}")
        if not isinstance(variant, Variant) and (isinstance(variant, nn.Module) or not callable(variant)):
            found = type(variant).__name__
            raise TypeError(f"compare: {name}: expected a Variant or a function that builds one, found {found}")


def _check_data(pair: Variant, data: Any, role: str, batch_size: int) -> None:
    """All the data that are in memory, and the first batch of a stream, in the ordinary, validated way."""
    feed = batches(pair, data, batch_size, pair.device, role)
    with pyro.validation_enabled(), checks.plainly(f"{role}: "), tracing.seeded(0):
        for batch in feed.fixed():
            list(pair.terms(partly=True, **batch))
            if feed.streams:
                break


def _built(variant: Any, seed: int) -> Variant:
    """A pair of its own to train."""
    with tracing.seeded(seed):
        if not isinstance(variant, Variant):
            pair = variant()
            if not isinstance(pair, Variant):
                raise TypeError(f"expected a function that builds a Variant, found one that gives {pair!r:.60}")
            return pair
        if variant.recipe is None or variant.recipe.name not in RECIPES:
            _refuse_borrowed(variant)
            return copy.deepcopy(variant)
        pair = RECIPES[variant.recipe.name](**copy.deepcopy(variant.recipe.arguments))
    return pair.to(next((p.dtype for p in variant.parameters() if p.is_floating_point()), torch.float32))


def _refuse_borrowed(variant: Variant) -> None:
    """A copy of a plain function shares the modules that the function finds around it."""
    for role, program in (("model", variant.model), ("guide", variant.guide)):
        _, bare = tracing._unwrapped(program)
        if inspect.isfunction(bare):
            around = inspect.getclosurevars(bare)
            held = [k for k, v in {**around.nonlocals, **around.globals}.items() if isinstance(v, nn.Module)]
            if held:
                raise TypeError(
                    f"its {role} is a function around the module {held[0]!r}, which a copy would train too; "
                    "pass a function that builds the variant"
                )


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Errors that say of which variant they are."""
    try:
        yield
    except (ValueError, TypeError, FloatingPointError) as error:
        kind = next(k for k in (FloatingPointError, TypeError, ValueError) if isinstance(error, k))
        raise kind(f"compare: {name}: {' '.join(str(error).split())}") from error


def _active(reports: Sequence[Report]) -> str:
    """Of all latent sites together."""
    units = sum(reports[0].units.values())
    return f"{_spread([sum(r.active_units.values()) for r in reports], 1)} of {units}" if units else "-"


def _spread(values: Sequence[float | None], digits: int) -> str:
    """mean ± sample standard deviation; of one value, the value; of a pair without an ELBO, "none"."""
    there = [value for value in values if value is not None]
    if len(there) < len(values):
        return "none"
    sd = f" ± {statistics.stdev(there):.{digits}f}" if len(there) > 1 else ""
    return f"{statistics.fmean(there):.{digits}f}{sd}"
