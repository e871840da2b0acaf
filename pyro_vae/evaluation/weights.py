"""The report of random weights: what each layer costs, and which of its units it still uses."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pyro_vae import checks, describe, tracing
from pyro_vae.infer import shared_kl
from pyro_vae.nets.variational import Variational
from pyro_vae.story import Random
from pyro_vae.variant import Variant

SMALL = 0.1  # of the root mean square of all sizes: below it a unit is one that the layer does not use


@dataclass(frozen=True, eq=False)
class Layer:
    """One layer with random weights; ``kl`` in nats, once for all data, None under a guide of all layers together.

    ``size``, (units,), is the root of the mean E_q[W_ji^2] over the weights that leave unit i; ``remaining`` counts the
    units whose size is above ``threshold``.
    """

    name: str
    family: str
    kl: float | None
    size: Tensor
    threshold: float

    @property
    def kept(self) -> Tensor:
        """Which units remain, (units,); one of them always does."""
        kept = self.size > self.threshold
        return kept if kept.any() else self.size == self.size.max()

    @property
    def units(self) -> int:
        """How many units come into the layer."""
        return len(self.size)

    @property
    def remaining(self) -> int:
        """How many of them it still uses."""
        return int(self.kept.sum())


@dataclass(frozen=True, eq=False)
class WeightsReport:
    """What :func:`weights_report` found; prints as a table. ``report["likelihood.decoder.net.3"]`` is a layer.

    ``kl`` is of all that data share, in nats, once for all of them.
    """

    layers: tuple[Layer, ...]
    kl: float

    def __getitem__(self, name: str) -> Layer:
        found = {layer.name: layer for layer in self.layers}
        return found[checks.known("name", name, found)]

    def __str__(self) -> str:
        rows = [
            (
                a.name,
                a.family,
                f"{a.remaining} of {a.units}",
                f"{a.threshold:.3g}",
                "-" if a.kl is None else f"{a.kl:.1f}",
            )
            for a in self.layers
        ]
        return "\n".join(describe.table(("layer", "family", "units remaining", "threshold", "KL, nats"), rows))


def weights_report(variant: Variant, threshold: float | None = None, draws: int = 64, seed: int = 0) -> WeightsReport:
    r"""size_i = sqrt(mean_j E_q[W_ji^2]) of each unit i that comes into a layer with random weights

    What a unit adds to the next layer is at most its activity times the weights that leave it. A horseshoe closes the
    scale of a unit that is of no use, and then all of these are next to nothing: such units can be taken away, by
    :func:`pyro_vae.prune`.

    Args:
        variant: the pair.
        threshold: the size above which a unit remains; by default a tenth of the root
            mean square of the layer's sizes.
        draws: of the weights, from which sizes are found.
        seed: of these draws.

    Units: KLs in nats, for all data together; sizes are those of weights.

    Raises:
        ValueError: where the pair has no layers with random weights, or an argument is out of range.

    Source: Louizos, Ullrich & Welling 2017, arXiv:1705.08665.

    >>> decoder = pv.nets.VariationalMLP(2, 9, hidden=(30,), family="horseshoe")
    >>> report = weights_report(pv.vae(9, latent=2, decoder=decoder))
    >>> [(layer.name, layer.units) for layer in report.layers]
    [('likelihood.decoder.net.1', 2), ('likelihood.decoder.net.3', 30)]
    """
    checks.instance("variant", variant, Variant)
    checks.positive_int("draws", draws)
    if threshold is not None:
        checks.real("threshold", threshold, above=0)
    layers = dict(variational(variant))
    if not layers:
        raise ValueError("variant: has no layers with random weights, such as pv.nets.VariationalLinear")
    kl = shared_kl(variant, draws, seed)
    squares: dict[str, Any] = dict.fromkeys(layers, 0.0)
    with variant._at_rest(seed):
        for _ in range(draws):
            values = drawn(variant)
            for name, layer in layers.items():
                own = {part: values[f"{name}.{part}"] for part in ("weight", *layer.scales)}
                weight = layer.multiplied(own)
                over = [d for d in range(weight.dim()) if d != 1]
                squares[name] = squares[name] + weight.square().mean(over) / draws
    found = []
    apart = all("." in site for site in kl)  # a guide over all layers together draws one site that is of none
    for name, layer in layers.items():
        size = squares[name].sqrt().cpu()
        least = SMALL * float(size.square().mean().sqrt()) if threshold is None else threshold
        own_kl = sum(nats for site, nats in kl.items() if site.rpartition(".")[0] == name) if apart else None
        found.append(Layer(name, layer.family, own_kl, size, least))
    return WeightsReport(tuple(found), sum(kl.values()))


def variational(variant: Variant) -> Iterator[tuple[str, Variational]]:
    """The layers of a pair that have random weights, by the names that their sites begin with."""
    randoms: tuple[Random, ...] = getattr(variant.guide, "randoms", ())
    for random in randoms:
        if isinstance(random.module, Variational) and random.name == "weight":
            yield random.site.removesuffix(".weight"), random.module


def drawn(variant: Variant) -> Mapping[str, Tensor]:
    """One draw of what all data share, by site."""
    return {name: site["value"] for name, site in tracing.shared_sites(variant.draw_shared()).items()}
