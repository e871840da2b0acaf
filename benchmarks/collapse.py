"""Posterior collapse seen and cured: a five-level ladder on statically binarised MNIST, with each cure at one budget.

The levels are those of Soenderby et al. 2016 (arXiv:1602.02282), 64-32-16-8-4 with hidden layers of 512-256-128-64-64,
here without batch norm in the networks; the data see z1 alone. Everything but the cure is the same: Adam 1e-3, batches
of 250, as many epochs, one seed. Printed as one table: active units of each level (Burda et al. 2016,
arXiv:1509.00519), how many units carry more than 0.01 nats of their own (a unit that only follows a level above it
through its prior is active and carries none), the nats of each level, and the importance-weighted log-likelihood.
Published, after 2000 epochs: 21 active units for the plain hierarchy, 81 for the ladder with batch norm and warm-up.

    python benchmarks/collapse.py --root data --out docs            (add --download to fetch the three files)
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR

import pyro_vae as pv
from pyro_vae.infer import Aggressive, Cyclical, WarmUp
from pyro_vae.posteriors import BatchNormNormal

matplotlib.use("Agg")

LATENTS = (64, 32, 16, 8, 4)
HIDDEN = ((512,), (256,), (128,), (64,), (64,))
ADAM = partial(torch.optim.Adam, lr=1e-3, fused=True)


def cures(epochs: int) -> dict[str, tuple[dict[str, Any], Callable[[pv.Variant], dict[str, Any]]]]:
    """What is said of the pair, and of its training, for each cure."""

    def trained(**options: Any) -> Callable[[pv.Variant], dict[str, Any]]:
        return lambda pair: options

    rising = {f"z{level}": WarmUp(epochs * level / 10) for level in range(1, 6)}
    return {
        "none": ({}, trained()),
        "warm-up": ({}, trained(temper=WarmUp(epochs / 2))),
        "warm-up, upper levels later": ({}, trained(temper=rising)),
        "cyclical annealing": ({}, trained(temper=Cyclical(period=epochs / 3))),
        "lower weights on upper levels": (
            {},
            trained(temper={f"z{level}": 0.5 ** (level - 1) for level in range(2, 6)}),
        ),
        "free bits": ({}, trained(objective=pv.FreeBits({"z1": 8, "z2": 4, "z3": 2, "z4": 1, "z5": 0.5}))),
        "batch-normalised means": ({"posterior": BatchNormNormal}, trained()),
        "skip connections": ({"skip": True}, trained()),
        "aggressive encoder": ({}, lambda pair: {"objective": Aggressive(*pair, ADAM, inner=5, steps=400)}),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", default="data", help="where statically binarised MNIST lies")
    parser.add_argument("--download", action="store_true", help="fetch the files if they are not there")
    parser.add_argument("--cures", nargs="+", help="some of them; by default all")
    parser.add_argument("--guide", default="top-down", help="top-down, the ladder, or bottom-up")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--particles", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/collapse"))
    arguments = parser.parse_args()

    load = partial(pv.data.load, "mnist-static", root=arguments.root, download=arguments.download)
    train, test = load(split="train"), load(split="test")
    known = cures(arguments.epochs)
    reports = {}
    arguments.out.mkdir(parents=True, exist_ok=True)
    print("cure                           active units z1 to z5      own  nats z1 to z5")
    for name in arguments.cures or known:
        of_pair, of_training = known[name]
        torch.manual_seed(arguments.seed)
        pair = pv.hvae((1, 28, 28), LATENTS, arguments.guide, **{"skip": False, "hidden": HIDDEN, **of_pair})
        start = time.perf_counter()
        cosine = partial(CosineAnnealingLR, T_max=arguments.epochs)
        common = {"epochs": arguments.epochs, "batch_size": 250, "lr_schedule": cosine, "seed": arguments.seed}
        pv.fit(pair, train, **common, **of_training(pair))
        minutes = (time.perf_counter() - start) / 60
        found = reports[name] = pv.collapse_report(pair, test)
        bound = pv.evaluate(pair, test, particles=arguments.particles, draws=1)
        levels = sorted(found.levels, key=lambda level: level.site)
        active = " ".join(f"{level.active:3d}" for level in levels)
        nats = " ".join(f"{level.kl:6.2f}" for level in levels)
        total = sum(level.active or 0 for level in levels)
        own = sum(int((level.unit_kl > 0.01).sum()) for level in levels if level.unit_kl is not None)
        bounds = f"log p(x) {bound.log_likelihood:.2f}  ELBO {bound.elbo:.2f}"
        print(f"{name:30s} {total:3d} = {active}   {own:3d}  {nats}  {bounds}  {minutes:.1f} minutes", flush=True)
    if {"none", "warm-up"} <= set(reports):
        figure = pv.plot.collapse({"no cure": reports["none"], "warm-up": reports["warm-up"]})
        figure.savefig(arguments.out / "collapse.png", dpi=110, bbox_inches="tight")


if __name__ == "__main__":
    main()
