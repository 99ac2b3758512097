"""Learners: what happens in a lifetime."""

from rulesearch.learners.base import Learner
from rulesearch.learners.bptt import BPTT
from rulesearch.learners.eprop import EProp
from rulesearch.learners.examples import Indexed
from rulesearch.learners.plasticity import PlasticityLearner
from rulesearch.learners.report import LifetimeReport

__all__ = ["BPTT", "EProp", "Indexed", "Learner", "LifetimeReport", "PlasticityLearner"]
