"""Evaluation: what a pair has learned, in nats per datum."""

from pyro_vae.evaluation.audited import Audit
from pyro_vae.evaluation.auditing import audit
from pyro_vae.evaluation.collapse import Collapse, Level, collapse_report
from pyro_vae.evaluation.report import Report, evaluate
from pyro_vae.evaluation.uncertainty import weight_information
from pyro_vae.evaluation.usage import CodeUsage, clustering
from pyro_vae.evaluation.weights import Layer, WeightsReport, weights_report

__all__ = [
    "Audit",
    "CodeUsage",
    "Collapse",
    "Layer",
    "Level",
    "Report",
    "WeightsReport",
    "audit",
    "clustering",
    "collapse_report",
    "evaluate",
    "weight_information",
    "weights_report",
]
