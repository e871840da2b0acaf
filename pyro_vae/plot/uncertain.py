"""Pictures of random weights: which units they use, and on which data they disagree."""

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from pyro_vae.checks import instance, positive_int
from pyro_vae.evaluation import WeightsReport, weight_information
from pyro_vae.plot.pictures import _batch, _images, _tiled
from pyro_vae.variant import Variant


def weights(report: WeightsReport) -> Figure:
    """The size of each unit that comes into a layer with random weights, the largest first, on a logarithmic scale.

    Units above the line remain, those below are grey: :func:`pyro_vae.prune` takes them away.

    Raises:
        TypeError: where it is no report.

    >>> decoder = pv.nets.VariationalMLP(2, 9, hidden=(30,), family="horseshoe")
    >>> plt.close(weights(pv.weights_report(pv.vae(9, latent=2, decoder=decoder))))
    """
    instance("report", report, WeightsReport)
    count = len(report.layers)
    figure, axes = plt.subplots(
        1, count, figsize=(1 + 2.8 * count, 2.6), squeeze=False, sharey=True, layout="constrained"
    )
    for ax, layer in zip(axes[0], report.layers, strict=True):
        order = layer.size.argsort(descending=True)
        place = np.arange(layer.units)
        kept = layer.kept[order].numpy()
        for colour, part in (("C0", kept), ("0.7", ~kept)):
            ax.plot(place[part], layer.size[order].numpy()[part], ".", color=colour, markersize=4)
        ax.axhline(layer.threshold, color="0.4", linewidth=0.8)
        ax.set_yscale("log")
        ax.set_title(f"{layer.name}, {layer.family}\n{layer.remaining} of {layer.units} units remain", fontsize="small")
        ax.set_xlabel("unit")
    axes[0][0].set_ylabel("root of E[W²]")
    return figure


def unlike(variant: Variant, data: Mapping[str, Any], n: int = 8, *, particles: int = 50, seed: int = 0) -> Figure:
    """What each datum would tell of the weights, in nats, by kind of data, and some of each kind.

    A kind on which draws of the weights disagree lies to the right: data unlike those that trained the pair.

    Args:
        variant: a pair with sites that all data share.
        data: the kinds by name, each as :func:`pyro_vae.fit` takes it; those of the first are the ones it knows.
        n: examples of each.
        particles, seed: as for :func:`pyro_vae.weight_information`.

    Raises:
        ValueError: where there is no kind; where the pair draws nothing that all data share.

    >>> pair = pv.vae((1, 8, 8), latent=2, decoder=pv.nets.VariationalMLP(2, (1, 8, 8), hidden=(30,)))
    >>> x = pv.data.load("digits", "test", binarise="threshold").x[:50]
    >>> plt.close(unlike(pair, {"digits": x, "turned": x.rot90(1, (2, 3))}, particles=5))
    """
    positive_int("n", n)
    if not data:
        raise ValueError("data: empty; expected kinds of data by name, such as {'test digits': x}")
    batches = {name: _batch(variant, some) for name, some in data.items()}
    found = {
        name: weight_information(variant, particles=particles, seed=seed, **batch) for name, batch in batches.items()
    }
    figure, (above, below) = plt.subplots(
        2, 1, figsize=(6.4, 2.6 + 0.62 * len(data)), height_ratios=(2.6, 0.62 * len(data)), layout="constrained"
    )
    edges = np.linspace(0, float(np.log(particles)), 50)
    for i, (name, nats) in enumerate(found.items()):
        above.hist(nats.cpu().numpy(), edges, density=True, alpha=0.55, color=f"C{i}", label=name)
    above.set(xlabel=f"nats that a datum tells of the weights, at most log {particles}", yticks=[])
    above.spines[["left", "right", "top"]].set_visible(False)
    above.legend(frameon=False)
    examples = [_images(variant, _spread(batch, n), 1)[1] for batch in batches.values()]
    _tiled(np.stack(examples), below, ("", dict(enumerate(batches))))
    return figure


def _spread(batch: Mapping[str, Any], n: int) -> dict[str, Any]:
    """Some of the data from all over, as files may be sorted."""
    size = len(next(iter(batch.values())))
    return {name: value[[i * size // n for i in range(n)]] for name, value in batch.items()}
