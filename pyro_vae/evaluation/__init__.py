"""Evaluation: what a pair has learned, in nats per datum."""

from pyro_vae.evaluation.audited import Audit
from pyro_vae.evaluation.auditing import audit
from pyro_vae.evaluation.collapse import Collapse, Level, collapse_report
from pyro_vae.evaluation.report import Report, evaluate

__all__ = ["Audit", "Collapse", "Level", "Report", "audit", "collapse_report", "evaluate"]
