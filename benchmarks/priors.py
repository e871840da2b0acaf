"""Priors on statically binarised MNIST: equal nets, budget and seeds; and two fitted to the codes afterwards.

python benchmarks/priors.py --root data --download
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

import pyro_vae as pv
from pyro_vae import priors

SHAPE, LATENT = (1, 28, 28), 20
PRIORS: dict[str, Callable[..., torch.nn.Module]] = {
    "standard normal": priors.StandardNormal,
    "learned normal": priors.Normal,
    "mixture of 100 normals": partial(priors.Mixture, components=100),
    "VampPrior, 100 pseudo-inputs": partial(priors.Vamp, pseudo_inputs=100),
    "spline flow": partial(priors.Flow, flow="NSF", transforms=2, hidden=(100,)),
}
AFTERWARDS = ("mixture of 100 normals", "spline flow")  # fitted to the codes of the pair with a standard normal


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", default="data", help="where binarized_mnist.npz or the three .amat files lie")
    parser.add_argument("--download", action="store_true", help="fetch the files if they are not there")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--particles", type=int, default=200)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=Path("runs/priors"), help="where the pairs are written")
    arguments = parser.parse_args()

    load = partial(pv.data.load, "mnist-static", root=arguments.root, download=arguments.download)
    train, validation, test = (load(split=part) for part in ("train", "validation", "test"))
    options = {"validation": validation, "epochs": arguments.epochs, "batch_size": 100, "progress": False}
    options["device"] = arguments.device
    rows: dict[str, list[pv.evaluation.Report]] = {}

    def report(name: str, pair: pv.Variant, seed: int, start: float) -> None:
        seconds = time.perf_counter() - start
        pair.save(arguments.out / f"{name}, seed {seed}".replace(" ", "_").replace(",", ""))
        found = pv.evaluate(pair, test, particles=arguments.particles, draws=200)
        rows.setdefault(name, []).append(found)
        print(json.dumps({"prior": name, "seed": seed, "seconds": round(seconds, 1)} | found.to_dict()), flush=True)

    for seed in range(arguments.seeds):
        for name, prior in PRIORS.items():
            torch.manual_seed(seed)
            pair, start = pv.vae(SHAPE, LATENT, hidden=(400,), prior=prior), time.perf_counter()
            pv.fit(pair, train, seed=seed, **options)
            report(name, pair, seed, start)
            if prior is priors.StandardNormal:
                plain = pair
        for name in AFTERWARDS:
            start = time.perf_counter()
            report(
                f"standard normal, then {name}",
                pv.fit_prior(plain, train, PRIORS[name], seed=seed, **options),
                seed,
                start,
            )
    base = [found.log_likelihood for found in rows["standard normal"]]
    print("| prior | log p(x) | gain | ELBO | KL |\n|---|---|---|---|---|")
    for name, found in rows.items():
        gains = [a.log_likelihood - b for a, b in zip(found, base, strict=True)]
        figures = [[r.log_likelihood for r in found], gains, [r.elbo for r in found], [r.rate for r in found]]
        print(f"| {name} | {' | '.join(map(spread, figures))} |", flush=True)


def spread(values: list[float]) -> str:
    """Mean and standard deviation over the seeds."""
    return f"{statistics.fmean(values):.2f}" + (f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else "")


if __name__ == "__main__":
    main()
