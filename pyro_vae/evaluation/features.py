"""A classifier of the data at hand, whose last hidden layer tells data and draws apart as eyes would."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pyro_vae import checks
from pyro_vae.data.moments import moments
from pyro_vae.evaluation.rows import Rows
from pyro_vae.nets import MLP, Conv
from pyro_vae.tracing import seeded, slices

FEWEST = 20  # data with a label, so that a tenth of them says something
CHUNK = 500  # data at a time where nothing is learned


class FeatureNet(nn.Module):
    r"""logits = W f(x) + b,   f(x) = relu(net((x - mean) / std))

    A classifier with its last hidden layer f in sight: strided convolutions for images (channels, height, width) from
    8 x 8 up, else an MLP. Made by :func:`train_classifier`; ``mean`` and ``std`` are those of its training data, and
    go with everything else into the state dict.

    Shapes: (n, \*data_shape) -> (n, classes);  ``features``: (n, \*data_shape) -> (n, width).

    Args:
        data_shape: shape of one datum.
        classes: how many there are.
        width: dimensions of f.

    Raises:
        ValueError: where a number is not positive, or x has another shape.

    >>> net = FeatureNet((1, 8, 8), classes=10)
    >>> net(torch.zeros(5, 1, 8, 8)).shape, net.features(torch.zeros(5, 1, 8, 8)).shape
    (torch.Size([5, 10]), torch.Size([5, 64]))
    """

    mean: Tensor
    std: Tensor
    right: Tensor

    def __init__(self, data_shape: Sequence[int] | int, classes: int, width: int = 64) -> None:
        super().__init__()
        self.data_shape = checks.shape("data_shape", data_shape)
        self.classes, self.width = checks.several("classes", classes), checks.positive_int("width", width)
        if image(self.data_shape) and min(self.data_shape[1:]) >= 8:
            stages = min(self.data_shape[1:]).bit_length() - 3  # as many as leave at least 4 x 4
            hidden = [min(32 * 2**i, 128) for i in range(stages)]
            self.net: nn.Module = Conv(self.data_shape, width, hidden=hidden, width=2 * width)
        else:
            self.net = MLP(self.data_shape, width, hidden=(256,))
        self.head = nn.Linear(width, classes)
        shape = (self.data_shape[0], 1, 1) if image(self.data_shape) else self.data_shape
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("std", torch.ones(shape))
        self.register_buffer("right", torch.tensor(float("nan")))

    @property
    def accuracy(self) -> float:
        """The share of the held-out data that it gets right; NaN before it is trained."""
        return float(self.right)

    def features(self, x: Tensor) -> Tensor:
        """The last hidden layer."""
        if tuple(x.shape[1:]) != self.data_shape:
            wanted = ", ".join(map(str, self.data_shape))
            raise ValueError(f"x: expected (n, {wanted}), found {tuple(x.shape)}")
        return self.net((x.to(self.mean) - self.mean) / self.std).relu()

    def forward(self, x: Tensor) -> Tensor:
        """The logits of the classes."""
        return self.head(self.features(x))


def train_classifier(
    data: Any,
    labels: Any = None,
    *,
    steps: int = 1000,
    batch_size: int = 128,
    lr: float = 2e-3,
    width: int = 64,
    seed: int = 0,
) -> FeatureNet:
    r"""min over weights of -E log softmax(W f(x) + b)_label

    A small classifier of a data set, whose features :func:`sample_quality` measures in: seconds on 8 x 8 digits, less
    than a minute on MNIST. A tenth of the data is held out, and the share of it that is right is the classifier's
    ``accuracy``; it should be well above chance before its features are trusted. Data are divided and binarised batch
    by batch, as they are when a pair is trained. The same seed gives the same net, and the caller's random generators
    stay as they were.

    Args:
        data: data in memory: a :class:`pyro_vae.data.Data`, an array, a tensor, or a mapping with a site x.
        labels: (n,) whole numbers from 0, by default those that the data bring; data whose label is negative are left
            out.
        steps: how many batches are seen, whatever the number of data.
        lr: the rate of Adam at first, from which it falls to 0 along half a cosine.
        width: dimensions of the features.

    Raises:
        ValueError, TypeError: where there are no labels, or fewer than 20, or of one class only; where data are NaN.

    >>> net = train_classifier(pv.data.load("digits"), steps=100)
    >>> net.accuracy > 0.8, net.training
    (True, False)
    """
    for name, number in (("steps", steps), ("batch_size", batch_size), ("width", width)):
        checks.positive_int(name, number)
    checks.real("lr", lr, above=0)
    rows = Rows(data, labels)
    if rows.labels is None:
        raise ValueError("labels: missing; the data bring none, pass one whole number for each datum")
    told, classes = (rows.labels >= 0).nonzero()[:, 0], int(rows.labels.max()) + 1
    if len(told) < FEWEST or len(rows.labels[told].unique()) < 2:
        found = len(rows.labels[told].unique())
        raise ValueError(f"labels: expected {FEWEST} or more, of 2 classes or more, found {len(told)} of {found}")
    with seeded(seed), torch.enable_grad():
        order = told[torch.randperm(len(told))]
        held, learned = order[: len(order) // 10], order[len(order) // 10 :]
        net = FeatureNet(rows.take(order[:1])[rows.site].shape[1:], classes, width)
        parts = [learned[part] for part in slices(len(learned), CHUNK)][:40]  # enough to know the scale of the data
        _fill(net, moments(rows.take(part)[rows.site] for part in parts))
        optimiser = torch.optim.Adam(net.parameters(), lr)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        queue = learned[:0]
        for _ in range(steps):
            if not len(queue):
                queue = learned[torch.randperm(len(learned))]
            index, queue = queue[:batch_size], queue[batch_size:]
            loss = cross_entropy(net(rows.take(index)[rows.site]), rows.labels[index])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
        net.eval()
        with torch.no_grad():
            parts = [held[part] for part in slices(len(held), CHUNK)]
            right = sum(int((net(rows.take(p)[rows.site]).argmax(-1) == rows.labels[p]).sum()) for p in parts)
            net.right.fill_(right / len(held))
    return net


def image(shape: tuple[int, ...]) -> bool:
    """Whether data of a shape are images: (channels, height, width)."""
    return len(shape) == 3


def _fill(net: FeatureNet, found: dict[str, Any]) -> None:
    net.mean.copy_(torch.tensor(found["mean"]))
    net.std.copy_(torch.tensor(found["std"]))
