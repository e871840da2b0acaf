"""A vector whose entries are drawn one after the other."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from pyro_vae.distributions.advised import Advised
from pyro_vae.distributions.codes import Codes


class Autoregressive(TorchDistribution):
    r"""p(z) = prod_i p_i(z_i | z_1, ..., z_{i-1})

    One call of ``conditionals`` gives the density of a vector, ``width`` calls draw one. Draws have no gradient: each
    would go through all calls before it.

    Shapes: batch ``batch_shape``, event (width, \*entry).

    Args:
        conditionals: from z of shape (\*batch, width, \*entry), the distribution of each entry, of batch shape
            (\*batch, width) and event shape ``entry``. Entry i depends on those before it alone, as a masked net sees
            to; the others hold zeros while it is drawn. What sees more has no density, and is not found out.
        width: the number of entries.
        batch_shape: of the distribution.
        like: a tensor of the dtype and on the device that draws shall have; by default torch's own.
        entry: the shape of one entry, () of a number.

    Raises:
        ValueError: where the conditionals are not one for each entry.

    Source: Kingma et al. 2016, arXiv:1606.04934; Germain et al. 2015, "MADE", arXiv:1502.03509.

    >>> def walk(z):
    ...     before = torch.nn.functional.pad(z, (1, 0))[..., :-1]
    ...     return dist.Normal(before, 0.1)
    >>> d = Autoregressive(walk, 3)
    >>> z = d.sample((5,))
    >>> z.shape, d.log_prob(z).shape
    (torch.Size([5, 3]), torch.Size([5]))
    """

    arg_constraints: ClassVar = {}
    support = constraints.real_vector
    has_rsample = False

    def __init__(
        self,
        conditionals: Callable[[Tensor], Any],
        width: int,
        batch_shape: Sequence[int] = (),
        like: Tensor | None = None,
        entry: Sequence[int] = (),
        validate_args: bool | None = None,
    ) -> None:
        if width < 1:
            raise ValueError(f"width: expected at least 1, found {width}")
        self.conditionals = conditionals
        self._like = (torch.zeros(()) if like is None else like).new_zeros(())
        super().__init__(torch.Size(batch_shape), torch.Size([width, *entry]), validate_args=validate_args)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "Autoregressive":
        """The same distribution, more often."""
        width, *entry = self.event_shape
        new = type(self)(self.conditionals, width, batch_shape, self._like, entry, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @property
    def mean(self) -> Tensor:
        """Refused.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("the mean of an autoregressive distribution has no closed form: average its draws")

    def log_prob(self, value: Tensor) -> Tensor:
        """The conditionals' log p, summed."""
        if self._validate_args:
            self._validate_sample(value)
        z = value.expand(torch.broadcast_shapes(value.shape, self.batch_shape + self.event_shape))
        return self._given(z).log_prob(z).sum(-1)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """The first entry, then each next one given those before it."""
        with torch.no_grad():
            shape = self._extended_shape(torch.Size(sample_shape))
            z = self._like.new_zeros(shape)
            entries = z.unbind(-len(self.event_shape))  # views
            for i, entry in enumerate(entries):
                entry.copy_(self._given(z).sample().select(-len(self.event_shape), i))
            return z

    def _given(self, z: Tensor) -> Any:
        given = self.conditionals(z)
        entry = self.event_shape[1:]
        batch = z.shape[: z.dim() - len(entry)]
        if (given.batch_shape, given.event_shape) != (batch, entry):
            raise ValueError(
                f"conditionals: expected a distribution of batch shape {tuple(batch)} and event shape {tuple(entry)} "
                f"for z of shape {tuple(z.shape)}, found {tuple(given.batch_shape)} and {tuple(given.event_shape)}"
            )
        return given


class AutoregressiveCodes(Advised, Autoregressive):
    r"""p(z) = prod_j p_j(z_j | z_1, ..., z_{j-1}),   z_j one-hot

    :class:`Autoregressive`, of codes that are categories.

    Shapes: batch ``batch_shape``, event (codes, categories).

    >>> def stay(z):
    ...     before = torch.nn.functional.pad(z, (0, 0, 1, 0))[..., :-1, :]
    ...     return dist.OneHotCategorical(logits=5 * before)
    >>> AutoregressiveCodes(stay, 4, entry=(3,)).sample().sum(-1)
    tensor([1., 1., 1., 1.])
    """

    support = Codes.support
    advice = Codes.advice
    what = "z"
