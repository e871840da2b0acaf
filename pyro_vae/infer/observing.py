"""Missing data: the likelihood of what is observed, as one effect handler around model and guide."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from pyro.poutine.messenger import Messenger, _bound_partial
from torch import Tensor

from pyro_vae import families, tracing

Mask = Tensor | Callable[[Tensor], Tensor]


class observed(Messenger):  # named as Pyro names its handlers
    r"""log p(x_o | z) = sum_{i in o} log p(x_i | z),   o the entries of a datum that are observed

    An effect handler: what is hidden is summed out exactly, as the entries are independent given z. Bounds and
    objectives under it are those of log p(x_o); :meth:`pyro_vae.Variant.impute` draws the rest. It ignores why entries
    are hidden, which is right where that does not depend on their values.

    - As a context around anything that takes a pair, ``pv.fit``, ``pv.evaluate``, ``pair.elbo``, ``SVI(*pair, ...)``.
      Hidden entries that are NaN in the data, with ``observed(x=torch.isfinite)``, stay with their data wherever
      these are shuffled or divided; a mask of single data serves the verbs of a pair and loops of your own.
      Bare programs in a context read data as they are, hidden entries too: wrap the guide, or take ``*pair``.
    - Around one program, ``observed(x=mask)(model)``, ``observed(x=mask)(guide)``. The pair's own checks and metrics
      know nothing of such a mask.

    A guide finds ``fill`` in place of what is hidden. Nothing else depends on the values that stand there. As the
    guide is an approximation of p(z | x_o), so is imputation by few particles; it becomes exact as they grow in number.

    Args:
        fill: a number, or numbers that broadcast to data_shape, such as the mean of the data, ``x.nanmean(0)``; of a
            table, ``train.fill()``, see :meth:`pyro_vae.data.Table.fill`. Whole where the data are of a whole dtype.
        masks: by data site, True where observed: a boolean tensor of shape data_shape, for all data, or
            (batch, \*data_shape); or a function from the data to one of these, where NaN is always hidden.

    Raises:
        ValueError: where a mask or ``fill`` does not fit; where an observed entry is NaN or infinite; where the
            distribution of a site does not factorise over its entries; where a mask of single data meets data that
            are shuffled or divided; for a condition; on leaving, where no site of the name was observed.

    Source: Nazabal et al. 2020, arXiv:1807.03653; Mattei & Frellsen 2019, arXiv:1812.02633.

    >>> x = torch.tensor([[1.0, torch.nan], [0.0, 1.0]])
    >>> story = lambda x: pyro.sample("x", dist.Bernoulli(torch.tensor([0.25, 0.5])).to_event(1), obs=x)
    >>> with observed(x=torch.isfinite):
    ...     trace = pyro.poutine.trace(story).get_trace(x)
    >>> trace.compute_log_prob()
    >>> trace.nodes["x"]["log_prob"].exp()
    tensor([0.2500, 0.3750])
    """

    def __init__(self, fill: Any = 0.0, **masks: Mask) -> None:
        super().__init__()
        if not masks:
            raise ValueError("observed: expected a mask of a data site, as in observed(x=torch.isfinite)")
        self.masks = {name: mask if callable(mask) else _boolean(name, mask) for name, mask in masks.items()}
        try:
            self.fill = torch.as_tensor(fill, dtype=torch.float64)
        except (TypeError, ValueError, RuntimeError):
            raise TypeError(f"observed: fill: expected numbers, found {type(fill).__name__}") from None
        if not torch.isfinite(self.fill).all():
            raise ValueError("observed: fill: expected finite numbers, found NaN or infinite ones")

    def __repr__(self) -> str:
        shown = {
            n: tuple(m.shape) if isinstance(m, Tensor) else getattr(m, "__name__", m) for n, m in self.masks.items()
        }
        return f"observed({', '.join(f'{name}={mask}' for name, mask in shown.items())})"

    def __call__(self, program: Callable[..., Any]) -> Callable[..., Any]:
        """The program under the handler, with ``fill`` in its arguments in place of what is hidden."""
        super().__call__(program)  # which checks that it is one
        return _bound_partial(partial(_run, self, program))

    def __enter__(self) -> "observed":
        self._given: dict[str, Tensor] | None = None  # what is hidden in the arguments of a program around which we are
        self._met: set[str] = set()
        self._drawn: set[str] = set()
        self._data = False
        return super().__enter__()

    def __exit__(self, kind: Any, value: Any, traceback: Any) -> None:
        super().__exit__(kind, value, traceback)
        if kind is not None:
            return
        for name in self.masks:
            if name in self._met or not self._met | self._drawn:
                continue
            if name not in self._drawn:
                raise ValueError(f"observed: no site {name!r} in the program; it has {sorted(self._met | self._drawn)}")
            if self._data:
                raise ValueError(f"observed: the site {name!r} is latent; expected masks of observed sites")

    def _pyro_hidden(self, msg: Any) -> None:
        """Data on their way to a pair, by :func:`pyro_vae.tracing.hidden`."""
        name, (value,) = msg["name"], msg["args"]
        if msg["infer"]["given"]:
            if name in self.masks:
                raise ValueError(f"observed: {name}: a condition, which is given whole; expected masks of data sites")
            return
        self._met.add(name)
        self._data = True
        if name in self.masks:
            hidden = self._hidden(name, value)
            if value.is_floating_point() and not torch.isfinite(value[~hidden]).all():
                raise ValueError(f"observed: {name}: holds NaN or infinite values where the mask says observed")
            msg["value"] = hidden if msg["value"] is None else hidden | msg["value"]
            msg["done"] = True

    def _pyro_filled(self, msg: Any) -> None:
        """An argument on its way to a guide, by :func:`pyro_vae.tracing.filled`."""
        name, (value,) = msg["name"], msg["args"]
        self._met.add(name)
        self._data = True
        if name in self.masks:
            hidden = torch.isnan(value) if msg["infer"].get("prepared") else self._hidden(name, value)
            if self._given is not None:
                self._given[name] = hidden
            msg["args"] = (self._filled(name, value, hidden),)

    def _pyro_sample(self, msg: Any) -> None:
        if type(msg["fn"]).__name__ in ("_Subsample", "Unit") or msg["infer"].get("_deterministic"):
            return
        name, value, ready = msg["name"], msg["value"], msg["infer"].get("prepared", False)
        if not msg["is_observed"]:
            self._drawn.add(name)
            return
        self._met.add(name)
        self._data = self._data or not ready  # or else the conditions of a draw
        if name not in self.masks:
            return
        _check_shape(name, msg["fn"], value)
        if self._given is not None and name in self._given:
            hidden = _fitting(name, self._given[name], value, "hidden entries")
        else:
            hidden = torch.isnan(value) if ready else self._hidden(name, value)
        try:
            msg["fn"] = families.masked(msg["fn"], ~hidden)
        except TypeError as error:
            raise ValueError(
                f"observed: {name}: {error}, so that none can be left out; use a likelihood whose entries are "
                "independent given z, such as pv.likelihoods.Normal"
            ) from None
        # any value that has a density: whatever stood there must not reach a gradient
        msg["value"] = torch.where(hidden, families.inside(msg["fn"]).to(value), value)
        before = msg["infer"].get("hidden")
        msg["infer"]["hidden"] = hidden if before is None else hidden | before

    def _hidden(self, name: str, value: Tensor) -> Tensor:
        """What the mask of a site hides in its data, of their shape."""
        mask = self.masks[name]
        if isinstance(mask, Tensor):
            return ~_fitting(name, mask, value)
        return ~_fitting(name, _boolean(name, mask(value)), value) | torch.isnan(value)

    def _filled(self, name: str, value: Tensor, hidden: Tensor) -> Tensor:
        if not value.is_floating_point():
            lost = self.fill[self.fill.to(value.dtype).to(self.fill) != self.fill]
            if lost.numel():
                raise ValueError(
                    f"observed: fill: expected what {name}, of {value.dtype}, can hold, found {lost[0]:g}; pass "
                    f"{name}.float(), or another fill"
                )
        fill, datum = self.fill.to(value), value.shape[1:]
        if fill.dim() > len(datum) or any(n not in (1, m) for n, m in zip(fill.shape[::-1], datum[::-1], strict=False)):
            raise ValueError(
                f"observed: fill: {name} needs a number or numbers that broadcast to {tuple(datum)}, found "
                f"{tuple(fill.shape)}"
            )
        return torch.where(hidden, fill, value)


def _run(handler: observed, program: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """A program under its handler; Pyro, and our own look at arguments, find both as the first two arguments."""
    with handler:
        handler._given = {}
        args, kwargs = tracing.filled_arguments(program, args, kwargs)
        return program(*args, **kwargs)


def _check_shape(name: str, fn: Any, value: Tensor) -> None:
    """Raise where a value and its distribution do not fit, before a mask makes of it what it is not."""
    try:
        torch.broadcast_shapes(value.shape, fn.shape())
        fits = value.shape[max(value.dim() - fn.event_dim, 0) :] == fn.event_shape
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(f"{name}: expected values of shape {tuple(fn.shape())}, found {tuple(value.shape)}")


def _boolean(name: str, mask: Any) -> Tensor:
    try:
        tensor = torch.as_tensor(mask)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(
            f"observed: {name}: expected a boolean mask or a function, found {type(mask).__name__}"
        ) from None
    if tensor.dtype != torch.bool:
        raise ValueError(f"observed: {name}: expected a mask of torch.bool, True where observed, found {tensor.dtype}")
    return tensor


def _fitting(name: str, mask: Tensor, value: Tensor, what: str = "a mask") -> Tensor:
    """A mask of one datum or of all of them, in the shape of the data."""
    if mask.shape in (value.shape, value.shape[1:]):
        return mask.to(value.device).expand(value.shape)
    if mask.shape[1:] == value.shape[1:]:
        raise ValueError(
            f"observed: {name}: {what} of {len(mask)} data, found a batch of {len(value)}; no mask follows data that "
            f"are shuffled or divided: mark hidden entries as NaN, {name}.masked_fill(~mask, torch.nan), and use "
            f"observed({name}=torch.isfinite)"
        )
    raise ValueError(
        f"observed: {name}: expected {what} of shape {tuple(value.shape[1:])} or {tuple(value.shape)}, found "
        f"{tuple(mask.shape)}"
    )
