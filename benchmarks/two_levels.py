"""One level of latents against two, on statically binarised MNIST: equal hidden widths, equal budget.

z40 against z40 + z40, each network with one hidden layer of 400 units, and for both the same training: AdamW from 1e-3
to 0 along a cosine with a slight decay of the weights, batches of 100, the KL warmed up over the first quarter, the
weights of the best validation epoch. Published, with gated networks of 300-300 and about 930 epochs (Tomczak & Welling
2018, arXiv:1705.07120): 88.56 nats for one level, 86.05 for two, by importance sampling with 5000 particles.

    python benchmarks/two_levels.py --root data            (add --download to fetch the three files)
    python benchmarks/two_levels.py --root data --in-space --epochs 3          (levels of 4 x 14 x 14, 8 x 7 x 7 and 16)
"""

import argparse
import json
import platform
from functools import partial
from pathlib import Path

import matplotlib
import torch
from pyro.infer import Trace_ELBO
from torch.optim.lr_scheduler import CosineAnnealingLR

import pyro_vae as pv

matplotlib.use("Agg")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", default="data", help="where statically binarised MNIST lies")
    parser.add_argument("--download", action="store_true", help="fetch the files if they are not there")
    parser.add_argument("--levels", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--guide", default="top-down", help="of the two levels: top-down or bottom-up")
    parser.add_argument("--in-space", action="store_true", help="three levels instead, two of them in space")
    parser.add_argument("--skip", action="store_true", help="let the data see both levels")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--warm-up", type=float, default=0.25, help="the share of the epochs; 0 for none")
    parser.add_argument("--particles", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=Path("runs/two_levels"))
    parser.add_argument("--pictures", type=Path, default=Path("runs/two_levels"), help="folder of the picture")
    arguments = parser.parse_args()
    for levels in [3] if arguments.in_space else arguments.levels:
        measure(levels, arguments)


def measure(levels: int, arguments: argparse.Namespace) -> None:
    """Train a pair and print its figures on the test images."""
    load = partial(pv.data.load, "mnist-static", root=arguments.root, download=arguments.download)
    torch.manual_seed(arguments.seed)
    shape, hidden = (1, 28, 28), (400,)
    if arguments.in_space:
        pair = pv.hvae(shape, ((4, 14, 14), (8, 7, 7), 16), arguments.guide, skip=arguments.skip)
    elif levels == 1:
        pair = pv.vae(shape, 40, hidden=hidden)
    else:
        pair = pv.hvae(shape, [40] * levels, arguments.guide, skip=arguments.skip, hidden=hidden)
    handler = pv.temper(pv.infer.WarmUp(arguments.warm_up * arguments.epochs)) if arguments.warm_up else None
    adamw = partial(torch.optim.AdamW, lr=1e-3, weight_decay=0.02, fused=True)
    run = pv.fit(
        pair,
        load(split="train"),
        validation=load(split="validation"),
        epochs=arguments.epochs,
        batch_size=100,
        objective=pv.infer.SVI(*pair.trained(handler), adamw, Trace_ELBO()),
        lr_schedule=partial(CosineAnnealingLR, T_max=arguments.epochs),
        device=arguments.device,
        out=arguments.out / str(levels),
        resume=True,
        seed=arguments.seed,
    )
    test = load(split="test")
    report = pv.evaluate(pair, test, particles=arguments.particles, draws=100)
    print(report)
    figures = {
        "levels": levels,
        f"test_nll_{arguments.particles}": -report.log_likelihood,
        "standard_error": report.standard_error,
        "minus_elbo": -report.elbo,
        "kl": report.kl,
        "active_units": report.active_units,
        "best_epoch": run.best_epoch,
        "epochs": run.epochs,
        "seed": arguments.seed,
        "training_minutes": run.seconds / 60,
        "device": run.device,
        "hardware": f"{platform.machine()} CPU, {torch.get_num_threads()} threads" if run.device == "cpu" else "GPU",
        "torch": torch.__version__,
    }
    print(json.dumps(figures, indent=2), flush=True)
    if levels > 1:
        picture = pv.plot.levels(pair, test.x[::1250], 8, draws=3)  # the images are sorted by digit
        arguments.pictures.mkdir(parents=True, exist_ok=True)
        picture.savefig(arguments.pictures / "levels.png", dpi=110, bbox_inches="tight")


if __name__ == "__main__":
    main()
