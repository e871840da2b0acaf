"""Why a loss is not finite: the first place where it went wrong, and the likely cause."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae import families, tracing


def diagnose(model: Callable[..., Any], guide: Callable[..., Any], batch: Mapping[str, Tensor]) -> str:
    """One sentence that names the first quantity that is not finite: batch, parameter or site."""
    for name, value in tracing.filled(batch).items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            return f"the batch holds NaN or infinite values at site {name!r}; clean the data"
    for role, program in (("model", model), ("guide", guide)):
        for name, parameter in program.named_parameters() if isinstance(program, nn.Module) else ():
            if not torch.isfinite(parameter).all():
                return (
                    f"the {role}'s parameter {name} is no longer finite; an earlier step was too large: "
                    "lower lr, or limit the gradient with clip"
                )
    with torch.no_grad():
        guide_trace, model_trace = tracing.paired(model, guide, batch)
        for role, trace in (("guide", guide_trace), ("model", model_trace)):
            for name, site in tracing.sites(trace).items():
                found = _fault(site)
                if found:
                    return f"at site {name!r} of the {role}, {found}"
    return (
        "every site is finite on a fresh draw, so one extreme draw did it; lower lr, limit the gradient with clip, "
        "or bound the scales of your distributions"
    )


def _fault(site: tracing.Site) -> str:
    base, family = families.base(site["fn"]), families.family(site["fn"])
    for parameter in base.arg_constraints:
        value = base.__dict__.get(parameter)
        if isinstance(value, Tensor) and not torch.isfinite(value).all():
            return f"the {parameter} of {family} is not finite; bound what the network gives, or lower lr"
        if parameter == "scale" and isinstance(value, Tensor) and (value <= 0).any():
            return f"the scale of {family} has reached {float(value.min()):g}; bound it away from 0"
    if not torch.isfinite(site["value"]).all():
        return f"the value drawn from {family} is not finite"
    if not torch.isfinite(site["fn"].log_prob(site["value"])).all():
        return f"log p of {family} is not finite: the value has no density there; change the likelihood or the data"
    return ""
