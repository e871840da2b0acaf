"""What posteriors have in common, and what a recipe asks of one before it builds the encoder."""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae import checks
from pyro_vae.nets import FlattenBatch

LOG_SCALE_BOUND = 7.0


def bounded(s: Tensor, bound: float = LOG_SCALE_BOUND) -> Tensor:
    """Bound * tanh(s / bound): near s, and never outside [-bound, bound]."""
    return bound * torch.tanh(s / bound)


def bounded_scale(s: Tensor, bound: float = LOG_SCALE_BOUND) -> Tensor:
    """exp(7 tanh(s / 7)): near exp(s), and never outside [exp(-7), exp(7)], about 0.0009 to 1100; or another bound."""
    return torch.exp(bounded(s, bound))


def several(parameters: int, latent: tuple[int, ...]) -> tuple[int, ...]:
    """What a net gives for so many parameters of each unit, for a code in space as channels.

    >>> several(2, (4, 14, 14))
    (8, 14, 14)
    """
    return (parameters * latent[0], *latent[1:]) if latent else (parameters,)


def twice(latent: tuple[int, ...]) -> tuple[int, ...]:
    """What a net gives for loc and s of each unit."""
    return several(2, latent)


class Posterior(nn.Module):
    r"""An encoder, checked and made to take any number of batch dimensions.

    A class below takes ``(encoder, data_shape, latent, **settings)``; ``encoder_shape`` takes the same settings. The
    encoder gives as many parameters of each unit, (\*batch, parameters, \*latent).
    """

    def __init__(
        self,
        encoder: nn.Module,
        data_shape: Sequence[Sequence[int]] | Sequence[int] | int,
        latent: Sequence[int] | int,
        parameters: int = 2,
    ) -> None:
        super().__init__()
        inside = checks.inputs("data_shape", data_shape)
        self.latent = () if latent == () else checks.latent(latent)
        checks.net("encoder", encoder, inside, several(parameters, self.latent))
        self.encoder = FlattenBatch(encoder, inside, (parameters, *self.latent))

    @classmethod
    def encoder_shape(cls, latent: tuple[int, ...], **settings: Any) -> tuple[int, ...]:
        """The shape that an encoder must give: two parameters of each unit, if nothing else is said."""
        return twice(latent)

    def parameters_of(self, *x: Tensor) -> tuple[Tensor, ...]:
        r"""What the encoder says of each datum, parameter by parameter, (\*batch, \*latent) each."""
        return self.encoder(*x).unbind(-1 - len(self.latent))


def encoder_shape(posterior: Callable[..., Any], latent: Sequence[int] | int) -> tuple[int, ...]:
    r"""The shape that ``posterior`` wants of an encoder: (2 * latent[0], \*latent[1:]), if it does not say otherwise.

    Args:
        posterior: a class of ours, a ``functools.partial`` of one, or anything else that builds a posterior.
        latent: dimensions of the code, or its shape.

    Raises:
        ValueError: where a setting is out of range, or is missing.

    >>> encoder_shape(pv.posteriors.VonMisesFisher, 8)
    (9,)
    """
    settings = posterior.keywords if isinstance(posterior, functools.partial) else {}
    built = posterior.func if isinstance(posterior, functools.partial) else posterior
    shape = () if latent == () else checks.latent(latent)
    if not (inspect.isclass(built) and issubclass(built, Posterior)):
        return twice(shape)
    return built.encoder_shape(shape, **settings)
