"""A sparse code: two levels on statically binarised MNIST, the upper one rectified or normal, else alike.

python benchmarks/sparse.py --root data --download --out docs/sparse.png
"""

import argparse
import json
import statistics
import time
from functools import partial
from pathlib import Path

import matplotlib
import torch
from matplotlib import pyplot as plt
from torch import Tensor

import pyro_vae as pv
from pyro_vae import priors

SHAPE, SHOWN = (1, 28, 28), 200
ACTIVE = 0.01  # the variance over the data of the posterior mean of a unit that is


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", default="data", help="where binarized_mnist.npz or the three .amat files lie")
    parser.add_argument("--download", action="store_true", help="fetch the files if they are not there")
    parser.add_argument("--latents", type=int, nargs=2, default=(10, 64))
    parser.add_argument("--loc", type=float, default=-1.5, help="of the rectified normal, in units of its scale")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, nargs="+", default=(0, 1, 2))
    parser.add_argument("--particles", type=int, default=200)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, help="a file for the figure")
    arguments = parser.parse_args()

    load = partial(pv.data.load, "mnist-static", root=arguments.root, download=arguments.download)
    train, validation, test = (load(split=part) for part in ("train", "validation", "test"))
    upper = {
        "standard normal": priors.StandardNormal,
        "rectified normal": partial(priors.RectifiedNormal, loc=arguments.loc, learned=False),
    }
    figures: dict[str, list[float]] = {name: [] for name in upper}
    codes: dict[str, Tensor] = {}
    for seed in arguments.seeds:
        for name, prior in upper.items():
            torch.manual_seed(seed)
            pair = pv.hvae(SHAPE, tuple(arguments.latents), guide="bottom-up", hidden=(400,), prior=prior)
            start = time.perf_counter()
            options = {"epochs": arguments.epochs, "batch_size": 100, "device": arguments.device, "progress": False}
            pv.fit(pair, train, validation=validation, temper=pv.infer.WarmUp(5), seed=seed, **options)
            seconds = time.perf_counter() - start
            report = pv.evaluate(pair, test, particles=arguments.particles, draws=50)
            means = {site: q.mean.cpu() for site, q in pair.encode(x=test.x, ancestors="mean").items()}
            found = {site: off(mean) for site, mean in means.items()}
            row = {
                "prior": name,
                "seed": seed,
                "log p(x)": round(report.log_likelihood, 2),
                "active units": {site: share.shape[1] for site, share in found.items()},
                "share off": {site: round(float(share.mean()), 3) for site, share in found.items()},
                "share off, both levels": round(float(torch.cat(list(found.values()), 1).mean()), 3),
                "KL": {site: round(kl, 2) for site, kl in report.kl.items()},
                "seconds": round(seconds),
            }
            print(json.dumps(row), flush=True)
            figures[name].append(report.log_likelihood)
            codes.setdefault(name, means["z2"])
    costs = [a - b for a, b in zip(figures["standard normal"], figures["rectified normal"], strict=True)]
    print("cost in nats:", [round(cost, 2) for cost in costs], "mean", round(statistics.fmean(costs), 2))
    if arguments.out:
        matplotlib.use("Agg")
        draw(codes, test.labels).savefig(arguments.out, dpi=120, bbox_inches="tight")


def off(means: Tensor) -> Tensor:
    """Of each datum, which of the active units are within a tenth of their spread over the data of 0."""
    means = means[:, means.var(0) > ACTIVE]
    return (means.abs() < 0.1 * means.std(0)).float()


def draw(codes: dict[str, Tensor], labels: Tensor | None) -> plt.Figure:
    """The active units of some test images, each in units of its spread."""
    order = torch.linspace(0, len(next(iter(codes.values()))) - 1, SHOWN).long()  # the test file is sorted by class
    figure, axes = plt.subplots(1, len(codes), figsize=(9, 5), layout="constrained", sharey=True)
    for ax, (name, means) in zip(axes, codes.items(), strict=True):
        means = means[:, means.var(0) > ACTIVE]
        units = (means / means.std(0))[:, means.var(0).argsort(descending=True)]
        image = ax.imshow(units[order], cmap="RdBu_r", vmin=-3, vmax=3, aspect="auto", interpolation="nearest")
        ax.set(title=f"z2 under a {name}", xlabel=f"active units ({units.shape[1]})")
    axes[0].set_ylabel(f"{SHOWN} test images")
    figure.colorbar(image, ax=axes, label="posterior mean / its spread over the data")
    return figure


if __name__ == "__main__":
    main()
