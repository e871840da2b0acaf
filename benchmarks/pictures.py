"""The pictures of the README, by the library itself: what the pair of benchmarks/mnist_static.py has learned.

python benchmarks/pictures.py --run runs/mnist_static --root data --out docs
"""

import argparse
from pathlib import Path

import matplotlib
import torch

import pyro_vae as pv

matplotlib.use("Agg")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", default="runs/mnist_static", help="folder that benchmarks/mnist_static.py wrote")
    parser.add_argument("--root", default="data", help="where MNIST and statically binarised MNIST lie")
    parser.add_argument("--out", type=Path, default=Path("docs"))
    parser.add_argument("--epochs", type=int, default=15, help="of the pair with two units, for the manifold")
    parser.add_argument("--download", action="store_true", help="fetch what is missing")
    arguments = parser.parse_args()

    pair = pv.load(arguments.run)
    labelled = pv.data.load("mnist", "test", arguments.root, binarise="static", download=arguments.download)
    torch.manual_seed(0)
    flat = pv.vae((1, 28, 28), latent=2)
    pv.fit(
        flat,
        pv.data.load("mnist-static", "train", arguments.root, download=arguments.download),
        epochs=arguments.epochs,
    )
    pictures = {
        "samples": pv.plot.samples(pair, 64),
        "reconstructions": pv.plot.reconstructions(pair, labelled, 12),
        "traversals": pv.plot.traversals(pair, labelled),
        "latents": pv.plot.latents(flat, labelled),
        "interpolations": pv.plot.interpolations(pair, labelled.x[:6], labelled.x[6:12], steps=10),
        "manifold": pv.plot.manifold(flat, 18),
    }
    arguments.out.mkdir(exist_ok=True)
    for name, figure in pictures.items():
        figure.savefig(arguments.out / f"{name}.png", dpi=90, bbox_inches="tight")


if __name__ == "__main__":
    main()
