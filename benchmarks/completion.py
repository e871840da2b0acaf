"""Structured completion: Pyro's CVAE tutorial on MNIST, one to three quadrants given, the rest told.

Sizes and schedule are the tutorial's: z200, two hidden layers of 500, batches of 128, Adam 1e-3, at most 50 epochs,
patience 3. Published minus ELBO: 71.8, 51.0 and 24.2 nats for one, two and three quadrants (its baseline without a
code: 100.4, 61.9, 25.4). Three things differ here. The tutorial scores grey pixels under a Bernoulli; here pixels are
drawn anew as black and white at each use, and once for the test, in both parts of the image. It stops early on the
test images; here on the last 10,000 of the training images. And its decoder reads the code alone and its prior a
baseline's guess; here both read the given pixels.

Its "Monte Carlo" figure draws from the recognition network, and is a minus ELBO. What the pair predicts from the
given pixels alone, log (1/K) sum_k p(x | z_k, c), z_k ~ p(z | c), stands beside it.

    python benchmarks/completion.py --root data            (add --download to fetch MNIST)
"""

import argparse
import json
import platform
from functools import partial
from pathlib import Path

import torch

import pyro_vae as pv

PUBLISHED = {1: 71.8, 2: 51.0, 3: 24.2}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", default="data", help="where torchvision's MNIST lies")
    parser.add_argument("--download", action="store_true", help="fetch the files if they are not there")
    parser.add_argument("--quadrants", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--particles", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=Path("runs/completion"))
    arguments = parser.parse_args()
    for quadrants in arguments.quadrants:
        complete(quadrants, arguments)


def complete(quadrants: int, arguments: argparse.Namespace) -> None:
    load = partial(pv.data.load, "mnist", root=arguments.root, download=arguments.download, binarise="dynamic")
    train, validation, test = (load(part, quadrants=quadrants) for part in ("train", "validation", "test"))
    torch.manual_seed(arguments.seed)
    pair = pv.cvae(train.shape, 200, condition_shape=train.condition_shape, hidden=(500, 500))
    out = arguments.out / str(quadrants)
    run = pv.fit(
        pair,
        train,
        validation=validation,
        epochs=arguments.epochs,
        patience=3,
        seed=arguments.seed,
        device=arguments.device,
        out=out,
        resume=True,
    )
    report = pv.evaluate(pair, test, particles=arguments.particles)
    print(report, flush=True)
    drawn = pv.data.first(test.drawn(0))
    from_prior = pair.log_likelihood(proposal="prior", particles=arguments.particles, seed=0, **drawn)
    figures = {
        "quadrants": quadrants,
        "minus_elbo": -report.elbo,
        "published_minus_elbo": PUBLISHED[quadrants],
        f"nll_guide_{arguments.particles}": -report.log_likelihood,
        f"nll_prior_{arguments.particles}": -float(from_prior.mean()),
        "standard_error": report.standard_error,
        "best_epoch": run.best_epoch,
        "epochs": run.epochs,
        "seed": arguments.seed,
        "training_minutes": run.seconds / 60,
        "device": run.device,
        "hardware": f"{platform.machine()} CPU, {torch.get_num_threads()} threads" if run.device == "cpu" else "GPU",
        "torch": torch.__version__,
    }
    print(json.dumps(figures, indent=2), flush=True)
    pv.plot.completions(pair, test).savefig(out / "completions.png", dpi=120, bbox_inches="tight")


if __name__ == "__main__":
    main()
