"""Semi-supervised MNIST: M2 with 100 or 3,000 labels of 50,000 images.

Published: 100 labels, 93.19 +- 0.60 % (Pyro's M2 with its auxiliary loss), 88.03 % (M2 of Kingma et al. 2014); 3,000
labels, 95.82 %. The story is theirs: z50, one hidden layer of 500, pixels drawn anew as black and white at each use.
The classifier q(c | x) is ours, two convolutions with dropout instead of a hidden layer of 500, and so are small random
affine maps of the labelled images whenever they are used, and the order of things:

1. the classifier alone is fitted to the labelled images, for some seconds;
2. it is held, and the rest of the pair learns as if the classes that it draws were labels, so that a decoder which
   knows nothing of classes yet cannot spoil it;
3. the whole pair is trained, classes summed over.

In 2 and 3 each step sees 200 images without labels and 100 with, weighted so that the objective is the mean over all
images of the ELBO and of weight log q(c | x), weight = images / labels: the paper's alpha is the number of images, ten
times what it has. The last epoch counts; no other label is looked at. What the classifier reaches without unlabelled
images, with as many steps, is printed with --alone.

    python benchmarks/semi_supervised.py --root data            (add --download to fetch MNIST)
"""

import argparse
import itertools
import json
import math
import platform
import statistics
import time

import torch
from pyro.infer import TraceEnum_ELBO
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import CosineAnnealingLR

import pyro_vae as pv

BATCH, BESIDE = 200, 100  # images without and with labels to a step
WARM = 1250  # steps of the classifier alone
Labelled = tuple[Tensor, Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", default="data", help="where torchvision's MNIST lies")
    parser.add_argument("--download", action="store_true", help="fetch the files if they are not there")
    parser.add_argument("--labelled", type=int, default=100)
    parser.add_argument("--epochs", type=int, nargs=2, default=[3, 2], help="of the second and of the third part")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="each draws its own labels")
    parser.add_argument("--alone", action="store_true", help="train the classifier without unlabelled images too")
    arguments = parser.parse_args()
    found = [trained(seed, arguments) for seed in arguments.seeds]
    scores = [figures["accuracy"] for figures in found]
    spread = f" +- {statistics.stdev(scores):.4f}" if len(scores) > 1 else ""
    print(f"accuracy {statistics.fmean(scores):.4f}{spread}, {arguments.labelled} labels, {len(scores)} draws")


def trained(seed: int, arguments: argparse.Namespace) -> dict[str, float]:
    def load(part: str, **options: int) -> pv.data.Data:
        source = {"root": arguments.root, "download": arguments.download}
        return pv.data.load("mnist", part, binarise="dynamic", **source, **options)

    train, test = load("train", labelled=arguments.labelled, seed=seed), load("test")
    start = time.perf_counter()
    torch.manual_seed(seed)
    known = train.labels >= 0
    labelled = train.x[known], train.labels[known]
    pair = pv.m2(
        train.shape, latent=50, hidden=(500,), classifier=convolutions(), weight=len(train.x) / arguments.labelled
    )
    fit_classifier(pair, labelled, WARM)
    figures = {"seed": seed, "labels": arguments.labelled, "warm_start": accuracy(pair, test)}
    pair.guide.classifier.requires_grad_(False)
    fit(pair, train.x[~known], labelled, arguments.epochs[0], guessed=True)
    pair.guide.classifier.requires_grad_(True)
    fit(pair, train.x[~known], labelled, arguments.epochs[1], lr=4e-4)
    report = pv.evaluate(pair, test, particles=10)
    figures |= {"accuracy": report.accuracy, "minus_elbo": -report.elbo, "minutes": (time.perf_counter() - start) / 60}
    if arguments.alone:
        torch.manual_seed(seed)
        alone = pv.m2(train.shape, latent=50, hidden=(500,), classifier=convolutions())
        fit_classifier(alone, labelled, WARM + sum(arguments.epochs) * len(train.x) // BATCH)
        figures["classifier_alone"] = accuracy(alone, test)
    hardware = {"hardware": f"{platform.machine()} CPU, {torch.get_num_threads()} threads", "torch": torch.__version__}
    print(json.dumps(figures | hardware), flush=True)
    return figures


def convolutions() -> nn.Module:
    def stage(inside: int, outside: int) -> list[nn.Module]:
        return [nn.Conv2d(inside, outside, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)]

    head = [nn.Flatten(), nn.Dropout(0.5), nn.Linear(32 * 49, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, 10)]
    return nn.Sequential(*stage(1, 16), *stage(16, 32), *head)


def fit_classifier(pair: pv.Variant, labelled: Labelled, steps: int) -> None:
    """Maximise log q(c | x) of the labelled images."""
    optimizer = torch.optim.Adam(pair.guide.classifier.parameters(), lr=1e-3)
    schedule = CosineAnnealingLR(optimizer, 2 * steps)
    pair.train()
    for batch in itertools.islice(drawn(labelled), steps):
        loss = -pair.guide.classifier(batch["x"]).log_prob(batch["c"]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def fit(
    pair: pv.Variant, unlabelled: Tensor, labelled: Labelled, epochs: int, lr: float = 1e-3, *, guessed: bool = False
) -> None:
    """Maximise the mean over all images of the objective, classes summed over or ``guessed``."""
    loss = TraceEnum_ELBO(max_plate_nesting=1, strict_enumeration_warning=False)
    svi = pv.infer.SVI(*pair, lambda parameters: torch.optim.Adam(parameters, lr=lr, fused=True), loss)
    share = len(labelled[0]) / len(unlabelled) * BATCH / BESIDE
    schedule = CosineAnnealingLR(svi.optimizer, (1 + guessed) * epochs * math.ceil(len(unlabelled) / BATCH))
    beside = drawn(labelled)
    pair.train()
    pair.guide.classifier.train(not guessed)
    for epoch in range(epochs):
        total = 0.0
        for index in torch.randperm(len(unlabelled)).split(BATCH):
            batch = {"x": torch.bernoulli(unlabelled[index])}
            if guessed:
                batch["c"] = pair.guide.classifier(batch["x"]).sample()
            total += svi.step_together([(share, next(beside)), (1.0, batch)])
            schedule.step()
        print(f"epoch {epoch + 1}: minus objective {total / len(unlabelled):.2f}", flush=True)


def drawn(labelled: Labelled):
    """Labelled images, moved and drawn as black and white, again and again."""
    images, labels = labelled
    while True:
        index = torch.randint(len(images), (BESIDE,))
        yield {"x": torch.bernoulli(moved(images[index])), "c": labels[index]}


def moved(x: Tensor) -> Tensor:
    """Images under affine maps of their own: up to 12 degrees, 2 pixels, a tenth of scale and of shear."""

    def uniform(most: float) -> Tensor:
        return (2 * torch.rand(len(x)) - 1) * most

    angle, maps = uniform(math.radians(12)), torch.zeros(len(x), 2, 3)
    maps[:, 0, 0], maps[:, 0, 1] = angle.cos() * (1 + uniform(0.1)), -angle.sin() + uniform(0.1)
    maps[:, 1, 0], maps[:, 1, 1] = angle.sin(), angle.cos() * (1 + uniform(0.1))
    maps[:, :, 2] = torch.stack([uniform(2 / 14), uniform(2 / 14)], 1)
    return F.grid_sample(x, F.affine_grid(maps, list(x.shape), align_corners=False), align_corners=False).clamp(0, 1)


@torch.no_grad()
def accuracy(pair: pv.Variant, test: pv.data.Data) -> float:
    return float((pair.classify(pv.data.first(test)["x"]).argmax(-1) == test.labels).float().mean())


if __name__ == "__main__":
    main()
