"""A Bayesian decoder on statically binarised MNIST: what its horseshoe closes, and what its weights do not know.

python benchmarks/pruning.py --root data --download --out docs
"""

import argparse
import json
import time
from functools import partial
from pathlib import Path

import matplotlib
import torch
from sklearn.metrics import roc_auc_score
from torch.optim.lr_scheduler import MultiStepLR

import pyro_vae as pv

SHAPE, LATENT, HIDDEN = (1, 28, 28), 20, 500
LAYER = "likelihood.decoder.net.3"  # from the hidden units to the pixels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", default="data", help="where binarized_mnist.npz or the three .amat files lie")
    parser.add_argument("--download", action="store_true", help="fetch the files if they are not there")
    parser.add_argument("--epochs", type=int, default=60, help="the last fifth of them with a smaller step")
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--threshold", type=float, default=None, help="the size above which a unit remains")
    parser.add_argument("--seeds", type=int, nargs="+", default=(0,))
    parser.add_argument("--particles", type=int, default=200)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--runs", type=Path, default=Path("runs/pruning"), help="where the pairs are written")
    parser.add_argument("--out", type=Path, help="a folder for the pictures")
    arguments = parser.parse_args()

    load = partial(pv.data.load, "mnist-static", root=arguments.root, download=arguments.download)
    train, validation, test = (load(split=part) for part in ("train", "validation", "test"))
    decoders = {
        "plain": (partial(pv.nets.MLP, hidden=(HIDDEN,)), 1e-3),
        "horseshoe": (
            partial(pv.nets.VariationalMLP, hidden=(HIDDEN,), family=("normal", "horseshoe")),
            arguments.lr,
        ),
    }
    for seed in arguments.seeds:
        for name, (decoder, lr) in decoders.items():
            torch.manual_seed(seed)
            pair = pv.vae(SHAPE, LATENT, decoder=decoder)
            start = time.perf_counter()
            run = pv.fit(
                pair,
                train,
                validation=validation,
                epochs=arguments.epochs,
                batch_size=100,
                lr=lr,
                lr_schedule=partial(MultiStepLR, milestones=milestones(arguments.epochs), gamma=0.2),
                device=arguments.device,
                seed=seed,
                out=arguments.runs / f"{name}_{seed}",
                resume=True,
                progress=False,
            )
            seconds = time.perf_counter() - start
            tell(name, seed, pair, test, arguments.particles, seconds=round(seconds), best_epoch=run.best_epoch)
        report = pv.weights_report(pair, arguments.threshold)
        print(report, flush=True)
        small = pv.prune(pair, arguments.threshold)
        small.save(arguments.runs / f"pruned_{seed}")
        units = {"remaining": report[LAYER].remaining, "of": report[LAYER].units}
        tell("pruned", seed, small, test, arguments.particles, **units)
        kinds = unlike(test.x[::5])  # the test file is sorted by class
        found = {kind: pv.weight_information(pair, x=x).cpu() for kind, x in kinds.items()}
        known, *others = found
        row = {kind: f"{float(nats.mean()):.2f} +- {float(nats.std()):.2f} nats" for kind, nats in found.items()}
        row |= {f"AUROC, {kind}": round(auroc(found[known], found[kind]), 4) for kind in others}
        print(json.dumps({"seed": seed} | row), flush=True)
        if arguments.out and seed == arguments.seeds[0]:
            matplotlib.use("Agg")
            options = {"dpi": 120, "bbox_inches": "tight"}
            pv.plot.weights(report).savefig(arguments.out / "pruning.png", **options)
            shown = {kind: x[torch.linspace(0, len(x) - 1, 400).long()] for kind, x in kinds.items()}
            pv.plot.unlike(pair, shown, n=10).savefig(arguments.out / "unlike.png", **options)


def milestones(epochs: int) -> list[int]:
    """After which epochs the step shrinks."""
    return [epochs - epochs // 5, epochs - epochs // 20]


def tell(name: str, seed: int, pair: pv.Variant, test: pv.data.Data, particles: int, **more: float) -> None:
    """One row of the table."""
    report = pv.evaluate(pair, test, particles=particles, draws=50)
    figures = {"log p(x)": round(report.log_likelihood, 2), "error": round(report.standard_error, 2)}
    figures |= {"ELBO": round(report.elbo, 2), "KL of the weights": report.shared_kl}
    print(json.dumps({"decoder": name, "seed": seed} | figures | more), flush=True)


def unlike(x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Test digits, the same turned by a quarter, and noise with as many white pixels as they have."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.bernoulli(x.mean().expand(x.shape), generator=generator)
    return {"test digits": x, "turned by 90 degrees": x.rot90(1, (2, 3)), "noise": noise}


def auroc(known: torch.Tensor, unknown: torch.Tensor) -> float:
    """How often a datum of another kind would tell more of the weights than one that is known."""
    kinds = torch.cat([torch.zeros(len(known)), torch.ones(len(unknown))])
    return float(roc_auc_score(kinds, torch.cat([known, unknown])))


if __name__ == "__main__":
    main()
