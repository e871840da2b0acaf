"""Codes that are categories: one-hot, relaxed, and at a point."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.distributions import constraints, register_kl

from pyro_vae import checks
from pyro_vae.distributions.advised import Advised

MOST = 10_000  # combinations of categories that are summed over at most
_STANDS_FOR = "_stands_for"  # on a relaxed draw: the probabilities of the codes that it stands for


class Codes(Advised, TorchDistribution):
    r"""p(z) = prod_j prod_k p_jk^z_jk,   z_j one-hot,   p_j = softmax(logits_j)

    Independent categorical codes z_1, ..., z_J of K categories each, as one event. Unlike ``to_event`` of a
    distribution of one code, it can be enumerated: all K^J combinations, where they are at most 10,000.

    Shapes: batch (\*batch,), event (J, K).

    Args:
        logits: (\*batch, J, K), up to a constant for each code.

    Raises:
        ValueError: where ``logits`` have fewer than two dimensions; in ``enumerate_support``, where there are too many
            combinations.

    >>> d = Codes(torch.zeros(5, 2, 3))
    >>> d.sample().shape, d.enumerate_support().shape
    (torch.Size([5, 2, 3]), torch.Size([9, 5, 2, 3]))
    """

    arg_constraints: ClassVar = {"logits": constraints.independent(constraints.real, 2)}
    support = constraints.independent(constraints.one_hot, 1)
    has_rsample = False
    has_enumerate_support = True
    advice = "a code is one-hot: torch.nn.functional.one_hot(k, categories) of the numbers k of its categories"
    what = "z"

    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        if logits.dim() < 2:
            raise ValueError(f"logits: expected (..., codes, categories), found {tuple(logits.shape)}")
        self.logits = logits.log_softmax(-1)
        super().__init__(logits.shape[:-2], logits.shape[-2:], validate_args=validate_args)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "Codes":
        """The same distribution, more often."""
        new = self._get_checked_instance(Codes, _instance)
        new.__dict__.update(self.__dict__)
        new.logits = self.logits.expand(torch.Size(batch_shape) + self.event_shape)
        new._batch_shape = torch.Size(batch_shape)
        return new

    @property
    def probs(self) -> Tensor:
        r"""Of each category of each code, (\*batch, J, K)."""
        return self.logits.exp()

    @property
    def mean(self) -> Tensor:
        """The probabilities."""
        return self.probs

    @property
    def mode(self) -> Tensor:
        """Each code in its likeliest category."""
        return _one_hot(self.logits.argmax(-1), self.logits)

    @property
    def variance(self) -> Tensor:
        """Of each number of the one-hot vectors."""
        return self.probs * (1 - self.probs)

    def entropy(self) -> Tensor:
        """The sum of those of the codes."""
        return -self._expected(self.probs)

    def log_prob(self, value: Tensor) -> Tensor:
        """Sum_j log p_jk, k the category of code j, which has no gradient in z: a code does not move by itself."""
        if self._validate_args:
            self._validate_sample(value)
        return self._expected(value.detach())

    def _expected(self, q: Tensor) -> Tensor:
        """E_q[log p(z)], q the probabilities of independent codes; log p(z) of a one-hot z."""
        return (q * self.logits.clamp(min=torch.finfo(self.logits.dtype).min)).sum((-1, -2))

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Independent codes."""
        with torch.no_grad():
            return _one_hot(self._noisy(sample_shape).argmax(-1), self.logits)

    def _noisy(self, sample_shape: Sequence[int]) -> Tensor:
        """Logits and Gumbel noise: the greatest is a draw."""
        noise = self.logits.new_empty(self._extended_shape(torch.Size(sample_shape)))
        return self.logits - noise.exponential_().log()

    def enumerate_support(self, expand: bool = True) -> Tensor:
        r"""All combinations, (K^J, \*batch, J, K); without ``expand`` the batch has the size 1."""
        codes, categories = self.event_shape
        check_combinations(codes, categories)
        combinations = torch.cartesian_prod(*[torch.arange(categories, device=self.logits.device)] * codes)
        hot = _one_hot(combinations.reshape(-1, codes), self.logits)
        hot = hot.reshape(-1, *[1] * len(self.batch_shape), codes, categories)
        return hot.expand(-1, *self.batch_shape, -1, -1) if expand else hot


class RelaxedCodes(Codes):
    r"""y_j = softmax((logits_j + g_j) / temperature),   g Gumbel noise:   a relaxed draw, which stands for a code

    The draw has pathwise gradients. What is scored is the code, not the draw: ``log_prob`` of a relaxed draw from q is
    E_q[log p(z)], so that log q - log p of one is the KL of the codes, exactly. A density of y on the simplex would
    have no KL from a prior of codes.

    Shapes: as :class:`Codes`.

    Args:
        logits: as of :class:`Codes`.
        temperature: greater than 0; towards 0 the draws become codes, and their gradients noise.
        straight_through: one-hot draws, with the gradients of the relaxed ones.

    Raises:
        ValueError: where ``temperature`` is not greater than 0; where a value is scored that is no code, and no draw of
            such a distribution.

    Source: Jang, Gu & Poole 2017, arXiv:1611.01144; Maddison, Mnih & Teh 2017, arXiv:1611.00712.

    >>> q, p = RelaxedCodes(torch.tensor([[0.0, 1.0]]), 0.5), RelaxedCodes(torch.zeros(1, 2), 0.5)
    >>> y = q.rsample()
    >>> torch.allclose(q.log_prob(y) - p.log_prob(y), torch.distributions.kl_divergence(q, p))
    True
    """

    support = constraints.independent(constraints.simplex, 1)
    has_rsample = True
    has_enumerate_support = False

    def __init__(
        self,
        logits: Tensor,
        temperature: float | Tensor = 1.0,
        straight_through: bool = False,
        validate_args: bool | None = None,
    ) -> None:
        # of a schedule, in a step that is compiled, it is a tensor
        self.temperature = (
            temperature if isinstance(temperature, Tensor) else checks.real("temperature", temperature, above=0)
        )
        self.straight_through = straight_through
        super().__init__(logits, validate_args=validate_args)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "RelaxedCodes":
        """The same distribution, more often."""
        new: Any = super().expand(batch_shape, self._get_checked_instance(RelaxedCodes, _instance))
        return new

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Relaxed draws, which know what they stand for."""
        y = (self._noisy(sample_shape) / self.temperature).softmax(-1)
        if self.straight_through:
            y = _one_hot(y.argmax(-1), y) + (y - y.detach())
        setattr(y, _STANDS_FOR, self.probs.expand(y.shape))
        return y

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Relaxed draws, without gradients."""
        with torch.no_grad():
            return self.rsample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """E_q[log p(z)] of a draw from q; log p(z) of a code."""
        q = getattr(value, _STANDS_FOR, None)
        if q is None and not Codes.support.check(value).all():
            raise ValueError(
                "z: found relaxed codes that no longer know which distribution they were drawn from; a copy of a draw "
                "cannot be scored"
            )
        return self._expected(value.detach() if q is None else q)


class PointCodes(Codes):
    r"""q(z) = [z = value]: all probability at one code, which may carry gradients of its own

    Shapes: as :class:`Codes`.

    Args:
        value: one-hot, (\*batch, J, K).

    >>> q = PointCodes(torch.eye(3)[torch.tensor([[0, 2]])])
    >>> q.log_prob(q.rsample())
    tensor([0.])
    """

    arg_constraints: ClassVar = {"value": Codes.support}
    has_rsample = True

    def __init__(self, value: Tensor, validate_args: bool | None = None) -> None:
        self.value = value
        super().__init__(value.detach().log(), validate_args=validate_args)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "PointCodes":
        """The same distribution, more often."""
        new: Any = super().expand(batch_shape, self._get_checked_instance(PointCodes, _instance))
        new.value = self.value.expand(new.logits.shape)
        return new

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """The code, each time."""
        return self.value.expand(self._extended_shape(torch.Size(sample_shape)))

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """The code, each time, without gradients."""
        return self.rsample(sample_shape).detach()


@register_kl(Codes, Codes)
def _kl_of_codes(q: Codes, p: Codes) -> Tensor:
    """KL(q || p) of the codes, also of those that relaxed draws stand for."""
    return q._expected(q.probs) - p._expected(q.probs)


def check_combinations(codes: int, categories: int, hint: str = "") -> None:
    """Raise where there are more combinations of categories than can be summed over."""
    if codes * math.log(categories) > math.log(MOST) + 1e-9:
        found = categories**codes
        many = f"{found:,}" if found < 10**9 else f"about 10^{codes * math.log10(categories):.0f}"
        raise ValueError(
            f"{codes} codes of {categories} categories have {many} combinations, more than the {MOST:,} that can be "
            f"summed over{hint}"
        )


def _one_hot(index: Tensor, like: Tensor) -> Tensor:
    """As numbers of the dtype of ``like``, whose last dimension counts the categories."""
    return nn.functional.one_hot(index, like.shape[-1]).to(like.dtype)
