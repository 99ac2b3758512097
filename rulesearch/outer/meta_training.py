"""Meta-training: Adam on all meta-parameters, through whole lifetimes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from rulesearch.arguments import check_kind, number, whole
from rulesearch.errors import ConfigError
from rulesearch.named import under
from rulesearch.outer.checkpoint import load_parameters
from rulesearch.outer.clipping import UsualNorm, check_multiple
from rulesearch.outer.curriculum import TASKS, Stage, stage_at
from rulesearch.outer.fit import check_finite_model, check_fit
from rulesearch.outer.meta_model import GROUPS, MetaModel
from rulesearch.outer.penalty import NoPenalty, Penalty
from rulesearch.outer.readout import draw_classes_anew
from rulesearch.outer.record import UpdateRecord
from rulesearch.outer.seeds import READOUT, TASK, generators, members
from rulesearch.tasks import TaskFamily
from rulesearch.tasks.family import check_batch, check_family

__all__ = ["MetaRates", "MetaTraining"]

CALMER = 0.9  # what is left of a seed's rates after a lifetime that diverged


@dataclass(frozen=True)
class MetaRates:
    """Adam's step of each group of meta-parameters (FLP, appendix B); 0 leaves a group as it is.

    ``rate`` may be one a plastic layer, first to last; ``feedback_rate`` is that of the rates of
    plastic feedback, which a lifetime bears only where they are much smaller: by default a
    hundredth of ``rate``, of the first plastic layer's where there are several. At ``milestones``
    of the updates, that of ``forward`` is multiplied by ``drop``. With ``clip``, above 1, a
    gradient is at most so many times its usual norm, see
    :class:`rulesearch.outer.clipping.UsualNorm`; the paper does not clip. ``betas`` are those of
    Adam's running means, of a gradient and of its square; the paper has torch's.

    Raises
    ------
    ConfigError
        If a number is negative or not finite, one of the betas not below 1, or clip not above.
    """

    forward: float = 1e-4
    feedback: float = 1e-4
    mixing: float = 1e-4
    rate: float | tuple[float, ...] = 1e-8
    feedback_rate: float | None = None
    theta: float = 0.0
    clip: float | None = None
    milestones: tuple[int, ...] = ()
    drop: float = 0.3
    betas: tuple[float, float] = (0.9, 0.999)

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if each.name in ("clip", "feedback_rate") and value is None:
                continue
            many = each.name in ("rate", "milestones", "betas") and isinstance(value, tuple | list)
            if not all(0 <= number(v) < math.inf for v in (value if many else (value,))):
                raise ConfigError(
                    f"meta-training: {each.name} is {value!r}; give numbers from 0 on"
                )
        check_kind("meta-training: milestones", self.milestones, Sequence, "updates, as (50, 80)")
        for milestone in self.milestones:
            whole("meta-training: a milestone", milestone, least=0)
        check_kind("meta-training: betas", self.betas, Sequence, "two numbers, as (0.9, 0.999)")
        if len(self.betas) != 2 or max(self.betas) >= 1:
            raise ConfigError(
                f"meta-training: betas is {self.betas!r}; give two numbers from 0 to below 1"
            )
        if self.clip is not None:
            check_multiple("meta-training: clip", self.clip)

    def of(self, group: str) -> float | tuple[float, ...]:
        """Return the step of a group, or those of its plastic layers."""
        if group == "feedback_rate" and self.feedback_rate is None:
            rate = self.rate if isinstance(self.rate, Sequence) else (self.rate,)
            return max(rate[:1], default=0.0) / 100
        found: float | tuple[float, ...] = getattr(self, group)
        return found


@dataclass(eq=False)
class MetaTraining:
    """A meta-model and its optimiser; resumable after any update.

    A seed whose loss or squared gradient is not finite stays as it was, but with a tenth off the
    rates that are learnt, for it would diverge again.

    Parameters
    ----------
    model : MetaModel
        On any device, to which tasks are moved; what is random is drawn on the CPU.
    tasks : TaskFamily
    rates : MetaRates
    seed : int
        Of the run: tasks of an update follow from it, the model's seed and the update's number.
    episodes : int
        Lifetimes of a seed in an update.
    penalty : Penalty
        On theta, for the discovery of rules. While rates are near zero so is the gradient of
        theta, and a penalty takes the whole rule: begin with rates off zero, or with none.
    stages : sequence of Stage
        Easier tasks that come first.
    updates : int
        How many were made already; :meth:`load` sets it.
    fresh_readout : bool
        Before each update, draw the readout's initial weights of the classes that lifetimes are
        about to learn anew, as OML does on :class:`rulesearch.tasks.OMLTrajectories`.

    Raises
    ------
    ConfigError
        If there are not as many rates as plastic layers, tasks and model do not fit together, a
        meta-parameter is not finite, something is to be learnt of which the meta-gradient tells
        nothing, or there is a penalty on a theta that is not learnt.
    """

    model: MetaModel
    tasks: TaskFamily
    rates: MetaRates = field(default_factory=MetaRates)
    seed: int = 0
    episodes: int = 1
    penalty: Penalty = field(default_factory=NoPenalty)
    stages: Sequence[Stage] = ()
    updates: int = 0
    fresh_readout: bool = False

    def __post_init__(self) -> None:
        self._check_kinds()
        check_finite_model(self.model.named_parameters())
        for tasks in (*(stage.tasks for stage in self.stages), self.tasks):
            check_fit(self.model, tasks)
        if self.model.learner.method == "first-order":
            self._check_first_order()
        groups = [g for name in GROUPS for g in self._groups(name)]
        learnt = [g for g in groups if g["lr"] > 0 and g["params"]]
        for group in groups:
            for parameter in group["params"]:
                parameter.requires_grad_(group["lr"] > 0)
        if not learnt:
            raise ConfigError("meta-training: every rate is 0, and nothing would be learnt")
        if self.penalty.name != NoPenalty.name and not self.rates.theta:
            raise ConfigError(
                f"meta-training: the penalty '{self.penalty.name}' is on theta, which is not "
                "learnt; give MetaRates(theta=...) a step, or leave the penalty out"
            )
        self._adam = torch.optim.Adam(learnt, betas=self.rates.betas)
        self._usual = None if self.rates.clip is None else UsualNorm(self.rates.clip)

    def _check_kinds(self) -> None:
        for name, least in (("seed", 0), ("episodes", 1), ("updates", 0)):
            whole(f"meta-training: {name}", getattr(self, name), least)
        for name, kind, wanted in (
            ("model", MetaModel, "a MetaModel, as flp_model(settings)"),
            ("rates", MetaRates, "MetaRates"),
            ("penalty", Penalty, "a penalty, as rulesearch.ProximalL1(10.0)"),
            ("stages", Sequence, "a list of Stages"),
        ):
            check_kind(f"meta-training: {name}", getattr(self, name), kind, wanted)
        check_kind("meta-training: fresh_readout", self.fresh_readout, bool, "True or False")
        check_family("meta-training: tasks", self.tasks, TASKS, "generators", "dtype")
        for i, stage in enumerate(self.stages):
            check_kind(f"meta-training: stages[{i}]", stage, Stage, "a Stage, as Stage(100, tasks)")

    def _check_first_order(self) -> None:
        unseen = ["feedback", "mixing"] if self.model.learner.network.learns_feedback else []
        for name in (*unseen, "theta"):
            if getattr(self.rates, name):
                raise ConfigError(
                    f"meta-training: the first-order meta-gradient tells nothing of {name}; set "
                    f"its rate to 0, or take method='reversible'"
                )

    def _groups(self, name: str) -> list[dict[str, Any]]:
        rate, parameters = self.rates.of(name), self.model.group(name)
        if not isinstance(rate, Sequence):
            return [{"params": parameters, "lr": rate, "rate": rate, "name": name}]
        layers = len(self.model.learner.network.connections)
        if len(rate) != layers:
            raise ConfigError(
                f"meta-training: {len(rate)} values of {name} for {layers} plastic layers"
            )
        return [
            {"params": parameters[k::layers], "lr": one, "rate": one, "name": name}
            for k, one in enumerate(rate)
        ]

    def update(self) -> UpdateRecord:
        """Live a meta-batch, differentiate, and take one step."""
        model, seeds = self.model, self.model.seeds
        lifetimes = members(seeds, self.episodes)
        draws = generators(self.seed, 0, TASK, lifetimes, self.updates)
        stage = stage_at(self.updates, self.stages)
        tasks, pace = (self.tasks, 1.0) if stage is None else (stage.tasks, stage.pace)
        drawn = tasks.sample(draws, model.dtype)
        task = check_batch("tasks", tasks, drawn, len(draws), model.dtype)
        task = task.to(model.device)
        if self.fresh_readout:
            anew = generators(self.seed, 0, READOUT, members(seeds), self.updates)
            draw_classes_anew(model, task.label, anew)
        self._adam.zero_grad()
        loss = model(task).loss.reshape(seeds, self.episodes).mean(1)
        total = loss.sum()
        if self.rates.theta:
            with torch.no_grad():
                slope = self.penalty.gradient(model.theta)
            total = total + (model.theta * slope).sum()
        total.backward()
        rejected = self._not_finite(loss.detach())
        if self._usual is not None:
            for key, gradient in self._gradients():
                self._usual.clip(key, gradient, rejected[_seeds_of(key, seeds)])
        kept = [[p.clone() for p in part] for part in self._of(rejected)]
        for group in self._adam.param_groups:
            group["lr"] = pace * self._dropped(group["name"], group["rate"])
        self._adam.step()
        self._shrink()
        with torch.no_grad():
            for part, old in zip(self._of(rejected), kept, strict=True):
                for p, value in zip(part, old, strict=True):
                    p.copy_(value)
            for rate in self.model.group("rate") + self.model.group("feedback_rate"):
                if rate.requires_grad:
                    rate[rejected] *= CALMER
        self.updates += 1
        return UpdateRecord(loss.detach(), rejected)

    def _dropped(self, name: str, rate: float) -> float:
        """A group's rate, after the milestones that were passed."""
        passed = sum(self.updates >= m for m in self.rates.milestones)
        return rate * self.rates.drop**passed if name == "forward" else rate

    def _gradients(self) -> list[tuple[str, Tensor]]:
        """Names and gradients, ``(seeds, ...)``; those of features, a seed each, by themselves."""
        own = [(key, p.grad) for key, p in self.model.named_parameters() if p.grad is not None]
        return [(key, g[None] if key.startswith("features.") else g) for key, g in own]

    def _not_finite(self, loss: Tensor) -> Tensor:
        """Seeds whose loss or gradient is not finite; their gradients become zero.

        Nor may its square be too large for a number, or Adam's mean of squares never is one again.
        """
        bad = ~loss.isfinite()
        owned = [(_seeds_of(key, len(bad)), g) for key, g in self._gradients()]
        for seeds, g in owned:
            bad[seeds] |= ~g.reshape(len(g), -1).square().sum(1).isfinite()
        for seeds, g in owned:
            g[bad[seeds]] = 0
        return bad

    def _of(self, rejected: Tensor) -> list[list[Tensor]]:
        """Parameters of the seeds that were rejected."""
        if not rejected.any():
            return []
        return [part for part, bad in zip(self.model.by_seed(), rejected, strict=True) if bad]

    def _shrink(self) -> None:
        """The proximal map of the penalty, in the metric of Adam's step.

        Where nothing is known yet of any of a seed's coefficients, as while all rates are zero,
        that step is none and not the largest.
        """
        moments = self._adam.state.get(self.model.theta)
        if not moments or not self.rates.theta:
            return
        group = next(g for g in self._adam.param_groups if g["name"] == "theta")
        second = moments["exp_avg_sq"] / (1 - group["betas"][1] ** moments["step"])
        step = group["lr"] / (second.sqrt() + group["eps"])
        step = torch.where(second.any(1, keepdim=True), step, 0.0)
        with torch.no_grad():
            self.model.theta.copy_(self.penalty.proximal(self.model.theta, step))

    def tensors(self) -> dict[str, Tensor]:
        """Everything that the next update needs, for a checkpoint; copies."""
        found = {f"model.{k}": v.detach().clone() for k, v in self.model.named_parameters()}
        names = {id(p): k for k, p in self.model.named_parameters()}
        for parameter, moments in self._adam.state.items():
            for key, value in moments.items():
                found[f"adam.{names[id(parameter)]}.{key}"] = torch.as_tensor(value).clone()
        usual = {} if self._usual is None else self._usual.usual
        return found | {f"usual.{key}": value for key, value in usual.items()}

    def load(self, tensors: Mapping[str, Tensor], updates: int) -> None:
        """Go on from a checkpoint made after so many updates.

        Raises
        ------
        ConfigError
            If it is of another model, or its meta-parameters are not finite.
        """
        whole("updates", updates, least=0)
        parameters = dict(self.model.named_parameters())
        held = under("model.", tensors)
        check_finite_model((key, held[key]) for key in parameters if key in held)
        load_parameters(parameters, tensors, "another model")
        self._adam.state.clear()  # at the first update there are no moments yet
        for key, parameter in parameters.items():
            if moments := under(f"adam.{key}.", tensors):
                self._adam.state[parameter] = {
                    m: v.to("cpu" if m == "step" else parameter, copy=True)  # as Adam does
                    for m, v in moments.items()
                }
        if self._usual is not None:
            usual = under("usual.", tensors)
            self._usual.usual = {k: v.to(self.model.theta, copy=True) for k, v in usual.items()}
        self.updates = updates


def _seeds_of(key: str, seeds: int) -> slice:
    """Which seeds a parameter belongs to."""
    if not key.startswith("features."):
        return slice(0, seeds)
    seed = int(key.split(".")[1])
    return slice(seed, seed + 1)
