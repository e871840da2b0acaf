"""An audit of the guide: what its family costs, what its networks cost, and how far its codes are from the model's."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyro
from torch import Tensor

from pyro_vae import checks, tracing
from pyro_vae.data import first
from pyro_vae.data.feed import derived
from pyro_vae.evaluation.audited import Audit, Datum, Units
from pyro_vae.evaluation.chains import LEAST, Chain, chain, codes, with_moments
from pyro_vae.evaluation.fitting import apart, fitted, log_weights
from pyro_vae.variant import Variant


def audit(
    variant: Variant,
    data: Any,
    *,
    n: int = 4,
    particles: int = 2000,
    steps: int = 400,
    lr: float = 2e-2,
    draws: int = 300,
    warmup: int = 150,
    seed: int = 0,
) -> Audit:
    r"""log p(x) - ELBO(q) = [log p(x) - max_q' ELBO(q')] + [max_q' ELBO(q') - ELBO(q)]

    How good is q? For each of a few data, the gap between log p(x) and the ELBO in its two parts: what the family of q
    costs (approximation), and what it costs that one network serves all data (amortisation). The best q' of the family
    is the guide of a copy of the pair, fitted to that datum alone while the model stays as it is: as its networks then
    answer to one datum only, their outputs are free, whatever the structure of the guide. It starts from q and is kept
    only where it is better; as a search may stop short, the amortisation gap is a lower bound, and more ``steps`` tell
    how tight. Both ELBOs are of the same random numbers; log p(x) is estimated by importance sampling from q'.

    Beside it a chain of NUTS for each datum, from the bare model alone: means and standard deviations of the codes of
    q and q' against those of p(z | x). Discrete sites are summed over and have none.

    The pair, its gradients and modes, random generators and Pyro's parameter store stay as they were.

    Args:
        data: what :func:`pyro_vae.fit` takes; the first ``n`` are audited. Of data with labels, where one of these n
            is missing, all n go without.
        n: how many data; each takes seconds, most of them for the chain.
        particles: draws of q, for ELBOs, log p(x) and moments.
        steps: of the fit of the guide, each on 32 draws.
        lr: Adam's largest step size, after a fifth of the steps.
        draws: of the chain, of each datum; 0 leaves it out.
        warmup: steps before these in which NUTS finds its step size.

    Units: nats per datum, as a mean over the n data; moments in standard deviations of p(z | x).

    Raises:
        ValueError, TypeError: where an argument is wrong, or the data do not fit the pair.
        FloatingPointError: where the fit to a datum fails, which is named.

    Source: Cremer, Li & Duvenaud 2018, arXiv:1801.03558; Hoffman & Gelman 2014, arXiv:1111.4246 (NUTS).

    >>> pair, x = pv.vae((1, 8, 8), latent=2), pv.data.load("digits", "test", binarise="threshold").x
    >>> found = audit(pair, x, n=2, steps=100, draws=0)
    >>> len(found.rows), found.amortisation_gap > 0
    (2, True)
    """
    checks.instance("variant", variant, Variant)
    if variant.shares:
        raise ValueError("variant: has sites that all data share; an audit is of each datum alone")
    for name, value in (("n", n), ("particles", particles), ("steps", steps), ("warmup", warmup)):
        checks.positive_int(name, value)
    if particles < 2:
        raise ValueError(f"particles: expected at least 2, of which an error can be told, found {particles}")
    checks.real("lr", lr, above=0)
    if draws != 0 and checks.positive_int("draws", draws) < LEAST:
        raise ValueError(f"draws: expected at least {LEAST}, or 0 for no chain, found {draws}")
    pair = apart(variant)  # the caller's own is not touched
    batch: dict[str, Any] = pair.prepare(first(data, n, pair))
    with pyro.validation_enabled():
        list(pair.terms(seed=seed, **batch))  # what does not fit is told before time is spent
    sites, silent = with_moments(pair, batch) if draws else ([], {})
    rows = []
    for i in range(len(next(iter(batch.values())))):
        one = {name: value[i : i + 1] for name, value in batch.items()}
        with _named(i):
            found = _compared(pair, one, particles, steps, lr, derived(seed, i))
            try:
                sampled = chain(pair, one, draws, warmup, derived(seed, i, 2)) if sites else None
            except NotImplementedError as error:  # of a support that no bijection leads to
                what = " ".join(str(error).split("Trace Shapes:")[0].split())
                raise ValueError(f"draws: NUTS cannot walk over such codes ({what}); use draws=0") from None
        rows.append(_datum(*found, sampled))
    return Audit(tuple(rows), particles, steps, draws, silent)


@contextmanager
def _named(i: int) -> Iterator[None]:
    """Errors that say of which datum they are."""
    try:
        yield
    except (ValueError, FloatingPointError) as error:
        kind = next(k for k in (FloatingPointError, ValueError) if isinstance(error, k))
        raise kind(f"audit: datum {i}: {' '.join(str(error).split())}") from error


Draws = tuple[Tensor, dict[str, Tensor]]  # log-weights of one datum, and codes by site


def _compared(
    pair: Variant, batch: tracing.Batch, particles: int, steps: int, lr: float, seed: int
) -> tuple[Draws, Draws]:
    """Draws of the guide as it is, and fitted to one datum, from the same random numbers."""
    noise = derived(seed, 0)

    def drawn() -> Draws:
        return log_weights(pair, batch, particles, noise), codes(pair, batch, particles, noise)

    before = drawn()
    with fitted(pair, batch, steps=steps, lr=lr, particles=particles, seed=derived(seed, 1)):
        return before, drawn()


def _datum(amortised: Draws, optimised: Draws, sampled: Chain | None) -> Datum:
    (before, codes_before), (after, codes_after) = amortised, optimised
    size = len(after)
    log_likelihood = after.logsumexp(0) - math.log(size)
    weights = (after - log_likelihood).exp()  # of mean 1

    def error(terms: Tensor) -> float:
        return float(terms.std()) / size**0.5

    return Datum(
        elbo=float(before.mean()),
        optimised_elbo=float(after.mean()),
        amortisation_gap=float((after - before).mean()),
        amortisation_gap_error=error(after - before),
        log_likelihood=float(log_likelihood),
        log_likelihood_error=error(weights),  # by the delta method, here and below
        approximation_gap=float(log_likelihood - after.mean()),
        approximation_gap_error=error(weights - after),
        effective_sample_size=float(size**2 / weights.square().sum()),
        sites={} if sampled is None else _units(sampled, codes_before, codes_after),
        divergences=sampled.divergences if sampled else 0,
    )


def _units(sampled: Chain, amortised: dict[str, Tensor], optimised: dict[str, Tensor]) -> dict[str, Units]:
    found = {}
    for name, z in sampled.draws.items():
        moments = [m for route in (z, amortised[name], optimised[name]) for m in (route.mean(0), route.std(0))]
        trust = (sampled.effective_sample_size[name], sampled.r_hat[name])
        found[name] = Units(*(tuple(numbers.tolist()) for numbers in (*moments, *trust)))
    return found
