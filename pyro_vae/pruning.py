"""Smaller nets: the units that random weights have closed are taken away."""

import copy
import logging
from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae import saving
from pyro_vae.evaluation import weights_report
from pyro_vae.evaluation.weights import variational
from pyro_vae.guides import SharedGuide
from pyro_vae.nets import VariationalConv2d, VariationalMLP
from pyro_vae.nets.variational import Variational
from pyro_vae.recipes import RECIPES
from pyro_vae.variant import Variant

log = logging.getLogger("pyro_vae")

Plain = nn.Linear | nn.Conv2d
# what may stand between a unit and the weights that leave it: each unit goes its own way
UNITWISE = (
    *(nn.ReLU, nn.LeakyReLU, nn.ELU, nn.SELU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.Softplus, nn.Hardtanh),
    *(nn.Identity, nn.Dropout, nn.Upsample, nn.MaxPool2d, nn.AvgPool2d),
)


def prune(variant: Variant, threshold: float | None = None, draws: int = 64, seed: int = 0) -> Variant:
    r"""y = sum_{i kept} W_:i h_i + b,   which is all but the whole sum where the weights of the others are all but 0

    A copy of the pair in whose networks the units are gone that :func:`pyro_vae.weights_report` counts as not
    remaining: the weights that leave them, and those of the layer before that lead to them. A unit can go where
    that layer, plain or random, stands in the same :class:`torch.nn.Sequential` with nothing between that mixes units;
    what a whole network is given, such as codes and pixels, stays. How many went is logged to ``pyro_vae`` at level
    INFO.

    Args:
        variant: the pair; it stays as it is.
        threshold, draws, seed: as for :func:`pyro_vae.weights_report`.

    Returns:
        The smaller pair. One whose random nets were asked for as ``encoder=`` or ``decoder=``, such as
        :class:`pyro_vae.nets.VariationalMLP` with its hidden layers, is saved and loaded like any other; any other is
        read back into a pair of its shape, ``pv.load(folder, into=...)``.

    Raises:
        ValueError: where the pair has no random weights, no unit that could go, or an automatic guide over its weights,
            whose numbers cannot be taken apart.

    Source: Louizos, Ullrich & Welling 2017, arXiv:1705.08665.

    >>> decoder = pv.nets.VariationalMLP(2, 9, hidden=(30,), family="horseshoe")
    >>> pair = pv.vae(9, latent=2, decoder=decoder)
    >>> largest = weights_report(pair)["likelihood.decoder.net.3"].size.max()
    >>> prune(pair, threshold=0.999 * float(largest)).model.likelihood.decoder.net[3].extra_repr()
    "1, 9, family='horseshoe', scale=None"
    """
    report = weights_report(variant, threshold, draws, seed)
    small = copy.deepcopy(variant)
    before = {id(second): first for first, second in _joints(small)}
    names = {name: layer for name, layer in variational(small) if id(layer) in before}
    if not names:
        raise ValueError("variant: no layer with random weights follows another, so that no unit can be taken away")
    posteriors = _posteriors(small)
    for name, layer in names.items():
        kept = report[name].kept.nonzero().squeeze(-1)
        log.info("%s: %d of %d units remain", name, len(kept), report[name].units)
        _shrink(layer, name, posteriors, 1, kept)
        first = before[id(layer)]
        path = next((n for n, other in variational(small) if other is first), "")
        _shrink(first, path, posteriors, 0, kept)
    small.recipe = _recipe(small)
    return small


def _joints(variant: Variant) -> list[tuple[nn.Module, Variational]]:
    """Layers with random weights, each with the layer before it that gives its units; each stands in one place."""
    found = []
    places = Counter(id(module) for _, module in variant.named_modules(remove_duplicate=False))
    for sequence in variant.modules():
        if not isinstance(sequence, nn.Sequential) or type(sequence).forward is not nn.Sequential.forward:
            continue
        last: nn.Module | None = None
        for module in sequence:
            alone = last is not None and places[id(last)] == places[id(module)] == 1
            if isinstance(module, Variational) and last is not None and alone and _gives_units(last, module):
                found.append((last, module))
            if isinstance(module, Plain | Variational):
                last = module
            elif not isinstance(module, UNITWISE):
                last = None
    return found


def _gives_units(first: nn.Module, second: Variational) -> bool:
    """Whether the units that come into a layer are those that go out of the one before."""
    conv = isinstance(second, VariationalConv2d)
    if isinstance(first, Variational):
        return isinstance(first, VariationalConv2d) == conv
    plain = type(first) is (nn.Conv2d if conv else nn.Linear) and "weight" in first._parameters
    return plain and getattr(first, "groups", 1) == 1


def _posteriors(variant: Variant) -> Mapping[str, Any]:
    shared: Any = getattr(variant.guide, "shared", None)
    if not isinstance(shared, SharedGuide):
        raise ValueError("variant: an automatic guide draws its weights, and its numbers cannot be taken apart")
    return shared.by_site


def _shrink(layer: nn.Module, name: str, posteriors: Mapping[str, Any], dim: int, kept: Tensor) -> None:
    """Keep some of the units that go out of a layer (``dim`` 0), or come into it (1)."""
    if isinstance(layer, Variational):
        layer.shape = tuple(len(kept) if d == dim else size for d, size in enumerate(layer.shape))
        parts = ("bias", "weight") if dim == 0 else ("local_scale", "weight")
        for part in [part for part in parts if part in layer.priors]:
            pair: Any = layer.priors[part], posteriors[f"{name}.{part}"]
            for weights in pair:
                weights.keep(dim if part == "weight" else 0, kept)
        return
    for part in ("weight", "bias"):
        value = getattr(layer, part)
        if value is not None:
            setattr(layer, part, nn.Parameter(value.detach().index_select(0, kept.to(value.device))))
    setattr(layer, "out_features" if isinstance(layer, nn.Linear) else "out_channels", len(kept))


def _recipe(small: Variant) -> saving.Built | None:
    """How the smaller pair is built: as the larger was, with fewer hidden units; None where that is not all."""
    if small.recipe is None:
        return None
    arguments = dict(small.recipe.arguments)
    programs: dict[str, Any] = {"decoder": small.model, "encoder": small.guide}
    for role, program in programs.items():
        builder = arguments.get(role)
        told = builder.keywords if isinstance(builder, partial) else {}
        if getattr(builder, "func", builder) is VariationalMLP:
            net = next(module for module in program.modules() if isinstance(module, VariationalMLP))
            *hidden, _ = (module.shape[0] for module in net if isinstance(module, Variational))
            arguments[role] = partial(VariationalMLP, **{**told, "hidden": tuple(hidden)})
    with torch.random.fork_rng(devices=[]):
        try:
            built = RECIPES[small.recipe.name](**copy.deepcopy(arguments))
        except (TypeError, ValueError):
            return None
    same = {k: v.shape for k, v in built.state_dict().items()} == {k: v.shape for k, v in small.state_dict().items()}
    return saving.Built(small.recipe.name, arguments) if same else None
