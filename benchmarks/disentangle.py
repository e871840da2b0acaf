"""Disentanglement on sprites: beta-VAE, beta-TCVAE and FactorVAE, five scores, over several seeds.

Three objectives on one pair: a story of ten units and convolutions, on 64 x 64 sprites of which five factors are known.

    python benchmarks/disentangle.py
"""

import argparse
import json
import platform
import statistics
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.optim.lr_scheduler import CosineAnnealingLR

import pyro_vae as pv

SCORED = 10_000  # test images
SCORES = ("mig", "sap", "dci_disentanglement", "dci_completeness", "dci_informativeness", "beta_vae", "factor_vae")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--beta", type=float, default=4.0, help="weight of the KL, of a beta-VAE")
    parser.add_argument("--correlation", type=float, default=6.0, help="weight of the total correlation of a TCVAE")
    parser.add_argument("--gamma", type=float, default=10.0, help="weight of the total correlation of a FactorVAE")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--objectives", nargs="+", default=["beta-vae", "beta-tcvae", "factor-vae"])
    parser.add_argument("--out", type=Path, default=Path("runs/disentangle"))
    arguments = parser.parse_args()
    ways: dict[str, dict[str, Any]] = {
        "beta-vae": {"temper": arguments.beta},
        "beta-tcvae": {"objective": pv.infer.TotalCorrelation(arguments.correlation)},
        "factor-vae": {"objective": partial(pv.infer.FactorVAE, weight=arguments.gamma, discriminator_lr=3e-4)},
    }
    pairs = {}
    for seed in arguments.seeds:
        for name in arguments.objectives:
            pairs[name, seed] = trained(name, seed, ways[name], arguments)
    test = pv.data.load("sprites", "test").subset(SCORED)
    rows: dict[str, list[dict[str, float]]] = {}
    for (name, seed), pair in pairs.items():
        rows.setdefault(name, []).append(scored(name, seed, pair, test))
    picture(pairs, test).savefig(arguments.out / "disentangled.png", dpi=80, bbox_inches="tight")
    for name, found in rows.items():
        print(f"{name:12s}", *(f"{column} {spread([row[column] for row in found])}" for column in found[0]), sep="  ")


def trained(name: str, seed: int, way: dict[str, Any], arguments: argparse.Namespace) -> pv.Variant:
    """A pair, trained, or read where it was before."""
    torch.manual_seed(seed)
    pair = pv.vae((1, 64, 64), latent=10, hidden=(8, 16, 32, 32))
    run = pv.fit(
        pair,
        pv.data.load("sprites"),
        epochs=arguments.epochs,
        batch_size=64,
        lr_schedule=partial(CosineAnnealingLR, T_max=arguments.epochs),
        out=arguments.out / name / str(seed),
        resume=True,
        seed=seed,
        **way,
    )
    figures = {"objective": name, "seed": seed, "minutes": run.seconds / 60, "elbo": run.history["elbo"][-1]}
    figures |= {"hardware": f"{platform.machine()}, {torch.get_num_threads()} threads", "torch": torch.__version__}
    print(json.dumps(figures), flush=True)
    return pair


def scored(name: str, seed: int, pair: pv.Variant, test: Any) -> dict[str, float]:
    """The scores of one pair, and its ELBO."""
    found = pv.disentanglement(pair, test, seed=seed)
    row = {score: getattr(found, score) for score in SCORES} | {"elbo": float(pair.elbo(x=first(test), seed=0).mean())}
    print(json.dumps({"objective": name, "seed": seed} | row), flush=True)
    return row


def first(test: Any) -> torch.Tensor:
    return pv.data.first(test, 2000)["x"]


def picture(pairs: dict[tuple[str, int], pv.Variant], test: Any) -> Any:
    """What each unit that follows the data means, under each objective, for the first seed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    seed = next(iter(pairs))[1]
    shown = {name: pair for (name, s), pair in pairs.items() if s == seed}
    x, values = pv.data.first(test, 1)["x"], torch.linspace(-2.5, 2.5, 7).tolist()
    figure, axes = plt.subplots(1, len(shown), figsize=(4.2 * len(shown), 5), layout="constrained")
    for (name, pair), ax in zip(shown.items(), axes, strict=True):
        means = pair.encode(x=first(test))["z"].mean
        order = means.var(0).argsort(descending=True)
        units = [unit for unit in order.tolist() if means[:, unit].var() > 0.01]
        images = pair.traverse(units=units, values=values, x=x)[:, :, 0]
        ax.imshow(images.permute(0, 2, 1, 3).flatten(0, 1).flatten(1), cmap="gray_r", vmin=0, vmax=1)
        ax.set_title(name)
        ax.set_yticks([64 * i + 32 for i in range(len(units))], units)
        ax.set_xticks([64 * i + 32 for i in range(len(values))], [f"{value:.1f}" for value in values])
        ax.set(xlabel="value", ylabel="unit of z")
    return figure


def spread(values: list[float]) -> str:
    more = f" +- {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.3f}{more}"


if __name__ == "__main__":
    main()
