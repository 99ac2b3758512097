"""Learners: what happens in a lifetime."""

from rulesearch.learners.base import Learner
from rulesearch.learners.examples import Indexed
from rulesearch.learners.plasticity import PlasticityLearner
from rulesearch.learners.report import LifetimeReport

__all__ = ["Indexed", "Learner", "LifetimeReport", "PlasticityLearner"]
