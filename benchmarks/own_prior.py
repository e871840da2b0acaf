"""A prior of one's own on three variants: MNIST under eight normals on a circle.

python benchmarks/own_prior.py --root data --download --out docs/priors.png
"""

import argparse
from pathlib import Path

import matplotlib
import pyro.distributions as dist
import torch
from matplotlib import pyplot as plt

import pyro_vae as pv

SHAPE = (1, 28, 28)


def star() -> dist.Distribution:
    """p(z): eight normals on a circle."""
    angle = torch.arange(8) * torch.pi / 4
    loc = 2.5 * torch.stack([angle.cos(), angle.sin()], -1)
    return dist.MixtureSameFamily(dist.Categorical(torch.ones(8)), dist.Normal(loc, 0.3).to_event(1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", default="data", help="where torchvision's MNIST lies")
    parser.add_argument("--download", action="store_true", help="fetch the files if they are not there")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path("docs/priors.png"))
    arguments = parser.parse_args()

    train, test = (
        pv.data.load("mnist", part, root=arguments.root, download=arguments.download, binarise="dynamic")
        for part in ("train", "test")
    )
    torch.manual_seed(0)
    pairs = {
        "vae": pv.vae(SHAPE, 2, prior=star, hidden=(400,), net=pv.nets.MLP),
        "cvae, given the digit": pv.cvae(SHAPE, 2, prior=star, hidden=(400,), net=pv.nets.MLP),
        "hvae, z2": pv.hvae(SHAPE, latents=(16, 2), prior=star, hidden=(400,), net=pv.nets.MLP),
    }
    matplotlib.use("Agg")
    figure, axes = plt.subplots(1, len(pairs), figsize=(15, 5), layout="constrained")
    for ax, (name, pair) in zip(axes, pairs.items(), strict=True):
        pv.fit(pair, train, epochs=arguments.epochs, batch_size=128, device="cpu", progress=False)
        pv.plot.prior(pair, test, test.labels, ax=ax)
        ax.set(title=f"{name}, drawn from q", xlim=(-4, 4), ylim=(-4, 4))
        if ax is not axes[-1] and ax.get_legend():
            ax.get_legend().remove()  # one serves all
        print(name, pv.evaluate(pair, test, particles=50, draws=100), sep="\n", flush=True)
    figure.savefig(arguments.out, dpi=100, bbox_inches="tight")


if __name__ == "__main__":
    main()
