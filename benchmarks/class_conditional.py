"""Class-conditional samples: are the digits that the pair draws under a label recognised as that label?

A conditional VAE (z10, one hidden layer of 400) is trained on MNIST, pixels drawn anew as black and white at each use,
with a weight of 4 on the KL: what of a code its prior does not know of is dear, so that the draws from the prior
are codes that the decoder has seen (z20 and a weight of 1: 87 % of draws after 30 epochs).
A classifier, convolutions trained on real digits of the same kind, then reads 10,000 draws, 1,000 of each class: the
draws themselves, x ~ p(x | z, c), and their means, E[x | z, c], drawn as black and white by x > 1/2.

    python benchmarks/class_conditional.py --root data            (add --download to fetch MNIST)
"""

import argparse
import json
import platform
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

import pyro_vae as pv


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", default="data", help="where torchvision's MNIST lies")
    parser.add_argument("--download", action="store_true", help="fetch the files if they are not there")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--beta", type=float, default=4.0, help="weight of the KL in training")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=Path("runs/class_conditional"))
    parser.add_argument("--pictures", type=Path, help="a folder for classes.png and transfers.png")
    arguments = parser.parse_args()

    load = partial(pv.data.load, "mnist", root=arguments.root, download=arguments.download, binarise="dynamic")
    train, validation, test = (load(part) for part in ("train", "validation", "test"))
    torch.manual_seed(arguments.seed)
    pair = pv.cvae(train.shape, 10, classes=10, hidden=(400,))
    run = pv.fit(
        pair,
        train,
        validation=validation,
        epochs=arguments.epochs,
        temper=arguments.beta,
        seed=arguments.seed,
        device=arguments.device,
        out=arguments.out,
        resume=True,
    )
    print(pv.evaluate(pair, test, particles=100), flush=True)
    classifier = trained_classifier(train, arguments.seed)
    c = torch.arange(10_000) % 10
    real = pv.data.first(test.drawn(0))["x"]
    draws, means = (pair.sample(10_000, c=c, seed=1, mean=mean).cpu() for mean in (False, True))
    figures = {
        "classifier_on_real_test_digits": recognised(classifier, real, test.labels),
        "draws_recognised": recognised(classifier, draws, c),
        "means_recognised": recognised(classifier, (means > 0.5).float(), c),
        "test_digits_classified_by_bayes_rule": accuracy_by_model(pair, real[:2000], test.labels[:2000]),
        "best_epoch": run.best_epoch,
        "seed": arguments.seed,
        "training_minutes": run.seconds / 60,
        "device": run.device,
        "hardware": f"{platform.machine()} CPU, {torch.get_num_threads()} threads" if run.device == "cpu" else "GPU",
        "torch": torch.__version__,
    }
    print(json.dumps(figures, indent=2))
    if arguments.pictures:
        grid = pv.plot.samples(pair, 100, c=torch.arange(100) % 10)
        grid.savefig(arguments.pictures / "classes.png", dpi=80, bbox_inches="tight")
        pictures = pv.plot.transfers(pair, test, range(10), n=6)
        pictures.savefig(arguments.pictures / "transfers.png", dpi=80, bbox_inches="tight")


def trained_classifier(train: pv.data.Data, seed: int, epochs: int = 4) -> nn.Module:
    """Convolutions that tell the class of a black and white digit."""
    torch.manual_seed(seed)
    net = pv.nets.Conv((1, 28, 28), 10)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    for _ in range(epochs):
        for index in torch.randperm(len(train.x)).split(128):
            x = train.transform({"x": train.x[index]})["x"]
            loss = nn.functional.cross_entropy(net(x), train.labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return net.eval()


@torch.no_grad()
def recognised(classifier: nn.Module, x: Tensor, c: Tensor) -> float:
    """The share of data that the classifier takes for what they are."""
    return float(torch.cat([classifier(part).argmax(-1) for part in x.split(1000)]).eq(c).float().mean())


def accuracy_by_model(pair: pv.Variant, x: Tensor, c: Tensor) -> float:
    """The share of data whose class is the likeliest by p(c) p(x | c)."""
    return float(pair.classify(x, by="model", particles=10).argmax(-1).cpu().eq(c).float().mean())


if __name__ == "__main__":
    main()
