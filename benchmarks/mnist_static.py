"""The published figure: a VAE on statically binarised MNIST, and its test log-likelihood.

The setting is that of the reference implementations: 784-400-z40, ReLU, batches of 100, Adam 1e-4 whose step
shrinks by 10^(-1/5) at epochs 200, 350 and 500, the weights of the best validation epoch, importance sampling
with 200 particles. Published: 89.9 nats (reference), 89.78 (pythae).

    python benchmarks/mnist_static.py --root data            (add --download to fetch the three files)
"""

import argparse
import json
import platform
import time
from functools import partial

import torch
from torch.optim.lr_scheduler import MultiStepLR

import pyro_vae as pv


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", default="data", help="where binarized_mnist.npz or the three .amat files lie")
    parser.add_argument("--download", action="store_true", help="fetch the files if they are not there")
    parser.add_argument("--epochs", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--particles", type=int, nargs="+", default=[200])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", default="runs/mnist_static")
    arguments = parser.parse_args()

    part = partial(pv.data.load, "mnist-static", root=arguments.root, download=arguments.download)
    torch.manual_seed(arguments.seed)
    pair = pv.vae((1, 28, 28), latent=40, hidden=(400,))
    print(pair)
    run = pv.fit(
        pair,
        part(split="train"),
        validation=part(split="validation"),
        epochs=arguments.epochs,
        batch_size=100,
        lr=1e-4,
        lr_schedule=partial(MultiStepLR, milestones=[200, 350, 500], gamma=10 ** (-1 / 5)),
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
