"""Pyro's own distributions, with errors that say what to do about data outside their support."""

from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_vae import checks


class Advised:
    """A distribution that says what to do about data outside its support, wherever they are scored.

    Its ``support`` is the same for every datum, so that a whole data set can be held against one of its instances.
    """

    advice: str
    what = "x"  # by which its values are known where no site is

    def _validate_sample(self, value: Tensor) -> None:
        checks.support(self, value, self.what)
        super()._validate_sample(value)  # type: ignore[misc]  # the shapes


class BinaryBernoulli(Advised, dist.Bernoulli):
    """Bernoulli whose error names the ways to make grey values binary."""

    advice = (
        "Bernoulli data are 0 or 1: binarise them (pv.data.load(..., binarise='dynamic', 'static' or 'threshold'), "
        "or x > 0.5), or choose another likelihood (pv.likelihoods.Normal)"
    )

    def log_prob(self, value: Tensor) -> Tensor:
        """x l - log(1 + exp l), l the logits; with less memory than torch takes, which is what it waits for."""
        if self._validate_args:
            self._validate_sample(value)
        dtype = torch.result_type(value, self.logits)
        value, logits = torch.broadcast_tensors(value.to(dtype), self.logits.to(dtype))
        return nn.functional.softplus(logits, threshold=40).neg_().addcmul_(value, logits)


class FiniteNormal(Advised, dist.Normal):
    """Normal whose error speaks of missing values."""

    advice = "Normal data are finite numbers: drop or fill in the missing values, or see pv.infer.observed"


class FiniteLaplace(Advised, dist.Laplace):
    """Laplace whose error speaks of missing values."""

    advice = "Laplace data are finite numbers: drop or fill in the missing values, or see pv.infer.observed"


class FiniteStudentT(Advised, dist.StudentT):
    """Student's t whose error speaks of missing values."""

    advice = "Student's t data are finite numbers: drop or fill in the missing values, or see pv.infer.observed"


class NumberedCategorical(Advised, dist.Categorical):
    """Categorical whose draws are numbers like its data, and whose error tells how to number the categories."""

    advice = (
        "Categorical data are the whole numbers 0 to classes - 1: number the categories from 0 "
        "(torch.unique(x, return_inverse=True)), or raise classes"
    )

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws, in the dtype of the parameters: data and draws go the same ways."""
        return super().sample(torch.Size(sample_shape)).to(self._param.dtype)


class ClassLabel(Advised, dist.Categorical):
    """Categorical over class labels, whose error tells how to number them."""

    what = "labels"
    advice = (
        "Class labels are the whole numbers 0 to classes - 1: number the classes from 0 "
        "(torch.unique(labels, return_inverse=True)), or raise classes; a negative one is missing, which pv.m2 can do "
        "without"
    )


class NoDensity(dist.ImproperUniform):
    """What can be given and not drawn: every value scores zero nats.

    Shapes: batch (), event ``shape``.

    >>> NoDensity((3,)).log_prob(torch.randn(5, 3))
    tensor([0., 0., 0., 0., 0.])
    """

    advice = "A condition holds finite numbers: drop or fill in the missing values"

    def __init__(self, shape: Sequence[int], batch_shape: Sequence[int] = ()) -> None:
        real = constraints.independent(constraints.real, len(shape))
        super().__init__(real, torch.Size(batch_shape), torch.Size(shape))

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "NoDensity":
        """The same, more often."""
        return NoDensity(self.event_shape, batch_shape)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Refused.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("a condition without a density cannot be drawn: pass it, as in model(c=c)")

    def log_prob(self, value: Tensor) -> Tensor:
        """Zero, where the value is."""
        zeros = value.new_zeros(()).expand(value.shape[: value.dim() - self.event_dim])
        return zeros.expand(torch.broadcast_shapes(zeros.shape, self.batch_shape))


class CountPoisson(Advised, dist.Poisson):
    """Poisson whose error tells counts from measurements, and whose log p keeps its digits.

    The terms of log p at a count of 1e6 are 1e7 nats each and cancel but for ten: they are summed in float64.
    """

    advice = (
        "Poisson data are the counts 0, 1, 2, ...: pass what was counted, before any scaling or logarithm, or "
        "choose another likelihood (pv.likelihoods.Normal)"
    )

    def log_prob(self, value: Tensor) -> Tensor:
        """Log p(x)."""
        if self._validate_args:
            self._validate_sample(value)
        exact = dist.Poisson(self.rate.double(), validate_args=False)
        return exact.log_prob(value.double()).to(self.rate.dtype)


class CountNegativeBinomial(Advised, dist.NegativeBinomial):
    """Negative binomial whose error tells counts from measurements; its log p is as :class:`CountPoisson`'s."""

    advice = (
        "Negative binomial data are the counts 0, 1, 2, ...: pass what was counted, before any scaling or logarithm, "
        "or choose another likelihood (pv.likelihoods.Normal)"
    )

    def log_prob(self, value: Tensor) -> Tensor:
        """Log p(x)."""
        if self._validate_args:
            self._validate_sample(value)
        total_count, logits = self.total_count.double(), self.logits.double()
        exact = dist.NegativeBinomial(total_count, logits=logits, validate_args=False)
        return exact.log_prob(value.double()).to(self.logits.dtype)
