r"""A network that learns by a plasticity rule, as a bilevel problem: no gradient anywhere.

What a rule wants is taken for the descent of an objective, in units of its own: if its
coefficients make it :math:`-\eta\,\partial l/\partial W`, the losses are :math:`\eta l`, and so
are their meta-gradients. ``SGD(rate=1)`` is then the rule itself.

What judges is a loss of examples without a regulariser: a nudge is what the terms want of the
examples judged. Terms that speak of weights alone, such as decay, want the same of any examples.
They belong to what is learnt, and beta leaves them as strong as they are.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from torch import Tensor

from rulesearch.arguments import check_kind
from rulesearch.errors import LearnerError
from rulesearch.grammar import Term
from rulesearch.grammar.symbols import VOCABULARY
from rulesearch.learners import PlasticityLearner
from rulesearch.named import Named
from rulesearch.networks import NetworkState, PlasticNetwork
from rulesearch.outer.bilevel.given import check_sources
from rulesearch.outer.bilevel.networks import Source, forward_weights, network_loss, seen
from rulesearch.outer.bilevel.synapse import LAMBDA, OMEGA, ComplexSynapse
from rulesearch.rules import Rule

__all__ = ["CONSOLIDATION", "RuleProblem", "of_examples", "rule_problem", "wanted"]

ALWAYS = {"W", "B", "Omega", "ones_pre", "ones_post"}
SEEN = VOCABULARY.keys() - ALWAYS  # what follows from an example
CONSOLIDATION = Term.from_text("consolidation", "Omega - W")


def of_examples(rule: Rule) -> Rule:
    """What of a rule depends on examples.

    Raises
    ------
    LearnerError
        If nothing does.
    """
    moved = {t.name: rule.coefficients[t.name] for t in rule.terms if t.symbols & SEEN}
    if not moved:
        raise LearnerError(
            "no term of the rule depends on examples, and nothing would be learnt from them: "
            f"{rule}"
        )
    return Rule(rule.pool, moved)


def wanted(
    learner: PlasticityLearner,
    state: NetworkState,
    theta: Tensor | None,
    source: Source,
    step: int,
) -> dict[str, Tensor]:
    """What plasticity on the examples of a step adds to forward weights."""
    x, label = seen(source, step, state.W[0])
    moved = learner.live(state, theta, x[None], label[None])
    born = forward_weights(state)
    return {name: w - born[name] for name, w in forward_weights(moved).items()}


@dataclass(frozen=True, eq=False)
class RuleProblem:
    """Plasticity on the examples that are learnt, and beta times on those that judge.

    Of the latter by the terms that depend on examples; a term does if any symbol in it does. The
    parameters are ``W0``, ``W1``, ...; feedback and biases stay as they are born.

    Parameters
    ----------
    learner : PlasticityLearner
        With a rule.
    born : NetworkState
    learn, evaluate : Source

    Raises
    ------
    LearnerError
        If no term depends on examples.
    """

    learner: PlasticityLearner
    born: NetworkState
    learn: Source
    evaluate: Source
    _nudge: PlasticityLearner = field(init=False)

    def __post_init__(self) -> None:
        check_kind("learner", self.learner, PlasticityLearner, "a PlasticityLearner")
        self.learner.network.check(self.born)
        check_sources(learn=self.learn, evaluate=self.evaluate)
        rule = self.learner.rule
        if rule is None:
            raise LearnerError("a pool has no coefficients of its own: give a rule")
        nudge = PlasticityLearner(
            self.learner.network, of_examples(rule), reduction=self.learner.reduction
        )
        object.__setattr__(self, "_nudge", nudge)

    def start(self, theta: Named) -> Named:
        """Forward weights at birth."""
        return forward_weights(self.born)

    def slope(self, phi: Named, theta: Named, beta: float, step: int) -> Named:
        """The negative of what the rule wants."""
        state = self._state(phi)
        found = wanted(self.learner, state, None, self.learn, step)
        if beta:
            nudge = wanted(self._nudge, state, None, self.evaluate, step)
            found = {name: w + beta * nudge[name] for name, w in found.items()}
        return {name: -w for name, w in found.items()}

    def partial(self, phi: Named, theta: Named, beta: float) -> Named:
        """Nothing depends on meta-parameters but through complex synapses around it."""
        self._check_none(theta)
        return {}

    def eval_loss(self, phi: Named, theta: Named) -> Tensor:
        """The network's loss on all examples that judge, ``(lifetimes,)``."""
        self._check_none(theta)
        return network_loss(self.learner.network, self._state(phi), self.evaluate)

    def _check_none(self, theta: Named) -> None:
        if theta:
            raise LearnerError(
                f"theta: nothing depends on '{next(iter(theta))}'; a network that learns by a rule "
                "has omega.W0, lambda.W0, ... of the complex synapses around it, as of rule_problem"
            )

    def _state(self, phi: Named) -> NetworkState:
        return replace(self.born, W=list(phi.values()))


def rule_problem(
    network: PlasticNetwork, rule: Rule, born: NetworkState, learn: Source, evaluate: Source
) -> ComplexSynapse[RuleProblem]:
    """Complex synapses that learn by a rule.

    Parameters
    ----------
    rule : Rule
        Its term ``Omega - W``, if there is one, is the consolidation: the coefficient is lambda
        of all synapses, and Omega that of birth, or the weights where it has none, unless the
        meta-parameters say otherwise
        (``omega.W0``, ``lambda.W0``, ...).
    born : NetworkState
        Weights at birth.
    learn, evaluate : Source
        Examples that are learnt, and that judge.

    Raises
    ------
    LearnerError
        If nothing of the rule depends on examples, or another term needs Omega, or a signal that
        the network does not carry.
    """
    check_kind("rule", rule, Rule, "a Rule, as Rule(pool, {'F0': 1e-3})")
    coefficients = rule.coefficients
    anchors = [term.name for term in rule.terms if term == CONSOLIDATION]
    strength = sum(coefficients.pop(name) for name in anchors)
    for term in rule.pool.subset(coefficients):
        if "Omega" in term.symbols:
            raise LearnerError(f"term {term.name}: Omega consolidates as 'Omega - W', not '{term}'")
    of_examples(rule)
    learner = PlasticityLearner(network, Rule(rule.pool, coefficients))
    problem = RuleProblem(learner, born, learn, evaluate)
    fixed: dict[str, Tensor] = {}
    if anchors:
        states = born.Omega or born.W
        for (name, w), omega in zip(problem.start({}).items(), states, strict=True):
            fixed |= {OMEGA + name: omega, LAMBDA + name: w.new_tensor(strength)}
    return ComplexSynapse(problem, fixed)
