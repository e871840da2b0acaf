"""The published figure: a VAE on statically binarised MNIST, and its test log-likelihood.

Networks, data and estimate are those of the published figures: 784-400-z40, ReLU, 50,000 training images,
batches of 100, the weights of the best validation epoch, importance sampling with 200 particles. Published:
89.9 nats (Rezende & Mohamed 2015, arXiv:1505.05770), 89.78 (pythae's reproduction). The schedule is ours: pythae's
starts at 1e-4 and has milestones up to epoch 1000, for a number of epochs that is not stated; here the step falls
from 1e-3 to 0 along a cosine in 450, with a slight decay of the weights (AdamW), since static binarisation overfits.

    python benchmarks/mnist_static.py --root data            (add --download to fetch the three files)
"""

import argparse
import json
import platform
import time
from functools import partial

import torch
from pyro.infer import Trace_ELBO
from torch.optim.lr_scheduler import CosineAnnealingLR

import pyro_vae as pv


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", default="data", help="where binarized_mnist.npz or the three .amat files lie")
    parser.add_argument("--download", action="store_true", help="fetch the files if they are not there")
    parser.add_argument("--epochs", type=int, default=450)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--weight-decay", type=float, default=0.02)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--particles", type=int, nargs="+", default=[200])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", default="runs/mnist_static")
    arguments = parser.parse_args()

    part = partial(pv.data.load, "mnist-static", root=arguments.root, download=arguments.download)
    torch.manual_seed(arguments.seed)
    pair = pv.vae((1, 28, 28), latent=40, hidden=(400,))
    print(pair)
    adamw = partial(torch.optim.AdamW, lr=arguments.lr, weight_decay=arguments.weight_decay, fused=True)
    run = pv.fit(
        pair,
        part(split="train"),
        validation=part(split="validation"),
        epochs=arguments.epochs,
        batch_size=100,
        objective=pv.infer.SVI(*pair, adamw, Trace_ELBO()),
        lr_schedule=partial(CosineAnnealingLR, T_max=arguments.epochs),
        device=arguments.device,
        out=arguments.out,
        seed=arguments.seed,
    )
    print(run)
    for particles in arguments.particles:
        start = time.perf_counter()
        report = pv.evaluate(pair, part(split="test"), particles=particles)
        print(report)
        figures = {
            "test_nll": -report.log_likelihood,
            "particles": particles,
            "standard_error": report.standard_error,
            "minus_elbo": -report.elbo,
            "best_epoch": run.best_epoch,
            "epochs": run.epochs,
            "seed": arguments.seed,
            "training_minutes": run.seconds / 60,
            "evaluation_minutes": (time.perf_counter() - start) / 60,
            "device": run.device,
            "hardware": _hardware(run.device),
            "torch": torch.__version__,
        }
        print(json.dumps(figures, indent=2))


def _hardware(device: str) -> str:
    if device.startswith("cuda"):
        return torch.cuda.get_device_name()
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


if __name__ == "__main__":
    main()
