"""VAE-GAN: images that are compared by what a discriminator sees in them."""

from collections.abc import Callable, Mapping
from typing import Any

import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer.util import is_validation_enabled
from pyro.optim import PyroOptim
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.nn.functional import softplus

from pyro_vae import checks
from pyro_vae.infer.adversarial import Adversarial, Round, still
from pyro_vae.infer.svi import Optimiser
from pyro_vae.nets import Discriminator
from pyro_vae.tracing import Site


class perceived(Messenger):  # named as Pyro names its handlers
    r"""p(f(x) | z) = N(f(x); f(E[x | z]), scale^2 I) in place of p(x | z)

    An effect handler for a model: where it observes data, what is scored are features f of them, under a normal around
    those of the likelihood's mean. That is no density of x: the site is called ``features of x``.

    Args:
        features: f, from data (batch, \*data_shape) to (batch, ...).
        site: the observed site.
        scale: of the features.

    Raises:
        ValueError: where ``scale`` is not greater than 0; on leaving a model that observes no such site.

    Source: Larsen et al. 2016, arXiv:1512.09300, equation 7.

    >>> pair = pv.vae(9, latent=2)
    >>> with perceived(torch.sin):
    ...     trace = pyro.poutine.trace(pair.model).get_trace(x=torch.ones(5, 9))
    >>> trace.observation_nodes
    ['features of x']
    """

    def __init__(self, features: Callable[[Tensor], Tensor], site: str = "x", scale: float = 1.0) -> None:
        super().__init__()
        self.features, self.site, self.scale = features, site, checks.real("scale", scale, above=0)

    def __enter__(self) -> "perceived":
        self._met = False
        return super().__enter__()

    def __exit__(self, kind: Any, value: Any, traceback: Any) -> None:
        super().__exit__(kind, value, traceback)
        if kind is None and not self._met:
            raise ValueError(f"perceived: the model observes no site {self.site!r}")

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] != self.site or not msg["is_observed"]:
            return
        self._met = True
        if is_validation_enabled() and msg["value"].isnan().any():
            raise ValueError(f"{self.site}: holds NaN; features are of whole data, of which nothing is hidden")
        # in one call, of a net that may normalise or drop out
        both = torch.cat([msg["value"].detach(), msg["fn"].mean])
        seen, told = self.features(both).flatten(1).split(len(msg["value"]))
        msg["name"], msg["value"] = f"features of {self.site}", seen.detach()
        msg["fn"] = dist.Normal(told, self.scale).to_event(1)


def check_features(discriminator: nn.Module) -> None:
    """Raise where a discriminator does not tell what it sees."""
    if not callable(getattr(discriminator, "features", None)):
        raise ValueError("discriminator: expected a method `features`, as of pv.nets.Discriminator, found none")


class VAEGAN(Adversarial):
    r"""E_q[log p(f(x) | z)] - KL(q(z | x) || p(z)) - weight (E_q + E_p)[log(1 + exp T(x'))],   x' = E[x | z]

    Reconstruction is measured in features f of a discriminator T, p(f(x) | z) = N(f(x); f(x'), scale^2 I). T tells
    images x' of the decoder, at codes of data and at codes of the prior, from the data; the decoder learns to make
    images that T takes for data. The last term moves the decoder alone. log p(f(x) | z) is no log p(x | z): what
    metrics report is that of the model's own likelihood, for which nothing here trains.

    Args:
        model, guide, optim, clip, discriminator_optim, discriminator_lr, penalty: as those of :class:`Adversarial`.
        discriminator: a module from (batch, \*data_shape) to (batch, 1), with a method ``features``; by default a
            :class:`pyro_vae.nets.Discriminator` with spectral normalisation.
        weight: of the adversarial term, in nats per image.
        scale: of the features; the smaller, the more reconstructions count.
        site: of the images.

    Raises:
        ValueError: where the discriminator has no ``features``, or does not fit the images.

    Source: Larsen et al. 2016, arXiv:1512.09300.

    >>> pair, x = pv.vae((1, 8, 8), latent=2, likelihood=pv.likelihoods.Normal), pv.data.load("digits")
    >>> run = pv.fit(pair, x, objective=VAEGAN, epochs=1, progress=False)
    """

    betas = (0.5, 0.999)

    def __init__(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        optim: Optimiser | PyroOptim,
        discriminator: nn.Module | None = None,
        *,
        weight: float = 5.0,
        scale: float = 0.5,
        site: str = "x",
        discriminator_optim: Optimiser | None = None,
        discriminator_lr: float = 4e-4,
        penalty: float = 0.0,
        clip: float | None = None,
    ) -> None:
        self.scale, self.site = checks.real("scale", scale, above=0), site
        super().__init__(
            model,
            guide,
            optim,
            discriminator,
            weight=weight,
            discriminator_optim=discriminator_optim,
            discriminator_lr=discriminator_lr,
            penalty=penalty,
            clip=clip,
        )

    def _usual(self, shape: tuple[int, ...]) -> nn.Module:
        return Discriminator(shape, spectral=True)

    def _seat(self, discriminator: nn.Module) -> None:
        super()._seat(discriminator)
        check_features(discriminator)

    def play(self, batch: Mapping[str, Tensor]) -> Round:
        """The features of the batch from its codes, and the decoder's images beside the batch."""
        if self.site not in batch:
            raise ValueError(f"site: expected one of the batch, {sorted(batch)}, found {self.site!r}")
        data = batch[self.site]
        self.ready(data)
        with still(self.discriminator):
            seen = perceived(self.discriminator.features, self.site, self.scale)
            draws = self.loss.draws(seen(self.model), self.guide, **batch)
        images = torch.cat([self._images(batch, codes, draws.shared) for codes in (draws.sites, draws.dreamt)])
        fooled = softplus(self.tell(images)).sum()
        return Round(self.loss.without_penalty(draws, self.kl) + self.weight * fooled, images, data)

    def _images(self, batch: Mapping[str, Tensor], drawn: Mapping[str, Site], shared: dict[str, Tensor]) -> Tensor:
        """E[x | z] at the codes that some sites hold, which learn nothing from them."""
        held = shared | {name: site["value"].detach() for name, site in drawn.items()}
        site: Any = poutine.trace(poutine.condition(self.model, data=held)).get_trace(**batch).nodes[self.site]
        return site["fn"].mean
