"""Evaluation: what a pair has learned, in nats per datum."""

from pyro_vae.evaluation.report import Report, evaluate

__all__ = ["Report", "evaluate"]
