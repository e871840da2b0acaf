"""Objectives that look at the codes of all data together: an ELBO, or a part of it, and a penalty on the aggregate."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from pyro import poutine
from pyro.infer.util import torch_item
from torch import Tensor, nn

from pyro_vae import checks, families, tracing
from pyro_vae.infer.analytic_kl import AnalyticKL, data_terms
from pyro_vae.tracing import Site, latent_sites, shared_sites


@dataclass
class Draws:
    """One run of the guide on a batch, and of the model on its draws; ``model`` is to be run on the batch once more."""

    model: Callable[[], Any]
    model_trace: poutine.Trace
    guide_trace: poutine.Trace

    @cached_property
    def sites(self) -> dict[str, Site]:
        """The latent sites that hold codes; numbered classes are none."""
        return {name: site for name, site in latent_sites(self.guide_trace).items() if not _is_label(site)}

    @cached_property
    def shared(self) -> dict[str, Tensor]:
        """What all data share, as the guide has drawn it."""
        return {name: site["value"] for name, site in shared_sites(self.guide_trace).items()}

    @cached_property
    def codes(self) -> Tensor:
        """z ~ q(z | x) of each datum, all sites side by side, (batch, units)."""
        return tracing.side_by_side(list(self.sites.values()))

    @cached_property
    def dreamt(self) -> dict[str, Site]:
        """The sites of the model down to its codes, these drawn from their prior and conditions as they are given."""
        return tracing.sites(tracing.until(self.sites, poutine.condition(self.model, data=self.shared), {}))

    @property
    def prior(self) -> Tensor:
        """As many z ~ p(z), each under the conditions of its datum, (batch, units)."""
        return tracing.side_by_side([self.dreamt[name] for name in self.sites])

    @property
    def conditions(self) -> Tensor:
        """What is given above the codes, side by side, a class one-hot and 0 where it is missing, (batch, width)."""
        above = [site for name, site in self.dreamt.items() if name not in self.sites]
        return torch.cat([self.codes[:, :0], *map(_as_numbers, above)], -1)

    @property
    def size(self) -> int:
        """How many data the batch has."""
        return self.codes.shape[0]

    def independent(self, asks: str) -> Site:
        """The site of the codes, where there is one, and its units are independent given the data."""
        if len(self.sites) != 1:
            raise ValueError(f"{asks}: expected a pair with one latent site, found {sorted(self.sites)}")
        ((name, site),) = self.sites.items()
        if not families.factorises(site["fn"]):
            raise ValueError(
                f"{asks}: {name}: expected a posterior with independent units, found {families.family(site['fn'])}"
            )
        return site


def _is_label(site: Site) -> bool:
    return isinstance(families.base(site["fn"]), torch.distributions.Categorical)


def _as_numbers(site: Site) -> Tensor:
    if not _is_label(site):
        return site["value"].flatten(1)
    logits = families.base(site["fn"]).logits
    hot = nn.functional.one_hot(site["value"].long(), logits.shape[-1]).to(logits)
    return hot if site["is_observed"] else torch.zeros_like(hot)


class AggregateELBO(AnalyticKL):
    r"""E_q[log p(x | z)] - kl KL(q(z | x) || p(z)) - penalty(q(z)),   q(z) = mean_x q(z | x)

    The face of the objectives that look at the codes of a batch together: a class below says what its ``penalty`` is,
    in nats per datum, which no :class:`temper` weighs. ``loss`` stays minus the ELBO, summed over the batch; of a pair
    that has none, as its prior can only be sampled, minus the objective. Gradients and what a training step returns are
    of the objective.

    Args:
        kl: weight of the KL of each datum. With 0 no density of a code is asked for.

    Raises:
        ValueError: where ``kl`` is negative; in use, where the guide draws from a distribution without reparameterised
            gradients.

    >>> class Centred(AggregateELBO):
    ...     def penalty(self, draws):
    ...         return draws.codes.mean(0).square().sum()
    >>> pair, x = pv.vae(9, latent=2), torch.zeros(5, 9)
    >>> torch.isfinite(Centred().objective(*pair, x=x))
    tensor(True)
    """

    def __init__(self, kl: float = 1.0) -> None:
        self.kl = checks.real("kl", kl, least=0)
        super().__init__()

    def penalty(self, draws: Draws) -> Any:
        """What the codes of a batch cost besides, in nats per datum: here nothing."""
        return 0.0

    def draws(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Draws:
        """One run of both programs."""
        ((model_trace, guide_trace),) = self._get_traces(model, guide, args, kwargs)
        return Draws(lambda: model(*args, **kwargs), model_trace, guide_trace)

    def _idle(self, site: Site) -> bool:
        return not self.kl and bool(site["infer"].get("explains_no_data"))

    def objective(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Minus the objective, summed over the batch; differentiable."""
        draws = self.draws(model, guide, *args, **kwargs)
        return self.without_penalty(draws, self.kl) + draws.size * self.penalty(draws)

    differentiable_loss = objective  # under which a torch loop asks for it

    def without_penalty(self, draws: Draws, kl: float) -> Any:
        """-E_q[log p(x | z)] + kl KL, and the KL of what all data share, summed over the batch."""
        codes = latent_sites(draws.guide_trace)
        costs = self.costs(draws.model_trace, draws.guide_trace, codes if kl else {})
        weighed = (kl * cost if name in codes else cost for name, cost in costs.items())
        return sum(weighed) - data_terms(draws.model_trace, draws.guide_trace)

    def loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """Minus the ELBO, summed over the batch; minus the objective where there is none."""
        draws = self.draws(model, guide, *args, **kwargs)
        if tracing.unscored(draws.guide_trace, draws.model_trace):
            return torch_item(self.without_penalty(draws, self.kl) + draws.size * self.penalty(draws))
        return torch_item(self.without_penalty(draws, 1.0))
