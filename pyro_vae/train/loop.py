"""fit: any pair, any data, any stepper."""

import inspect
import itertools
import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import pyro
import torch
from pyro import poutine
from pyro.infer import ELBO, RenyiELBO, TraceEnum_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from tqdm import tqdm

from pyro_vae import checks, families, tracing
from pyro_vae.data import Batches, batches
from pyro_vae.data.feed import Parts, derived
from pyro_vae.infer import SVI, Adversarial, AnalyticKL, CompiledSVI, enumerated, minibatch, relaxed, shared_kl
from pyro_vae.infer import temper as Temper  # the argument of fit has its name
from pyro_vae.infer.activity import ADVICE, code_terms, collapsed
from pyro_vae.infer.diagnosis import diagnose
from pyro_vae.infer.pacing import Paced
from pyro_vae.infer.usage import Followed, Usage, note
from pyro_vae.train.compiling import compiles
from pyro_vae.train.keeper import Keeper
from pyro_vae.train.run import CHECKPOINT, Run
from pyro_vae.train.settings import settings
from pyro_vae.train.team import Team
from pyro_vae.variant import Variant

WATCHED = 2048  # training data on which the terms of the ELBO are followed
ANCESTORS = 16  # draws of the ancestors of a site, along which its active units are followed
FEW = 512  # training data on which they are, so that of an epoch of 50,000 data they take a fortieth at most
GAME = "what may help: more epochs, a smaller weight of what the discriminator says, another discriminator_lr"
log = logging.getLogger("pyro_vae")


@runtime_checkable
class Stepper(Protocol):
    """Whatever has the face of :class:`pyro.infer.SVI`."""

    def step(self, **batch: Tensor) -> float:
        """One step of training; returns a loss summed over the batch."""

    def evaluate_loss(self, **batch: Tensor) -> float:
        """The loss summed over the batch; moves nothing."""


def fit(
    variant: Variant,
    train: Any,
    *,
    validation: Any = None,
    epochs: int = 20,
    batch_size: int = 128,
    lr: float | None = None,
    objective: ELBO | Stepper | Callable[..., Stepper] | None = None,
    temper: Any = None,
    lr_schedule: Callable[[torch.optim.Optimizer], LRScheduler] | None = None,
    clip: float | None = None,
    patience: int | None = None,
    device: str | torch.device = "auto",
    compile: bool | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    seed: int = 0,
    progress: bool = True,
) -> Run:
    r"""maximise  mean_x E_q[log p(x, z) - log q(z | x)]  over model and guide

    SVI with one Adam on the pair's own parameters; Pyro's global parameter store plays no part. The caller's
    random generators are left as they were; every draw of torch's depends on ``seed``, epoch and step alone.

    Args:
        variant: the pair; it is trained in place.
        train: an array, a tensor, a mapping site -> tensor, a ``Dataset`` or a ``DataLoader``. Negative labels
            are missing; each step then sees data with labels and data without.
        validation: the same. Its ELBO is measured after each epoch, and the weights of the best epoch are
            those that stay; of a pair without an ELBO, or against a discriminator, those of the last.
        epochs: how often to go through the data.
        batch_size: how many data to a step (a ``DataLoader`` has its own batches).
        lr: Adam's step size, 1e-3 where nothing is said.
        objective: a :class:`pyro.infer.ELBO` (:class:`pyro_vae.FreeBits`, :class:`pyro_vae.infer.IWAE`,
            particles, ...); a stepper, which brings its own optimiser; or what builds one, as
            ``partial(pv.infer.FactorVAE, weight=6.0)``, called with model, guide, optim and ``clip``. By default what
            the pair brings, or else ``Trace_ELBO``; for a pair with labels ``TraceEnum_ELBO``, which sums over those
            that are missing; for codes whose density jumps (:class:`pyro_vae.distributions.RectifiedNormal`), and for
            random weights, :class:`pyro_vae.infer.AnalyticKL`.
        temper: weight of the KL while training, on top of the variant's own: :class:`pyro_vae.temper`, or
            what it takes, such as ``pv.infer.WarmUp(epochs=10)``.
        lr_schedule: ``optimizer -> torch LRScheduler``, stepped after each epoch; one that waits for a plateau
            sees minus the validation ELBO, or that of the training data where there is no validation. A
            discriminator's step size follows that of the pair.
        clip: largest norm of the gradient of the mean over the batch.
        patience: stop after so many epochs without a better validation ELBO.
        device: ``"auto"`` is CUDA where there is one. The pair stays there.
        compile: whether steps are those of :class:`pyro_vae.infer.CompiledSVI`, faster once some seconds were spent on
            it. By default where steps are enough to earn them back: 10,000 on a CPU, 5,000 on CUDA. A run that is
            resumed stays what it was.
        out: a folder for the run: the best pair so far (see :func:`pyro_vae.load`), ``metrics.csv``, TensorBoard
            events where it is installed, and a checkpoint after each epoch. Each file is replaced whole.
        resume: go on from the checkpoint in ``out``, where there is one, as if the run had never stopped: the
            weights are those of an uninterrupted run bit by bit (on one device and thread count, where random
            numbers are torch's). All other arguments are those of the first call, as far as they can be told apart;
            ``epochs`` may have grown. Buffers that are not persistent start anew.
        seed: of the order of the data and of all draws.
        progress: show a bar where there is a terminal; each epoch is logged to ``pyro_vae`` at level INFO, and a latent
            site that has collapsed in the end at level WARNING (see :func:`pyro_vae.collapse_report`).

    Raises:
        ValueError, TypeError: before training, where an argument or the data do not fit; where a warm-up
            would outlast training; where a checkpoint is damaged or another run's.
        NotImplementedError: where the objective asks for a density that a prior lacks.
        FileExistsError: where ``out`` holds a run already, and ``resume`` does not ask for it.
        OSError: where the folder is lost or full; the last checkpoint stays as it was.
        FloatingPointError: where the loss is NaN or infinite, with the step, the site and the likely cause.
            Parameters are those before that step.

    Source: Kingma & Welling 2014, arXiv:1312.6114; Hoffman et al. 2013, arXiv:1206.7051.

    >>> x = pv.data.load("digits", binarise="threshold").x
    >>> run = fit(pv.vae((1, 8, 8), latent=4), x, epochs=2, progress=False)
    >>> run.history["elbo"][-1] > run.history["elbo"][0]
    True
    """
    checks.instance("variant", variant, Variant)
    checks.positive_int("epochs", epochs)
    team = Team()
    place = _device(team.device if team.device and str(device) in ("auto", "cuda") else device, variant)
    team.join(place)
    nn.Module.to(variant, place)
    data = batches(variant, train, batch_size, place, "train", share=(team.rank, team.size))
    held_out = None if validation is None else batches(variant, validation, batch_size, place, "validation")
    traces = _first(variant, data, seed, ours=objective is None)
    if objective is None:
        objective = variant.stepper or _suited(variant, traces)
    if variant.shares and isinstance(objective, TraceMeanField_ELBO):
        raise ValueError(
            "objective: TraceMeanField_ELBO leaves out the Jacobian of what all data share; use pv.infer.AnalyticKL"
        )
    if isinstance(variant.handler, relaxed) and isinstance(objective, RenyiELBO):
        raise ValueError(
            f"objective: {type(objective).__name__} averages weights, of which relaxed codes have none; use Trace_ELBO"
        )
    if variant.stepper is not None and objective is variant.stepper and not data.streams:
        step = next(data.epoch(derived(seed)))  # of which there is some of each kind
        missing = [site for site in variant.labels if not any(site in batch for _, batch in step)]
        if missing:
            raise ValueError(f"train: {missing[0]}: no datum has a label; expected some, or a pair without classes")
    handler = minibatch(data.size) if variant.shares else None
    plain = objective is None or isinstance(objective, ELBO)
    if compile and not plain:
        raise ValueError(
            "compile: a stepper takes steps of its own; expected objective to be a pyro.infer.ELBO, or a "
            "pv.infer.CompiledSVI as stepper"
        )
    goes_on = resume and out is not None and team.leads and (Path(out) / CHECKPOINT).is_file()
    before = Run.read(Path(out), variant).compiled if goes_on and plain else None  # type: ignore[arg-type]
    compiled = plain and team.told(compiles(compile, before, epochs * data.steps, place))
    stepper, paced = _stepper(variant, objective, temper, lr, clip, lr_schedule, handler, compiled)
    if team.size > 1:
        if type(stepper) not in (SVI, CompiledSVI):
            found = f"{type(stepper).__module__}.{type(stepper).__name__}"
            raise ValueError(
                f"objective: several processes train by a pyro.infer.ELBO or a pv.infer.SVI, found {found}"
            )
        stepper.pool, team.modules = team.pool, [variant]  # type: ignore[attr-defined]
    _check_schedules(paced, epochs)
    run = Run(variant, seed, str(place or "as the data"), compiled=compiled)
    bound = not tracing.unscored(*traces)
    # against a discriminator the ELBO is not what gets better
    judged = held_out is not None and bound and not isinstance(stepper, Adversarial)
    out = out if team.leads else None
    keeper = Keeper(run, stepper, out, patience, resume=resume and team.leads, validated=judged)
    with tracing.seeded(derived(seed)), tracing.prepared(), _mode_kept(variant), keeper, ExitStack() as closing:
        parts = {"train": data} | ({} if held_out is None else {"validation": held_out})
        for name, part in parts.items():
            _check(variant, stepper, part, name)
        schedule = lr_schedule(stepper.optimizer) if lr_schedule else None  # type: ignore[attr-defined]
        keeper.schedule = schedule
        if out is not None:
            words = settings(variant, stepper, paced, schedule, parts, seed)
            words |= {"processes": str(team.size)} if team.size > 1 else {}
            keeper.start({"batch_size": str(batch_size), "patience": str(patience)} | words)
        if team.size > 1:
            keeper.take(team.told(keeper.state()))
        activity: Followed = {}
        bar = tqdm(total=epochs, initial=run.epochs, disable=None if progress and team.leads else True, unit="epoch")
        closing.callback(bar.close)
        for epoch in range(run.epochs, 0 if run.stopped else epochs):
            start = time.perf_counter()
            row: dict[str, float] = {
                "objective": _epoch(variant, stepper, data, paced, seed, epoch, team),
                **_pace(paced),
                **getattr(stepper, "figures", dict)(),
            }
            if team.leads:
                figures, activity = _figures(variant, data, held_out if bound else None, seed, epoch)
                row |= figures
            row = team.told(row)
            if schedule is not None:
                row["lr"] = float(schedule.get_last_lr()[0])
                if isinstance(schedule, ReduceLROnPlateau):
                    schedule.step(-row.get("validation_elbo", row.get("elbo", row["objective"])))
                else:
                    schedule.step()
            row["seconds"] = time.perf_counter() - start
            if team.leads:
                _show(bar, epoch, row, activity)
            run.append(row)
            if keeper.enough():
                break
        keeper.finish()
    _warn(run, activity, GAME if isinstance(stepper, Adversarial) else ADVICE)
    return run


def _device(device: str | torch.device, variant: Variant) -> torch.device | None:
    if device == "auto":
        # a pair that owns nothing stays where its data are
        return torch.device("cuda") if variant.device is not None and torch.cuda.is_available() else variant.device
    try:
        found = torch.device(device)
        torch.zeros(1, device=found).item()  # which the meta device, that holds no numbers, cannot
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"device: {device!r} is not to be had here ({str(error).splitlines()[0]})") from None
    return found


def _first(variant: Variant, data: Batches, seed: int, *, ours: bool) -> tuple[poutine.Trace, poutine.Trace]:
    """One run of guide and model on the first of the data; ``ours`` tells that what functions create is the pair's."""
    scope = variant.training_scope if ours else pyro.get_param_store().scope
    with tracing.seeded(derived(seed)):
        batch = next(data.fixed())
    with scope(), variant._at_rest(0), pyro.validation_enabled(False), checks.plainly("train: "):
        variant.check_batch(batch, model=variant.model, guide=variant.guide)
        return tracing.paired(variant.model, variant.guide, batch)


def _suited(variant: Variant, traces: tuple[poutine.Trace, poutine.Trace]) -> ELBO | None:
    """The ELBO in the form that a pair asks for; None where any will do."""
    nesting = tracing.plate_nesting(*traces)
    if variant.labels or isinstance(variant.handler, enumerated):  # labels that are missing are summed over
        return TraceEnum_ELBO(max_plate_nesting=nesting, strict_enumeration_warning=False)
    if any("baseline" in site["infer"] for site in tracing.latent_sites(traces[0]).values()):
        return TraceGraph_ELBO(max_plate_nesting=nesting)
    codes = [site["fn"] for trace in traces for site in tracing.latent_sites(trace).values()]
    # of thousands of weights an estimate would be mostly noise
    drawn = [site["fn"] for site in tracing.latent_sites(traces[0]).values()]
    pathwise = all(fn.has_rsample or families.jumps(fn) for fn in drawn)
    analytic = (variant.shares and pathwise) or any(families.jumps(fn) for fn in codes)
    return AnalyticKL(max_plate_nesting=nesting) if analytic else None


def _stepper(
    variant: Variant,
    objective: Any,
    temper: Any,
    lr: float | None,
    clip: float | None,
    lr_schedule: Any,
    batches: minibatch | None,
    compiled: bool,
) -> tuple[Stepper, list[Paced]]:
    """What takes the steps, and the handlers that may change with the epoch."""
    paced = [variant.handler] if isinstance(variant.handler, Paced) else []
    builder = objective.func if isinstance(objective, partial) else objective
    builds = inspect.isclass(builder) and issubclass(builder, Stepper)
    if objective is None or isinstance(objective, ELBO) or builds:
        checks.positive_int("objective: num_particles", getattr(objective, "num_particles", 1))
        if temper is not None:
            paced.append(temper if isinstance(temper, Temper) else Temper(temper))
        handler = None if temper is None else paced[-1]
        lr = checks.real("lr", 1e-3 if lr is None else lr, above=0)
        clip = None if clip is None else checks.real("clip", clip, above=0)
        optim = partial(torch.optim.Adam, lr=lr, betas=getattr(builder, "betas", (0.9, 0.999)), fused=True)
        model, guide = variant.trained(handler, batches)
        if not builds:
            return (CompiledSVI if compiled else SVI)(model, guide, optim, objective, clip=clip), paced
        plays = builder is getattr(variant.stepper, "func", variant.stepper)
        given = {**getattr(variant.stepper, "keywords", {}), "discriminator": variant.discriminator} if plays else {}
        given |= {} if clip is None else {"clip": clip}
        return objective(model, guide, optim, **given | getattr(objective, "keywords", {})), paced
    if not isinstance(objective, Stepper):
        found = f"the class {objective.__name__}" if inspect.isclass(objective) else type(objective).__name__
        raise TypeError(
            "objective: expected a pyro.infer.ELBO or a stepper, with step and evaluate_loss, or what builds one; "
            f"found {found}"
        )
    settings = {"lr": lr, "clip": clip, "temper": temper}
    told = [name for name, value in settings.items() if value is not None]
    if told:
        raise ValueError(
            f"{told[0]}: a stepper brings its own; set it there"
            + (", as in SVI(*variant.trained(pv.temper(...)), ...)" if told == ["temper"] else "")
        )
    # the weights that a stepper brings move with the epoch too
    programs: list[Any] = [getattr(objective, role, None) for role in ("model", "guide")]
    handlers = itertools.chain.from_iterable(tracing.handlers(p) for p in programs)
    around = list(dict.fromkeys(handlers))
    paced += [h for h in around if isinstance(h, Paced) and h not in paced]
    sizes = [h.size for h in around if isinstance(h, minibatch)]
    if batches is not None and programs[0] is not None and sizes != [batches.size]:
        raise ValueError(
            f"objective: the pair draws what all data share, of which there are {batches.size}; expected a stepper of "
            f"variant.trained(pv.infer.minibatch({batches.size})), found minibatch of {sizes or 'no size'}"
        )
    own = (
        {id(p) for p in nn.Module.parameters(variant)} if isinstance(objective, SVI) and objective.parameters else set()
    )
    if own and not own & {id(p) for p in objective.parameters}:  # type: ignore[attr-defined]
        raise ValueError("objective: this SVI trains another pair; build it from *variant")
    if lr_schedule is not None and not isinstance(getattr(objective, "optimizer", None), torch.optim.Optimizer):
        raise ValueError(f"lr_schedule: {type(objective).__name__} has no torch optimizer to schedule")
    return objective, paced


def _check_schedules(paced: list[Paced], epochs: int) -> None:
    for schedule in itertools.chain.from_iterable(h.schedules for h in paced if isinstance(h, Temper)):
        if schedule.full_at > epochs:
            raise ValueError(
                f"temper: {schedule} reaches its full weight after {schedule.full_at:g} epochs, later than training "
                f"ends ({epochs}); the KL would never count in full"
            )


def _check(variant: Variant, stepper: Stepper, data: Batches, name: str) -> None:
    """One loss in the ordinary, validated way, and a look at all the data that are in memory."""
    variant.eval()
    # data with labels have a site more than others
    seen: dict[frozenset[str], tuple[dict[str, tracing.Site], bool]] = {}
    for batch in data.fixed():
        kind = frozenset(batch)
        new = kind not in seen
        given, computed = seen.get(kind, ({}, True))
        if computed:
            given = _observed(variant, stepper, batch, name)
        if new:
            # a story may observe a function of its argument, which only the program can compute
            computed = any(_computes(message, batch[site]) for site, message in given.items())
        seen[kind] = given, computed
        with checks.plainly(f"{name}: "):
            for site, message in given.items():
                value = message["value"] if new or computed else _unhidden(message, batch[site])
                checks.support(message["fn"], value, site)
                tracing.check_shape(site, message)
        if new:
            variant.prepare({k: v[:1] for k, v in batch.items()}, finite=False)  # a mask of all data ends here
            with pyro.validation_enabled(), checks.plainly(f"{name}: "):
                list(variant.terms(partly=True, **batch))
                stepper.evaluate_loss(**batch)
        elif data.streams:  # the rest is looked at when it comes by
            break
    variant.train()


def _computes(message: tracing.Site, value: Tensor) -> bool:
    """Whether a site observes anything but the data, as far as these are there to tell."""
    found, hidden = message["value"], message["infer"].get("hidden")
    if hidden is None or found.shape != value.shape:
        return not torch.equal(found, value)
    return bool(hidden.all()) or not torch.equal(found[~hidden], value[~hidden])


def _unhidden(message: tracing.Site, value: Tensor) -> Tensor:
    """Data of a site with those of a datum that was checked before in place of what is hidden, which is NaN."""
    return value if "hidden" not in message["infer"] else torch.where(value.isnan(), message["value"][:1], value)


def _observed(variant: Variant, stepper: Stepper, batch: dict[str, Any], name: str) -> dict[str, tracing.Site]:
    """The sites at which the model takes in a batch."""
    scope = stepper.scope if isinstance(stepper, SVI) else variant.scope
    # without Pyro's validation, so that our own words about the data come first
    with torch.no_grad(), scope(), pyro.validation_enabled(False), checks.plainly(f"{name}: "):
        variant.check_batch(batch, model=variant.model, guide=variant.guide)
        _, trace = tracing.paired(variant.model, variant.guide, batch)
        observed = tracing.observed_sites(trace, [site for site in batch if site not in variant.conditions])
    return {n: s for n, s in observed.items() if n in batch}


def _epoch(
    variant: Variant, stepper: Stepper, data: Batches, paced: list[Paced], seed: int, epoch: int, team: Team
) -> float:
    """One pass over the data; returns the mean of the objective, in nats per datum."""
    variant.train()
    queue = False
    if isinstance(stepper, CompiledSVI):
        stepper.ordinary = data.streams and epoch == 0  # what comes by for the first time is looked at
        queue = stepper.can_queue and not stepper.ordinary
    losses: list[Any] = []
    count = 0.0
    for step, parts in _steps(variant, data, paced, seed, epoch, team):
        # all data in memory were checked before; a stream is checked as it first comes by
        with _told(epoch, step), _checked(data, epoch):
            if queue:
                losses.append(stepper.queue_together(parts))  # type: ignore[attr-defined]
            else:
                losses.append(_step(stepper, parts))
                _check_finite(variant, losses[-1], parts)
        count += sum(weight * len(next(iter(batch.values()))) for weight, batch in parts)
    if queue:
        losses = torch.stack(losses).tolist()
        if bad := [step for step, loss in enumerate(losses) if not math.isfinite(loss)]:
            step, parts = next(itertools.islice(_steps(variant, data, paced, seed, epoch, team), bad[0], None))
            with _told(epoch, step):
                _check_finite(variant, losses[step], parts)
    return -sum(losses) / team.sum(count)


def _steps(
    variant: Variant, data: Batches, paced: list[Paced], seed: int, epoch: int, team: Team
) -> Iterator[tuple[int, Parts]]:
    """What each step of an epoch learns from, with generators and schedules where they are for that step."""
    process = (team.rank,) if team.size > 1 else ()
    for step, raw in enumerate(data.epoch(derived(seed, epoch))):
        tracing.reseed(derived(seed, epoch, step, *process), variant.device)
        for handler in paced:
            handler.epoch = epoch + (step + 1) / data.steps
        yield step, [(weight, data.transform(batch)) for weight, batch in raw]


@contextmanager
def _told(epoch: int, step: int) -> Iterator[None]:
    try:
        yield
    except FloatingPointError as error:
        raise FloatingPointError(f"epoch {epoch + 1}, step {step + 1}: {error}") from None


def _check_finite(variant: Variant, loss: float, parts: Parts) -> None:
    if not math.isfinite(loss):
        with variant.scope(), pyro.validation_enabled(False):
            cause = diagnose(variant.model, variant.guide, parts[-1][1])
            raise FloatingPointError(f"the loss is {loss}: {cause}")


def _step(stepper: Stepper, parts: Parts) -> float:
    """One step on all that belongs to it; a stepper of another kind takes one batch after the other."""
    if isinstance(stepper, SVI) and [weight for weight, _ in parts] != [1.0]:  # of none where other processes have all
        return stepper.step_together(parts)
    if any(weight != 1 for weight, _ in parts):
        raise ValueError(
            f"objective: {type(stepper).__name__} takes one batch at a time and cannot weigh data with labels against "
            "data without; use pv.infer.SVI, or a DataLoader, whose batches count as they are"
        )
    return sum(stepper.step(**batch) for _, batch in parts)


def _pace(paced: list[Paced]) -> dict[str, float]:
    """The weights and the temperature that are on a schedule, as they were in the last step."""
    row = {}
    for handler in paced:
        if isinstance(handler, relaxed) and not isinstance(handler.temperature, float):
            row["temperature"] = handler.now
    tempers = [handler for handler in paced if isinstance(handler, Temper)]
    if not any(handler.schedules for handler in tempers):
        return row
    named = {site for handler in tempers for site in handler.weights or ()}
    columns = {f"weight_{site}": site for site in sorted(named)} or {"weight": ""}
    return row | {column: math.prod(handler[site] for handler in tempers) for column, site in columns.items()}


def _checked(data: Batches, epoch: int) -> Any:
    """Pyro's own validation, for data that come by for the first time."""
    return pyro.validation_enabled(data.streams and epoch == 0)


def _figures(
    variant: Variant, data: Batches, held_out: Batches | None, seed: int, epoch: int
) -> tuple[dict[str, float], Followed]:
    """What the bare pair is worth after an epoch, and which of its units are active."""
    row, activity = _terms(variant, data, seed, epoch)
    if variant.shares:
        row["shared_kl"] = sum(shared_kl(variant, draws=1, seed=derived(seed)).values()) / data.size
    row |= {f"active_{site}": found.active for site, found in activity.items()}
    row |= {f"perplexity_{site}": u.perplexity for site, u in activity.items() if isinstance(u, Usage)}
    if held_out is not None:
        row["validation_elbo"] = _elbo(variant, held_out, seed, epoch)
    return row, activity


def _terms(variant: Variant, data: Batches, seed: int, epoch: int) -> tuple[dict[str, float], Followed]:
    """ELBO, reconstruction and KL per latent site of the bare pair, and which units are active, on the first data."""
    totals, count = tracing.Totals(), 0
    few = min(FEW, max(data.size // 50, 64))
    activity: Followed = {}
    unscored: dict[str, str] = {}
    with tracing.seeded(derived(seed)), _checked(data, epoch):
        for batch in data.fixed():
            for _, terms in variant.terms(partly=True, **batch):
                totals.add(terms)
                unscored |= terms.unscored
                if len(terms.posterior) == 1:  # a site without ancestors has one mean
                    note(activity, terms, 1, variant.modules())
            if not math.isfinite(totals.reconstruction if unscored else totals.elbo):
                with variant.scope():
                    cause = diagnose(variant.model, variant.guide, batch)
                raise FloatingPointError(f"epoch {epoch + 1}, after step {data.steps}: the ELBO is not finite: {cause}")
            if len(terms.posterior) > 1 and count < few:
                some = {name: value[: few - count] for name, value in batch.items()}
                with tracing.seeded(derived(seed, -1, count)):  # which leaves the draws of the other terms as they are
                    for several in code_terms(variant, some, ANCESTORS):
                        note(activity, several, ANCESTORS, variant.modules())
            count += len(next(iter(batch.values())))
            if count >= WATCHED:
                break
    known = {site: found for site, found in activity.items() if found.size > 1}  # one datum has no variance
    sums = {} if unscored else {"elbo": totals.elbo}
    sums |= {"reconstruction": totals.reconstruction}
    sums |= {f"kl_{site}": kl for site, kl in totals.kl.items() if site not in unscored}
    return {column: value / count for column, value in sums.items()}, known


def _elbo(variant: Variant, data: Batches, seed: int, epoch: int) -> float:
    """The mean over the data that come by: a loader may leave some out."""
    with tracing.seeded(derived(seed)), _checked(data, epoch):
        elbo = torch.cat([variant.elbo(**batch) for batch in data.fixed()]).double().mean().item()
    if not math.isfinite(elbo):
        raise FloatingPointError(
            f"epoch {epoch + 1}: the validation ELBO is {elbo}: the training data are unlike it, or lr is too high"
        )
    return elbo


def _show(bar: Any, epoch: int, row: dict[str, float], activity: Followed) -> None:
    told = ("elbo", "reconstruction", "validation_elbo", "discriminator")
    shown = [k for k in row if k in told or k.startswith("kl_")]
    figures = {k: f"{row[k]:.2f}" for k in shown}
    bar.set_postfix(figures, refresh=False)
    bar.update()
    active = ", ".join(f"{site} {found.active} of {found.units}" for site, found in activity.items())
    words = ", ".join(f"{k} {v}" for k, v in figures.items())
    log.info("epoch %d: %s (nats per datum)%s", epoch + 1, words, active and f"; active units: {active}")


def _warn(run: Run, activity: Followed, advice: str = ADVICE) -> None:
    """Name the sites that have collapsed in the pair that stays, which is that of the best epoch."""
    told = []
    for site, found in activity.items():
        if f"kl_{site}" not in run.history:  # of a prior that can only be sampled
            continue
        kl, active = (run.history[f"{figure}_{site}"][run.best_epoch - 1] for figure in ("kl", "active"))
        if math.isfinite(active):  # an epoch from before a resumption may lack it
            told.append(collapsed(site, kl, found.units, int(active)))
    for words in filter(None, told):
        log.warning("site %s", words)
    if any(told):
        log.warning(advice)


@contextmanager
def _mode_kept(variant: Variant) -> Iterator[None]:
    mode = variant.training
    try:
        yield
    finally:
        variant.train(mode)
