"""The published figure: a VAE on statically binarised MNIST, and its test log-likelihood.

Networks, data and estimate are those of the published figures: 784-400-z40, ReLU, 50,000 training images,
batches of 100, the weights of the best validation epoch, importance sampling with 200 particles. Published:
89.9 nats (Rezende & Mohamed 2015, arXiv:1505.05770), 89.78 (pythae's reproduction). The schedule is ours, from
1e-3 to 0 along a cosine with a slight decay of the weights (AdamW), since static binarisation overfits. What
pythae's own code and schedule give on the same files: benchmarks/mnist_static_pythae.py.

The estimate is a lower bound that a better proposal tightens. So a second figure follows: the story held still,
the guide alone is fitted to the training data once more, now to the importance-weighted bound (Burda et al. 2016,
arXiv:1509.00519; refitting encoders for evaluation, Mattei & Frellsen 2018). What it adds was never the story's
fault.

    python benchmarks/mnist_static.py --root data            (add --download to fetch the three files)
"""

import argparse
import json
import platform
import time
from functools import partial
from pathlib import Path

import torch
from pyro.infer import Trace_ELBO
from torch.optim.lr_scheduler import CosineAnnealingLR

import pyro_vae as pv
from pyro_vae.train import Run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", default="data", help="where binarized_mnist.npz or the three .amat files lie")
    parser.add_argument("--download", action="store_true", help="fetch the files if they are not there")
    parser.add_argument("--epochs", type=int, default=450)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--weight-decay", type=float, default=0.02)
    parser.add_argument("--refit", type=int, default=10, help="epochs of the guide alone; 0 for none")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--particles", type=int, nargs="+", default=[200])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=Path("runs/mnist_static"))
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
        resume=True,
        seed=arguments.seed,
    )
    report("as trained", pair, part(split="test"), run, arguments)
    if arguments.refit:
        guide_alone = torch.optim.Adam(pair.guide.parameters(), lr=5e-4, fused=True)
        run = pv.fit(
            pair,
            part(split="train"),
            epochs=arguments.refit,
            batch_size=100,
            objective=pv.infer.SVI(*pair, lambda _: guide_alone, pv.infer.IWAE(particles=16)),
            lr_schedule=partial(CosineAnnealingLR, T_max=arguments.refit),
            device=arguments.device,
            out=arguments.out / "refit",
            resume=True,
            seed=arguments.seed,
        )
        report("guide refit", pair, part(split="test"), run, arguments)


def report(guide: str, pair: pv.Variant, test: pv.data.Data, run: Run, arguments: argparse.Namespace) -> None:
    """Print the figures of the pair on the test images, as text and as JSON."""
    print(run)
    for particles in arguments.particles:
        start = time.perf_counter()
        found = pv.evaluate(pair, test, particles=particles)
        print(found)
        figures = {
            "guide": guide,
            "test_nll": -found.log_likelihood,
            "particles": particles,
            "standard_error": found.standard_error,
            "minus_elbo": -found.elbo,
            "best_epoch": run.best_epoch,
            "epochs": run.epochs,
            "seed": arguments.seed,
            "training_minutes": run.seconds / 60,
            "evaluation_minutes": (time.perf_counter() - start) / 60,
            "device": run.device,
            "hardware": _hardware(run.device),
            "torch": torch.__version__,
        }
        print(json.dumps(figures, indent=2), flush=True)


def _hardware(device: str) -> str:
    if device.startswith("cuda"):
        return torch.cuda.get_device_name()
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


if __name__ == "__main__":
    main()
