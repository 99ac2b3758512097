"""Beyond CML: networks that learn by a discovered rule, and what they are drawn back to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Annotated, Any, NamedTuple, Self

import torch
from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError
from torch import Tensor

from rulesearch.arguments import naming
from rulesearch.errors import ConfigError
from rulesearch.grammar import Grammar
from rulesearch.grammar.catalogue import catalogue
from rulesearch.networks import NetworkState, PlasticNetwork
from rulesearch.outer.accuracy import share_right
from rulesearch.outer.bilevel import (
    SGD,
    BilevelTraining,
    ComplexSynapse,
    Contrastive,
    Descent,
    Named,
    RuleProblem,
    always,
    rule_problem,
)
from rulesearch.outer.bilevel.networks import Examples, named_weights
from rulesearch.outer.bilevel.plasticity import of_examples
from rulesearch.reproduce.base import (
    Job,
    Measured,
    Reproduction,
    Row,
    RunSettings,
    Trained,
    Training,
)
from rulesearch.reproduce.cml_settings import Rate, Strength, Tolerance, Ways
from rulesearch.reproduce.cml_tasks import Draws, births, learnt, meta_training, on_tests, synapses
from rulesearch.reproduce.given import RuleName, named_rule
from rulesearch.rules import Rule
from rulesearch.search.settings import Count, Spec
from rulesearch.tasks import FewShot, ImageData, TaskFamily, load

__all__ = ["CML_RULES", "Coefficients", "RuleSettings"]

Finite = Annotated[float, Field(allow_inf_nan=False)]
AT_ONCE = 10  # test tasks side by side: more would not stay in cache


class Coefficients(Spec):
    """Of the rule that the paper discovers: Eq. 7 of Shervani-Tabar & Rosenbaum 2023."""

    F0: Finite
    F2: Finite
    F9: Finite

    @model_validator(mode="after")
    def _learns(self) -> Self:
        if not any(self.model_dump().values()):
            raise PydanticCustomError("coefficients", "should not all be zero: nothing would learn")
        return self


class RuleSettings(RunSettings):
    """Settings of all rows.

    Attributes
    ----------
    data, held_out : str, int
        Images, and how many of their classes only test tasks have.
    unseen : int
        Images of every other class that only test tasks have.
    ways, shots, queries : int
        Of a task.
    hidden : sequence of int
        Units of the hidden layers.
    rule : str or None
        A ``rule.json``, or a term of the catalogue, in place of the paper's rule; without
        consolidation, which the rows add.
    coefficients : Coefficients
        Of the paper's rule.
    steps, nudged_steps : int
        Of learning, all images of the task at each; and of each nudged phase.
    beta, strength, meta_rate : float
        Of the contrast; lambda at first, per step; and Adam's step.
    tolerance : float, optional
        The largest residual of learning that an update accepts; by default any.
    """

    data: str = "emnist"
    held_out: Count = 12
    unseen: Count = 50
    ways: Ways = 5
    shots: Count = 5
    queries: Count = 10
    hidden: tuple[Count, ...] = (130, 70)
    rule: RuleName | None = None
    coefficients: Coefficients = Coefficients(F0=0.2, F2=0.1, F9=0.005)
    steps: Count = 30
    nudged_steps: Count = 10
    beta: Rate = 1.0
    strength: Strength = 0.05
    meta_rate: Rate = 3e-3
    tolerance: Tolerance = None


class _Way(NamedTuple):
    """A row: whether weights are drawn back, and the meta-parameters, learnt or as at birth.

    Where there is another row whose state it takes, nothing is learnt but by that.
    """

    held: bool
    trained: bool
    parts: tuple[str, ...] = ("omega",)
    state: str = ""


WAYS = {
    "alone": _Way(held=False, trained=False),
    "held": _Way(held=True, trained=False),
    "omega": _Way(held=True, trained=True),
    "omega-alone": _Way(held=False, trained=False, state="omega"),
    "omega-lambda": _Way(held=True, trained=True, parts=("omega", "lambda")),
    "omega-lambda-alone": _Way(held=False, trained=False, state="omega-lambda"),
    "omega-log-lambda": _Way(held=True, trained=True, parts=("omega", "log_lambda")),
    "omega-log-lambda-alone": _Way(held=False, trained=False, state="omega-log-lambda"),
}


@dataclass(frozen=True, eq=False)
class _Model:
    """A network, its rule, and the meta-parameters of its synapses."""

    settings: RuleSettings
    network: PlasticNetwork
    rule: Rule
    parts: tuple[str, ...]

    @cached_property
    def born(self) -> NetworkState:
        """Networks of all seeds at birth."""
        return self.network.init(births(self.settings), device=self.settings.torch_device)

    @property
    def theta(self) -> dict[str, Tensor]:
        """Meta-parameters at first."""
        return synapses(named_weights(self.born), self.parts, self.settings.strength)

    def descent(self, steps: int) -> Descent:
        """The rule itself, so many times."""
        return Descent(steps, SGD(1.0))

    def problem(self, family: TaskFamily, draws: Draws) -> ComplexSynapse[RuleProblem]:
        """Tasks side by side, those of a seed together."""
        s, each = self.settings, len(draws) // self.settings.seeds
        batch = family.sample(draws).to(s.torch_device)
        learn = Examples(batch.x[:].transpose(0, 1), batch.label.T)
        judge = Examples(batch.x_query, batch.label_query)
        copies = {n: [t.repeat_interleave(each, 0) for t in p] for n, p in self.born.parts()}
        born = replace(self.born, **copies)
        return rule_problem(self.network, self.rule, born, always(learn), always(judge))

    def training(
        self, family: TaskFamily, state: str, trained: Trained
    ) -> BilevelTraining[ComplexSynapse[RuleProblem]]:
        """Contrast what the rule makes of a task with what it makes of it nudged either way.

        It begins with the state that another job has trained, if that is here.
        """
        s = self.settings
        contrast: Contrastive[ComplexSynapse[RuleProblem]] = Contrastive(
            self.descent(s.steps),
            self.descent(s.nudged_steps),
            s.beta,
            continued=True,
            tolerance=s.tolerance,
        )
        problem = partial(self.problem, family)
        training = meta_training(s, self.theta, problem, contrast, s.meta_rate)
        if state in trained:
            names = training.model.state_dict()
            training.model.load_state_dict({name: trained[state][name] for name in names})
        return training

    def judge(self, family: TaskFamily, draws: Draws, theta: Named) -> Tensor:
        """Share of a new task's queries that are classified rightly; NaN where one diverged."""
        problem = self.problem(family, draws)
        phi, settled = learnt(self.descent(self.settings.steps), problem, theta)
        x, label = problem.inner.evaluate(None)
        logits = self.network(replace(problem.inner.born, W=list(phi.values())), x)
        return torch.where(settled, share_right(logits, label, *phi.values()), torch.nan)

    def measure(self, family: TaskFamily, training: Training) -> Measured:
        """Accuracy in percent on new tasks, ``(seeds, lifetimes)``."""
        right = on_tests(self.settings, training.model, partial(self.judge, family), AT_ONCE)
        return {"error": 100 * right.cpu()}


def _rule(settings: RuleSettings) -> Rule:
    """Without consolidation.

    Raises
    ------
    ConfigError, LearnerError
        If a rule of one's own has some, or learns nothing from examples.
    """
    if settings.rule is None:
        return Rule(Grammar.from_yaml("bio").enumerate(), settings.coefficients.model_dump())
    rule = named_rule(settings.rule)
    for term in rule.terms:
        if "Omega" in term.symbols:
            raise ConfigError(
                f"rule={settings.rule}: term {term.name}, '{term}', speaks of Omega; leave "
                "consolidation out of the rule, for the rows add it"
            )
    with naming(f"rule={settings.rule}:"):
        of_examples(rule)
    return rule


def _tasks(settings: RuleSettings) -> dict[str, FewShot]:
    """Where states are meta-learnt, and tests: of other images of classes met, of new classes."""
    data = load(settings.data)
    learnt, unseen = data.apart(settings.unseen)

    def tasks(images: ImageData, held_out: bool = False) -> FewShot:
        return FewShot(
            images,
            ways=settings.ways,
            shots=settings.shots,
            queries=settings.queries,
            hold_out=settings.held_out,
            held_out=held_out,
        )

    return {"train": tasks(learnt), "met": tasks(unseen), "new": tasks(data, held_out=True)}


def _jobs(settings: RuleSettings) -> Sequence[Job]:
    own = _rule(settings)
    tasks = _tasks(settings)
    train = tasks["train"]
    network = PlasticNetwork((train.n_in, *settings.hidden, train.n_out))
    consolidation = Rule(catalogue(), {"consolidation": 1.0})
    jobs = []
    for row, way in WAYS.items():
        rule = own + consolidation * (settings.strength if way.held else 0.0)
        model = _Model(settings, network, rule, way.parts)
        updates = settings.updates if way.trained else 0
        met, new = (partial(model.measure, tasks[condition]) for condition in ("met", "new"))
        state = f"{way.state}-met"
        job = Job(
            row,
            "met",
            updates,
            partial(model.training, train, state),
            met,
            needs=(state,) if way.state else (),
        )
        jobs += [job, job.again("new", new)]
    return jobs


CML_RULES: Reproduction[Any] = Reproduction(
    name="cml-rules",
    title="Beyond CML: consolidation for networks that learn by a discovered rule",
    source="none; networks and rule of Shervani-Tabar and Rosenbaum 2023",
    unit="% accuracy",
    rows=(
        Row("alone", "The rule alone"),
        Row("held", "Drawn to the weights at birth"),
        Row("omega", "Drawn to a state meta-learnt by CML"),
        Row("omega-alone", "From that state, the rule alone"),
        Row("omega-lambda", "State and strength meta-learnt"),
        Row("omega-lambda-alone", "From that state, the rule alone, too"),
        Row("omega-log-lambda", "State and logarithm of the strength"),
        Row("omega-log-lambda-alone", "From that state, the rule alone, as well"),
    ),
    conditions={"met": "Classes met before", "new": "New classes"},
    settings=RuleSettings,
    scales={
        "small": {"updates": 80, "seeds": 2, "episodes": 4, "lifetimes": 100, "hidden": [64]},
        "full": {"updates": 2000, "seeds": 5, "episodes": 16, "lifetimes": 300},
    },
    jobs=_jobs,
    notes=(
        "Accuracy on new tasks, all of whose images are new: those of classes that meta-training "
        "met, of which it never drew the last images (unseen), and those of classes held out. A "
        "network has an output for every class of the data.",
        "Errors go back by fixed random feedback, and no gradient of any loss is taken, neither in "
        "learning nor in meta-learning.",
        "All rows learn for as many steps from as many images; meta-learnt states are where "
        "learning starts. The rule alone from such a state tells apart what it is worth to start "
        "there and what to be drawn there.",
    ),
)
"""Few-shot classification with and without meta-learnt consolidation."""
