"""Lifetimes whose networks have every part there is, and the gradient of each."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rulesearch.grammar import Term, TermPool
from rulesearch.learners import PlasticityLearner
from rulesearch.networks import LearntFeedback, NetworkState, PlasticNetwork

PATHS = ("fused", "torch", "general")  # torch, which has not all parts, leaves them to general
OJA = ("y_post * y_pre.T - diag(y_post**2) * W",)
MIXED = (*OJA, "-e_post * y_pre.T", "0.1 * z_post * y_pre.T")
LOCAL = (*OJA, "-hadamard(y_post * y_pre.T, W)", "0.1 * z_post * y_pre.T")
MASKS = ("e_post * y_pre.T", "-hadamard(y_post * y_pre.T, W)", "-diag(y_post**2) * W")
UNTAPED = "-y_post * (tanh(W).T * y_post).T"  # no tape holds it, and it can be undone
SIZES = (5, 6, 4, 3)
LINEAR = {"output": "linear", "feedback": "flp", "activation": "relu", "bias": True}
NETWORKS: dict[str, PlasticNetwork] = {
    "error": PlasticNetwork(SIZES, **LINEAR),
    "after": PlasticNetwork(
        SIZES, **LINEAR, learnt_feedback=LearntFeedback(activation="identity", presynaptic="after")
    ),
    "target": PlasticNetwork(
        SIZES,
        activation="softplus",
        feedback="flp",
        bias=True,
        learnt_feedback=LearntFeedback(source="target", clamp_output=True),
    ),
    "layered": PlasticNetwork(SIZES, **LINEAR, learnt_feedback=LearntFeedback(pathway="layered")),
    "layered target": PlasticNetwork(
        SIZES,
        activation="tanh",
        feedback="flp",
        bias=True,
        learnt_feedback=LearntFeedback("target", clamp_output=True, pathway="layered"),
    ),
    "plastic": PlasticNetwork(SIZES, **LINEAR, learnt_feedback=LearntFeedback(plastic=True)),
    "plastic target": PlasticNetwork(
        SIZES,
        activation="softplus",
        feedback="flp",
        bias=True,
        learnt_feedback=LearntFeedback("target", clamp_output=True, plastic=True),
    ),
    "plastic layered": PlasticNetwork(
        SIZES,
        **LINEAR,
        learnt_feedback=LearntFeedback(presynaptic="after", pathway="layered", plastic=True),
    ),
    "no bias": PlasticNetwork(SIZES, **{**LINEAR, "bias": False}),
    "random": PlasticNetwork(SIZES, bias=True, beta=2.0),
    "symmetric": PlasticNetwork(SIZES, feedback="symmetric", bias=True, activation="tanh"),
    "direct": PlasticNetwork(SIZES, feedback="direct", bias=True, output="linear"),
}


def terms(*expressions: str) -> TermPool:
    return TermPool(Term.from_text(f"T{i}", e) for i, e in enumerate(expressions))


def terms_for(network: PlasticNetwork) -> TermPool:
    """Of errors too, where every synapse has some."""
    return terms(*(LOCAL if network.plastic_feedback else MIXED))


def learner_on(
    path: str, network: PlasticNetwork, pool: TermPool, **options: Any
) -> PlasticityLearner:
    """Return a learner that takes the path."""
    if path in ("autograd", "first-order"):
        return PlasticityLearner(network, pool, path, **options)
    if path == "general":
        return PlasticityLearner(
            network, TermPool([*pool, Term.from_text("U", UNTAPED)]), **options
        )
    return PlasticityLearner(network, pool, engine=path, **options)


def lifetimes(
    network: PlasticNetwork,
    steps: int = 9,
    examples: int = 3,
    rated: bool = True,
    plastic_bias: bool = True,
    count: int = 2,
) -> tuple[NetworkState, Tensor, Tensor]:
    """Networks at birth, none of whose parts is zero or the same in two, and what they see."""
    g = torch.Generator().manual_seed(5)
    born = network.init([g] * count, torch.float64)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    parts = dict(born.parts())
    for name in ("bias", "feedback_bias", "mixing"):
        parts[name] = [t + 0.2 * noise(*t.shape) for t in parts[name]]
    if rated:
        parts["rate"] = [1 + 0.5 * noise(*w.shape) for w in born.W]
    if plastic_bias and network.bias:
        parts["bias_rate"] = [1 + 0.5 * noise(*w.shape[:2]) for w in born.W]
    if rated and network.plastic_feedback:
        parts["feedback_rate"] = [1 + 0.5 * noise(*b.shape) for b in born.B]
    lead, n_out = (steps, count, examples), network.sizes[-1]
    x = noise(*lead, network.sizes[0]).abs()
    linear = network.output == "linear"
    label = noise(*lead, n_out) if linear else torch.randint(n_out, lead, generator=g)
    return NetworkState(**parts), x, label


def coefficients(pool: TermPool, examples: int = 1, size: float = 0.02) -> Tensor:
    signs = torch.linspace(1, 0.5, len(pool), dtype=torch.float64)
    return size / examples * signs


def loss(state: NetworkState, plastic_feedback: bool = False) -> Tensor:
    """Some smooth function of all that a network ends with, another one in every entry."""
    tensors = [*state.W, *state.bias, *(state.B if plastic_feedback else [])]
    weights = (torch.linspace(-1, 1, t[0].numel(), dtype=t.dtype).view_as(t[0]) for t in tensors)
    return torch.stack([(t * w).sin().sum() for t, w in zip(tensors, weights, strict=True)]).sum()


def named(state: NetworkState, **others: Tensor) -> dict[str, Tensor]:
    """Everything that a state holds, and what else there is, by name."""
    parts = {f"{name}[{k}]": t for name, part in state.parts() for k, t in enumerate(part)}
    return {**others, **parts}


def holding(leaves: dict[str, Tensor], like: NetworkState) -> NetworkState:
    """A state of leaves named so."""
    return NetworkState(
        **{name: [leaves[f"{name}[{k}]"] for k in range(len(part))] for name, part in like.parts()}
    )


def lived(
    learner: PlasticityLearner, like: NetworkState, leaves: dict[str, Tensor], label: Tensor
) -> NetworkState:
    """Final state, from leaves that hold theta and x, too."""
    return learner.live(holding(leaves, like), leaves["theta"], leaves["x"], label)


def gradients(
    learner: PlasticityLearner, state: NetworkState, theta: Tensor, x: Tensor, label: Tensor
) -> tuple[NetworkState, dict[str, Tensor]]:
    """Final state, and the adjoint of everything that a lifetime depends on, by name."""
    leaves = {
        name: t.clone().requires_grad_() for name, t in named(state, theta=theta, x=x).items()
    }
    final = lived(learner, state, leaves, label)
    found = torch.autograd.grad(
        loss(final, learner.network.plastic_feedback),
        list(leaves.values()),
        allow_unused=True,
        materialize_grads=True,
    )
    return final.detach(), dict(zip(leaves, found, strict=True))


def assert_slopes(
    gradient: dict[str, Tensor],
    learner: PlasticityLearner,
    state: NetworkState,
    theta: Tensor,
    x: Tensor,
    label: Tensor,
    step: float = 1e-5,
) -> None:
    """Central differences, along a direction of each thing that a lifetime depends on."""
    leaves = named(state, theta=theta, x=x)
    g = torch.Generator().manual_seed(7)
    for name, leaf in leaves.items():
        direction = torch.randn(leaf.shape, generator=g, dtype=leaf.dtype)
        ends = (leaf + step * direction, leaf - step * direction)
        with torch.no_grad():
            finals = [lived(learner, state, {**leaves, name: end}, label) for end in ends]
        above, below = (loss(final, learner.network.plastic_feedback) for final in finals)
        slope = (above - below) / (2 * step)
        error = slope - (gradient[name] * direction).sum()
        assert abs(error) <= 1e-6 * gradient[name].norm() * direction.norm() + 1e-10, name


def distance(a: Tensor, b: Tensor) -> float:
    """Relative, whole tensors."""
    return float((a - b).norm() / b.norm().clamp_min(1e-12))


def assert_same_gradients(
    path: str,
    network: PlasticNetwork,
    pool: TermPool,
    theta: Tensor,
    life: tuple[NetworkState, Tensor, Tensor],
    tolerance: float = 1e-9,
    **options: Any,
) -> tuple[Any, dict[str, Tensor]]:
    """Return the report, and the gradients by plain autograd, to which the path's are equal.

    Coefficients are those of the pool; a term that the path adds has the first one's.
    """
    born, x, label = life
    learner = learner_on(path, network, pool, almost_everywhere=True, **options)
    theta = torch.cat([theta, theta[:1].expand(learner.n_terms - len(theta))])
    twin = PlasticityLearner(
        network,
        learner.pool,
        "autograd",
        reduction=learner.reduction,
        almost_everywhere=True,
    )
    expected_state, expected = gradients(twin, born, theta, x, label)
    assert all(bool(g.isfinite().all()) for g in expected.values())
    state, found = gradients(learner, born, theta, x, label)
    for (name, part), (_, other) in zip(state.parts(), expected_state.parts(), strict=True):
        for a, b in zip(part, other, strict=True):
            assert distance(a, b) < 1e-10, name
    for name, gradient in found.items():
        assert distance(gradient, expected[name]) < tolerance, name
    report: Any = learner.report
    if path == "torch":
        assert report.reason.startswith("engine='torch' was asked for; the tape in torch has no")
    assert report.path == ("general" if path == "torch" else path)
    return report, expected
