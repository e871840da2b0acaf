"""What a map of codes is built of: a codebook, nets between images and maps, and the prior of the codes."""

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import nn

from pyro_vae import checks, likelihoods
from pyro_vae.building import Net
from pyro_vae.latents import built_prior
from pyro_vae.nets import Codebook, FlattenBatch
from pyro_vae.nets.conv import halvings

SMALL = 16  # an image with a smaller side is halved once, others twice


class MapParts:
    """The parts of a pair whose codes are numbers of entries of a codebook, one for each place of a map."""

    def __init__(
        self,
        data_shape: Sequence[int],
        codebook: int,
        width: int,
        decay: float,
        likelihood: Callable[..., Any],
        net: Net,
        hidden: Sequence[int] | None,
        encoder: nn.Module | Net | None,
        decoder: nn.Module | Net | None,
    ) -> None:
        self.data_shape = shape = checks.shape("data_shape", data_shape)
        if len(shape) != 3 or min(shape[1:]) < 4:
            raise ValueError(f"data_shape: expected images (channels, height, width), of at least 4 x 4, found {shape}")
        checks.positive_int("width", width)
        for name, part in {"likelihood": likelihood, "net": net}.items():
            checks.built_by(name, part)
        few = (32,) if min(shape[1:]) < SMALL else (64, 64)
        self._hidden = few if hidden is None else checks.shape("hidden", hidden)
        self._likelihood, self._net, self._decoder, self._width = likelihood, net, decoder, width
        read = likelihoods.features(likelihood, shape)
        if isinstance(encoder, nn.Module):
            size = self._measured(encoder)
        else:
            size = halvings(shape[1:], len(self._hidden))[-1]
            inside = read.outside if read is not None else shape
            encoder = (encoder or net)(inside, (width, *size), hidden=self._hidden)
            encoder = encoder if read is None else nn.Sequential(read, encoder)
        checks.net("encoder", encoder, [shape], (width, *size))
        self.encoder = FlattenBatch(encoder, shape, (width, *size))
        self.codebook = Codebook(codebook, width, size, decay)
        self.latent = (math.prod(size), codebook)

    def _measured(self, encoder: nn.Module) -> tuple[int, ...]:
        """The size of the map that an encoder of the user's gives."""
        like = next(encoder.parameters(), torch.zeros(()))
        try:
            with torch.no_grad():
                found = tuple(encoder(*checks.zeros(like, [self.data_shape], 2)).shape)
        except Exception as error:  # whatever a net of the user's may raise
            raise ValueError(f"encoder: fails on an input of shape {(2, *self.data_shape)}: {error}") from error
        if len(found) != 4 or found[:2] != (2, self._width):
            raise ValueError(f"encoder: expected (batch, {self._width}, height, width), found {found} for a batch of 2")
        return found[2:]

    @cached_property
    def likelihood(self) -> nn.Module:
        """p(x | e(z))."""
        outside, decoder = likelihoods.decoder_shape(self._likelihood, self.data_shape), self._decoder
        if not isinstance(decoder, nn.Module):
            decoder = (decoder or self._net)((self._width, *self.codebook.size), outside, hidden=self._hidden)
        return self._likelihood(nn.Sequential(self.codebook, decoder), self.latent, self.data_shape)

    def prior(self, prior: Callable[..., Any]) -> nn.Module:
        """p(z), which may see where in the map a code stands."""
        return built_prior("prior", prior, self.latent, [], {"size": lambda: self.codebook.size})
