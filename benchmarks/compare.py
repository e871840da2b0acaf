"""Two comparisons over three seeds: networks on statically binarised MNIST, and likelihoods of 8-bit colour images.

python benchmarks/compare.py nets --root data --download --out docs/comparison.png
python benchmarks/compare.py likelihoods
"""

import argparse
import json
import logging
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib

import pyro_vae as pv
from pyro_vae.likelihoods import DiscretizedLogistic, DiscretizedLogisticMixture

IMAGE, COLOUR = (1, 28, 28), (3, 32, 32)
NETS = {
    "400": partial(pv.vae, IMAGE, hidden=(400,)),
    "200-200": partial(pv.vae, IMAGE, hidden=(200, 200)),
    "gated 300-300": partial(pv.vae, IMAGE, net=pv.nets.GatedMLP),
    "400, beta 4": partial(pv.beta_vae, IMAGE, beta=4.0, hidden=(400,)),
}
LIKELIHOODS = {
    "logistic": partial(pv.vae, COLOUR, likelihood=DiscretizedLogistic),
    "mixture of 5": partial(pv.vae, COLOUR, likelihood=DiscretizedLogisticMixture),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["nets", "likelihoods"])
    parser.add_argument("--root", default="data", help="where binarized_mnist.npz or the three .amat files lie")
    parser.add_argument("--download", action="store_true", help="fetch the files if they are not there")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, help="a file for the figure")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("pyro_vae").setLevel(logging.INFO)

    nets = arguments.what == "nets"
    options: dict[str, Any] = {"root": arguments.root, "download": arguments.download} if nets else {}
    train, validation, test = (
        pv.data.load("mnist-static" if nets else "patches", part, **options) for part in ("train", "validation", "test")
    )
    result = pv.compare(
        NETS if nets else LIKELIHOODS,
        train,
        validation=validation,
        test=test,
        seeds=arguments.seeds,
        epochs=arguments.epochs or (10 if nets else 20),
        batch_size=100 if nets else 32,
        device=arguments.device,
        progress=False,
    )
    print(result)
    for row in result.rows:
        bits = [round(report.bits_per_dimension, 3) for report in row.reports]
        print(f"{row.name}: bits per dimension {bits}")
    print(json.dumps(result.to_dict()))
    if arguments.out:
        matplotlib.use("Agg")
        pv.plot.comparison(result).savefig(arguments.out, dpi=120, bbox_inches="tight")


if __name__ == "__main__":
    main()
