"""Likelihoods of real numbers, in units of their own."""

from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae import checks, distributions
from pyro_vae.likelihoods.base import Likelihood
from pyro_vae.nets import Standardise
from pyro_vae.posteriors import bounded_scale


class _Real(Likelihood):
    """A location from the decoder, a scale for all elements, both in units of ``std`` about ``mean``."""

    def __init__(
        self,
        decoder: nn.Module,
        latent: Sequence[int] | int,
        data_shape: Sequence[int] | int,
        scale: float | str = 1.0,
        mean: Any = None,
        std: Any = None,
    ) -> None:
        super().__init__(decoder, latent, data_shape)
        if isinstance(scale, str):
            checks.known("scale", scale, ["learned"])
            self.log_scale = nn.Parameter(torch.zeros(()))
        self.fixed_scale = None if isinstance(scale, str) else checks.real("scale", scale, above=0)
        self.units = self.features(self.data_shape, mean, std)
        self.squash: nn.Module = nn.Identity()

    @classmethod
    def features(
        cls, data_shape: tuple[int, ...], mean: Any = None, std: Any = None, **settings: Any
    ) -> Standardise | None:
        """Data in units of ``std`` about ``mean``, where these are given."""
        return None if mean is None and std is None else Standardise(data_shape, mean, std)

    @property
    def scale(self) -> Tensor | float:
        """The scale of the noise, in units of ``std``."""
        return bounded_scale(self.log_scale) if self.fixed_scale is None else self.fixed_scale

    def located(self, *z: Tensor) -> tuple[Tensor, Tensor | float]:
        """Location and scale of the data that ``z`` explains, in the data's units."""
        loc = self.squash(self.decoder(*z))
        return (loc, self.scale) if self.units is None else (self.units.back(loc), self.units.std * self.scale)


class Normal(_Real):
    r"""p(x | z) = prod_i N(x_i; mean_i + std_i decoder(z)_i, (std_i scale)^2)

    ``squashed``, the decoder's output goes through the logistic function first, so that the means of images lie in
    (0, 1). Standardisation belongs to the story: draws, reconstructions and bounds are in the data's own units.

    Shapes: (\*batch, \*latent) -> batch (\*batch,), event data_shape.

    Args:
        decoder: a module from (batch, \*latent) to (batch, \*data_shape): the means, in units of ``std``.
        latent: dimensions (or shape) of a code.
        data_shape: shape of one datum.
        scale: the standard deviation of the noise, fixed; or ``"learned"``: one parameter for all
            elements, starting at 1 and bounded as the posterior's.
        mean: centre of the data, by default 0: a number, or numbers that broadcast to data_shape, such as one per
            column, or one per channel as ``(((0.4,),), ((0.5,),), ((0.6,),))``.
        std: spread of the data, by default 1, likewise.
        squashed: whether the means lie between ``mean`` and ``mean + std``.

    Raises:
        ValueError: where the decoder's output does not fit, ``scale`` or ``std`` is not positive, or ``mean`` or
            ``std`` does not broadcast.

    Source: Kingma & Welling 2014, arXiv:1312.6114; the learned scale, Rybkin et al. 2021, arXiv:2006.13202.

    >>> likelihood = Normal(torch.nn.Linear(2, 9), 2, (3, 3), scale="learned", mean=170.0, std=10.0)
    >>> likelihood(torch.zeros(5, 2)).event_shape
    torch.Size([3, 3])
    """

    def __init__(
        self,
        decoder: nn.Module,
        latent: Sequence[int] | int,
        data_shape: Sequence[int] | int,
        scale: float | str = 1.0,
        mean: Any = None,
        std: Any = None,
        squashed: bool = False,
    ) -> None:
        super().__init__(decoder, latent, data_shape, scale, mean, std)
        checks.instance("squashed", squashed, bool)
        self.squash = nn.Sigmoid() if squashed else nn.Identity()

    def forward(self, *z: Tensor) -> dist.Distribution:
        """The distribution of the data that ``z`` explains."""
        return distributions.FiniteNormal(*self.located(*z)).to_event(len(self.data_shape))


class Laplace(_Real):
    r"""p(x | z) = prod_i exp(-|x_i - m_i| / b_i) / 2 b_i,   m_i = mean_i + std_i decoder(z)_i,   b_i = std_i scale

    Absolute errors count, not squared ones: the centre is the median of the data that share a code.

    Shapes: (\*batch, \*latent) -> batch (\*batch,), event data_shape.

    Args:
        decoder: a module from (batch, \*latent) to (batch, \*data_shape): the centres, in units of ``std``.
        latent: dimensions (or shape) of a code.
        data_shape: shape of one datum.
        scale: the mean absolute deviation of the noise, fixed; or ``"learned"``, as in :class:`Normal`.
        mean, std: centre and spread of the data, as in :class:`Normal`.

    Raises:
        ValueError: as :class:`Normal` does.

    >>> likelihood = Laplace(torch.nn.Linear(2, 9), 2, (3, 3), scale="learned")
    >>> likelihood(torch.zeros(5, 2)).event_shape
    torch.Size([3, 3])
    """

    def forward(self, *z: Tensor) -> dist.Distribution:
        """The distribution of the data that ``z`` explains."""
        return distributions.FiniteLaplace(*self.located(*z)).to_event(len(self.data_shape))


class StudentT(_Real):
    r"""p(x | z) = prod_i t_df((x_i - m_i) / s_i) / s_i,   m_i = mean_i + std_i decoder(z)_i,   s_i = std_i scale

    Tails that fall as a power: an outlier costs the logarithm of its distance, and pulls at nothing else.

    Shapes: (\*batch, \*latent) -> batch (\*batch,), event data_shape.

    Args:
        decoder: a module from (batch, \*latent) to (batch, \*data_shape): the centres, in units of ``std``.
        latent: dimensions (or shape) of a code.
        data_shape: shape of one datum.
        df: degrees of freedom, fixed (no mean exists up to 1); or ``"learned"``: one parameter for all elements,
            starting at 5 and kept between 1.2, where a mean exists, and 81, which is normal in all but name.
        scale: of the noise, fixed or ``"learned"``, as in :class:`Normal`.
        mean, std: centre and spread of the data, as in :class:`Normal`.

    Raises:
        ValueError: as :class:`Normal` does; where ``df`` is not positive.

    Source: Takahashi et al. 2018, "Student-t Variational Autoencoder for Robust Density Estimation", IJCAI.

    >>> likelihood = StudentT(torch.nn.Linear(2, 9), 2, (3, 3), df="learned", scale="learned")
    >>> likelihood.df
    tensor(5., grad_fn=<AddBackward0>)
    """

    def __init__(
        self,
        decoder: nn.Module,
        latent: Sequence[int] | int,
        data_shape: Sequence[int] | int,
        df: float | str = 5.0,
        scale: float | str = 1.0,
        mean: Any = None,
        std: Any = None,
    ) -> None:
        super().__init__(decoder, latent, data_shape, scale, mean, std)
        if isinstance(df, str):
            checks.known("df", df, ["learned"])
            self.log_df = nn.Parameter(torch.zeros(()))
        self.fixed_df = None if isinstance(df, str) else checks.real("df", df, above=0)

    @property
    def df(self) -> Tensor | float:
        """The degrees of freedom."""
        return 1 + 4 * bounded_scale(self.log_df, bound=3.0) if self.fixed_df is None else self.fixed_df

    def forward(self, *z: Tensor) -> dist.Distribution:
        """The distribution of the data that ``z`` explains."""
        return distributions.FiniteStudentT(self.df, *self.located(*z)).to_event(len(self.data_shape))
