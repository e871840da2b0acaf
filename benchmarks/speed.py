"""How fast the pairs are trained and evaluated, beside what a user would take instead.

Everything that is compared is timed in turn, over and over in one process, so that a slow minute falls on all alike.
A ratio is the median of the ratios to the loop by hand in the same turn, and behind it stands the range that half of
them lie in. pythae is left out where it is not installed.

    python benchmarks/speed.py                 all parts, about 40 minutes on two cores
    python benchmarks/speed.py train --only mlp-128 mlp-1024 --turns 5
"""

import argparse
import contextlib
import functools
import logging
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import by_hand
import pyro
import torch
from pyro.infer import SVI, JitTrace_ELBO, Trace_ELBO

import pyro_vae as pv

SHAPE = (1, 28, 28)
os.environ["TQDM_DISABLE"] = "1"  # read when pythae draws its bars
Step = Callable[..., Any]
#: name -> batch size, our pair, the same by hand
WORK: dict[str, tuple[int, Callable[[], Any], Callable[[], Any]]] = {
    "mlp-128": (128, lambda: pv.vae(SHAPE, latent=20), by_hand.VAE),
    "mlp-1024": (1024, lambda: pv.vae(SHAPE, latent=20), by_hand.VAE),
    "conv-128": (128, lambda: pv.vae(SHAPE, latent=20, net=pv.nets.Conv), by_hand.ConvVAE),
    "hvae-128": (128, lambda: pv.hvae(SHAPE, (32, 16)), by_hand.HVAE),
    "cvae-128": (128, lambda: pv.cvae(SHAPE, latent=20), by_hand.CVAE),
    "vamp-128": (
        128,
        lambda: pv.vae(SHAPE, latent=20, prior=functools.partial(pv.priors.Vamp, bounds=(0.0, 1.0))),
        by_hand.Vamp,
    ),
}


def adam(parameters: Iterable[torch.Tensor]) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=1e-3, fused=True)


# ---------------------------------------------------------------------- what is compared


def floor(work: str, device: str) -> Step | None:
    if not work.startswith("mlp"):
        return None
    products = by_hand.products(WORK[work][0], device)
    return lambda **_: [a @ b for a, b in products]


def hand(work: str, device: str, compiled: bool = False) -> Step:
    pair = WORK[work][2]().to(device)
    optimizer = adam(pair.parameters())
    loss_of = torch.compile(pair.loss) if compiled else pair.loss

    def step(**batch: torch.Tensor) -> torch.Tensor:
        loss = loss_of(**batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def ours(work: str, device: str, compiled: bool) -> Step:
    svi = (pv.infer.CompiledSVI if compiled else pv.infer.SVI)(*WORK[work][1]().to(device), adam)
    take = svi.queue if compiled and svi.can_queue else svi.step

    def step(**batch: torch.Tensor) -> Any:
        with pyro.validation_enabled(False):  # as fit does
            return take(**batch)

    return step


def stock(work: str, device: str, elbo: Any) -> Step:
    pair = WORK[work][1]().to(device)
    svi = SVI(*pair, pyro.optim.Adam({"lr": 1e-3}), elbo)
    return lambda **batch: svi.step(*batch.values())  # the jit takes tensors by position


def pythae(work: str, device: str) -> Step | None:
    """An epoch of twenty batches of pythae's own trainer, on the nets by hand."""
    try:
        from pythae.data.datasets import BaseDataset
        from pythae.trainers import BaseTrainer, BaseTrainerConfig
    except ImportError:
        return None
    if work not in ("mlp-128", "mlp-1024", "conv-128"):
        return None
    logging.disable(logging.CRITICAL)
    batch = WORK[work][0]
    images = images_of(20 * batch, "cpu")
    settings = BaseTrainerConfig(
        output_dir=tempfile.mkdtemp(),
        num_epochs=1,
        learning_rate=1e-3,
        per_device_train_batch_size=batch,
        optimizer_cls="Adam",
        no_cuda=device != "cuda",
    )
    trainer = BaseTrainer(
        pythae_pair(WORK[work][2]()),
        train_dataset=BaseDataset(images, torch.zeros(len(images))),
        training_config=settings,
    )
    trainer.prepare_training()
    step: Any = lambda **_: trainer.train_step(1)  # noqa: E731
    step.images = len(images)
    return step


def pythae_pair(nets: by_hand.VAE) -> Any:
    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            BaseEncoder.__init__(self)
            self.net = nets.encoder

        def forward(self, x: torch.Tensor) -> Any:
            loc, log_var = self.net(x.flatten(1)).chunk(2, -1)
            return ModelOutput(embedding=loc, log_covariance=log_var)

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            BaseDecoder.__init__(self)
            self.net = nets.decoder

        def forward(self, z: torch.Tensor) -> Any:
            return ModelOutput(reconstruction=torch.sigmoid(self.net(z)).unflatten(1, SHAPE))

    settings = VAEConfig(input_dim=SHAPE, latent_dim=20, reconstruction_loss="bce")
    return VAE(settings, encoder=Encoder(), decoder=Decoder())


RUNNERS: dict[str, Callable[[str, str], Step | None]] = {
    "by hand": hand,
    "by hand, torch.compile": functools.partial(hand, compiled=True),
    "pyro_vae, CompiledSVI": functools.partial(ours, compiled=True),
    "pyro_vae, SVI": functools.partial(ours, compiled=False),
    "pyro.infer.SVI": lambda work, device: stock(work, device, Trace_ELBO()),
    "pyro.infer.SVI, JitTrace_ELBO": lambda work, device: stock(work, device, JitTrace_ELBO(ignore_jit_warnings=True)),
    "pythae": pythae,
    "floor: matrix products": floor,
}


# ---------------------------------------------------------------------- how


def images_of(n: int, device: str) -> torch.Tensor:
    return (torch.rand(n, *SHAPE, device=device) > 0.8).float()


def data_of(work: str, device: str) -> list[dict[str, torch.Tensor]]:
    batch = WORK[work][0]
    x = images_of(20 * batch, device)
    parts = [{"x": part} for part in x.split(batch)]
    return [p | {"c": torch.randint(10, (batch,), device=device)} for p in parts] if work == "cvae-128" else parts


def rate(step: Step, data: list[dict[str, torch.Tensor]], seconds: float) -> float:
    """Images per second."""
    images, start = 0, time.perf_counter()
    size = getattr(step, "images", len(data[0]["x"]))
    while True:
        for batch in data[:1] if hasattr(step, "images") else data:
            step(**batch)
            images += size
        if data[0]["x"].is_cuda:
            torch.cuda.synchronize()
        if time.perf_counter() - start > seconds:
            return images / (time.perf_counter() - start)


def in_turn(steps: dict[str, Step], data: list[dict[str, torch.Tensor]], turns: int, seconds: float) -> dict[str, list]:
    for step in steps.values():
        for batch in data[:5]:
            step(**batch)
    rates: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(turns):
        for name, step in steps.items():
            rates[name].append(rate(step, data, seconds))
    return rates


def quartiles(values: list[float]) -> str:
    low, middle, high = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def row(*cells: Any) -> None:
    print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)


def head(*cells: str) -> None:
    print()
    row(*cells)
    row(*["---"] * len(cells))


# ---------------------------------------------------------------------- the parts


def train(arguments: argparse.Namespace) -> None:
    """Images per second in training, as ratios to the loop by hand."""
    for work in arguments.only:
        steps = {name: step for name, make in RUNNERS.items() if (step := make(work, arguments.device)) is not None}
        rates = in_turn(steps, data_of(work, arguments.device), arguments.turns, arguments.seconds)
        head(work, "images/s", "ratio to by hand", "CompiledSVI to it")
        for name, found in rates.items():
            ratios = [a / b for a, b in zip(found, rates["by hand"], strict=True)]
            against = [a / b for a, b in zip(rates["pyro_vae, CompiledSVI"], found, strict=True)]
            row(name, f"{statistics.median(found):,.0f}", quartiles(ratios), quartiles(against))


def start(arguments: argparse.Namespace) -> None:
    """Seconds until training is under way."""
    head("starting", "seconds")
    for words in ("import torch", "import pyro", "import pyro_vae", "import pyro_vae; pyro_vae.fit"):
        code = f"import time; t = time.perf_counter(); {words}; print(time.perf_counter() - t)"
        times = [float(subprocess.check_output([sys.executable, "-c", code])) for _ in range(arguments.turns)]
        row(f"`{words}`", quartiles(times))
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as cache:
        for label in ("an empty cache", "the cache of the run before"):
            found[label] = apart(_compiling, cache, arguments.threads)
            row(f"compiling mlp-128 with {label}, first step included", f"{found[label]:.1f}")
    work = "mlp-128"
    steps = {str(compiled): ours(work, arguments.device, compiled) for compiled in (False, True)}
    rates = in_turn(steps, data_of(work, arguments.device), arguments.turns, arguments.seconds)
    ordinary, compiled = (WORK[work][0] / statistics.median(rates[name]) for name in steps)
    for label, seconds in found.items():
        row(f"steps that earn it back, with {label}", f"{seconds / (ordinary - compiled):,.0f}")


def _compiling(cache: str, threads: int) -> float:
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
    torch.set_num_threads(threads)
    step, data = ours("mlp-128", "cpu", True), data_of("mlp-128", "cpu")
    began = time.perf_counter()
    step(**data[0])
    return time.perf_counter() - began


def memory(arguments: argparse.Namespace) -> None:
    """The most memory that a process held, libraries included."""
    head("200 steps of mlp-1024", "peak, MiB")
    for name in ("by hand", "by hand, torch.compile", "pyro_vae, CompiledSVI", "pyro_vae, SVI", "pyro.infer.SVI"):
        row(name, f"{apart(_peak, name, arguments.threads):,.0f}")


def _peak(name: str, threads: int) -> float:
    torch.set_num_threads(threads)
    step = RUNNERS[name]("mlp-1024", "cpu")
    assert step is not None
    data = data_of("mlp-1024", "cpu")
    for _ in range(10):
        for batch in data:
            step(**batch)
    return peak()


def scaling(arguments: argparse.Namespace) -> None:
    """Milliseconds per step against levels and particles, at batch 128."""
    x = images_of(128, arguments.device)
    for what, numbers in (("levels", (1, 2, 4, 8, 16)), ("particles", (1, 4, 16, 64))):
        head(what, "SVI, ms", "CompiledSVI, ms", "SVI, times that of 1", "CompiledSVI, times that of 1")
        firsts: list[float] = []
        for n in numbers:
            steps = {}
            for compiled in (False, True):
                pair = pv.hvae(SHAPE, (16,) * n) if what == "levels" and n > 1 else pv.vae(SHAPE, latent=16)
                many = n if what == "particles" else 1
                elbo = Trace_ELBO(many, vectorize_particles=many > 1, max_plate_nesting=1)
                svi = (pv.infer.CompiledSVI if compiled else pv.infer.SVI)(*pair.to(arguments.device), adam, elbo)
                steps[str(compiled)] = svi.step
            with pyro.validation_enabled(False):
                rates = in_turn(steps, [{"x": x}], arguments.turns, arguments.seconds)
            times = [128e3 / statistics.median(rates[str(compiled)]) for compiled in (False, True)]
            firsts = firsts or times
            row(n, *(f"{t:.2f}" for t in times), *(f"{t / one:.2f}" for t, one in zip(times, firsts, strict=True)))


def evaluation(arguments: argparse.Namespace) -> None:
    """log p(x) by importance sampling: draws per second, and the memory that they take."""
    particles, images = arguments.particles, arguments.images
    seconds, mebibytes = apart(_evaluating, images, particles, arguments.threads)
    head("importance sampling", "images", "particles", "draws/s", "memory, MiB")
    row(
        "pyro_vae, log_likelihood",
        f"{images:,}",
        f"{particles:,}",
        f"{images * particles / seconds:,.0f}",
        f"{mebibytes:,.0f}",
    )
    with contextlib.suppress(ImportError):
        few = max(images // 500, 1)
        seconds, mebibytes = apart(_pythae_evaluating, few, particles, arguments.threads)
        row("pythae, get_nll", f"{few:,}", f"{particles:,}", f"{few * particles / seconds:,.0f}", f"{mebibytes:,.0f}")


def _evaluating(images: int, particles: int, threads: int) -> tuple[float, float]:
    torch.set_num_threads(threads)
    pair, x = pv.vae(SHAPE, latent=20), images_of(images, "cpu")
    pair.log_likelihood(particles=2, x=x[:10])
    before, began = peak(), time.perf_counter()
    pair.log_likelihood(particles=particles, x=x)
    return time.perf_counter() - began, peak() - before


def _pythae_evaluating(images: int, particles: int, threads: int) -> tuple[float, float]:
    torch.set_num_threads(threads)
    pair, x = pythae_pair(by_hand.VAE()), images_of(images, "cpu")
    with torch.no_grad():
        pair.get_nll(x[:2], n_samples=2)
        before, began = peak(), time.perf_counter()
        pair.get_nll(x, n_samples=particles)
    return time.perf_counter() - began, peak() - before


def peak() -> float:
    """MiB that this process has held at most, on Linux; what getrusage says starts from its parent's."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


def apart(function: Callable[..., Any], *given: Any) -> Any:
    """What a function finds in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, given)


PARTS = {part.__name__: part for part in (train, start, memory, scaling, evaluation)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of {', '.join(PARTS)}; by default all")
    parser.add_argument("--only", nargs="+", choices=WORK, default=list(WORK), help="what to train")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=11)
    parser.add_argument("--seconds", type=float, default=0.7, help="least length of one measurement")
    parser.add_argument("--images", type=int, default=10_000, help="to evaluate")
    parser.add_argument("--particles", type=int, default=5_000, help="to evaluate with")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"no part {sorted(unknown)[0]!r}; there are {', '.join(PARTS)}")
    warnings.filterwarnings("ignore")
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    print(
        f"{platform.machine()}, {arguments.device}, {arguments.threads} threads, torch {torch.__version__}, "
        f"pyro {pyro.__version__}, median of {arguments.turns} turns (and quartiles)"
    )
    for part in arguments.parts or PARTS:
        PARTS[part](arguments)


if __name__ == "__main__":
    main()
