"""A lifetime under a plasticity rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from numbers import Real

import torch
from torch import Tensor

from rulesearch.arguments import check_choice, check_kind, whole
from rulesearch.compile import native
from rulesearch.compile.program import Program, lower
from rulesearch.errors import ConfigError, LearnerError
from rulesearch.grammar import TermPool
from rulesearch.learners import eager
from rulesearch.learners.examples import Indexed, as_examples, check_examples
from rulesearch.learners.first_order import live_first_order
from rulesearch.learners.lifetime import Problem, live_on
from rulesearch.learners.memory import are_stored, checkpoint_every
from rulesearch.learners.report import LifetimeReport
from rulesearch.learners.reversible import live_reversible
from rulesearch.learners.tape import Form, build_tape, not_fusible
from rulesearch.learners.unrolled import live_unrolled
from rulesearch.networks import NetworkState, PlasticNetwork
from rulesearch.rules import Rule
from rulesearch.torch_arguments import check_dense, check_floating, device_named

__all__ = ["PlasticityLearner"]

METHODS = ("reversible", "autograd", "first-order")
ENGINES = ("auto", "fused", "torch")
REDUCTIONS = ("mean", "sum")
_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}


class PlasticityLearner:
    r"""Online learning with :math:`W \leftarrow W + \frac{1}{E}\sum_e\sum_r \theta_r F_r(e)`.

    Every connection changes at every step, all from the same forward and backward pass. A step
    sees one example or several (E), all with the same weights.

    Parameters
    ----------
    network : PlasticNetwork
    rule : Rule or TermPool
        A rule brings its coefficients, used where ``theta`` is None; a pool needs theta.
    method : {'reversible', 'autograd', 'first-order'}
        How ``live`` is differentiated: rebuilding the weights backwards, in memory
        O(T (n + m)) a connection; plain autograd through every term as it is written, with the
        same result; or with what the rule asks for taken as a constant, which gives weights at
        birth and rates another gradient, and nothing else one.
    engine : {'auto', 'fused', 'torch'}
        Of the reversible method: compiled code a lifetime at a time (CPU), or torch (any
        device). ``auto`` takes the first that can run; ``report`` says which ran and why.
    reduction : {'mean', 'sum'}
        Of the updates that the examples of a step call for. Under the mean a decay is as strong
        as with one example, under the sum E times as strong.
    checkpoint_every : int, optional
        Steps between checkpoints of W, against which drift is measured; by default 100, a
        tenth of the lifetime where that is more, or what takes the least memory where the
        lifetime is too long to store what backward needs of every step.
    drift_tolerance : float, optional
        Relative drift above which a segment's weights are recomputed from its checkpoint; by
        default 1e-4 in float32 and 1e-9 in float64.
    almost_everywhere : bool
        Take the second derivative of relu as zero, as it is but in one point, instead of
        refusing a meta-gradient through errors that hold its derivative.

    Raises
    ------
    ConfigError
        For an unknown method, engine or reduction.
    LearnerError
        If a term needs a signal that the network does not carry.
    """

    def __init__(
        self,
        network: PlasticNetwork,
        rule: Rule | TermPool,
        method: str = "reversible",
        *,
        engine: str = "auto",
        reduction: str = "mean",
        checkpoint_every: int | None = None,
        drift_tolerance: float | None = None,
        almost_everywhere: bool = False,
    ) -> None:
        check_kind("network", network, PlasticNetwork, "a PlasticNetwork")
        check_kind("rule", rule, (Rule, TermPool), "a Rule or a TermPool, as grammar.enumerate()")
        check_choice("method", method, METHODS)
        check_choice("engine", engine, ENGINES)
        check_choice("reduction", reduction, REDUCTIONS)
        if checkpoint_every is not None:
            checkpoint_every = whole("checkpoint_every", checkpoint_every, least=1)
        if drift_tolerance is not None:
            check_kind("drift_tolerance", drift_tolerance, Real, "a number, as 1e-4")
        if drift_tolerance is not None and not drift_tolerance >= 0:
            raise ConfigError(f"drift_tolerance must be at least 0, not {drift_tolerance}")
        check_kind("almost_everywhere", almost_everywhere, bool, "True or False")
        self.network = network
        self.rule = rule if isinstance(rule, Rule) else None
        self.pool = rule.pool if isinstance(rule, Rule) else rule
        self.method, self.engine, self.reduction = method, engine, reduction
        self.checkpoint_every, self.drift_tolerance = checkpoint_every, drift_tolerance
        self.almost_everywhere = almost_everywhere
        self.program: Program = lower([(term.name, term.normal_form) for term in self.pool])
        self.report: LifetimeReport | None = None
        self._check_signals()

    @property
    def n_terms(self) -> int:
        """Length of theta."""
        return len(self.pool)

    def bytes_per_lifetime(
        self,
        steps: int,
        dtype: torch.dtype = torch.float32,
        examples: int = 1,
        device: torch.device | str = "cpu",
    ) -> int:
        """Memory that one lifetime takes with a gradient, about: products, checkpoints, weights.

        On a GPU also its examples, and what it needs to run in step with all others.
        """
        steps, examples = whole("steps", steps, 1), whole("examples", examples, 1)
        check_floating(dtype)
        device = device_named(device)
        plastic = list(self.network.connections)
        if self.network.plastic_feedback:
            plastic += self.network.feedback_shapes
        weights = sum(rows * columns for rows, columns in plastic)
        shape = (steps, 1, examples)
        every = self._every(shape, dtype, device)
        if not_fusible(self.program):
            kept = steps * examples * len(self.program.instructions) * sum(self.network.sizes)
        else:
            tape = build_tape(self.network, self.program)
            stored = steps if are_stored(tape, shape, dtype, device) else every
            kept = stored * examples * tape.stored
            if device.type != "cpu":
                kept += eager.in_step(tape, examples)
        if device.type != "cpu":
            kept += steps * examples * (self.network.sizes[0] + 2)
        return (kept + (8 + -(-steps // every)) * weights) * dtype.itemsize

    def init(
        self,
        lifetimes: int = 1,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> NetworkState:
        """Draw fresh networks: Xavier uniform W and B.

        Parameters
        ----------
        lifetimes : int
            How many; ignored where a sequence of generators is given, one a lifetime.
        generator : torch.Generator or sequence of torch.Generator, optional
            By default a new one with seed 0.

        Raises
        ------
        ConfigError
            If an argument is of another kind, or the machine cannot hold so many.
        """
        if generator is None:
            generator = torch.Generator().manual_seed(0)
        kinds = (torch.Generator, Sequence)
        check_kind("generator", generator, kinds, "a torch.Generator, or a list of them")
        if isinstance(generator, torch.Generator):
            check_floating(dtype)
            lifetimes = whole("lifetimes", lifetimes, least=1)
            self.network.check_room(lifetimes, dtype)  # before so many are even written out
            generator = [generator] * lifetimes
        return self.network.init(generator, dtype, device)

    def live(
        self,
        state: NetworkState,
        theta: Tensor | None,
        x: Tensor | Indexed,
        label: Tensor,
    ) -> NetworkState:
        """Run whole lifetimes; differentiable in ``theta``, in ``state`` and in ``x``.

        Parameters
        ----------
        state : NetworkState
            Weights at birth, ``(lifetimes, n_post, n_pre)`` each.
        theta : Tensor (n_terms,) or (lifetimes, n_terms), or None
            Coefficients in the order of the pool; None takes the rule's own.
        x : Tensor or Indexed, (steps, lifetimes, n_in) or (steps, lifetimes, examples, n_in)
            What is seen.
        label : Tensor (steps, lifetimes) or (steps, lifetimes, examples)
            Classes, int64; or floating-point targets, with a last dimension n_out.

        Returns
        -------
        NetworkState
            Weights at the end of life, biases if they learn and B if it is plastic; all else
            as it was. Where the rule speaks of Omega and the state has none, it is that of the
            weights at birth, so that to go on with a life is to be drawn to the same.

        Raises
        ------
        LearnerError
            If shapes do not fit, a label is outside the output, biases learn by a term that
            they cannot have, the activation cannot be differentiated twice where a gradient is
            wanted, or the gradient of a table of inputs or of targets is.
        """
        self.network.check(state)
        kept, state = state.Omega, self._consolidated(state)
        moved = self._live(state, self._coefficients(state, theta), x, label)
        return moved if moved.Omega else replace(moved, Omega=kept)

    def _consolidated(self, state: NetworkState) -> NetworkState:
        """The state with Omega if the rule reads it, and without if not."""
        if "Omega" not in self.program.matrices:
            return replace(state, Omega=[])
        return state if state.Omega else replace(state, Omega=list(state.W))

    def _live(
        self, state: NetworkState, theta: Tensor, x: Tensor | Indexed, label: Tensor
    ) -> NetworkState:
        if state.W[0].dtype not in _TOLERANCE:
            raise LearnerError(f"lifetimes run in float32 or float64, not {state.W[0].dtype}")
        x, label = check_examples(self.network, state.W[0], x, label)
        share = 1.0 if self.reduction == "sum" else 1 / x.shape[2]
        self._check_state(state, theta, x, label)
        if self.method == "autograd":
            self.report = LifetimeReport("unrolled")
            return live_unrolled(self.network, self.pool, state, theta, x, label, share)
        if self.method == "first-order":
            self.report = LifetimeReport("first-order")
            return live_first_order(self.network, self.program, state, theta, x, label, share)
        form = _form(state, x)
        path, reason = self._path(x.dtype, x.device, form)
        steps, lifetimes, per_step, _ = x.shape
        every = self._every((steps, lifetimes, per_step), x.dtype, x.device)
        tolerance = _TOLERANCE[x.dtype] if self.drift_tolerance is None else self.drift_tolerance
        self.report = report = LifetimeReport(path, reason)
        if path == "general":
            return live_reversible(
                self.network, self.program, state, theta, x, label, share, every, tolerance, report
            )
        tape = build_tape(self.network, self.program, form)
        examples = as_examples(x, label, every, share)
        forward, backward = (
            (eager.live_forward, eager.live_backward)
            if path == "torch"
            else (native.live_forward, native.live_backward)
        )
        store = are_stored(tape, examples.shape, x.dtype, x.device)
        problem = Problem(
            forward, backward, tape, examples, store, tolerance, self._invertible, report
        )
        return live_on(problem, self.network, state, theta)

    @property
    def _invertible(self) -> bool:
        return self.program.invertible(self.network.plastic)

    def _every(self, shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device) -> int:
        """Steps between checkpoints, of so many steps, lifetimes and examples."""
        if self.checkpoint_every:
            return self.checkpoint_every
        if not_fusible(self.program):
            return max(50, -(-shape[0] // 10))
        return checkpoint_every(build_tape(self.network, self.program), shape, dtype, device)

    def path(
        self, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> tuple[str, str]:
        """Return how lifetimes of a network as drawn run, as in ``report``: path and reason."""
        check_floating(dtype)
        if self.method != "reversible":
            return {"autograd": "unrolled"}.get(self.method, self.method), ""
        return self._path(dtype, device_named(device), Form())

    def _path(self, dtype: torch.dtype, device: torch.device, form: Form) -> tuple[str, str]:
        reason = not_fusible(self.program)
        general = bool(reason)
        if not reason and self.engine == "torch":
            reason = "engine='torch' was asked for"
        elif not reason and device.type != "cpu":
            reason = f"the tensors are on {device}"
        reason = reason or native.engine_unavailable(dtype)
        if not reason:
            return "fused", ""
        if self.engine == "fused":
            raise LearnerError(f"the fused engine cannot run: {reason}")
        if general:
            return "general", reason
        if form != Form() or self.network.bias or self.network.learns_feedback:
            lacking = "the tape in torch has no rates, biases, learnt feedback or input gradient"
            return "general", f"{reason}; {lacking}"
        return "torch", reason

    @property
    def _needed(self) -> set[str]:
        """Names of the vocabulary that the terms speak of."""
        return set().union(*(term.normal_form.symbols for term in self.pool))

    def _check_signals(self) -> None:
        if "Omega" in self._needed and self.network.plastic_feedback:
            raise LearnerError(
                "a term needs Omega, which the synapses of plastic feedback do not have: leave it "
                "out, or set plastic=False in LearntFeedback"
            )
        if "B" in self._needed and not self.network.has_own_feedback:
            raise LearnerError(
                f"a term needs B of its own connection, which {self.network.feedback} feedback "
                "does not have: leave it out, or use feedback='random'"
            )
        errors = sorted(self._needed & {"e_pre", "e_post"})
        if errors and self.network.plastic_feedback:
            raise LearnerError(
                f"a term needs {' and '.join(errors)}, which the synapses of plastic feedback do "
                "not have: leave it out, or set plastic=False in LearntFeedback"
            )

    def _coefficients(self, state: NetworkState, theta: Tensor | None) -> Tensor:
        like = state.W[0]
        if theta is None:
            if self.rule is None:
                raise LearnerError("a pool has no coefficients of its own: give theta")
            theta = torch.tensor(self.rule.theta, dtype=like.dtype, device=like.device)
        check_dense("theta", theta)
        expected = [(self.n_terms,), (state.lifetimes, self.n_terms)]
        if tuple(theta.shape) not in expected:
            raise LearnerError(
                f"theta has shape {tuple(theta.shape)}; it should be {expected[0]} or {expected[1]}"
            )
        if theta.dtype != like.dtype or theta.device != like.device:
            raise LearnerError(
                f"theta is {theta.dtype} on {theta.device}, "
                f"the weights are {like.dtype} on {like.device}"
            )
        return theta.expand(state.lifetimes, self.n_terms)

    def _check_state(
        self, state: NetworkState, theta: Tensor, x: Tensor | Indexed, label: Tensor
    ) -> None:
        absent = sorted({"B", "Omega"} & self._needed)
        if state.bias_rate and absent:
            raise LearnerError(
                f"a term needs {' and '.join(absent)}, which biases do not have: leave bias_rate "
                "empty"
            )
        inputs = x.table if isinstance(x, Indexed) else x
        if not torch.is_grad_enabled():
            return
        if label.requires_grad and self.method != "autograd":
            raise LearnerError(
                "targets want a gradient, which only method='autograd' has: detach them"
            )
        if self.method == "first-order":
            if theta.requires_grad:
                raise LearnerError(
                    "the first-order meta-gradient tells nothing of theta: "
                    "theta.requires_grad_(False), as of model.theta, or another method"
                )
            return
        if isinstance(x, Indexed) and inputs.requires_grad:
            raise LearnerError("the table of inputs wants a gradient: give x as a tensor")
        wanted = any(t.requires_grad for t in (theta, inputs, *state.tensors()))
        smooth = self.network.sigma.twice_differentiable or self.network.learns_feedback
        if wanted and not (smooth or self.almost_everywhere):
            raise LearnerError(
                f"{self.network.activation} cannot be differentiated twice, and the meta-gradient "
                "goes through errors that hold its derivative already; use softplus, or take the "
                "second derivative as zero with almost_everywhere=True"
            )


def _form(state: NetworkState, x: Tensor | Indexed) -> Form:
    follows = isinstance(x, Tensor) and x.requires_grad and torch.is_grad_enabled()
    return Form(bool(state.rate), bool(state.bias_rate), bool(state.feedback_rate), follows)
