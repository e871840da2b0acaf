"""Disentanglement: whether the units of a code follow the factors that the data vary in, one each."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pyro_vae import checks, describe, families, tracing
from pyro_vae.data import Batches, batches
from pyro_vae.evaluation.factor_scores import checked, dci, mig, numbered, sap
from pyro_vae.evaluation.factor_votes import beta_vae_score, factor_vae_score
from pyro_vae.infer.activity import ACTIVE
from pyro_vae.tracing import seeded, slices
from pyro_vae.variant import Variant

MEANING = {
    "mig": "gap in mutual information between the best two units of a factor",
    "sap": "gap in balanced accuracy between them",
    "dci_disentanglement": "a unit tells of one factor",
    "dci_completeness": "a factor is told by one unit",
    "dci_informativeness": "accuracy of the factors from all units",
    "beta_vae": "accuracy of which factor is the same within pairs",
    "factor_vae": "accuracy of which factor is the same within groups",
}


@dataclass(frozen=True)
class Disentanglement:
    """What :func:`disentanglement` found: seven scores in [0, 1], 1 best; what each is, the functions of arrays tell.

    ``active`` of the ``units`` vary with the data, Var_x(E_q[u]) > 0.01; ``chance`` is 1 / ``factors``, what
    ``beta_vae`` and ``factor_vae`` are of codes that tell nothing. Of such codes ``mig``, ``sap`` and both
    ``dci_disentanglement`` and ``dci_completeness`` are near 0.
    """

    mig: float
    sap: float
    dci_disentanglement: float
    dci_completeness: float
    dci_informativeness: float
    beta_vae: float
    factor_vae: float
    data: int
    units: int
    active: int
    factors: int

    @property
    def chance(self) -> float:
        """The accuracy of guessing which factor it was."""
        return 1 / self.factors

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, ready for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        rows = [(name, f"{getattr(self, name):.3f}") for name in MEANING]
        table = describe.table(("score", ""), rows)[1:]
        lines = [f"{line}  {words}" for line, words in zip(table, MEANING.values(), strict=True)]
        lines[-2:] = [f"{line}; {self.chance:.3f} by chance" for line in lines[-2:]]
        return "\n".join(
            [*lines, f"{self.data} data, {self.units} units, {self.active} of them active, {self.factors} factors"]
        )


def disentanglement(
    variant: Variant,
    data: Any,
    *,
    factors: Any = None,
    seed: int = 0,
    batch_size: int = 1000,
    rows: int | None = None,
) -> Disentanglement:
    r"""scores of  u(x) = E_q[z | x]  against the factors v(x) that the data were made from

    Codes are the means of the posteriors of all continuous latent sites, side by side, each site along the means of its
    ancestors: of the bare pair, whatever it was trained under. The scores are :func:`mig`, :func:`sap`, :func:`dci`,
    :func:`beta_vae_score` and :func:`factor_vae_score`; units that are not active are left out of the last. They
    depend on ``seed`` alone. All are of the factors as they are known, and none asks whether these are the right ones.

    Args:
        data: data in memory as :func:`pyro_vae.evaluate` takes them; 10,000 are enough, and 1,000 tell little of
            factors with many values.
        factors: (n, K) whole numbers, K at least 2; by default the ``factors`` that the data bring, as
            :class:`pyro_vae.data.Sprites` do.
        batch_size, rows: how many data are encoded at a time.

    Raises:
        ValueError: where there are no factors, they do not fit the data, are fewer than two or do not vary; where the
            pair has no continuous code, or labels that some of the data have and some have not.

    Source: Locatello et al. 2019, "Challenging common assumptions in the unsupervised learning of disentangled
    representations", arXiv:1811.12359, which compares them.

    >>> sprites = pv.data.load("sprites", "test").subset(100)
    >>> pair = pv.vae(sprites.shape, latent=3, encoder=pv.nets.MLP, decoder=pv.nets.MLP)
    >>> found = disentanglement(pair, sprites)
    >>> found.data, found.units, found.factors
    (100, 3, 5)
    """
    checks.instance("variant", variant, Variant)
    if isinstance(data, Dataset | DataLoader):
        raise ValueError(f"data: expected data in memory, found a {type(data).__name__}, which has its own order")
    factors = getattr(data, "factors", None) if factors is None else factors
    if factors is None:
        raise ValueError("factors: the data bring none; expected (n, factors) whole numbers, one row per datum")
    data = data.drawn(seed) if hasattr(data, "drawn") else data
    feed = batches(variant, data, batch_size, variant.device)
    values = numbered(factors, feed.size, least=2)  # before time is spent on codes
    units, values = checked(_codes(variant, feed, seed, batch_size, rows), values, least=2)
    disentangled, complete, informative = dci(units, values, seed=seed)
    return Disentanglement(
        mig=mig(units, values),
        sap=sap(units, values, seed=seed),
        dci_disentanglement=disentangled,
        dci_completeness=complete,
        dci_informativeness=informative,
        beta_vae=beta_vae_score(units, values, seed=seed),
        factor_vae=factor_vae_score(units, values, dead=ACTIVE, seed=seed),
        data=len(units),
        units=units.shape[1],
        active=int((units.var(0) > ACTIVE).sum()),
        factors=values.shape[1],
    )


def _codes(variant: Variant, feed: Batches, seed: int, batch_size: int, rows: int | None) -> Tensor:
    """(n, units), the means of the posteriors, in the order of the data."""
    parts: list[Tensor] = []
    with seeded(seed):
        for start, batch in zip(range(0, feed.size, batch_size), feed.fixed(), strict=False):
            size = len(next(iter(batch.values())))
            if size < min(batch_size, feed.size - start):  # the rest of them comes apart, and in another order
                raise ValueError("data: expected labels of all data or of none, found some of them missing")
            for part in slices(size, tracing.rows_for(batch, rows)):  # not all posteriors can be joined
                some = {name: value[part] for name, value in batch.items()}
                found = variant.encode(ancestors="mean", rows=size, seed=seed, **some)
                parts.append(_side_by_side(found, part.stop - part.start))
    return torch.cat(parts)


def _side_by_side(posteriors: Mapping[str, Any], size: int) -> Tensor:
    continuous = {name: q for name, q in posteriors.items() if not families.is_discrete(q)}
    if not continuous:
        raise ValueError(f"variant: expected a continuous latent site, found {list(posteriors) or 'no latent site'}")
    units = []
    for name, q in continuous.items():
        centre = tracing.centre(q)
        if centre is None:
            raise ValueError(f"{name}: its posterior has no mean, which its code would be")
        units.append(centre.movedim(-1 - q.event_dim, 0).reshape(size, -1).double().cpu())
    return torch.cat(units, 1)
