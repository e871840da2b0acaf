"""Adversarial autoencoders on MNIST: codes in a ring of ten normals, and in a swiss roll, beside those of a VAE.

One pair of nets, 784-400-2-400-784, dynamic binarisation; the ring and the roll differ from the VAE in prior and
training alone. Told: whether draws of q(z) on test images can be told from draws of the prior (an MMD two-sample test),
and the cross-entropy of the pixels, -E_q[log p(x | z)]. With --parzen, another pair: 784-1000-1000-8 on grey images,
and the Parzen log-likelihood of 10,000 draws of it. Published: 340 +- 2 (Makhzani et al. 2015, arXiv:1511.05644).

    python benchmarks/aae.py --root data                (add --download to fetch MNIST)
    python benchmarks/aae.py --root data --parzen
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

LEVEL = 0.05  # of the test: p-values below it would mean that codes and prior differ
PRIORS = {"ring": pv.priors.Ring, "swiss roll": pv.priors.SwissRoll}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", default="data", help="where torchvision's MNIST lies")
    parser.add_argument("--download", action="store_true", help="fetch the files if they are not there")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--weight", type=float, default=400.0, help="of the KL of all codes together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--parzen", action="store_true", help="train the pair of the Parzen estimate instead")
    parser.add_argument("--out", type=Path, default=Path("runs/aae"))
    arguments = parser.parse_args()
    load = partial(pv.data.load, "mnist", root=arguments.root, download=arguments.download)
    if arguments.parzen:
        parzen(load, arguments)
        return
    load = partial(load, binarise="dynamic")
    torch.manual_seed(arguments.seed)
    pairs = {"VAE": pv.vae((1, 28, 28), latent=2)}
    for name, prior in PRIORS.items():
        torch.manual_seed(arguments.seed)
        pairs[name] = pv.aae((1, 28, 28), latent=2, prior=prior, weight=arguments.weight)
    for name, pair in pairs.items():
        told(name, pair, load, arguments)
    picture(pairs, load("test").drawn(0)).savefig(arguments.out / "aae.png", dpi=100, bbox_inches="tight")


def trained(name: str, pair: pv.Variant, train: Any, arguments: argparse.Namespace) -> Any:
    return pv.fit(
        pair,
        train,
        epochs=arguments.epochs,
        lr_schedule=partial(CosineAnnealingLR, T_max=arguments.epochs),
        out=arguments.out / name.replace(" ", "-"),
        resume=True,
        seed=arguments.seed,
    )


def told(name: str, pair: pv.Variant, load: Any, arguments: argparse.Namespace) -> None:
    """The figures of one pair."""
    run = trained(name, pair, load(split="train+validation"), arguments)
    test = load(split="test").drawn(0)
    report = pv.evaluate(pair, test, particles=10)
    found = pv.aggregate_test(pair, test, n=1000, permutations=500, seed=0)
    figures = {"pair": name, "cross_entropy": -report.reconstruction, "elbo": report.elbo}
    figures |= {"mmd2": found.mmd2, "p_value": found.p_value, "matches": found.p_value > LEVEL}
    figures |= {"discriminator": run.history.get("discriminator", [None])[-1], "minutes": run.seconds / 60}
    figures |= {"seed": arguments.seed, "torch": torch.__version__, "hardware": hardware(run)}
    print(json.dumps(figures), flush=True)


def hardware(run: Any) -> str:
    return f"{platform.machine()}, {torch.get_num_threads()} threads, {run.device}"


def parzen(load: Any, arguments: argparse.Namespace) -> None:
    """The Parzen log-likelihood of 10,000 draws, in nats per image."""
    torch.manual_seed(arguments.seed)
    pair = pv.aae(
        (1, 28, 28),
        latent=8,
        weight=arguments.weight,
        hidden=(1000, 1000),
        likelihood=partial(pv.likelihoods.Normal, scale=0.2, squashed=True),
    )
    run = trained("parzen", pair, load(split="train"), arguments)
    draws = pair.sample(10_000, mean=True, seed=0)
    found = pv.parzen_log_likelihood(draws, load(split="test").x, validation=load(split="validation").x)
    figures = {"parzen": found.log_likelihood, "standard_error": found.standard_error, "scale": found.scale}
    figures |= {"draws": len(draws), "seed": arguments.seed, "minutes": run.seconds / 60}
    print(json.dumps(figures | {"torch": torch.__version__, "hardware": hardware(run)}), flush=True)


def picture(pairs: dict[str, pv.Variant], test: Any) -> Any:
    """Codes of test images by digit over draws of the prior, and draws of each pair."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, len(pairs), figsize=(3.6 * len(pairs), 7.2), layout="constrained")
    x, labels = test.x[:5000], test.labels[:5000]
    for (name, pair), (above, below) in zip(pairs.items(), axes.T, strict=True):
        prior = pair.draw(5000, seed=1).nodes["z"]["value"]
        codes = pair.encode(x=x)["z"].sample()
        above.scatter(*prior.T, s=2, color="0.8", linewidths=0)
        dots = above.scatter(*codes.T, s=2, c=labels, cmap="tab10", vmin=-0.5, vmax=9.5, linewidths=0)
        above.set(title=name, aspect="equal")
        images = pair.sample(100, mean=True, seed=0).reshape(10, 10, 28, 28).permute(0, 2, 1, 3).reshape(280, 280)
        below.imshow(images, cmap="gray_r", vmin=0, vmax=1)
        below.set_axis_off()
    figure.colorbar(dots, ax=axes[0], ticks=range(10), label="digit")
    return figure


if __name__ == "__main__":
    main()
