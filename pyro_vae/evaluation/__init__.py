"""Evaluation: what a pair has learned, in nats per datum."""

from pyro_vae.evaluation.audited import Audit
from pyro_vae.evaluation.auditing import audit
from pyro_vae.evaluation.collapse import Collapse, Level, collapse_report
from pyro_vae.evaluation.factor_scores import DCI, dci, mig, sap
from pyro_vae.evaluation.factor_votes import beta_vae_score, factor_vae_score
from pyro_vae.evaluation.factors import Disentanglement, disentanglement
from pyro_vae.evaluation.features import FeatureNet, train_classifier
from pyro_vae.evaluation.fidelity import frechet_distance, precision_recall, sharpness
from pyro_vae.evaluation.parzen_window import ParzenEstimate, parzen_log_likelihood
from pyro_vae.evaluation.quality import SampleQuality, sample_quality
from pyro_vae.evaluation.report import Report, evaluate
from pyro_vae.evaluation.two_samples import TwoSampleTest, aggregate_test, two_sample_test
from pyro_vae.evaluation.uncertainty import weight_information
from pyro_vae.evaluation.usage import CodeUsage, clustering
from pyro_vae.evaluation.weights import Layer, WeightsReport, weights_report

__all__ = [
    "DCI",
    "Audit",
    "CodeUsage",
    "Collapse",
    "Disentanglement",
    "FeatureNet",
    "Layer",
    "Level",
    "ParzenEstimate",
    "Report",
    "SampleQuality",
    "TwoSampleTest",
    "WeightsReport",
    "aggregate_test",
    "audit",
    "beta_vae_score",
    "clustering",
    "collapse_report",
    "dci",
    "disentanglement",
    "evaluate",
    "factor_vae_score",
    "frechet_distance",
    "mig",
    "parzen_log_likelihood",
    "precision_recall",
    "sample_quality",
    "sap",
    "sharpness",
    "train_classifier",
    "two_sample_test",
    "weight_information",
    "weights_report",
]
