"""Meta-training on bilevel problems: Adam on the meta-parameters, by any meta-gradient."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

from rulesearch.arguments import check_kind, check_positive, whole
from rulesearch.errors import ConfigError, LearnerError
from rulesearch.named import Named, copied, detached, spread, under
from rulesearch.outer.bilevel.descent import Adam, Memory
from rulesearch.outer.bilevel.given import check_named
from rulesearch.outer.bilevel.problem import BilevelGradient, BilevelLearner, Estimate
from rulesearch.outer.bilevel.synapse import allowed
from rulesearch.outer.checkpoint import load_parameters
from rulesearch.outer.record import UpdateRecord

__all__ = ["BilevelTraining", "MetaParameters"]

P = TypeVar("P")
MOMENTS = ("first", "second")


@runtime_checkable
class _Drawing(Protocol):
    """A meta-gradient that draws random numbers: where it stands is part of the state."""

    generator: torch.Generator


class MetaParameters(nn.Module):
    """Theta of several seeds, ``(seeds, ...)`` each, as a module.

    Raises
    ------
    LearnerError
        If there is no tensor, one is not of floating point, they are of unlike many seeds, or a
        name is one that torch's modules keep for themselves.
    """

    def __init__(self, theta: Named) -> None:
        super().__init__()
        check_named("theta", theta)
        shapes = {name: tuple(t.shape) for name, t in theta.items()}
        if not all(t.is_floating_point() for t in theta.values()) or (
            len({shape[:1] for shape in shapes.values()}) != 1 or () in shapes.values()
        ):
            raise LearnerError(
                f"theta has shapes {shapes}; give tensors of floating point, all of which begin "
                "with the number of seeds"
            )
        torchs = dir(nn.ParameterDict())
        own = [name for name in theta if name in torchs]
        if own:
            raise LearnerError(f"theta: '{own[0]}' is a name of torch's own; call it otherwise")
        self.named = nn.ParameterDict(
            {name.replace(".", "/"): nn.Parameter(t.clone()) for name, t in theta.items()}
        )
        self._names = {name.replace(".", "/"): name for name in theta}  # modules take no dots
        if len(self._names) < len(theta):
            raise LearnerError(
                f"theta: of {', '.join(theta)} two are the same but for '.' and '/'; call one "
                "of them otherwise"
            )

    def theta(self) -> dict[str, nn.Parameter]:
        """By the names that problems know them by."""
        return {self._names[key]: p for key, p in self.named.items()}

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return next(self.parameters()).device


@dataclass(eq=False)
class BilevelTraining(Generic[P]):
    """Meta-parameters and their optimiser; resumable after any update.

    Strengths of complex synapses, where they are learnt as such, are kept from below zero. What
    diverged or went astray teaches nothing (see :mod:`rulesearch.outer.bilevel.convergence`): the
    mean over a seed's problems is that of the others. A seed without any keeps Adam's moments and
    count of steps, and goes half-way back to where it was last accepted, for to stay could be to
    diverge for ever.

    Parameters
    ----------
    model : MetaParameters
        On any device; what an update records is on the CPU.
    problems : callable
        From an update's number to its problems, ``seeds * episodes`` of them, those of a seed
        together, on the same device.
    meta_gradient : BilevelGradient
    rate : float
        Adam's step.
    episodes : int
        Problems of a seed in an update.
    milestones : sequence of int
        Updates after which the rate is multiplied by ``drop``.
    drop : float
    eps_root : float
        What Adam adds inside of its root: slopes below the root of it hardly move anything.

    Raises
    ------
    ConfigError
        For a rate or a drop that is not positive, an eps_root below zero, without an episode, or
        for a learner in place of a meta-gradient.
    """

    model: MetaParameters
    problems: Callable[[int], P]
    meta_gradient: BilevelGradient[P]
    rate: float
    episodes: int = 1
    updates: int = 0
    milestones: Sequence[int] = ()
    drop: float = 0.5
    eps_root: float = 0.0

    def __post_init__(self) -> None:
        check_kind("model", self.model, MetaParameters, "MetaParameters, as MetaParameters(theta)")
        wanted = "a function from an update's number to its problems"
        check_kind("problems", self.problems, Callable, wanted)  # type: ignore[arg-type]
        wanted = "a meta-gradient, as Contrastive(free, nudged, 0.1)"
        given: object = self.meta_gradient
        check_kind("meta_gradient", given, BilevelGradient, wanted)
        if isinstance(given, BilevelLearner):
            raise ConfigError(f"meta_gradient should be {wanted}, not {given!r}, which only learns")
        check_positive("rate", self.rate)
        check_positive("drop", self.drop)
        check_kind("milestones", self.milestones, Sequence, "updates, as [100, 200]")
        for milestone in self.milestones:
            whole("a milestone", milestone, least=0)
        whole("episodes", self.episodes, least=1)
        whole("updates", self.updates, least=0)
        self._adam = Adam(self.rate, eps_root=self.eps_root)
        theta = detached(self.model.theta())
        self._moments: dict[str, Memory] = {
            name: (torch.zeros_like(t), torch.zeros_like(t)) for name, t in theta.items()
        }
        (first, *_) = theta.values()
        self._steps = first.new_zeros(len(first), dtype=torch.int64)  # of Adam, by seed
        self._good: dict[str, Tensor] = {}  # where each seed was last accepted

    def update(self) -> UpdateRecord:
        """Estimate the meta-gradient of a meta-batch, and take one step."""
        theta = self.model.theta()
        each = copied(detached(theta), self.episodes)
        estimate = self.meta_gradient(self.problems(self.updates), each)
        wanted = "an Estimate, as Contrastive(...)(problem, theta)"
        check_kind("what meta_gradient returns", estimate, Estimate, wanted, LearnerError)
        self._check_number(estimate.loss.numel(), len(self._steps))
        alive = estimate.accepted.reshape(-1, self.episodes)
        count = alive.sum(1)
        rejected = count == 0

        def mean(values: Tensor) -> Tensor:
            rows = values.reshape(*alive.shape, *values.shape[1:])
            rows = torch.where(spread(alive, rows), rows, 0.0).sum(1)
            return rows / spread(count.clamp(min=1), rows)

        with torch.no_grad():
            self._step(theta, {k: mean(g) for k, g in estimate.gradient.items()}, ~rejected)
        self.updates += 1
        loss = torch.where(rejected, torch.nan, mean(estimate.loss))
        residual = {
            kind: _median(left.reshape(alive.shape)).cpu()
            for kind, left in estimate.residual.items()
        }
        return UpdateRecord(loss.cpu(), rejected.cpu(), (self.episodes - count).cpu(), residual)

    def _check_number(self, problems: int, seeds: int) -> None:
        """Refuse another number of problems than theta has copies: some would broadcast."""
        if problems != seeds * self.episodes:
            raise ConfigError(
                f"problems({self.updates}) gives {problems} problems; with seeds={seeds} and "
                f"episodes={self.episodes} there should be {seeds * self.episodes}: let episodes= "
                "be how many a seed has"
            )

    def _step(self, theta: Named, gradient: Named, accepted: Tensor) -> None:
        """Adam's step of the seeds that are accepted; the others half-way back."""
        left = self.drop ** sum(self.updates >= m for m in self.milestones)
        for name, parameter in theta.items():
            here = spread(accepted, parameter)
            before, moments = parameter.clone(), self._moments[name]
            good = self._good[name] = torch.where(here, before, self._good.get(name, before))
            steps = spread(self._steps, parameter)
            change, after = self._adam.update(gradient[name], moments, steps)
            parameter.copy_(before + left * change)
            parameter.copy_(allowed({name: parameter})[name])
            parameter.copy_(torch.where(here, parameter, (before + good) / 2))
            self._moments[name] = tuple(
                torch.where(here, new, old) for new, old in zip(after, moments, strict=True)
            )
        self._steps = self._steps + accepted

    def tensors(self) -> dict[str, Tensor]:
        """Everything that the next update needs, for a checkpoint."""
        found = {f"model.{k}": v.detach().clone() for k, v in self.model.named_parameters()}
        for name, moments in self._moments.items():
            found |= {f"adam.{m}.{name}": t for m, t in zip(MOMENTS, moments, strict=True)}
        found["adam.steps"] = self._steps
        if isinstance(self.meta_gradient, _Drawing):
            found["generator"] = self.meta_gradient.generator.get_state()
        return found | {f"good.{name}": value for name, value in self._good.items()}

    def load(self, tensors: Mapping[str, Tensor], updates: int) -> None:
        """Go on from a checkpoint made after so many updates.

        Raises
        ------
        ConfigError
            If it is of other meta-parameters, or of another way to get their gradient.
        """
        whole("updates", updates, least=0)
        parts = ("adam.", "generator")
        others = {k: t for k, t in self.tensors().items() if k.startswith(parts)}
        parameters = dict(self.model.named_parameters())
        load_parameters(parameters, tensors, "other meta-parameters, or another way", others)
        here = {k: t.to(self.model.device, copy=True) for k, t in tensors.items()}
        self._steps = here["adam.steps"]
        for name in self._moments:
            self._moments[name] = tuple(here[f"adam.{m}.{name}"] for m in MOMENTS)
        if isinstance(self.meta_gradient, _Drawing):
            self.meta_gradient.generator.set_state(tensors["generator"].clone())
        self._good = under("good.", here)
        self.updates = updates


def _median(rows: Tensor) -> Tensor:
    """Of each row, NaN left out: of an even number the mean of the two in the middle."""
    above = -(-rows).nanmedian(1).values  # torch's is the lower of the two
    return (rows.nanmedian(1).values + above) / 2
