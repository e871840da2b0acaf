"""One report for any pair: bounds on log p(x), and where the nats go."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import pyro
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pyro_vae import checks, families, tracing
from pyro_vae.data import Data, batches
from pyro_vae.evaluation.information import Information, mutual_information
from pyro_vae.evaluation.usage import CodeUsage, clustering
from pyro_vae.infer import shared_kl
from pyro_vae.infer.activity import verdict
from pyro_vae.infer.usage import Followed, Usage, note
from pyro_vae.tracing import Moments, Totals, seeded
from pyro_vae.variant import Variant


@dataclass(frozen=True)
class Report:
    """What :func:`evaluate` found; all in nats per datum.

    ``elbo`` = ``reconstruction`` - sum of ``kl``, exactly: all three come from the same draws. So too
    ``aggregate_kl`` = ``rate`` - ``mutual_information``, and both are None where the pair has conditions or labels, or
    where the data are not the same at each pass; ``draws`` tells from how many codes they are. ``accuracy`` is the
    share of ``labelled`` data whose class is the likeliest by the guide, None where there are none. ``shared_kl`` is of
    what all data share, such as random weights, once for all of them (None where there is nothing): bounds on log p(x)
    are under q(theta) and leave it out. ``code_usage`` tells of each site of categorical codes which are in use; the
    ``active_units`` of such a site are codes that tell more than 0.01 nats of the data. ``clustering`` is the share of
    the data whose latent class stands for their label, of sites with one class, where labels are known.

    A pair whose prior can only be sampled, or whose posterior is a point, has no ELBO: all figures that need one are
    None, and ``without_elbo`` says why.
    """

    elbo: float | None
    log_likelihood: float | None
    standard_error: float | None
    effective_sample_size: float | None
    reconstruction: float
    kl: dict[str, float]
    active_units: dict[str, int]
    units: dict[str, int]
    particles: int
    data: int
    dimensions: float
    mutual_information: float | None
    mutual_information_error: float | None
    draws: int
    accuracy: float | None = None
    labelled: int = 0
    shared_kl: float | None = None
    code_usage: dict[str, CodeUsage] = field(default_factory=dict)
    clustering: dict[str, float] = field(default_factory=dict)
    without_elbo: str | None = None

    @property
    def rate(self) -> float | None:
        """KL(q(z | x) || p(z)), over all latent sites: the nats that the code takes."""
        return sum(self.kl.values()) if self.without_elbo is None else None

    @property
    def distortion(self) -> float:
        """-E_q[log p(x | z)]: the nats that remain to be told (Alemi et al. 2018, arXiv:1711.00464)."""
        return -self.reconstruction

    @property
    def bits_per_dimension(self) -> float | None:
        """-log p(x) / (D ln 2), D the ``dimensions`` of a datum: all that is observed, conditions left out.

        Under :class:`pyro_vae.infer.observed` D is how many entries of a datum are observed, on average.

        Of discrete data, such as 8-bit images under a discretised likelihood, it bounds the length of a code. Of a
        density it is only the density on another scale: it depends on the unit of x, and may be negative.
        """
        return None if self.log_likelihood is None else -self.log_likelihood / (self.dimensions * math.log(2))

    @property
    def aggregate_kl(self) -> float | None:
        """KL(q(z) || p(z)) = rate - mutual information, q(z) the mean of q(z | x) over the data.

        The rate is that of all draws of the report, so that an estimate near 0 may fall below it.
        """
        return None if self.mutual_information is None or self.rate is None else self.rate - self.mutual_information

    def to_dict(self) -> dict[str, Any]:
        """The report as plain numbers, ready for JSON: None in place of what is not a number."""
        derived = ("rate", "distortion", "bits_per_dimension", "aggregate_kl")
        figures = asdict(self) | {name: getattr(self, name) for name in derived}
        return {name: None if value != value else value for name, value in figures.items()}

    @property
    def verdicts(self) -> list[str]:
        """In words, where latents have collapsed onto their prior."""
        scored = {site: active for site, active in self.active_units.items() if site in self.kl}
        found = (verdict(site, self.kl[site], self.units[site], active) for site, active in scored.items())
        return [words for words in found if words]

    @property
    def _bounds(self) -> list[str]:
        reconstruction = f"reconstruction  {self.reconstruction:10.3f}"
        if self.without_elbo is not None:
            return [f"ELBO                  none  {self.without_elbo}", f"{reconstruction} nats ({self.data} data)"]
        error = f"  +- {self.standard_error:.3f}" if self.data > 1 else ""
        return [
            f"log-likelihood  {self.log_likelihood:10.3f}{error} nats per datum "
            f"({self.particles} particles, {self.data} data)",
            f"ELBO            {self.elbo:10.3f}  = reconstruction - KL",
            reconstruction,
        ]

    def __str__(self) -> str:
        lines = self._bounds
        for site in {**self.kl, **self.units}:
            kl = f"{self.kl[site]:10.3f}" if site in self.kl else f"{'none':>10s}"
            active = f"  ({self.active_units[site]} of {self.units[site]} units active)" if site in self.units else ""
            lines.append(f"KL of {site:9s} {kl}{active}")
        if self.accuracy is not None:
            lines.append(f"accuracy        {self.accuracy:10.4f}  of {self.labelled} labelled data, by q(c | x)")
        for site, usage in self.code_usage.items():
            perplexity, _, rest = str(usage).partition(" ")
            lines.append(f"perplexity of {site:2s} {perplexity:>9s}  {rest}")
        for site, share in self.clustering.items():
            lines.append(f"clustering by {site:2s} {share:9.4f}  of the data have the label of their class")
        if self.shared_kl is not None:
            lines.append(f"shared KL       {self.shared_kl:10.1f}  nats for all data together, in no figure above")
        if self.without_elbo is None:
            lines.append(f"effective draws {self.effective_sample_size:10.1f}  of {self.particles}")
            dimensions = f"({round(self.dimensions, 1):.10g} dimensions)"
            lines.append(f"bits per dimension {self.bits_per_dimension:7.3f}  {dimensions}")
        if self.mutual_information is not None:
            most = f"at most log N = {math.log(self.data):.3f} ({self.draws} draws)"
            lines += [
                f"mutual information {self.mutual_information:7.3f}  +- {self.mutual_information_error:.3f}; {most}",
                f"aggregate KL       {self.aggregate_kl:7.3f}  = KL - mutual information",
            ]
        return "\n".join(lines + self.verdicts)


def evaluate(
    variant: Variant,
    data: Any,
    *,
    particles: int = 100,
    seed: int = 0,
    batch_size: int = 1000,
    rows: int | None = None,
    draws: int | None = None,
    labels: Any = None,
) -> Report:
    r"""log p(x) >= log (1/K) sum_k p(x, z_k) / q(z_k | x) >= E_q[log p(x, z) - log q(z | x)]

    rate = E_n KL(q(z | x_n) || p(z)) = I + KL(q(z) || p(z)),   q(z) = (1/N) sum_n q(z | x_n)

    The bare pair on a data set, whatever it was trained under (what all data share is drawn by its posterior, anew with
    each particle, so that log p(x) is that of the posterior predictive); of a pair with conditions c the bounds are on
    log p(x | c), of data with labels c on log p(x, c). ``standard_error`` is that of the mean of the
    estimates of log p(x) over the data (NaN for one datum); ``effective_sample_size`` lies between 1 and K
    and tells how well q covers the posterior; a unit is active where Var_x(E_q[u]) > 0.01. The mutual
    information I of the N data and their codes is at most log N, and says no more where it is near it.

    Args:
        data: an array, a tensor, a mapping site -> tensor, a ``Dataset`` or a ``DataLoader``. Dynamic
            binarisation is drawn once, from ``seed``.
        particles: K, draws per datum.
        rows: how many data times draws are decoded at a time; memory grows with it.
        draws: codes from which I is measured, each scored under the posteriors of all data; one per datum at
            most. By default 500, or as many as ``particles`` where each of them takes the guide's networks
            through all data once more: several latent sites, or networks that know one batch dimension only.
        labels: (n,) whole numbers, with which latent classes are compared, negative ones left out; of data in memory,
            by default those that a :class:`pyro_vae.data.Data` brings.

    Raises:
        ValueError: where the data do not fit the pair, or lie outside the likelihood's support.

    Source: Burda, Grosse & Salakhutdinov 2016, arXiv:1509.00519; I and q(z), Hoffman & Johnson 2016, "ELBO
    surgery", NIPS workshop on advances in approximate Bayesian inference.

    >>> pair = pv.vae((1, 8, 8), latent=2)
    >>> report = evaluate(pair, pv.data.load("digits", "test", binarise="threshold"), particles=10)
    >>> report.elbo <= report.log_likelihood
    True
    """
    checks.instance("variant", variant, Variant)
    checks.positive_int("particles", particles)
    if draws is not None:
        checks.positive_int("draws", draws)
    if variant.labels and labels is not None:
        raise ValueError(f"labels: the pair has a site of labels, {variant.labels[0]!r}; pass them there")
    known = None if variant.labels else _labels(data, labels)
    data = data.drawn(seed) if hasattr(data, "drawn") else data
    totals = Totals(particles)
    log_likelihood, ess = [], []
    activity: Followed = {}
    classes: dict[str, list[Tensor]] = {}
    unscored: dict[str, str] = {}
    observed = hidden = 0
    feed = batches(variant, data, batch_size, variant.device)
    hits = labelled = 0
    if known is not None and len(known) != feed.size:
        raise ValueError(f"labels: expected {feed.size} whole numbers, found {len(known)}")
    with seeded(seed), pyro.validation_enabled():
        for batch in feed.fixed():
            variant.prepare({k: v[:1] for k, v in batch.items()})  # a mask of all data ends here
            hidden += sum(int(torch.isnan(value).sum()) for value in batch.values())
            moments = Moments(len(next(iter(batch.values()))))
            for part, terms in variant.terms(particles, rows=rows, partly=True, **batch):
                moments.add(part, terms.log_weights)
                totals.add(terms)
                unscored |= terms.unscored
                note(activity, terms, particles, variant.modules())
            single = [n for n, p in terms.probs.items() if p.shape[-2] == 1]
            if known is not None and single:
                q = variant.encode(ancestors="mean", rows=rows, **batch)
                for name in single:
                    p: Any = families.probabilities(q[name])
                    classes.setdefault(name, []).append(p[:, 0].argmax(-1))
            for label in set(variant.labels) & set(batch):
                found = variant.classify(batch, site=label, rows=rows).argmax(-1)
                hits, labelled = hits + int((found == batch[label]).sum()), labelled + len(found)
            few = {name: value[:2] for name, value in batch.items()}
            with variant._at_rest(seed):
                numbers = tracing.dimensions(variant.model, variant.guide, few, variant.conditions)
            observed += numbers * len(moments.total)
            log_likelihood.append(moments.log_likelihood)
            ess.append(moments.effective_sample_size)
    if hidden and hidden == observed:
        raise ValueError("data: every entry is hidden; expected masks that are True where data are observed")
    scored = not unscored
    information = mutual_information(variant, feed, particles, draws, rows, seed) if scored else Information()
    bound = torch.cat(log_likelihood)
    size = len(bound)
    activity = {name: found for name, found in activity.items() if size > 1}  # one datum has no variance
    return Report(
        elbo=totals.elbo / size if scored else None,
        log_likelihood=float(bound.mean()) if scored else None,
        standard_error=(float(bound.std() / size**0.5) if size > 1 else float("nan")) if scored else None,
        effective_sample_size=float(torch.cat(ess).mean()) if scored else None,
        reconstruction=totals.reconstruction / size,
        kl={site: kl / size for site, kl in totals.kl.items() if site not in unscored},
        active_units={name: found.active for name, found in activity.items()},
        units={name: found.units for name, found in activity.items()},
        particles=particles,
        data=size,
        dimensions=(observed - hidden) / size,
        mutual_information=information.nats,
        mutual_information_error=information.error,
        draws=information.draws,
        accuracy=hits / labelled if labelled else None,
        shared_kl=sum(shared_kl(variant, seed=seed).values()) if variant.shares else None,
        labelled=labelled,
        code_usage={
            name: CodeUsage(found.perplexity, found.used, found.units, found.categories, found.pooled)
            for name, found in activity.items()
            if isinstance(found, Usage)
        },
        clustering={} if known is None else _clustering(classes, known),
        without_elbo=None if scored else "; ".join(unscored.values()),
    )


def _labels(data: Any, told: Any) -> Tensor | None:
    """One whole number for each datum, as told, or as the data bring it."""
    if told is None:
        brought = data.labels if isinstance(data, Data) else None
        whole = brought is not None and brought.dim() == 1 and not brought.is_floating_point()
        return brought.cpu() if brought is not None and whole else None
    if isinstance(data, Dataset | DataLoader):
        raise ValueError(
            f"labels: expected with data in memory, found a {type(data).__name__}, which has its own order"
        )
    try:
        labels = torch.as_tensor(told).cpu()
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"labels: expected whole numbers, found {told!r:.60}") from None
    if labels.dim() != 1 or labels.is_floating_point():
        raise ValueError(f"labels: expected (n,) whole numbers, found {labels.dtype} of shape {tuple(labels.shape)}")
    return labels


def _clustering(classes: Mapping[str, list[Tensor]], labels: Tensor) -> dict[str, float]:
    """Of each site with one class, among the data that have a label."""
    if not classes:
        return {}
    told = labels >= 0
    if not told.any():
        return {}
    return {name: clustering(torch.cat(parts).cpu()[told], labels[told].long()) for name, parts in classes.items()}
