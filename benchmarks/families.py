"""Random weights of four families in one small decoder, beside plain ones: what they reach, use and cost.

python benchmarks/families.py
"""

import argparse
import statistics
import time
from functools import partial

import torch
from torch.optim.lr_scheduler import MultiStepLR

import pyro_vae as pv
from pyro_vae.describe import table

SHAPE, LATENT, HIDDEN = (1, 8, 8), 8, 64
FAMILIES = ("normal", "horseshoe", "rectified_normal", "piecewise_normal")
LAYER = "likelihood.decoder.net.3"  # from the hidden units to the pixels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--particles", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=11, help="of timing")
    arguments = parser.parse_args()

    train, test = (pv.data.load("digits", part, binarise="threshold") for part in ("train+validation", "test"))
    decoders = {"plain": partial(pv.nets.MLP, hidden=(HIDDEN,))}
    decoders |= {name: partial(pv.nets.VariationalMLP, hidden=(HIDDEN,), family=name) for name in FAMILIES}
    ends = arguments.epochs - arguments.epochs // 5  # when the step shrinks
    ratios = timed(decoders, train.x[:128], arguments.rounds)
    rows = []
    for name, decoder in decoders.items():
        found: list[tuple[float, ...]] = []
        for seed in range(arguments.seeds):
            torch.manual_seed(seed)
            pair = pv.vae(SHAPE, LATENT, decoder=decoder)
            options = {"epochs": arguments.epochs, "batch_size": 64, "lr": 3e-3, "device": "cpu", "progress": False}
            pv.fit(pair, train, seed=seed, lr_schedule=partial(MultiStepLR, milestones=[ends], gamma=0.2), **options)
            report = pv.evaluate(pair, test, particles=arguments.particles, draws=50)
            weights = pv.weights_report(pair) if pair.shares else None
            remaining = weights[LAYER].remaining if weights else HIDDEN
            per_datum = weights.kl / len(train.x) if weights else 0.0
            found.append((report.log_likelihood, report.elbo, per_datum, remaining))
        cells = [f"{spread(column, 2)}" for column in list(zip(*found, strict=True))[:3]]
        units = spread([row[3] for row in found], 1) + f" of {HIDDEN}"
        rows.append([name, *cells, units, ratios[name]])
        print(rows[-1], flush=True)
    header = ["weights", "log p(x)", "ELBO", "KL of weights per datum", "units remaining", "ms per step (ratio)"]
    print("\n".join(table(header, rows)))


def spread(values: list[float] | tuple[float, ...], digits: int) -> str:
    """Mean and standard deviation."""
    sd = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.fmean(values):.{digits}f} ± {sd:.{digits}f}"


def timed(decoders: dict[str, partial[torch.nn.Module]], x: torch.Tensor, rounds: int) -> dict[str, str]:
    """Medians of rounds in which all take their turns."""
    steppers = {}
    for name, decoder in decoders.items():
        torch.manual_seed(0)
        pair = pv.vae(SHAPE, LATENT, decoder=decoder)
        programs = pair.trained(pv.infer.minibatch(1000) if pair.shares else None)
        steppers[name] = pv.infer.SVI(*programs, partial(torch.optim.Adam, fused=True), pv.infer.AnalyticKL())
    seconds: dict[str, list[float]] = {name: [] for name in steppers}
    for _ in range(rounds + 1):
        for name, stepper in steppers.items():
            start = time.perf_counter()
            for _ in range(10):
                stepper.step(x=x)
            seconds[name].append((time.perf_counter() - start) / 10)
    medians = {name: statistics.median(taken[1:]) for name, taken in seconds.items()}
    return {name: f"{1e3 * m:.1f} ({m / medians['plain']:.1f})" for name, m in medians.items()}


if __name__ == "__main__":
    main()
