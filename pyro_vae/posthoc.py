"""A prior fitted to the codes of a pair that is trained already."""

import copy
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

from pyro import poutine
from torch import nn

from pyro_vae import checks
from pyro_vae.data import first
from pyro_vae.guides import Amortised, SharedGuide
from pyro_vae.priors import Mixture, Vamp
from pyro_vae.recipes import RECIPES
from pyro_vae.tracing import filled, seeded
from pyro_vae.train import fit
from pyro_vae.variant import Variant

MOST = 10_000  # codes from which a prior takes its start


def fit_prior(
    variant: Variant, data: Any, prior: Any, *, lr: float = 1e-3, seed: int = 0, **fit_options: Any
) -> Variant:
    r"""maximise  mean_x E_{q(z | x)}[log p(z)]  over p(z) alone:   p(z) becomes q(z) = mean_x q(z | x)

    Two-stage sampling, or ex-post density estimation: the pair is copied, another prior takes the place of its own, and
    is trained while all else stays as it is. Of a bare pair this raises the ELBO by what is gained of KL(q(z) || p(z)).

    Args:
        variant: a trained pair of a recipe. It stays as it is.
        data: what :func:`pyro_vae.fit` takes; the training data.
        prior: what the recipe takes as ``prior``, at the top of a hierarchy and at the roots of a graph. A
            :class:`pyro_vae.priors.Mixture` starts at codes of the data, a :class:`pyro_vae.priors.Vamp` at data.
        lr: Adam's step size.
        seed: of the start, and of the training.
        fit_options: for :func:`pyro_vae.fit`, such as ``epochs``, ``validation``.

    Returns:
        The pair with its new prior, which samples, evaluates and saves like any other.

    Raises:
        ValueError: where the pair is no recipe's, or the posterior of the pair does not fit the new prior.

    Source: Dai & Wipf 2019, arXiv:1903.05789; Ghosh et al. 2020, arXiv:1903.12436.

    >>> x = pv.data.load("digits", binarise="threshold")
    >>> pair = pv.vae((1, 8, 8), latent=2)
    >>> run = pv.fit(pair, x, epochs=2, progress=False)
    >>> better = fit_prior(pair, x, pv.priors.Mixture, epochs=2, progress=False)
    >>> better.model.prior.components
    100
    """
    checks.instance("variant", variant, Variant)
    for name in ("objective", "temper"):
        if name in fit_options:
            raise ValueError(f"{name}: fit_prior maximises E_q[log p(z)], and nothing else")
    new, tops = _with(variant, prior, seed)
    _start(new, tops, data, seed)
    guide: Any = new.guide
    own = [guide.posteriors, getattr(guide.shared, "others", None)] if isinstance(guide, Amortised) else []
    before = _posteriors(variant.guide)
    own += [posterior for site, posterior in _posteriors(guide).items() if site not in before]
    moving: list[nn.Module] = [module for module in (*tops.values(), *own) if module is not None]
    if any(True for module in moving for _ in module.parameters()):
        with _resting(new, moving):
            fit(new, data, lr=lr, seed=seed, **fit_options)
    elif not any(isinstance(top, Vamp) for top in tops.values()):  # which may stand where it was put
        raise ValueError("prior: expected one with parameters, found none to fit")
    return new


@contextmanager
def _resting(pair: Variant, moving: list[nn.Module]) -> Iterator[None]:
    """All but some modules stay as they are: neither learn nor, in training, draw dropout or follow the batch."""
    trained = {id(p) for module in moving for p in module.parameters()}
    within = {id(module) for part in moving for module in part.modules()}
    frozen = [p for p in pair.parameters() if id(p) not in trained and p.requires_grad]
    still = [m for m in pair.modules() if id(m) not in within and not trained & {id(p) for p in m.parameters()}]
    handler, pair.handler = pair.handler, None  # a weight on the KL would only rescale what is maximised
    stepper, pair.stepper = pair.stepper, None  # the game was about the codes, which stand still now
    try:
        for parameter in frozen:
            parameter.requires_grad_(False)
        for module in still:
            module.eval()
            module.__dict__["train"] = partial(_as_it_is, module)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "(?s).*requires_grad=False", UserWarning)  # as it shall be
            yield
    finally:
        pair.handler, pair.stepper = handler, stepper
        for parameter in frozen:
            parameter.requires_grad_(True)
        for module in still:
            module.__dict__.pop("train", None)


def _as_it_is(module: nn.Module, mode: bool = True) -> nn.Module:
    return module


def _with(variant: Variant, prior: Any, seed: int) -> tuple[Variant, dict[str, nn.Module]]:
    """The pair with another prior and all else copied; and the sites that this stands behind."""
    if variant.recipe is None or variant.recipe.name not in RECIPES:
        raise ValueError("variant: expected a pair of a recipe, which can be built anew with another prior")
    arguments, tops = copy.deepcopy(variant.recipe.arguments), _tops(variant.model)
    before = arguments["prior"]
    if isinstance(before, Mapping):
        prior = {**before, **dict.fromkeys(tops, prior)}
    arguments["prior"] = (*before[:-1], prior) if isinstance(before, tuple) else prior
    with seeded(seed):
        new = RECIPES[variant.recipe.name](**arguments)
    like = next(variant.parameters())
    new.to(like.device, like.dtype)
    model, tops = cast(nn.Module, new.model), _tops(new.model)
    of_prior = {id(tensor) for top in tops.values() for tensor in top.state_dict(keep_vars=True).values()}
    kept = {name for name, tensor in model.state_dict(keep_vars=True).items() if id(tensor) not in of_prior}
    learned = cast(nn.Module, variant.model).state_dict()
    model.load_state_dict({name: learned[name] for name in kept}, strict=False)
    old_guide, guide = _inner(variant.guide), _inner(new.guide)
    kinds = [[type(module).__name__ for module in inner.modules()] for inner in (old_guide, guide)]
    if kinds[0] != kinds[1]:
        was, wanted = next((a, b) for a, b in zip(*kinds, strict=False) if a != b)
        raise ValueError(f"prior: the codes of this pair are drawn from {was}, and the prior is for those of {wanted}")
    guide.load_state_dict(old_guide.state_dict())
    learned_shared, shared = _posteriors(variant.guide), _posteriors(new.guide)
    for site in learned_shared.keys() & shared.keys():
        shared[site].load_state_dict(learned_shared[site].state_dict())
    return new, tops


def _posteriors(guide: Any) -> dict[str, nn.Module]:
    """What layers with random weights have learned, by site."""
    shared = getattr(guide, "shared", None)
    return shared.by_site if isinstance(shared, SharedGuide) else {}


def _tops(model: Any) -> dict[str, nn.Module]:
    """The sites that stand on no other code, and their priors: the code, the top level, the roots of a graph."""
    if hasattr(model, "parents"):
        parts = zip(model.parents.items(), model.parts, strict=True)
        return {site: part for (site, above), part in parts if not above}
    return {f"z{len(model.priors)}": model.priors[-1]} if hasattr(model, "priors") else {"z": model.prior}


def _inner(guide: Any) -> nn.Module:
    """The guide, short of what it draws for a prior."""
    return guide.guide if isinstance(guide, Amortised) else guide


def _start(new: Variant, tops: Mapping[str, nn.Module], data: Any, seed: int) -> None:
    """Let priors take their start, each from the codes of its own site, or from data."""
    if not any(isinstance(top, Mixture | Vamp) for top in tops.values()):
        return
    batch = new.prepare(first(data.drawn(seed) if hasattr(data, "drawn") else data, MOST, new))
    read_by_guide = filled(batch)
    with new._at_rest(seed):
        nodes: dict[str, Any] = dict(poutine.trace(new.guide).get_trace(**read_by_guide).nodes)
    for site, top in tops.items():
        if isinstance(top, Vamp):
            read = getattr(_inner(new.guide), "reads", {}).get(site, new.arguments)
            top.initialise(read_by_guide[read[0]], seed)
        elif isinstance(top, Mixture):
            top.initialise(nodes[site]["value"], seed)
