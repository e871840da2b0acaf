"""Variational autoencoders as what the mathematics says they are: p(x, z) and q(z | x), two Pyro programs.

>>> import pyro_vae as pv
>>> pair = pv.vae((1, 8, 8), latent=2)
>>> run = pv.fit(pair, pv.data.load("digits", binarise="threshold"), epochs=1, progress=False)
>>> pair.sample(4).shape
torch.Size([4, 1, 8, 8])
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if not (Path(__file__).parent / "models").is_dir():  # a checkout: models/ and guides/ stand beside pyro_vae/
    __path__.append(str(Path(__file__).parent.parent))

if TYPE_CHECKING:
    from pyro_vae import (
        data,
        distributions,
        evaluation,
        guides,
        infer,
        likelihoods,
        models,
        nets,
        plot,
        posteriors,
        priors,
    )
    from pyro_vae.comparison import compare
    from pyro_vae.completing import automatic, completed
    from pyro_vae.evaluation import (
        aggregate_test,
        audit,
        collapse_report,
        disentanglement,
        evaluate,
        parzen_log_likelihood,
        sample_quality,
        train_classifier,
        weight_information,
        weights_report,
    )
    from pyro_vae.infer import FreeBits, temper
    from pyro_vae.posthoc import fit_prior
    from pyro_vae.pruning import prune
    from pyro_vae.recipes import (
        RECIPES,
        aae,
        beta_vae,
        cvae,
        dag_vae,
        discrete_vae,
        hvae,
        joint_vae,
        load,
        m2,
        vae,
        vae_gan,
        vq_vae,
    )
    from pyro_vae.story import Story
    from pyro_vae.train import fit
    from pyro_vae.variant import Variant

__version__ = "0.1.0"

_HOMES = {
    "comparison": ["compare"],
    "completing": ["automatic", "completed"],
    "evaluation": [
        "aggregate_test",
        "audit",
        "collapse_report",
        "disentanglement",
        "evaluate",
        "parzen_log_likelihood",
        "sample_quality",
        "train_classifier",
        "weight_information",
        "weights_report",
    ],
    "infer": ["FreeBits", "temper"],
    "posthoc": ["fit_prior"],
    "pruning": ["prune"],
    "recipes": [
        "RECIPES",
        "aae",
        "beta_vae",
        "cvae",
        "dag_vae",
        "discrete_vae",
        "hvae",
        "joint_vae",
        "load",
        "m2",
        "vae",
        "vae_gan",
        "vq_vae",
    ],
    "story": ["Story"],
    "train": ["fit"],
    "variant": ["Variant"],
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}
_ROOMS = [
    "data",
    "distributions",
    "evaluation",
    "guides",
    "infer",
    "likelihoods",
    "models",
    "nets",
    "plot",
    "posteriors",
    "priors",
]

__all__ = [
    "RECIPES",
    "FreeBits",
    "Story",
    "Variant",
    "aae",
    "aggregate_test",
    "audit",
    "automatic",
    "beta_vae",
    "collapse_report",
    "compare",
    "completed",
    "cvae",
    "dag_vae",
    "data",
    "discrete_vae",
    "disentanglement",
    "distributions",
    "evaluate",
    "evaluation",
    "fit",
    "fit_prior",
    "guides",
    "hvae",
    "infer",
    "joint_vae",
    "likelihoods",
    "load",
    "m2",
    "models",
    "nets",
    "parzen_log_likelihood",
    "plot",
    "posteriors",
    "priors",
    "prune",
    "sample_quality",
    "temper",
    "train_classifier",
    "vae",
    "vae_gan",
    "vq_vae",
    "weight_information",
    "weights_report",
]


def __getattr__(name: str) -> Any:
    # names are fetched when they are first used, so that `import pyro_vae` costs next to nothing
    if name in _ROOMS:
        return import_module(f"pyro_vae.{name}")
    if name in _HOME:
        return getattr(import_module(f"pyro_vae.{_HOME[name]}"), name)
    raise AttributeError(f"module 'pyro_vae' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
