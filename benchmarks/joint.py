"""Classes that nobody has told: clustering accuracy of a joint VAE on MNIST, over several seeds.

Pixels are drawn anew as black and white at each use; no label is looked at in training. The KL of the style counts BETA
times, else the style alone tells the digits apart and the class goes to sleep: what the style may not say, the class
must. Published: 88.7 % (Dupont 2018, arXiv:1804.00104: convolutions, capacities of both KLs that grow in training;
the best of its runs, clusters named by their most frequent label).

    python benchmarks/joint.py --root data            (add --download to fetch MNIST)
"""

import argparse
import json
import platform
import statistics
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
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--estimator", default="relaxed")
    parser.add_argument("--beta", type=float, default=5.0, help="weight of the KL of the style")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/joint"))
    arguments = parser.parse_args()
    found = [trained(seed, arguments) for seed in arguments.seeds]
    scores = [figures["clustering"] for figures in found]
    spread = f" +- {statistics.stdev(scores):.4f}" if len(scores) > 1 else ""
    print(f"clustering accuracy {statistics.fmean(scores):.4f}{spread} over {len(scores)} seeds")


def trained(seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """The figures of one seed; the first one's pictures are kept."""
    load = partial(pv.data.load, "mnist", root=arguments.root, download=arguments.download, binarise="dynamic")
    torch.manual_seed(seed)
    pair = pv.joint_vae((1, 28, 28), classes=10, latent=10, estimator=arguments.estimator, hidden=(512, 256))
    run = pv.fit(
        pair,
        load(split="train"),
        epochs=arguments.epochs,
        temper={"z": arguments.beta},
        lr_schedule=partial(CosineAnnealingLR, T_max=arguments.epochs),
        out=arguments.out / str(seed),
        resume=True,
        seed=seed,
    )
    test = load(split="test")
    report = pv.evaluate(pair, test, particles=10)
    print(report)
    figures = {
        "clustering": report.clustering["c"],
        "minus_elbo": -report.elbo,
        "kl": report.kl,
        "perplexity": report.code_usage["c"].perplexity,
        "seed": seed,
        "minutes": run.seconds / 60,
        "hardware": f"{platform.machine()}, {torch.get_num_threads()} threads, {run.device}",
        "torch": torch.__version__,
    }
    print(json.dumps(figures), flush=True)
    figure = classes(pair, test)
    figure.savefig(arguments.out / f"joint_{seed}.png", dpi=100, bbox_inches="tight")
    return figures


def classes(pair: pv.Variant, test: pv.data.Data) -> Any:
    """Each class in the style of each of some test images."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    some = [int((test.labels == digit).nonzero()[0]) for digit in range(10)]
    x = (test.x[some] > 0.5).float()
    rows = [torch.cat([image[None], pair.traverse("c", x=image[None])[0]]) for image in x]
    tiled = torch.stack(rows)[:, :, 0].transpose(1, 2).flatten(2).flatten(0, 1)
    figure, ax = plt.subplots(figsize=(5.6, 5.2))
    ax.imshow(tiled, cmap="gray")
    ax.set_xticks([14 + 28 * i for i in range(11)], ["data", *map(str, range(10))])
    ax.set(yticks=[], xlabel="class")
    return figure


if __name__ == "__main__":
    main()
