"""Bilevel problems and their meta-gradients: contrastive, unrolled, implicit, evolution."""

from rulesearch.named import Named
from rulesearch.outer.bilevel.batches import Batches
from rulesearch.outer.bilevel.bound import best_beta, error_bound
from rulesearch.outer.bilevel.chain import Chain, ContrastiveChain
from rulesearch.outer.bilevel.classifiers import (
    Classifier,
    CrossEntropy,
    accuracy,
    classifier_problem,
    fast_and_slow,
)
from rulesearch.outer.bilevel.coefficients import CoefficientProblem
from rulesearch.outer.bilevel.conjugate_gradient import ConjugateGradient
from rulesearch.outer.bilevel.contrastive import SCHEMES, Contrastive
from rulesearch.outer.bilevel.dense import Dense
from rulesearch.outer.bilevel.descent import SGD, Adam, Descent, Optimiser
from rulesearch.outer.bilevel.evolution import Evolution
from rulesearch.outer.bilevel.identity import Identity
from rulesearch.outer.bilevel.implicit import Implicit, InverseHessian
from rulesearch.outer.bilevel.losses import Loss, LossProblem
from rulesearch.outer.bilevel.networks import Examples, Source, always, network_problem
from rulesearch.outer.bilevel.neumann import Neumann
from rulesearch.outer.bilevel.newton import Newton
from rulesearch.outer.bilevel.plasticity import RuleProblem, rule_problem
from rulesearch.outer.bilevel.problem import (
    Bilevel,
    BilevelGradient,
    BilevelLearner,
    Estimate,
    Smooth,
)
from rulesearch.outer.bilevel.ridge import (
    LeastSquares,
    Ridge,
    RidgeSolution,
    draw_ridge,
    exact_ridge_gradient,
)
from rulesearch.outer.bilevel.synapse import ComplexSynapse
from rulesearch.outer.bilevel.training import BilevelTraining, MetaParameters
from rulesearch.outer.bilevel.unrolled import UnrolledDescent

__all__ = [
    "SCHEMES",
    "SGD",
    "Adam",
    "Batches",
    "Bilevel",
    "BilevelGradient",
    "BilevelLearner",
    "BilevelTraining",
    "Chain",
    "Classifier",
    "CoefficientProblem",
    "ComplexSynapse",
    "ConjugateGradient",
    "Contrastive",
    "ContrastiveChain",
    "CrossEntropy",
    "Dense",
    "Descent",
    "Estimate",
    "Evolution",
    "Examples",
    "Identity",
    "Implicit",
    "InverseHessian",
    "LeastSquares",
    "Loss",
    "LossProblem",
    "MetaParameters",
    "Named",
    "Neumann",
    "Newton",
    "Optimiser",
    "Ridge",
    "RidgeSolution",
    "RuleProblem",
    "Smooth",
    "Source",
    "UnrolledDescent",
    "accuracy",
    "always",
    "best_beta",
    "classifier_problem",
    "draw_ridge",
    "error_bound",
    "exact_ridge_gradient",
    "fast_and_slow",
    "network_problem",
    "rule_problem",
]
