"""The plasticity terms that a network with learnt feedback wants.

The terms of a grammar, ``flp10``, are learnt together with everything else that FLP learns, in
three steps, each a job of its own: all terms are learnt freely; a penalty then takes those that
are not needed; and a newborn network learns with what is left, beside one with Oja's rule of
single neurons and one with Hebb's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError
from torch import Tensor

from rulesearch.arguments import naming
from rulesearch.files import make_folder, write_atomically
from rulesearch.grammar import TermPool
from rulesearch.outer import (
    FLPSettings,
    MetaModel,
    MetaTraining,
    NoPenalty,
    Penalty,
    ProximalL1,
    flp_model,
    term_scales,
)
from rulesearch.outer.flp import flp_learner
from rulesearch.outer.rule_shape import ShapeTraining, in_common_units
from rulesearch.outer.seeds import COEFFICIENTS, TASK, generators, members
from rulesearch.report.table import latex_table, text_table
from rulesearch.reproduce.base import Job, Measured, Reproduction, Row, Trained, Training
from rulesearch.reproduce.flp import FLPRunSettings, Tasks, flp_job, lengths, lifetime_errors
from rulesearch.reproduce.flp_table1 import FLP_TABLE1, SineSettings, sine_network, sine_tasks
from rulesearch.reproduce.flp_table2 import FLP_TABLE2, ImageSettings, image_network, image_tasks
from rulesearch.reproduce.given import RANDOM, GrammarName, ThetaStart, candidates
from rulesearch.rules import Rule
from rulesearch.search.selection import kept_terms
from rulesearch.search.settings import Count, Size

__all__ = ["FLP_RULES", "FLP_RULES_OMNIGLOT", "of_one_sign", "rule_jobs", "rule_table"]

ALL, PENALISED, REFITTED = "all-terms", "penalised", "refitted"
PROBES = 8  # steps of a lifetime at which terms are measured at birth
ROWS = (
    Row("hebb", "Hebb's rule"),
    Row("oja", "Oja's rule, single neurons"),
    Row(ALL, "All terms"),
    Row(PENALISED, "All terms, then penalised"),
    Row(REFITTED, "Survivors, newborn network"),
)


class RuleSettings(FLPRunSettings):
    """How a rule is learnt; feedback is not plastic.

    Attributes
    ----------
    grammar : str
        Candidate terms: a bundled grammar, or a file.
    theta_start : mapping of str to float, or 'random', optional
        Coefficients that the search begins with, in common units: by name, those of other terms
        being zero; or of each seed its own, uniform and then scaled so that the largest is one.
        By default the grammar's, which is Oja's rule of single neurons in ``flp10``.
    theta : float
        Adam's step of the coefficients, in common units, the largest of them being one.
    lam : float
        Weight of the penalty, L1 by its proximal map.
    keep : float
        Share of the largest coefficient above which a term is kept.
    """

    grammar: GrammarName = "flp10"
    theta_start: ThetaStart = None
    theta: Annotated[float, Field(gt=0)] = 1e-3
    lam: Size = 1e-2
    keep: Annotated[float, Field(ge=0, lt=1)] = 0.05

    @field_validator("plastic")
    @classmethod
    def _feedback_stands_still(cls, plastic: bool) -> bool:
        if plastic:
            raise PydanticCustomError(
                "plastic",
                "should be false: terms of the search speak of what is fed back (e_pre, e_post), "
                "which the synapses of plastic feedback do not have",
            )
        return plastic

    @field_validator("rule")
    @classmethod
    def _it_is_searched_for(cls, rule: str) -> str:
        if rule != cls.model_fields["rule"].default:
            raise PydanticCustomError(
                "rule",
                "is what this searches for; grammar and theta_start say among what, and where "
                "the search begins",
            )
        return rule

    @field_validator("average")
    @classmethod
    def _terms_are_those_of_the_last_update(cls, average: int) -> int:
        if average != 1:
            raise PydanticCustomError(
                "average", "should be 1: a mean over updates keeps every term that any of them had"
            )
        return average


class SineRuleSettings(SineSettings, RuleSettings):
    """Of incremental sines.

    Attributes
    ----------
    plastic_layers : int
    """

    plastic_layers: Count = 2

    @property
    def deepest(self) -> int:
        """Of its one kind of network."""
        return self.plastic_layers


class ImageRuleSettings(ImageSettings, RuleSettings):
    """Of few-shot classification."""


@dataclass(frozen=True)
class _Search:
    """The three steps under one condition."""

    condition: str
    flp: FLPSettings
    tasks: Tasks
    run: RuleSettings
    pool: TermPool

    def job(self, row: str, begin: Any, needs: str | None = None) -> Job:
        names = () if needs is None else (f"{needs}-{self.condition}",)
        updates, alike = self.run.updates, row == PENALISED  # it goes on with whole lifetimes
        times = () if alike else lengths(self.tasks, updates)
        return Job(row, self.condition, updates, begin, self.measure, names, times)

    def scales(self) -> Tensor:
        """C of ``theta = c t``, from a network and a lifetime of each seed, on the CPU."""
        run = self.run
        model = flp_model(self.flp, run.seeds, run.seed, pool=self.pool, theta=self.pool.init)
        draws = generators(run.seed, 0, TASK, members(run.seeds))
        task = self.tasks.train.sample(draws, model.dtype)
        probes = slice(None, None, max(1, task.x.shape[0] // PROBES))
        x, label = task.x[:][probes], task.label[probes]
        if x.ndim == 3:  # one example a step
            x, label = x.unsqueeze(2), label.unsqueeze(2)
        with torch.no_grad():
            seen = model.see(x, run.seeds)
        return term_scales(self.pool, model.learner.network, model.born(), seen, label)

    def training(
        self, trained: Mapping[str, Tensor] | None, penalty: Penalty, kept: Tensor | None = None
    ) -> ShapeTraining:
        """All terms, from birth or from a finished job on."""
        run, pool = self.run, in_common_units(self.pool, self.scales())
        model = flp_model(
            self.flp, run.seeds, run.seed, pool=pool, theta=pool.init, device=run.device
        )
        if trained is not None:
            model.load_state_dict(dict(trained))
        elif run.theta_start == RANDOM:
            with torch.no_grad():
                model.theta.copy_(_random_shapes(run, len(pool)))
        stages = self.tasks.stages if trained is None else ()
        rates = replace(self.flp.rates, theta=run.theta)
        training = MetaTraining(
            model, self.tasks.train, rates, run.seed, run.episodes, penalty, stages
        )
        return ShapeTraining(training, kept)

    def begin_free(self, trained: object) -> ShapeTraining:
        return self.training(None, NoPenalty())

    def begin_penalised(self, trained: Trained) -> ShapeTraining:
        return self.training(trained[f"{ALL}-{self.condition}"], ProximalL1(self.run.lam))

    def begin_refitted(self, trained: Trained) -> ShapeTraining:
        """A newborn network, with the coefficients that were found and are kept."""
        t = trained[f"{PENALISED}-{self.condition}"]["theta"]
        newborn = self.training(None, NoPenalty())
        with torch.no_grad():
            newborn.model.theta.copy_(t)
        kept = torch.from_numpy(kept_terms(t.double().numpy(), self.run.keep))
        return ShapeTraining(newborn.training, kept)

    def measure(self, training: Training) -> dict[str, Tensor]:
        """Errors, and coefficients in common units with their scales."""
        model = training.model
        assert isinstance(model, MetaModel)
        return {
            "error": lifetime_errors(model, self.tasks.test, self.run.lifetimes, self.run.seed),
            "t": model.theta.detach().clone().cpu(),
            "scales": self.scales(),
        }


def _random_shapes(run: RuleSettings, terms: int) -> Tensor:
    """Coefficients of each seed, ``(seeds, terms)``, of which the largest is one or minus one."""
    draws = generators(run.seed, 0, COEFFICIENTS, members(run.seeds))
    drawn = torch.stack([2 * torch.rand(terms, generator=g) - 1 for g in draws])
    return drawn / drawn.abs().amax(1, keepdim=True)


def rule_jobs(
    condition: str, flp: FLPSettings, tasks: Tasks, run: RuleSettings, pool: TermPool
) -> list[Job]:
    """Jobs of one condition.

    Parameters
    ----------
    flp : FLPSettings
        With Oja's rule; its rates are learnt in all of the jobs.
    pool : TermPool
        Candidate terms. Those that begin off zero are what the search starts from.
    """
    in_common_units(pool, torch.ones(len(pool)))  # before a run begins, for what SymPy imports
    with naming(f"grammar={run.grammar}:"):
        flp_learner(flp, pool)
    search = _Search(condition, flp, tasks, run, pool)
    return [
        flp_job(("hebb", condition), replace(flp, rule="hebb"), tasks, run),
        flp_job(("oja", condition), flp, tasks, run),
        search.job(ALL, search.begin_free),
        search.job(PENALISED, search.begin_penalised, ALL),
        search.job(REFITTED, search.begin_refitted, PENALISED),
    ]


def rule_table(pool: TermPool, measured: Mapping[str, Measured], condition: str) -> dict[str, Any]:
    """What was found under one condition, as a search's result tells it.

    The coefficient of a term is the mean over the seeds that kept it, and its spread their
    standard deviation, in the term's own units; those of a seed are scaled so that the largest is
    one in common units, and so that seeds agree in sign, for a rule with its rates is the same with
    both negated. The rule is of the terms that at least half of the seeds kept.
    """
    jobs = {row: measured[f"{row}-{condition}"] for row in (PENALISED, REFITTED)}
    t, scales = of_one_sign(jobs[REFITTED]["t"].double()), jobs[REFITTED]["scales"].double()
    kept, theta = t != 0, t * scales
    rows: list[dict[str, Any]] = []
    for k, term in enumerate(pool):
        own = theta[kept[:, k], k]
        rows.append(
            {
                "name": term.name,
                "latex": term.latex(),
                "coefficient": float(own.mean()) if len(own) else None,
                "spread": float(own.std(correction=0)) if len(own) else None,
                "share": float(kept[:, k].double().mean()),
                "locality": term.locality,
                "kept": bool(2 * kept[:, k].sum() >= len(t)),
            }
        )
    found = {row["name"]: row["coefficient"] for row in rows if row["kept"]}
    errors = {"search": jobs[PENALISED]["error"], "refit": jobs[REFITTED]["error"]}
    return {
        "front": [],
        "pick": {"terms": list(found)},
        "table": rows,
        "accuracy": {name: [None] * len(t) for name in errors},
        "loss": {name: error.double().nanmean(1).tolist() for name, error in errors.items()},
        "rule": Rule(pool, found).to_json(),
    }


def of_one_sign(t: Tensor) -> Tensor:
    """Negate a seed's coefficients ``(seeds, terms)`` where its largest term is negative.

    Largest is what is so on average over seeds, of the terms that the seed has, so that seeds with
    the same rule come out the same whichever of two like terms is the larger in them.
    """
    ordered = t[:, t.abs().mean(0).argsort(descending=True, stable=True)]
    first = ordered.ne(0).int().argmax(1, keepdim=True)
    return t * ordered.gather(1, first).sign()


def _draw(measured: Mapping[str, Measured], run: Path, settings: RuleSettings) -> None:
    """Write ``rules/CONDITION/``: the rule, and the table of terms as text and in LaTeX."""
    pool = _pool(settings)
    for name in measured:
        row, _, condition = name.rpartition("-")
        if row != REFITTED:
            continue
        content = rule_table(pool, measured, condition)
        folder = make_folder(run / "rules" / condition)
        Rule.from_json(content["rule"]).save(folder / "rule.json")
        write_atomically(folder / "terms.txt", text_table(content) + "\n")
        write_atomically(folder / "terms.tex", latex_table(content))


def _pool(settings: RuleSettings) -> TermPool:
    return candidates(settings.grammar, settings.theta_start)


def _sine_jobs(settings: SineRuleSettings) -> Sequence[Job]:
    jobs, pool = [], _pool(settings)
    flp = sine_network(settings, settings.plastic_layers)
    for condition, tasks in sine_tasks(settings).items():
        jobs += rule_jobs(condition, flp, tasks, settings, pool)
    return jobs


def _image_jobs(settings: ImageRuleSettings) -> Sequence[Job]:
    pool = _pool(settings)
    return [
        job
        for condition, tasks in image_tasks(settings).items()
        for job in rule_jobs(
            condition, image_network(settings, condition, 2), tasks, settings, pool
        )
    ]


NOTES = (
    "Rates of weights are learnt along with the rule. A rule c times as large with rates c times "
    "as small is the same rule, so the largest coefficient is held at one, in units in which terms "
    "move the weights of a newborn network about as far.",
    "The penalised network goes on where that of all terms ended, for as many updates again. "
    "Survivors are refitted without penalty in a newborn network, each seed with its own; what a "
    "seed dropped stays out. All three have the same draws of tasks.",
    "Rules and tables of terms are in the run's folder rules/.",
)

FLP_RULES = Reproduction(
    name="flp-rules",
    title="Which terms does learnt feedback want? Incremental sines",
    source="Lindsey and Litwin-Kumar 2020, Table 1, for networks and tasks; it fixes the rule",
    unit=FLP_TABLE1.unit,
    rows=ROWS,
    conditions=FLP_TABLE1.conditions,
    settings=SineRuleSettings,
    scales={**FLP_TABLE1.scales, "small": {**FLP_TABLE1.scales["small"], "lam": 0.1}},
    jobs=_sine_jobs,
    notes=NOTES,
    draw=_draw,
)
"""Rules discovered inside FLP, on sines."""

FLP_RULES_OMNIGLOT = Reproduction(
    name="flp-rules-omniglot",
    title="Which terms does learnt feedback want? Five classes from five images each",
    source="Lindsey and Litwin-Kumar 2020, Table 2, for networks and tasks; it fixes the rule",
    unit=FLP_TABLE2.unit,
    rows=ROWS,
    conditions=FLP_TABLE2.conditions,
    settings=ImageRuleSettings,
    scales={
        **FLP_TABLE2.scales,
        "narrow": {**FLP_TABLE2.scales["narrow"], "average": 1, "clip": 2},
    },
    jobs=_image_jobs,
    notes=NOTES,
    draw=_draw,
)
"""The same, on images."""
