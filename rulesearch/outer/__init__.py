"""Outer loops: what improves what a lifetime started from."""

from rulesearch.outer.curriculum import Stage
from rulesearch.outer.flp import FLPSettings, flp_model
from rulesearch.outer.flp_files import load_flp, save_flp
from rulesearch.outer.flp_presets import MINI_IMAGENET, OMNIGLOT, PRESETS, SINES
from rulesearch.outer.meta_gradient import Evaluation, MetaGradient, Unrolled, evaluate
from rulesearch.outer.meta_model import LifeOutcome, MetaModel
from rulesearch.outer.meta_optimiser import MetaOptimiser, OptimiserState
from rulesearch.outer.meta_training import MetaRates, MetaTraining
from rulesearch.outer.penalty import L1, L2, NoPenalty, Penalty, ProximalL1
from rulesearch.outer.scaling import term_scales

__all__ = [
    "L1",
    "L2",
    "MINI_IMAGENET",
    "OMNIGLOT",
    "PRESETS",
    "SINES",
    "Evaluation",
    "FLPSettings",
    "LifeOutcome",
    "MetaGradient",
    "MetaModel",
    "MetaOptimiser",
    "MetaRates",
    "MetaTraining",
    "NoPenalty",
    "OptimiserState",
    "Penalty",
    "ProximalL1",
    "Stage",
    "Unrolled",
    "evaluate",
    "flp_model",
    "load_flp",
    "save_flp",
    "term_scales",
]
