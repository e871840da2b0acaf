"""What likelihoods have in common, and what a recipe asks of one before it builds the networks."""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from pyro_vae import checks
from pyro_vae.nets import FlattenBatch
from pyro_vae.nets.features import Features


class Likelihood(nn.Module):
    """A decoder, checked and made to take any number of batch dimensions, and the answers to a recipe's questions.

    A class below takes ``(decoder, latent, data_shape, **settings)``; its class methods take the same settings. Of a
    decoder that reads a code and a condition, ``latent`` is a sequence of both shapes.
    """

    def __init__(
        self,
        decoder: nn.Module,
        latent: Sequence[Sequence[int]] | Sequence[int] | int,
        data_shape: Sequence[int] | int,
        gives: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__()
        inside, self.data_shape = checks.inputs("latent", latent), checks.shape("data_shape", data_shape)
        checks.net("decoder", decoder, inside, gives or self.data_shape)
        self.decoder = FlattenBatch(decoder, inside, gives or self.data_shape)

    @classmethod
    def decoder_shape(cls, data_shape: tuple[int, ...], *_: Any, **settings: Any) -> tuple[int, ...]:
        """The shape that a decoder must give: one parameter per element, if nothing else is said."""
        return data_shape

    @classmethod
    def features(cls, data_shape: tuple[int, ...], *_: Any, **settings: Any) -> Features | None:
        """What stands before the encoder; None where data are read as they are.

        A new one each time: model and guide share no modules.
        """
        return None


def several(parameters: int, data_shape: tuple[int, ...]) -> tuple[int, ...]:
    """That many parameters per element, as channels, so that a convolution gives them for an image."""
    return (parameters * data_shape[0], *data_shape[1:])


def decoder_shape(likelihood: Callable[..., Any], data_shape: Sequence[int] | int) -> tuple[int, ...]:
    r"""The shape that ``likelihood`` wants of a decoder: data_shape, if it does not say otherwise.

    Where it takes k parameters per element this is (k * data_shape[0], \*data_shape[1:]), which is read as
    (k, \*data_shape).

    Args:
        likelihood: a class of ours, a ``functools.partial`` of one, or anything else that builds a likelihood.
        data_shape: shape of one datum.

    Raises:
        TypeError: where a setting that the likelihood cannot do without is missing.
        ValueError: where a setting is out of range.

    >>> decoder_shape(functools.partial(pv.likelihoods.Categorical, classes=5), (3, 8, 8))
    (15, 8, 8)
    """
    data_shape = checks.shape("data_shape", data_shape)
    return _asked("decoder_shape", likelihood, data_shape) or data_shape


def features(likelihood: Callable[..., Any], data_shape: Sequence[int] | int) -> Features | None:
    """How an encoder reads the data of ``likelihood``: a net with the shape ``outside``, or None for as they are.

    Takes and raises what :func:`decoder_shape` does.

    >>> features(pv.likelihoods.Poisson, (3, 8, 8))
    Log1p()
    """
    return _asked("features", likelihood, checks.shape("data_shape", data_shape))


def _asked(question: str, likelihood: Callable[..., Any], data_shape: tuple[int, ...]) -> Any:
    """A likelihood's answer, given its settings; None where it has none."""
    settings = likelihood.keywords if isinstance(likelihood, functools.partial) else {}
    built = likelihood.func if isinstance(likelihood, functools.partial) else likelihood
    if not (inspect.isclass(built) and issubclass(built, Likelihood)):
        return None
    needed = [p.name for p in inspect.signature(built).parameters.values() if p.default is p.empty][3:]
    missing = [name for name in needed if name not in settings]
    if missing:
        raise TypeError(
            f"likelihood: {built.__name__} needs {', '.join(missing)}; "
            f"pass functools.partial({built.__name__}, {'=..., '.join(missing)}=...)"
        )
    return getattr(built, question)(data_shape, **settings)
