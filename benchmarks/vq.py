"""Codes from a codebook on statically binarised MNIST: the bound, the codebook in use, and what the prior dreams.

The pair is trained with a small PixelCNN as its prior; a larger one is then fitted to its codes, which stand still, in
a second stage as in the paper (pv.fit_prior). The bound is log p(x | z) + log p(z) at the guide's code. Samples are
held against a digit classifier, trained on MNIST as binarised at random: the share of which it is sure (p > 0.9),
beside that of the test images.

    python benchmarks/vq.py --root data --download
"""

import argparse
import json
import platform
import time
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import CosineAnnealingLR

import pyro_vae as pv


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", default="data", help="where the files of mnist and mnist-static lie")
    parser.add_argument("--download", action="store_true", help="fetch the files if they are not there")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--prior-epochs", type=int, default=8)
    parser.add_argument("--codebook", type=int, default=32)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--hidden", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/vq"))
    arguments = parser.parse_args()

    part = partial(pv.data.load, "mnist-static", root=arguments.root, download=arguments.download)
    torch.manual_seed(arguments.seed)
    pair = pv.vq_vae((1, 28, 28), arguments.codebook, arguments.width, hidden=[arguments.hidden] * 2)
    print(pair)
    run = pv.fit(
        pair,
        part(split="train"),
        validation=part(split="validation"),
        epochs=arguments.epochs,
        lr_schedule=partial(CosineAnnealingLR, T_max=arguments.epochs),
        out=arguments.out,
        resume=True,
        seed=arguments.seed,
    )
    print(run, pv.evaluate(pair, part(split="test"), particles=1), sep="\n")
    start = time.perf_counter()
    pair = pv.fit_prior(
        pair,
        part(split="train"),
        partial(pv.priors.PixelCNN, hidden=48, layers=6),
        validation=part(split="validation"),
        epochs=arguments.prior_epochs,
        lr_schedule=partial(CosineAnnealingLR, T_max=arguments.prior_epochs),
        out=arguments.out / "larger",
        seed=arguments.seed,
    )
    seconds = run.seconds + time.perf_counter() - start
    found = pv.evaluate(pair, part(split="test"), particles=1)
    print(found)
    classifier = digits(arguments)
    images = {"test images": part(split="test").x[::10].float(), "samples": pair.sample(1000, seed=arguments.seed)}
    sure = {name: recognised(classifier, x) for name, x in images.items()}
    figures = {
        "bound": found.elbo,
        "reconstruction": found.reconstruction,
        "kl": found.kl["z"],
        "perplexity": found.code_usage["z"].perplexity,
        "used": found.code_usage["z"].used,
        "recognised": sure,
        "epochs": run.epochs,
        "seed": arguments.seed,
        "training_minutes": seconds / 60,
        "hardware": f"{platform.machine()}, {torch.get_num_threads()} threads, {run.device}",
        "torch": torch.__version__,
    }
    print(json.dumps(figures, indent=2), flush=True)
    picture(pair, images["samples"], part(split="test"), arguments.out)


def digits(arguments: argparse.Namespace) -> nn.Module:
    """A classifier of the ten digits, binarised at random."""
    train = pv.data.load("mnist", root=arguments.root, download=arguments.download)
    torch.manual_seed(arguments.seed)
    classifier = pv.nets.Conv((1, 28, 28), 10, hidden=(16, 32))
    optimizer = torch.optim.Adam(classifier.parameters(), 2e-3)
    start = time.perf_counter()
    for _ in range(3):
        for index in torch.randperm(len(train.x)).split(200):
            loss = cross_entropy(classifier(torch.bernoulli(train.x[index])), train.labels[index].long())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    test = pv.data.load("mnist", "test", root=arguments.root)
    with torch.no_grad():
        right = (classifier(torch.bernoulli(test.x)).argmax(-1) == test.labels).float().mean()
    print(f"classifier: {100 * right:.1f} % of the test images right, {time.perf_counter() - start:.0f} s")
    return classifier


def recognised(classifier: nn.Module, x: torch.Tensor) -> dict[str, float]:
    """The share of images that it is sure of, and of the rarest digit among these."""
    with torch.no_grad():
        p, k = classifier(x).softmax(-1).max(-1)
    counts = torch.bincount(k[p > 0.9], minlength=10)
    return {"sure": float((p > 0.9).float().mean()), "rarest digit": float(counts.min() / counts.sum())}


def picture(pair: pv.Variant, samples: torch.Tensor, test: pv.data.Data, out: Path) -> None:
    """Samples of the learned prior, beside test images and their reconstructions."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, 1, figsize=(9, 3.5), height_ratios=(2, 3), layout="constrained")
    pv.plot.reconstructions(pair, {"x": test.x[::600].float()}, 16, ax=axes[0])
    axes[0].set_title("test images and their reconstructions, by 49 codes of 32 categories", fontsize="medium")
    tiled = samples[:48].reshape(3, 16, 28, 28).transpose(1, 2).flatten(2).flatten(0, 1)
    axes[1].imshow(tiled, cmap="gray")
    axes[1].set_title("samples of the learned prior", fontsize="medium")
    axes[1].axis("off")
    figure.savefig(out / "vq.png", dpi=100, bbox_inches="tight")


if __name__ == "__main__":
    main()
