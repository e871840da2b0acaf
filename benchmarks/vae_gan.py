"""VAE-GAN against the VAE on grey MNIST: the same pair of nets, compared by pixels or by what a discriminator sees.

Told of the means of 5,000 draws of each, in features of a digit classifier that is trained on the training images:
Frechet distance, precision and recall, classes, sharpness; beside them what other real images get.

    python benchmarks/vae_gan.py --root data            (add --download to fetch MNIST)
"""

import argparse
import json
import platform
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.optim.lr_scheduler import CosineAnnealingLR

import pyro_vae as pv


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", default="data", help="where torchvision's MNIST lies")
    parser.add_argument("--download", action="store_true", help="fetch the files if they are not there")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--weight", type=float, default=5.0)
    parser.add_argument("--scale", type=float, default=0.5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/vae_gan"))
    arguments = parser.parse_args()
    load = partial(pv.data.load, "mnist", root=arguments.root, download=arguments.download)
    train, test = load(split="train"), load(split="test")
    shared: dict[str, Any] = {"net": pv.nets.Conv, "hidden": (16, 32)}
    likelihood = partial(pv.likelihoods.Normal, scale=0.2, squashed=True)
    torch.manual_seed(arguments.seed)
    pairs = {"VAE": pv.vae((1, 28, 28), latent=20, likelihood=likelihood, **shared)}
    torch.manual_seed(arguments.seed)
    pairs["VAE-GAN"] = pv.vae_gan(
        (1, 28, 28),
        latent=20,
        likelihood=likelihood,
        weight=arguments.weight,
        scale=arguments.scale,
        discriminator=partial(pv.nets.Discriminator, hidden=(16, 32), spectral=True),
        **shared,
    )
    classifier = pv.train_classifier(train)
    print(f"classifier: {100 * classifier.accuracy:.2f} % of held-out training images")
    for name, pair in pairs.items():
        run = pv.fit(
            pair,
            train,
            epochs=arguments.epochs,
            batch_size=64,
            lr_schedule=partial(CosineAnnealingLR, T_max=arguments.epochs),
            out=arguments.out / name,
            resume=True,
            seed=arguments.seed,
        )
        quality = pv.sample_quality(pair, test, classifier=classifier, mean=True)
        print(quality)
        report = pv.evaluate(pair, test, particles=10)
        figures = {"pair": name, "elbo": report.elbo, "kl": report.rate, "minutes": run.seconds / 60}
        figures |= {"discriminator": run.history.get("discriminator", [None])[-1], "seed": arguments.seed}
        figures |= {"hardware": f"{platform.machine()}, {torch.get_num_threads()} threads", "torch": torch.__version__}
        print(json.dumps(figures | quality.to_dict()), flush=True)
    picture(pairs, test.x[:10]).savefig(arguments.out / "vae_gan.png", dpi=100, bbox_inches="tight")


def picture(pairs: dict[str, pv.Variant], x: torch.Tensor) -> Any:
    """Draws of each, and below them images with their reconstructions."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(pairs), figsize=(5 * len(pairs), 6.2), layout="constrained")
    for (name, pair), ax in zip(pairs.items(), axes, strict=True):
        rows = torch.cat([pair.sample(100, mean=True, seed=0), x, pair.reconstruct(x=x, mean=True, seed=0)])
        sheet = rows.reshape(12, 10, 28, 28).permute(0, 2, 1, 3).reshape(-1, 280)
        sheet = torch.cat([sheet[:280], torch.zeros(10, 280), sheet[280:]])
        ax.imshow(sheet.clamp(0, 1), cmap="gray_r", vmin=0, vmax=1)
        ax.set_title(f"{name}: draws; images and their reconstructions", fontsize=9)
        ax.set_axis_off()
    return figure


if __name__ == "__main__":
    main()
