"""Meta-parameters: how networks are born, fed back to, and how fast each weight learns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rulesearch.arguments import check_choice, check_kind, whole
from rulesearch.errors import LearnerError
from rulesearch.learners import PlasticityLearner
from rulesearch.networks import NetworkState
from rulesearch.outer.features import extract
from rulesearch.tasks import TaskBatch

__all__ = ["GROUPS", "LifeOutcome", "MetaModel"]

GROUPS = {
    "forward": ("features", "W", "bias"),
    "feedback": ("B", "feedback_bias"),
    "mixing": ("mixing",),
    "rate": ("rate", "bias_rate"),
    "feedback_rate": ("feedback_rate",),
    "theta": ("theta",),
}
"""Meta-parameters that are learnt at a common rate."""

TASK = "a TaskBatch, as of tasks.sample(generators)"
STATE = "a NetworkState, as of live()"


@dataclass(frozen=True, eq=False)
class LifeOutcome:
    """What came of lifetimes.

    Attributes
    ----------
    loss : Tensor (lifetimes,)
        On the queries: cross-entropy, or the mean squared error.
    output : Tensor (lifetimes, queries, n_out)
    state : NetworkState
        At the end of life.
    """

    loss: Tensor
    output: Tensor
    state: NetworkState


class MetaModel(nn.Module):
    r"""What an outer loop learns, for several seeds side by side.

    A lifetime starts from the initial W and b; a rule moves the weights of the plastic layers,

    .. math:: W \leftarrow W + \alpha \circ \sum_r \theta_r F_r,

    and layers below them, any module, are the same for all of it (FLP, section 4.1). Seeds never
    mix: each has its own meta-parameters and its own tasks.

    Parameters
    ----------
    learner : PlasticityLearner
    born : NetworkState
        Where the outer loop starts, a lifetime a seed; its parts are the meta-parameters.
    features : sequence of Module
        One a seed, from ``(examples, n_in)`` or images to what the network sees, flattened; or
        none. Their parameters that want no gradient are frozen: no meta-parameters.
    theta : Tensor (n_terms,), optional
        Coefficients where the outer loop starts, by default the rule's own.
    image : sequence of int, optional
        Shape in which features see an example, as channels, height and width.
    fixed : sequence of str
        Parts of the state that stay as they are, as ``rate``: no meta-parameters either.

    Raises
    ------
    ConfigError
        If the learner, the modules or the shape of an image are of another kind, or the state has
        no part of such a name.
    LearnerError
        If the state is not the network's or not finite, there are not as many modules as seeds or
        two of them share parameters, a module mixes examples or draws at random, or theta is not
        one finite coefficient a term.
    """

    W: nn.ParameterList
    B: nn.ParameterList
    bias: nn.ParameterList
    feedback_bias: nn.ParameterList
    mixing: nn.ParameterList
    rate: nn.ParameterList
    bias_rate: nn.ParameterList
    feedback_rate: nn.ParameterList
    Omega: nn.ParameterList

    def __init__(
        self,
        learner: PlasticityLearner,
        born: NetworkState,
        features: Sequence[nn.Module] = (),
        theta: Tensor | None = None,
        image: Sequence[int] | None = None,
        fixed: Sequence[str] = (),
    ) -> None:
        super().__init__()
        wanted = "a PlasticityLearner, as PlasticityLearner(network, rule)"
        check_kind("learner", learner, PlasticityLearner, wanted)
        learner.network.check(born)
        _check_born(born)
        _check_features(features, born.lifetimes)
        self.learner, self.seeds = learner, born.lifetimes
        if image is not None:
            check_kind("image", image, Sequence, "a shape, as (1, 28, 28)")
            image = tuple(whole(f"image[{i}]", n, least=1) for i, n in enumerate(image))
        self.image = image
        self.features = nn.ModuleList(features)
        for name, part in born.parts():
            setattr(self, name, nn.ParameterList([t.detach().clone() for t in part]))
        self.fixed = tuple(fixed)
        for name in self.fixed:
            check_choice("fixed", name, [name for name, _ in born.parts()])
            getattr(self, name).requires_grad_(False)
        named = self.named_parameters()
        self._frozen = frozenset(key for key, p in named if not p.requires_grad)
        if theta is None:
            if learner.rule is None:
                raise LearnerError("a pool has no coefficients of its own: give theta")
            theta = born.W[0].new_tensor(learner.rule.theta)
        _check_theta(theta, learner)
        self.theta = nn.Parameter(theta.detach().expand(self.seeds, -1).clone())

    @property
    def dtype(self) -> torch.dtype:
        """Type of the numbers."""
        return self.theta.dtype

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self.theta.device

    def group(self, name: str) -> list[nn.Parameter]:
        """The meta-parameters of a group, see :data:`GROUPS`."""
        wanted = GROUPS[name]
        named = self.named_parameters()
        return [p for k, p in named if k.split(".")[0] in wanted and k not in self._frozen]

    def by_seed(self) -> list[list[Tensor]]:
        """Views of everything that belongs to a seed, a list a seed."""
        shared = [p for key, p in self.named_parameters() if not key.startswith("features.")]
        own = [list(m.parameters()) for m in self.features] or [[]] * self.seeds
        return [[p[i] for p in shared] + list(own[i]) for i in range(self.seeds)]

    def born(self, episodes: int = 1) -> NetworkState:
        """Networks at birth, ``episodes`` a seed, those of a seed together."""

        def expanded(t: Tensor) -> Tensor:
            return t if episodes == 1 else t.repeat_interleave(episodes, 0)

        names = [name for name, _ in NetworkState([], []).parts()]
        return NetworkState(**{n: [expanded(t) for t in getattr(self, n)] for n in names})

    def see(self, x: Tensor, lifetimes: int) -> Tensor:
        """What the plastic layers see of examples ``(..., lifetimes, examples, n_in)``."""
        episodes = self._episodes(lifetimes)
        if tuple(x.shape[-3:-2]) != (lifetimes,):
            raise LearnerError(
                f"examples have shape {tuple(x.shape)}, and there are {lifetimes} networks; it "
                f"should be (..., {lifetimes}, examples, n_in)"
            )
        if not self.features:
            return x
        if x.dtype != self.dtype or x.device != self.device:
            raise LearnerError(
                f"examples are {x.dtype} on {x.device}, the model is {self.dtype} on {self.device}"
            )
        parts = x.split(episodes, -3)
        pairs = zip(self.features, parts, strict=True)
        seen = [extract(module, part, self.image) for module, part in pairs]
        return seen[0] if len(seen) == 1 else torch.cat(seen, -3)

    def _episodes(self, lifetimes: int) -> int:
        """How many lifetimes a seed has."""
        if lifetimes % self.seeds:
            raise LearnerError(
                f"a task of {lifetimes} lifetimes for {self.seeds} seeds; it should have as many "
                "for each"
            )
        return lifetimes // self.seeds

    def train(self, mode: bool = True) -> MetaModel:
        """Set the mode of a module; what would mix examples or draw is never in training mode."""
        super().train(mode)
        for part in self.features.modules():
            if _mixes_or_draws(part):
                part.train(False)
        return self

    def live(self, task: TaskBatch, state: NetworkState | None = None) -> NetworkState:
        """Networks after their lifetimes; ``state`` instead of birth goes on with a life."""
        check_kind("task", task, TaskBatch, TASK, LearnerError)
        x, lifetimes = task.x[:], task.x.shape[1]
        if x.ndim == 3:
            x = x.unsqueeze(2)
        label = task.label.reshape(*x.shape[:3], *task.label.shape[task.x.ndim - 1 :])
        episodes = self._episodes(lifetimes)
        if state is None:
            state = self.born(episodes)
        check_kind("state", state, NetworkState, STATE, LearnerError)
        seen = self.see(x, state.lifetimes)
        theta = self.theta.repeat_interleave(episodes, 0)
        return self.learner.live(state, theta, seen, label)

    def forward(self, task: TaskBatch) -> LifeOutcome:
        """Live, and lose on the queries; the number of lifetimes is a multiple of the seeds."""
        return self.judge(self.live(task), task)

    def judge(self, state: NetworkState, task: TaskBatch) -> LifeOutcome:
        """Loss on the queries of networks as they are."""
        check_kind("state", state, NetworkState, STATE, LearnerError)
        check_kind("task", task, TaskBatch, TASK, LearnerError)
        network = self.learner.network
        output = network(state, self.see(task.x_query, state.lifetimes))
        if network.output == "linear":
            target = network.target(task.label_query, output.dtype)
            if target.shape != output.shape:  # else one would be spread over the other
                raise LearnerError(
                    f"targets of queries have shape {tuple(target.shape)}, "
                    f"the output {tuple(output.shape)}"
                )
            loss = (output - target).square().mean((-1, -2))
        else:
            loss = network.loss(output, task.label_query)
        return LifeOutcome(loss, output, state)


def _check_features(features: Sequence[nn.Module], seeds: int) -> None:
    kinds = (Sequence, nn.ModuleList)
    check_kind("features", features, kinds, "a list of torch modules, one a seed")
    for i, module in enumerate(features):
        check_kind(f"features[{i}]", module, nn.Module, "a torch module")
    if features and len(features) != seeds:
        raise LearnerError(f"there are {len(features)} feature modules for {seeds} seeds")
    owner: dict[int, int] = {}
    for seed, module in enumerate(features):
        for p in module.parameters():
            if owner.setdefault(id(p), seed) != seed:
                raise LearnerError(
                    f"feature modules of seeds {owner[id(p)]} and {seed} share parameters, but "
                    "seeds never mix: give each a module of its own, as copy.deepcopy makes"
                )
        for part in module.modules():
            if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.running_mean is None:
                raise LearnerError(
                    f"features: {type(part).__name__} without running statistics mixes examples, "
                    "in eval mode too; give it statistics, or take another kind of layer"
                )
            if part.training and _mixes_or_draws(part):
                raise LearnerError(
                    f"features: {type(part).__name__} in training mode mixes examples or draws at "
                    "random; call eval() on the module, or take another kind of layer"
                )


def _mixes_or_draws(layer: nn.Module) -> bool:
    """Whether a layer in training mode gives of an example what does not follow from it alone."""
    if isinstance(layer, nn.modules.dropout._DropoutNd):
        return layer.p > 0
    if isinstance(layer, (nn.RNNBase, nn.MultiheadAttention)):
        return layer.dropout > 0
    if isinstance(layer, nn.RReLU):
        return layer.lower != layer.upper
    return isinstance(layer, nn.modules.batchnorm._BatchNorm)


def _check_born(born: NetworkState) -> None:
    for name, tensors in born.parts():
        for k, tensor in enumerate(tensors):
            if not tensor.isfinite().all():
                raise LearnerError(f"state.{name}[{k}] is not finite; give finite numbers")


def _check_theta(theta: Tensor, learner: PlasticityLearner) -> None:
    check_kind("theta", theta, Tensor, "a torch tensor", LearnerError)
    if tuple(theta.shape) != (learner.n_terms,):
        raise LearnerError(
            f"theta has shape {tuple(theta.shape)}; it should be ({learner.n_terms},), "
            f"a coefficient for each of {', '.join(learner.pool.names)}"
        )
    if not theta.isfinite().all():
        raise LearnerError(f"theta is {theta.tolist()}; give finite numbers")
