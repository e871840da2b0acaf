"""Variant: a model and a guide, and the verbs that work on any such pair."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch
from pyro import poutine
from pyro.nn import PyroModule
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from pyro_vae import checks, classes, describe, families, imputing, saving, tracing
from pyro_vae.tracing import Moments, seeded, slices

_serial = itertools.count()


class Program(nn.Module):
    """One of a variant's two programs as it is trained: under handlers, and known to Pyro.

    A plain module's parameters are announced to Pyro under a name that no other module has; a
    PyroModule announces its own. Of a function, ``pyro.param`` statements are left as they are, and
    ``pyro.module`` statements get a prefix of the pair's own. ``scope`` is the store that a stepper of
    ours trains in, ``names`` where the parameters of functions are noted. A program that ``reads``, a guide,
    finds something in place of data that are hidden.
    """

    def __init__(
        self,
        program: tracing.Program,
        name: str,
        handlers: Sequence[Messenger],
        scope: Callable[[], AbstractContextManager[None]],
        names: set[str],
        *,
        reads: bool,
    ) -> None:
        super().__init__()
        self.program, self.name, self.scope, self.reads = program, name, scope, reads
        self.handlers = list(handlers) if isinstance(program, nn.Module) else [*handlers, _Prefix(name, names)]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the program."""
        if isinstance(self.program, nn.Module) and not isinstance(self.program, PyroModule):
            pyro.module(self.name, self.program)
        with ExitStack() as stack:
            for handler in self.handlers:
                if hasattr(handler, "batch"):  # which weighs by how many data there are
                    handler.batch = len(next(iter((*args, *kwargs.values()))))
                stack.enter_context(handler)
            if self.reads:
                args, kwargs = tracing.filled_arguments(self.program, args, kwargs)
            return self.program(*args, **kwargs)


class _Prefix(Messenger):
    """Keeps apart the modules that functions of different pairs register under one name, and notes all names."""

    def __init__(self, prefix: str, names: set[str]) -> None:
        super().__init__()
        self.prefix, self.names = prefix, names

    def _pyro_param(self, msg: Any) -> None:
        if "$$$" in msg["name"]:  # Pyro's mark between the name of a module and that of its parameter
            msg["name"] = f"{self.prefix}.{msg['name']}"
            msg["args"] = (msg["name"], *msg["args"][1:])
        self.names.add(msg["name"])


class Variant(nn.Module):
    r"""A pair p(x, z), q(z | x) of Pyro programs.

    Both take a batch as keyword arguments named after the observed sites, and open the data plate as the
    rightmost one (dim -1). A model that can be called without data, as ``model(n=64)``, can be sampled
    from the start. Modules and functions are accepted alike; iterating yields the two as they are trained,
    so that ``SVI(*variant, optim, Trace_ELBO())`` says what it does.

    Args:
        model: the story p(x, z).
        guide: the inference program q(z | x).
        conditions: observed sites that are given rather than explained; they count in no bound.
        labels: discrete sites that are observed in some batches and latent in the others. They count in every bound,
            and samples may be drawn under labels as under conditions.
        handler: an effect handler under which both programs are trained, for example
            ``pv.temper(4.0)`` for a beta-VAE. Every metric is of the bare pair.
        stepper: builds what the pair is trained by where nothing else is said, as ``stepper(model, guide, optim,
            clip=..., discriminator=...)``, for example :class:`pyro_vae.infer.AAE`.
        discriminator: a net that the stepper plays against; it is saved and moved with the pair.

    Shapes: every verb takes and gives tensors whose first dimension is the batch.

    Raises:
        ValueError: in every verb, where a site's name, shape, type or length does not fit.

    >>> def model(x=None, n=1):
    ...     with pyro.plate("data", n if x is None else x.shape[0]):
    ...         z = pyro.sample("z", dist.Normal(torch.zeros(2), 1).to_event(1))
    ...         return pyro.sample("x", dist.Normal(z, 0.5).to_event(1), obs=x)
    >>> def guide(x):
    ...     with pyro.plate("data", x.shape[0]):
    ...         pyro.sample("z", dist.Normal(0.8 * x, 0.2**0.5).to_event(1))
    >>> pair = Variant(model, guide)
    >>> x = pair.sample(3, seed=0)
    >>> pair.elbo(x=x).shape
    torch.Size([3])
    """

    def __init__(
        self,
        model: tracing.Program,
        guide: tracing.Program,
        conditions: Sequence[str] = (),
        labels: Sequence[str] = (),
        *,
        handler: Messenger | None = None,
        stepper: Callable[..., Any] | None = None,
        discriminator: nn.Module | None = None,
    ) -> None:
        super().__init__()
        for name, program in (("model", model), ("guide", guide)):
            if not callable(program):
                raise TypeError(f"{name}: expected a function or a module, found {type(program).__name__}")
        self.model, self.guide, self.handler = model, guide, handler
        self.stepper, self.discriminator = stepper, discriminator
        #: the observed sites that the model takes, in its own order
        self.arguments, self._open = tracing.arguments(model)
        self.conditions = self._named("conditions", conditions)
        self.labels = self._named("labels", labels)
        #: the sites under which samples may be drawn
        self.given = self.conditions + self.labels
        owners = [m for m in (getattr(p, "__self__", None) for p in (model, guide)) if isinstance(m, nn.Module)]
        #: modules whose methods are the programs, as in Pyro's own examples
        self.owners = nn.ModuleList(dict.fromkeys(owners))
        self.recipe: saving.Built | None = None
        self._example: dict[str, Tensor] | None = None
        self._passed: set[str] = set()
        self._store: Any = None
        self._function_names: set[str] = set()
        self._name_programs()

    def _named(self, role: str, sites: Sequence[str]) -> tuple[str, ...]:
        """Arguments of the model that play a role of their own."""
        if isinstance(sites, str):
            raise TypeError(f"{role}: expected a tuple of site names, found the string {sites!r}")
        for site in sites:
            if not self._takes(site):
                raise ValueError(f"{role}: the model takes no argument {site!r}")
        return tuple(sites)

    def _name_programs(self) -> None:
        """Give both programs names that no other pair in this process has.

        Pyro keeps parameters in one global store by name; a second "model.likelihood" would silently
        train the first one's parameters.
        """
        self._serial = next(_serial)
        for _, parameter in super().named_parameters():
            # the store would hold a contiguous copy of any other, and train that
            parameter.data = parameter.data.contiguous()
        for role, program in (("model", self.model), ("guide", self.guide)):
            if isinstance(program, PyroModule):
                context = pyro.nn.module._Context()
                for module in program.modules():
                    if isinstance(module, PyroModule):
                        module._pyro_context = context
                program._pyro_set_supermodule(f"{role}_{self._serial}", context)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._name_programs()  # a copy is another pair
        if self._store is not None:
            created = self._created()
            self._store = {k: {n: v for n, v in group.items() if n in created} for k, group in self._store.items()}

    def trained(self, *handlers: Messenger | None) -> tuple[Program, Program]:
        """Model and guide as they are trained, under more ``handlers`` where some are given."""
        around = [h for h in (*handlers, self.handler) if h is not None]
        model, guide = (
            Program(program, f"{role}_{self._serial}", around, self.training_scope, self._function_names, reads=reads)
            for role, program, reads in (("model", self.model, False), ("guide", self.guide, True))
        )
        return model, guide

    def __iter__(self) -> Iterator[Program]:
        if self.shares:
            raise ValueError(
                "pair: draws what all data share, which counts once for all of them, and needs to know how many they "
                "are: take pair.trained(pv.infer.minibatch(size)), or bare programs where each batch is all the data"
            )
        return iter(self.trained())

    @property
    def shares(self) -> bool:
        """Whether the pair draws anything that all data share, such as random weights."""
        return getattr(self.guide, "shared", None) is not None

    def draw_shared(self) -> poutine.Trace:
        """One draw of what all data share, as the guide has learned it."""
        draw: Any = getattr(self.guide, "draw_shared", lambda: None)
        return poutine.trace(draw).get_trace()

    # ------------------------------------------------------------------ parameters and the store

    @contextmanager
    def scope(self) -> Iterator[None]:
        """Pyro's parameter store as this pair sees it.

        What plain functions created in :func:`pyro_vae.fit` is kept here, apart from Pyro's global store;
        before that the global store serves, as in a script of the user's own.
        """
        if self._store is None:
            yield
        else:
            with pyro.get_param_store().scope(self._store) as self._store:
                yield

    @contextmanager
    def training_scope(self) -> Iterator[None]:
        """The scope that a stepper of ours trains in: what plain functions create there stays with the pair."""
        if self._store is None:
            self._store = {"params": {}, "constraints": {}}
        with self.scope():
            yield

    def snapshot(self) -> dict[str, Tensor]:
        """A copy of all that the pair has learned, for :meth:`restore`."""
        return {name: value.detach().clone() for name, value in self._learned().items()}

    def restore(self, snapshot: Mapping[str, Tensor]) -> None:
        """Put back what :meth:`snapshot` copied."""
        with torch.no_grad():
            for name, value in self._learned().items():
                value.copy_(snapshot[name])

    def _learned(self) -> dict[str, Tensor]:
        store = (self._store or {"params": {}})["params"]
        return {**self.state_dict(), **{name: store[name] for name in self._created() if name in store}}

    def _refuse_functions(self, verb: str) -> None:
        created = self._created()
        if created:
            raise TypeError(
                f"{verb}: the parameters {created} were created by pyro.param inside plain functions, and no "
                "module owns them; write model and guide as modules (torch.nn.Module or pyro.nn.PyroModule)"
            )

    def _created(self) -> list[str]:
        """Parameters in the pair's store, or of its functions in Pyro's global one, that no module owns."""
        owned = {id(p) for _, p in super().named_parameters()}
        shared = pyro.get_param_store()._params if self._store is None else {}
        held = {name: shared[name] for name in sorted(self._function_names) if name in shared}
        held |= (self._store or {"params": {}})["params"]
        return [name for name, p in held.items() if id(p) not in owned]

    def named_parameters(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Parameter]]:
        """As for any module; refused where plain functions created parameters of their own."""
        self._refuse_functions("parameters")
        return super().named_parameters(*args, **kwargs)

    def to(self, *args: Any, **kwargs: Any) -> "Variant":
        """As for any module; refused where plain functions created parameters of their own."""
        self._refuse_functions("to")
        return super().to(*args, **kwargs)

    @property
    def device(self) -> torch.device | None:
        """Where the pair's parameters are; None where it owns none, as a pair of functions."""
        return None if self._like is None else self._like.device

    @property
    def _like(self) -> Tensor | None:
        """A tensor of the pair's dtype and device."""
        tensors = itertools.chain(super().named_parameters(), self.named_buffers())
        return next((t for _, t in tensors if t.is_floating_point()), None)

    def _cast(self, tensor: Tensor) -> Tensor:
        """As the pair's own tensors; a pair that owns none takes floats as they come."""
        if self._like is not None:
            return tensor.to(self._like)
        return tensor if tensor.is_floating_point() else tensor.to(torch.get_default_dtype())

    # ------------------------------------------------------------------ batches

    def prepare(self, batch: Mapping[str, Any], *, finite: bool = True) -> dict[str, Tensor]:
        """A batch as tensors of the pair's device; data as floats, whole numbers of conditions as they are.

        Data that are hidden, as :class:`pyro_vae.infer.observed` says, become NaN.

        Raises:
            ValueError: where a name is not an argument of the model, lengths differ or are zero, or (where
                ``finite`` asks for it) a value is NaN or infinite.
            TypeError: where a value is not numeric.
        """
        if not batch:
            raise ValueError("batch: empty; pass the observed sites by name, for example x=x")
        ready = {}
        for name, value in batch.items():
            if not self._takes(name):
                raise ValueError(f"{name}: no such site; the model takes {', '.join(self.arguments)}")
            try:
                tensor = torch.as_tensor(value)
            except (TypeError, ValueError, RuntimeError) as error:
                raise TypeError(f"{name}: expected numbers, found {type(value).__name__} ({error})") from None
            if tensor.is_complex():
                raise TypeError(f"{name}: expected real numbers, found {tensor.dtype}")
            if not tensor.dim() or not len(tensor):
                raise ValueError(f"{name}: expected (batch, ...) with at least one datum, found {tuple(tensor.shape)}")
            hidden = tracing.hidden(name, tensor, given=name in self.given)
            visible = tensor if hidden is None else tensor[~hidden]
            if finite and not torch.isfinite(visible).all():
                raise ValueError(
                    f"{name}: holds NaN or infinite values; drop or fill in the missing data, or say which are there "
                    "with pv.infer.observed"
                )
            whole = name in self.conditions and not tensor.is_floating_point()
            cast = tensor.to(self.device) if whole else self._cast(tensor)
            ready[name] = cast if hidden is None else cast.masked_fill(hidden.to(cast.device), torch.nan)
        lengths = {name: len(value) for name, value in ready.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"batch: sites of different lengths: {lengths}")
        if any(name not in self.given for name in ready):  # conditions alone are no example of a batch
            example = {name: value[:1].detach().clone() for name, value in ready.items()}
            self._example = {**(self._example or {}), **example}
        return ready

    def check_batch(self, batch: Mapping[str, Any], **programs: tracing.Program) -> None:
        """Raise where a program cannot run on a batch for want of a site, or what is given does not fit its own."""
        for role, program in programs.items():
            for name in tracing.required(program):
                if name not in batch:
                    raise ValueError(f"{name}: missing; the {role} needs it, as in {name}=...")
        for name in self.labels:
            if name in batch and (batch[name] < 0).any():
                raise ValueError(
                    f"{name}: negative labels are missing ones, which fit and evaluate set apart; pass data with "
                    f"labels and data without them in batches of their own, the latter without {name}"
                )
        given = [name for name in self.given if name in batch]
        if given:
            with self._at_rest(0):
                tracing.check_given(self.model, given, batch)
        if "model" in programs:
            self._passed |= set(batch)

    def _takes(self, name: str) -> bool:
        return self._open or name in self.arguments

    @contextmanager
    def _at_rest(self, seed: int | None) -> Iterator[None]:
        """No gradients, no dropout, the pair's own parameters, seeded draws; data as :meth:`prepare` gives them."""
        with self._still(seed), tracing.prepared():
            yield

    @contextmanager
    def _still(self, seed: int | None) -> Iterator[None]:
        """The same in a generator, which may stand still between two others: no handler is left on Pyro's stack."""
        with tracing.resting(self), torch.no_grad(), self.scope(), seeded(seed), checks.plainly():
            yield

    # ------------------------------------------------------------------ verbs

    def sample(
        self,
        n: int = 1,
        *,
        held: Mapping[str, Any] | None = None,
        mean: bool = False,
        seed: int | None = None,
        rows: int | None = None,
        **conditions: Any,
    ) -> Any:
        r"""x ~ p(x | z), z ~ p(z): n data, or with ``mean`` the likelihood's means.

        ``held`` maps latent sites to codes at which they stand, (n, \*event), or (1, \*event) for all; the others are
        drawn, each given those above it.

        Shapes: a tensor (n, \*data_shape) where there is one data site, else a mapping of them.
        """
        checks.positive_int("n", n)
        codes, plates = self._held("held", held, conditions) if held is not None else ({}, {})
        for name, z in codes.items():
            if len(z) not in (1, n):
                raise ValueError(f"held: {name}: expected {n} codes, or one for all, found {len(z)}")
        codes = {name: z.expand(n, *z.shape[1:]) for name, z in codes.items()}
        return self._decode(n, codes, conditions, mean, seed, rows, plates)

    def decode(
        self,
        latents: Mapping[str, Any],
        *,
        mean: bool = True,
        seed: int | None = None,
        rows: int | None = None,
        **conditions: Any,
    ) -> Any:
        r"""x ~ p(x | z) at codes of your own, or with ``mean`` the likelihood's means.

        ``latents`` maps latent sites to (n, \*event) tensors; latent sites that it lacks are drawn.
        """
        codes, plates = self._held("latents", latents, conditions)
        sizes = {len(z) for z in codes.values()}
        if len(sizes) != 1:
            raise ValueError(f"latents: expected codes of one length, found {sorted(sizes)}")
        return self._decode(sizes.pop(), codes, conditions, mean, seed, rows, plates)

    def _held(
        self, argument: str, latents: Mapping[str, Any], conditions: Mapping[str, Any]
    ) -> tuple[dict[str, Tensor], dict[str, int]]:
        """Codes that fit their sites, and how many plates stand to the left of the data plate of each."""
        _mapping(argument, latents)
        first: dict[str, Any] = {k: torch.as_tensor(_rows(c))[:1] for k, c in conditions.items()}
        return self._fitting(argument, latents, self.latent_sites(**first), "model")

    def _fitting(
        self, argument: str, latents: Mapping[str, Any], found: Mapping[str, Any], role: str
    ) -> tuple[dict[str, Tensor], dict[str, int]]:
        codes = {}
        for name, z in latents.items():
            if name not in found:
                raise ValueError(f"{argument}: the {role} has no latent site {name!r}; it has {sorted(found)}")
            try:
                value = torch.as_tensor(z)
                # numbered classes may be indices in a story, as they are where it draws them
                whole = families.is_discrete(found[name]) and not found[name].sample().is_floating_point()
                codes[name] = value.to(self.device).long() if whole else self._cast(value)
            except (TypeError, ValueError, RuntimeError):
                hint = "; take its mean, or draw from it" if hasattr(z, "log_prob") else ""
                raise TypeError(f"{argument}: {name}: expected numbers, found {type(z).__name__}{hint}") from None
        for name, z in codes.items():
            event = tuple(found[name].batch_shape[:-1] + found[name].event_shape)
            if tuple(z.shape[1:]) != event:
                raise ValueError(
                    f"{argument}: {name}: expected (n, {', '.join(map(str, event))}) codes, found {tuple(z.shape)}"
                )
            checks.support(found[name], z, f"{argument}: {name}")
        return codes, {name: len(found[name].batch_shape) - 1 for name in codes}

    def latent_sites(self, **conditions: Any) -> dict[str, Any]:
        """The latent sites in the order in which the model draws them, each with its distribution in one draw."""
        trace = self.draw(1, **conditions)
        data = self.data_names(trace)
        return {name: site["fn"] for name, site in tracing.latent_sites(trace).items() if name not in data}

    def _decode(
        self,
        n: int,
        latents: tracing.Batch,
        conditions: Mapping[str, Any],
        mean: bool,
        seed: int | None,
        rows: int | None,
        plates: Mapping[str, int] | None = None,
    ) -> Any:
        """``plates`` counts those that stand to the left of the data plate, for each latent site."""
        given = self.prepare_conditions(conditions, n)
        parts = []
        with self._at_rest(seed):
            model = self._told()
            for part in slices(n, tracing.rows_for(self._example or {}, rows)):
                fixed = {k: v[part].movedim(0, (plates or {}).get(k, 0)) for k, v in latents.items()}
                c = {k: v[part] for k, v in given.items()}
                trace = tracing.dream(model, part.stop - part.start, fixed, c, self._seen())
                parts.append(self._data(trace, latents, mean))
        return _only({name: torch.cat([p[name] for p in parts]) for name in parts[0]})

    def prepare_conditions(self, conditions: Mapping[str, Any], n: int) -> dict[str, Tensor]:
        """Conditions as tensors of length n; a single one serves all."""
        unknown = [name for name in conditions if name not in self.given]
        if unknown:
            raise ValueError(f"{unknown[0]}: not a condition of this pair; its conditions are {list(self.given)}")
        if not conditions:
            return {}
        ready = self.prepare({name: _rows(value) for name, value in conditions.items()})
        for name, value in ready.items():
            if len(value) not in (1, n):
                found = tuple(value.shape)
                raise ValueError(f"{name}: expected values for {n} data, or one for all, found shape {found}")
        return {name: value.expand(n, *value.shape[1:]) for name, value in ready.items()}

    def draw(self, n: int, seed: int | None = 0, **conditions: Any) -> poutine.Trace:
        """The trace of one run of the model without data."""
        given = self.prepare_conditions(conditions, n)
        with self._at_rest(seed):
            return tracing.dream(self._told(), n, {}, given, self._seen())

    def _told(self) -> tracing.Program:
        """The model, with what all data share drawn as the guide has learned it."""
        if not self.shares:
            return self.model
        with torch.no_grad(), self.scope(), poutine.block():  # whoever watches sees the model draw it
            trace = self.draw_shared()
        return poutine.replay(self.model, trace=trace)

    def _seen(self) -> dict[str, Tensor] | None:
        """One datum of the last batch, on the device where the pair is now."""
        return self._example and {name: value.to(self.device) for name, value in self._example.items()}

    def _data(self, trace: poutine.Trace, held: Mapping[str, Any], mean: bool) -> dict[str, Tensor]:
        """The data sites of a trace of the model without its data, the data plate first."""
        names = self.data_names(trace)
        found = {n: s for n, s in tracing.sites(trace).items() if n in names and n not in held}
        data = {}
        for name, site in found.items():
            value = tracing.mean(site["fn"]) if mean else site["value"]
            if value is None:
                raise ValueError(f"mean: {name}, {families.family(site['fn'])}, has no mean; use draws")
            data[name] = value.movedim(-1 - site["fn"].event_dim, 0)
        return data

    def data_names(self, trace: poutine.Trace) -> list[str]:
        """Data sites: those that the model takes as arguments, short of the conditions."""
        arguments = self._passed or self.arguments  # an argument that is never passed is a latent site
        return [n for n in tracing.sites(trace) if n in arguments and n not in self.given]

    def encode(
        self,
        *,
        held: Mapping[str, Any] | None = None,
        ancestors: str = "sample",
        seed: int | None = 0,
        rows: int | None = None,
        **batch: Any,
    ) -> dict[str, Any]:
        """q(z_l | ancestors, x) of each latent site, along one seeded draw of the ancestors.

        With ``ancestors="mean"`` each site stands at its mean, a discrete one at its mode, when its descendants are
        inferred. ``held`` maps sites to codes at which they stand, one for each datum; they are left out of what is
        returned.
        """
        checks.known("ancestors", ancestors, ["mean", "sample"])
        ready = self.prepare(batch)
        self.check_batch(ready, guide=self.guide)
        size = len(next(iter(ready.values())))
        codes, plates = ({}, {}) if held is None else self._held_in_guide(held, ready)
        parts: list[dict[str, Any]] = []
        with self._at_rest(seed):
            guide = _at_means(self.guide) if ancestors == "mean" else self.guide
            for part in slices(size, tracing.rows_for(ready, rows)):
                chunk = {k: v[part] for k, v in ready.items()}
                values = {name: z[part].movedim(0, plates[name]) for name, z in codes.items()}
                trace = poutine.trace(poutine.condition(guide, data=values)).get_trace(**tracing.filled(chunk))
                parts.append({name: site["fn"] for name, site in tracing.latent_sites(trace).items()})
        return {name: families.join([p[name] for p in parts]) for name in parts[0]}

    def _held_in_guide(self, held: Mapping[str, Any], ready: tracing.Batch) -> tuple[dict[str, Tensor], dict[str, int]]:
        """Codes that fit the sites of the guide, one for each datum."""
        _mapping("held", held)
        with self._at_rest(0):
            trace = poutine.trace(self.guide).get_trace(**tracing.filled({k: v[:1] for k, v in ready.items()}))
        found = {name: site["fn"] for name, site in tracing.latent_sites(trace).items()}
        codes, plates = self._fitting("held", held, found, "guide")
        size = len(next(iter(ready.values())))
        for name, z in codes.items():
            if len(z) != size:
                raise ValueError(f"held: {name}: expected {size} codes, one for each datum, found {len(z)}")
        return codes, plates

    def reconstruct(
        self,
        *,
        resample: Sequence[str] = (),
        mean: bool = False,
        seed: int | None = None,
        rows: int | None = None,
        **batch: Any,
    ) -> Any:
        r"""x' ~ p(x' | z), z ~ q(z | x): new data in place of each datum, or with ``mean`` the likelihood's means.

        Sites in ``resample`` are drawn from the model instead, each given those above it: what remains of a datum
        is what the other sites hold of it.

        Shapes: a tensor (batch, \*data_shape) where there is one data site, else a mapping of them.
        """
        ready = self.prepare(batch)
        self.check_batch(ready, model=self.model, guide=self.guide)
        parts = []
        with self._at_rest(seed):
            for part in slices(len(next(iter(ready.values()))), tracing.rows_for(ready, rows)):
                chunk = {k: v[part] for k, v in ready.items()}
                guide_trace = poutine.trace(self.guide).get_trace(**tracing.filled(chunk))
                for name in _sites("resample", resample, tracing.latent_sites(guide_trace)):
                    guide_trace.remove_node(name)
                given = {k: v for k, v in chunk.items() if k in self.given}
                model = poutine.condition(poutine.uncondition(self.model), data=given)
                trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(**chunk)
                parts.append(self._data(trace, {}, mean))
        return _only({name: torch.cat([p[name] for p in parts]) for name in parts[0]})

    def impute(
        self,
        *,
        particles: int = 1,
        mean: bool = False,
        seed: int | None = None,
        rows: int | None = None,
        **batch: Any,
    ) -> Any:
        r"""x_h ~ sum_k w_k p(x_h | z_k),   w_k ~ p(x_o, z_k) / q(z_k | x_o),   z_k ~ q(z | x_o),   sum_k w_k = 1

        The data with their hidden entries drawn, or with ``mean`` at that mixture's mean, under
        :class:`pyro_vae.infer.observed`, which says what is hidden; what is observed stays as it is. With K =
        ``particles`` growing, draws and means become those of p(x_h | x_o), however good q is. Memory does not grow.

        Shapes: a tensor (batch, \*data_shape) where there is one data site, else a mapping of them.

        Raises:
            ValueError: where nothing is hidden; where ``mean`` is asked of a likelihood that has none.

        Source: Mattei & Frellsen 2019, arXiv:1812.02633, sections 2.3 and 2.4.

        >>> pair, x = pv.vae((1, 8, 8), latent=2), pv.data.load("digits", "test", binarise="threshold").x
        >>> x[:, :, :4] = torch.nan
        >>> with pv.infer.observed(x=torch.isfinite):
        ...     whole = pair.impute(x=x, particles=10)
        >>> bool(torch.equal(whole[:, :, 4:], x[:, :, 4:])), bool(whole.isnan().any())
        (True, False)
        """
        checks.positive_int("particles", particles)
        ready = self.prepare(batch)
        self.check_batch(ready, model=self.model, guide=self.guide)
        length = tracing.rows_for(ready, rows)
        with self._at_rest(seed):
            found = imputing.impute(self.model, self.guide, ready, particles, self.conditions, length, mean=mean)
        return _only({name: value for name, value in found.items() if name not in self.given})

    def terms(
        self,
        particles: int = 1,
        *,
        rows: int | None = None,
        seed: int | None = None,
        proposal: str = "guide",
        partly: bool = False,
        **batch: Any,
    ) -> Iterator[tuple[slice, tracing.Terms]]:
        """The terms of the bounds, site by site and datum by datum, of the bare pair; see :mod:`pyro_vae.tracing`.

        With ``partly`` those of sites without a density are NaN, which are refused otherwise.
        """
        checks.positive_int("particles", particles)
        ready = self.prepare(batch)
        self.check_batch(ready, model=self.model, guide=self.guide)
        prior = checks.known("proposal", proposal, ["guide", "prior"]) == "prior"
        with self._still(seed):
            guide = tracing.from_prior(self._told(), self.given) if prior else self.guide
            yield from tracing.terms(
                self.model, guide, ready, particles, self.conditions, tracing.rows_for(ready, rows), partly=partly
            )

    def _moments(
        self, particles: int, rows: int | None, seed: int | None, batch: Mapping[str, Any], proposal: str = "guide"
    ) -> Moments:
        """Sums of the log-weights of each datum, from which all bounds follow."""
        ready: dict[str, Any] = self.prepare(batch)
        moments = Moments(len(next(iter(ready.values()))))
        for part, terms in self.terms(particles, rows=rows, seed=seed, proposal=proposal, **ready):
            moments.add(part, terms.log_weights)
        return moments

    def elbo(self, *, particles: int = 1, seed: int | None = None, rows: int | None = None, **batch: Any) -> Tensor:
        """E_q[log p(x, z) - log q(z | x)] of each datum, in nats; higher is better.

        Shapes: (batch,). Conditions are given and add nothing; so do extra factors of the objective, and
        any handler that the pair is trained under.
        """
        moments = self._moments(particles, rows, seed, batch)
        return moments.elbo.to(moments.like)

    def log_likelihood(
        self,
        *,
        particles: int = 100,
        proposal: str = "guide",
        seed: int | None = None,
        rows: int | None = None,
        **batch: Any,
    ) -> Tensor:
        """log (1/K) sum_k p(x, z_k) / q(z_k | x), z_k ~ q(z | x): a lower bound on log p(x) of each datum, in nats.

        It rises towards log p(x) with K = ``particles``: always say how many. With ``proposal="prior"`` codes come
        from the model, log (1/K) sum_k p(x | z_k), z_k ~ p(z), as if x had not been seen: what a conditional pair
        predicts with.

        Shapes: (batch,).
        Source: Burda, Grosse & Salakhutdinov 2016, arXiv:1509.00519.
        """
        moments = self._moments(particles, rows, seed, batch, proposal)
        return moments.log_likelihood.to(moments.like)

    def interpolate(self, start: Any, end: Any, steps: int = 8, **conditions: Any) -> Any:
        r"""p(x | z) on the straight line between the codes of two data: the likelihood's means.

        ``start`` and ``end`` are data of shape (n, \*data_shape) (or mappings of sites); the codes are the
        means of the posterior.

        Shapes: (steps, n, \*data_shape).
        """
        checks.positive_int("steps", steps)
        for name in self.given:
            if name in self.by_name(start) or name in self.by_name(end):
                raise ValueError(f"interpolate: {name!r} is a condition; pass it by name, {name}=...")
        (first, discrete), (last, _) = (self._codes({**self.by_name(x), **conditions}) for x in (start, end))
        n = len(next(iter(first.values())))
        if len(next(iter(last.values()))) != n:
            raise ValueError(f"interpolate: {n} data to start from, {len(next(iter(last.values())))} to end at")
        lines = {}
        for name, a in first.items():
            w = torch.linspace(0, 1, steps).to(a).reshape(-1, *[1] * a.dim())
            w = w.round() if name in discrete else w  # there is nothing between two classes
            lines[name] = (a + w * (last[name] - a)).flatten(0, 1)
        supports = self._supports(conditions)
        lines = {name: families.nearest(supports[name], line) for name, line in lines.items()}
        given = self.prepare_conditions(conditions, n)
        many: dict[str, Any] = {k: c.repeat(steps, *[1] * (c.dim() - 1)) for k, c in given.items()}
        return _unflatten(self.decode(lines, **many), (steps, n))

    def traverse(
        self,
        site: str = "z",
        units: Sequence[int] | None = None,
        values: Sequence[float] | None = None,
        *,
        resample: Sequence[str] = (),
        seed: int | None = 0,
        **batch: Any,
    ) -> Any:
        r"""p(x | z) while one unit of a latent site moves and the others stand at the code of one datum.

        A unit of categorical codes is one code, whose ``values`` are the numbers of categories, by default all of them;
        of other sites they are numbers, by default -3 to 3.

        Sites in ``resample`` do not: they are drawn from the model, given where those above them stand, such as the
        levels below one that moves. With a ``seed`` they are drawn with the same noise for every value.

        Shapes: (units, values, \*data_shape), the likelihood's means.
        """
        codes, _ = self._codes(batch)
        checks.known("site", site, codes)
        if len(codes[site]) != 1:
            raise ValueError(f"traverse: expected one datum, found {len(codes[site])}")
        support = self._supports({k: v for k, v in batch.items() if k in self.given})[site]
        hot = families.is_one_hot(support)
        width = codes[site][0].numel() // (codes[site].shape[-1] if hot else 1)
        values = traversed(support, codes[site]) if values is None else values
        chosen = list(range(width)) if units is None else list(units)
        if not chosen or not len(values):
            raise ValueError(f"traverse: expected at least one unit and one value, found {chosen} and {list(values)}")
        for unit in chosen:
            if not 0 <= unit < width:
                raise ValueError(f"units: {site!r} has units 0 to {width - 1}, found {unit}")
        for name in _sites("resample", resample, codes):
            if name == site:
                raise ValueError(f"resample: {site!r} is the site that moves")
            del codes[name]
        conditions: dict[str, Any] = {k: v for k, v in batch.items() if k in self.given}
        many = {k: z.repeat(len(chosen), *[1] * (z.dim() - 1)) for k, z in codes.items()}
        columns = []
        for value in values:
            moved = many[site].reshape(len(chosen), width, -1).clone()
            moved[range(len(chosen)), chosen] = _category(site, value, moved) if hot else value
            codes = many | {site: families.nearest(support, moved.reshape(many[site].shape))}
            columns.append(self.by_name(self.decode(codes, seed=seed, **conditions)))
        return _only({name: torch.stack([column[name] for column in columns], 1) for name in columns[0]})

    def transfer(self, to: Mapping[str, Any], *, mean: bool = True, seed: int | None = None, **batch: Any) -> Any:
        r"""p(x | z, c'), z the mean of q(z | x, c): each datum with its own code under another condition.

        ``to`` maps conditions or labels to their new values, n of them or one for all. What a condition does not
        determine, the style of a handwritten digit, stays with the code.

        Shapes: (n, \*data_shape), the likelihood's means, or draws.
        Source: Kingma et al. 2014, arXiv:1406.5298, section 4.2 (analogies).
        """
        if not isinstance(to, Mapping) or not to:
            raise ValueError(
                f"to: expected new values of some of {list(self.given)}, such as {{'c': 3}}, found {to!r:.60}"
            )
        codes = {name: z for name, z in self._codes(batch)[0].items() if name not in to}
        kept = {name: value for name, value in batch.items() if name in self.given}
        return self.decode(codes, mean=mean, seed=seed, **(kept | dict(to)))

    def classify(
        self,
        x: Any,
        *,
        site: str | None = None,
        by: str = "guide",
        particles: int = 1,
        seed: int | None = 0,
        rows: int | None = None,
    ) -> Tensor:
        r"""The probability of each class of each datum.

        ``by="guide"``: q(c | x);  ``by="model"``: p(c | x) in proportion to p(c) p(x | c), the second estimated for
        every class by importance sampling with as many ``particles``.

        Args:
            x: data, or a mapping of sites with what else is given.
            site: the label or condition that is the class, by default the first that the pair has.

        Shapes: (batch, classes).

        Raises:
            ValueError: where the pair has no labels and no conditions, or the site is no class; where the guide takes
                the class as given and has nothing to say of it.

        Source: Kingma et al. 2014, arXiv:1406.5298.
        """
        return classes.probabilities(self, x, site, by, particles, seed, rows)

    def _supports(self, conditions: Mapping[str, Any]) -> dict[str, Any]:
        """What each latent site can hold."""
        first: dict[str, Any] = {k: torch.as_tensor(_rows(c))[:1] for k, c in conditions.items()}
        return {name: fn.support for name, fn in self.latent_sites(**first).items()}

    def _codes(self, batch: Mapping[str, Any]) -> tuple[dict[str, Tensor], set[str]]:
        """The centres of the posteriors of a batch, and which of them are discrete."""
        found = self.encode(ancestors="mean", **batch)
        codes = {name: tracing.centre(q) for name, q in found.items()}
        for name, code in codes.items():
            if code is None:
                raise ValueError(f"{name}: its posterior has no mean to start from; use decode with codes of your own")
        rows = {n: z.movedim(-1 - found[n].event_dim, 0).clone() for n, z in codes.items() if z is not None}
        ready = {name: self._cast(code) for name, code in rows.items()}
        return ready, {name for name in ready if families.is_discrete(found[name])}

    def by_name(self, data: Any) -> dict[str, Any]:
        """Data given without a name belong to the first argument of the model that is no condition and no label."""
        if isinstance(data, Mapping):
            return dict(data)
        names = [name for name in self.arguments if name not in self.given]
        if not names:
            raise ValueError("data: the model names no argument for them; pass a mapping, for example {'x': x}")
        return {names[0]: data}

    def save(self, folder: str | Path) -> Path:
        """Write ``config.json`` and ``weights.safetensors``; :func:`pyro_vae.load` reads them back."""
        self.check_savable()
        return saving.save(self, folder)

    def check_savable(self) -> None:
        """Raise TypeError where plain functions hold what was learned, which no file can."""
        self._refuse_functions("save")
        if not len(self.owners) and not any(isinstance(program, nn.Module) for program in (self.model, self.guide)):
            raise TypeError(
                "save: model and guide are plain functions, which hold nothing to save; write them as modules"
            )

    def __repr__(self) -> str:
        return describe.variant(self)


def _rows(condition: Any) -> Any:
    """A label alone as one that serves all."""
    return torch.as_tensor(condition)[None] if np.ndim(condition) == 0 else condition


def _mapping(argument: str, latents: Any) -> None:
    if not isinstance(latents, Mapping):
        raise TypeError(
            f"{argument}: expected a mapping from latent site to codes, such as {{'z': z}}, found "
            f"{type(latents).__name__}"
        )


def _sites(argument: str, names: Sequence[str], found: Mapping[str, Any]) -> Sequence[str]:
    """Names of latent sites, each of which is there."""
    if isinstance(names, str):
        raise TypeError(f"{argument}: expected a sequence of latent sites, such as ({names!r},), found a string")
    if not isinstance(names, Sequence):
        raise TypeError(f"{argument}: expected a sequence of latent sites, found {names!r:.60}")
    for i, name in enumerate(names):
        checks.known(argument, name, found)
        if name in names[:i]:
            raise ValueError(f"{argument}: {name!r} is there twice")
    return names


def _only(data: dict[str, Tensor]) -> Any:
    """A tensor where there is one data site, else the mapping."""
    return next(iter(data.values())) if len(data) == 1 else data


def traversed(support: Any, codes: Tensor) -> list[float]:
    """The values at which a unit of some codes is looked at where nothing is said."""
    if families.is_one_hot(support):
        return list(range(codes.shape[-1]))
    if getattr(support, "is_discrete", False) and hasattr(support, "upper_bound"):
        return list(range(int(support.lower_bound), int(support.upper_bound) + 1))
    return [-3, -2, -1, 0, 1, 2, 3]


def _category(site: str, value: float, codes: Tensor) -> Tensor:
    """A category as it stands in one-hot codes."""
    categories = codes.shape[-1]
    if value not in range(categories):
        raise ValueError(f"values: {site!r} has categories 0 to {categories - 1}, found {value}")
    return nn.functional.one_hot(torch.tensor(int(value)), categories).to(codes)


def _unflatten(data: Any, sizes: tuple[int, int]) -> Any:
    if isinstance(data, dict):
        return {name: value.unflatten(0, sizes) for name, value in data.items()}
    return data.unflatten(0, sizes)


def _at_means(guide: Callable[..., Any]) -> Callable[..., Any]:
    """The guide with every draw replaced by its mean, where it has one."""

    class Means(Messenger):
        def _pyro_sample(self, msg: Any) -> None:
            centre = None if msg["is_observed"] else tracing.centre(msg["fn"])
            if centre is not None:
                msg["value"], msg["done"] = centre, True

    return Means()(guide)
