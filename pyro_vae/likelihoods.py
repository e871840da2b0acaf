"""Likelihoods: callables ``(z) -> distribution`` over a data site."""

from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae import checks
from pyro_vae.nets import FlattenBatch
from pyro_vae.posteriors import bounded_scale


class Bernoulli(nn.Module):
    r"""p(x | z) = prod_i Bernoulli(x_i; sigmoid(decoder(z)_i)),   x_i in {0, 1}

    Shapes: (\*batch, \*latent) -> batch (\*batch,), event data_shape.

    Args:
        decoder: a module from (batch, \*latent) to (batch, \*data_shape): the logits.
        latent: dimensions (or shape) of a code.
        data_shape: shape of one datum.

    Raises:
        ValueError: where the decoder's output does not fit; where data are scored that are not 0 or 1.

    >>> likelihood = Bernoulli(torch.nn.Linear(2, 9), 2, (3, 3))
    >>> likelihood(torch.zeros(5, 2)).event_shape
    torch.Size([3, 3])
    """

    def __init__(self, decoder: nn.Module, latent: Sequence[int] | int, data_shape: Sequence[int] | int) -> None:
        super().__init__()
        self.decoder = _decoder(decoder, latent, data_shape)

    def forward(self, z: Tensor) -> dist.Distribution:
        """The distribution of the data that ``z`` explains."""
        return BinaryBernoulli(logits=self.decoder(z)).to_event(len(self.decoder.outside))


class Normal(nn.Module):
    r"""p(x | z) = prod_i N(x_i; decoder(z)_i, scale^2)

    Shapes: (\*batch, \*latent) -> batch (\*batch,), event data_shape.

    Args:
        decoder: a module from (batch, \*latent) to (batch, \*data_shape): the means.
        latent: dimensions (or shape) of a code.
        data_shape: shape of one datum.
        scale: the standard deviation of the noise, fixed; or ``"learned"``: one parameter for all
            elements, starting at 1 and bounded as the posterior's.

    Raises:
        ValueError: where the decoder's output does not fit, or ``scale`` is not positive.

    Source: Kingma & Welling 2014, arXiv:1312.6114; the learned scale, Rybkin et al. 2021, arXiv:2006.13202.

    >>> likelihood = Normal(torch.nn.Linear(2, 9), 2, (3, 3), scale="learned")
    >>> likelihood(torch.zeros(5, 2)).event_shape
    torch.Size([3, 3])
    """

    def __init__(
        self,
        decoder: nn.Module,
        latent: Sequence[int] | int,
        data_shape: Sequence[int] | int,
        scale: float | str = 1.0,
    ) -> None:
        super().__init__()
        self.decoder = _decoder(decoder, latent, data_shape)
        if isinstance(scale, str):
            checks.known("scale", scale, ["learned"])
            self.log_scale = nn.Parameter(torch.zeros(()))
        else:
            checks.real("scale", scale, above=0)
        self.fixed_scale = scale

    @property
    def scale(self) -> Tensor | float:
        """The standard deviation of the noise."""
        return self.fixed_scale if isinstance(self.fixed_scale, float | int) else bounded_scale(self.log_scale)

    def forward(self, z: Tensor) -> dist.Distribution:
        """The distribution of the data that ``z`` explains."""
        return FiniteNormal(self.decoder(z), self.scale).to_event(len(self.decoder.outside))


class Advised:
    """A distribution that says what to do about data outside its support, wherever they are scored."""

    advice: str

    def _validate_sample(self, value: Tensor) -> None:
        checks.support(self, value)
        super()._validate_sample(value)  # type: ignore[misc]  # the shapes


class BinaryBernoulli(Advised, dist.Bernoulli):
    """Bernoulli whose error names the ways to make grey values binary."""

    advice = (
        "Bernoulli data are 0 or 1: binarise them (pv.data.load(..., binarise='dynamic', 'static' or 'threshold'), "
        "or x > 0.5), or choose another likelihood (pv.likelihoods.Normal)"
    )


class FiniteNormal(Advised, dist.Normal):
    """Normal whose error speaks of missing values."""

    advice = "Normal data are finite numbers: drop or fill in the missing values"


def _decoder(decoder: nn.Module, latent: Any, data_shape: Any) -> FlattenBatch:
    inside, outside = checks.shape("latent", latent), checks.shape("data_shape", data_shape)
    checks.net("decoder", decoder, inside, outside)
    return FlattenBatch(decoder, inside, outside)
