"""Outer loops: what improves what a lifetime started from."""

from rulesearch.outer.meta_gradient import Evaluation, MetaGradient, Unrolled, evaluate
from rulesearch.outer.meta_optimiser import MetaOptimiser, OptimiserState
from rulesearch.outer.penalty import L1, L2, NoPenalty, Penalty, ProximalL1
from rulesearch.outer.scaling import term_scales

__all__ = [
    "L1",
    "L2",
    "Evaluation",
    "MetaGradient",
    "MetaOptimiser",
    "NoPenalty",
    "OptimiserState",
    "Penalty",
    "ProximalL1",
    "Unrolled",
    "evaluate",
    "term_scales",
]
