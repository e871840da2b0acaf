"""Pictures of categorical codes."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pyro_vae import families
from pyro_vae.checks import known
from pyro_vae.infer.usage import Usage, pooled
from pyro_vae.plot.pictures import _axes, _batch
from pyro_vae.variant import Variant


def code_usage(variant: Variant, data: Any, *, site: str | None = None, ax: Axes | None = None) -> Figure:
    """E_x q(z_j = k | x) of each code j and category k: which categories the data use.

    Codes in rows, each with its categories from the most used to the least; codes that are numbers of one codebook are
    shown together, as bars.

    Args:
        site: a latent site of categorical codes, by default the first.

    Raises:
        ValueError: where the guide has no such site.

    >>> pair = pv.discrete_vae((1, 8, 8), codes=4, categories=6)
    >>> pv.plot.plt.close(code_usage(pair, pv.data.load("digits", binarise="threshold")))
    """
    posteriors = variant.encode(ancestors="mean", **_batch(variant, data))
    found = {name: p for name, q in posteriors.items() if (p := families.probabilities(q)) is not None}
    if not found:
        raise ValueError(f"site: expected one of categorical codes, found none among {sorted(posteriors)}")
    site = next(iter(found)) if site is None else known("site", site, found)
    usage = Usage(pooled(variant.modules(), tuple(found[site].shape[-2:])))
    usage.add(found[site][None])
    shares = np.sort(usage.shares.cpu().numpy(), axis=-1)[:, ::-1]
    even, title = 1 / usage.categories, f"perplexity {usage.perplexity:.1f} of {usage.categories}"
    if len(shares) == 1:
        ax = _axes(ax, 5.4, 3.0)
        ax.bar(np.arange(usage.categories), shares[0], width=1.0, color="C0", edgecolor="white", linewidth=0.3)
        ax.axhline(even, color="0.4", linewidth=0.8)
        ax.set(xlabel=f"{'entry of the codebook' if usage.pooled else f'category of {site}'}, by use", ylabel="share")
    else:
        ax = _axes(ax, 1.5 + 0.16 * usage.categories, 0.9 + 0.16 * usage.units)
        shown = ax.imshow(shares, cmap="Blues", vmin=0, vmax=max(float(shares.max()), 2 * even), aspect="auto")
        ax.figure.colorbar(shown, ax=ax, label="share")
        ax.set(xlabel="category, by use", ylabel=f"code of {site}")
    ax.set_title(f"{title}, {100 * usage.used:.0f} % in use", fontsize="medium")
    return ax.figure.figure
