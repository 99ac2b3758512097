"""What is of the wrong kind is refused in one line, by the error that says whose mistake it is."""

from __future__ import annotations

import re
from collections.abc import Callable
from copy import deepcopy
from dataclasses import FrozenInstanceError, replace
from typing import Any

import numpy as np
import pytest
import torch
from refusals import assert_refused

import rulesearch as rs
from rulesearch.tasks import FewShot, IncrementalSines, LinearTeacher, SpikingSines, Wheel, load

GRAMMAR = rs.Grammar.from_yaml("ehebb")
POOL = GRAMMAR.enumerate()
NETWORK = rs.PlasticNetwork([3, 4, 2])
LEARNER = rs.PlasticityLearner(NETWORK, POOL)
STATE = LEARNER.init(2)
SPARSE = replace(STATE, W=[w.to_sparse() for w in STATE.W])
RULE = rs.Rule(POOL, {"F0": 1e-3})
G = torch.Generator().manual_seed(0)
GPUS = torch.cuda.device_count()
THETA = torch.tensor([1e-3, 1e-3])
X, LABEL = torch.rand(5, 2, 3), torch.zeros(5, 2, dtype=torch.int64)
TEACHER = LinearTeacher()
LINEAR = rs.PlasticNetwork([6, 6], output="linear")


def search(**changes: Any) -> Any:
    return rs.search(**{"pool": POOL, "network": LINEAR, "tasks": TEACHER, **changes})


WRONG: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: rs.Rule(POOL, {"F0": "abc"}), rs.ConfigError,
     "the coefficient of F0 is 'abc'; give a finite number"),
    (lambda: rs.Rule(POOL, {"F0": None}), rs.ConfigError, "the coefficient of F0 is None; give"),
    (lambda: rs.Rule(POOL, None), rs.ConfigError,
     "coefficients should be a mapping, as {'F0': 1e-3}, not of type NoneType"),
    (lambda: rs.Rule(GRAMMAR, {"F0": 1}), rs.ConfigError,
     "pool should be a TermPool, as grammar.enumerate(), not of type Grammar"),
    (lambda: rs.PlasticityLearner(NETWORK, "rule"), rs.ConfigError,
     "rule should be a Rule or a TermPool, as grammar.enumerate(), not of type str"),
    (lambda: rs.PlasticityLearner(NETWORK, GRAMMAR), rs.ConfigError, "not of type Grammar"),
    (lambda: rs.PlasticityLearner([3, 2], POOL), rs.ConfigError, "network should be a PlasticNe"),
    (lambda: LEARNER.init(lifetimes=-1), rs.ConfigError, "lifetimes must be at least 1, not -1"),
    (lambda: LEARNER.init(2.0), rs.ConfigError, "lifetimes is 2.0; give a whole number"),
    (lambda: LEARNER.live(STATE, [0.0] * 10, X, LABEL), rs.LearnerError,
     "theta should be a torch tensor, not of type list"),
    (lambda: LEARNER.live(STATE, THETA, X.numpy(), LABEL), rs.LearnerError,
     "x should be a torch tensor or Indexed, not of type ndarray"),
    (lambda: LEARNER.live(STATE, THETA, X, LABEL.tolist()), rs.LearnerError,
     "label should be a torch tensor, not of type list"),
    (lambda: NETWORK(STATE, torch.rand(2, 7, 4)), rs.LearnerError,
     "x has shape (2, 7, 4); it should be (2, examples, 3)"),
    (lambda: NETWORK(STATE, torch.rand(3, 7, 3)), rs.LearnerError,
     "x has shape (3, 7, 3); it should be (2, examples, 3)"),
    (lambda: NETWORK(STATE, X[0].double()), rs.LearnerError,
     "x is torch.float64 on cpu, the weights are torch.float32 on cpu"),
    (lambda: NETWORK(STATE, X[0].numpy()), rs.LearnerError, "x should be a torch tensor, not of"),
    (lambda: rs.Rule(POOL, {"F0": 1}).delta(
        np.ones((2, 3)), y_pre=torch.ones(3), e_post=torch.ones(2)), rs.LearnerError,
     "W should be a torch tensor, as torch.as_tensor(W, dtype=torch.float32), not of type nd"),
    (lambda: rs.Rule(POOL, {"F0": 1}).delta(
        torch.ones(2, 3), y_pre=torch.ones(3), e_post=torch.ones(2), theta=[1.0]),
     rs.LearnerError, "theta should be a torch tensor, as torch.as_tensor(theta, dtype="),
    (lambda: LEARNER.live(None, THETA, X, LABEL), rs.LearnerError,
     "state should be a NetworkState, as of init(), not of type NoneType"),
    (lambda: rs.Rule(POOL, {0: 1.0}), rs.ConfigError, "no term '0' in the pool; did you mean 'F0'"),
    (lambda: FewShot(5), rs.ConfigError, "data should be the name of a data set, or ImageData"),
    (lambda: FewShot(hold_out=2.5), rs.ConfigError, "hold_out should be how many classes, or wh"),
    (lambda: search(lams=3.0), rs.ConfigError, "lams should be a list of lambdas, or a path of"),
    (lambda: search(penalty=rs.L1), rs.ConfigError, "penalty should be a penalty, as"),
    (lambda: rs.PlasticNetwork(5), rs.ConfigError,
     "sizes should be units per layer, as [784, 100, 10], not of type int"),
    (lambda: rs.PlasticNetwork(["a", 2]), rs.ConfigError,
     "sizes[0] is 'a'; give a whole number"),
    (lambda: rs.PlasticNetwork([3.7, 2]), rs.ConfigError,
     "sizes[0] is 3.7; give a whole number"),
    (lambda: rs.PlasticNetwork([3, 0]), rs.ConfigError, "sizes[1] must be at least 1, not 0"),
    (lambda: rs.PlasticNetwork([3, 2], beta="x"), rs.ConfigError,
     "beta is 'x'; give a finite number"),
    *((lambda beta=beta: rs.PlasticNetwork([3, 2], beta=beta), rs.ConfigError,
       f"beta must be from 1e-6 to 1e6, not {beta:g}") for beta in (0.0, -1.0, 9e-7, 1.1e6)),
    *((lambda beta=beta: rs.PlasticNetwork([3, 2], beta=beta), rs.ConfigError,
       f"beta is {beta}; give a finite number") for beta in (float("nan"), float("inf"))),
    (lambda: rs.L1("a"), rs.ConfigError, "a penalty's lambda is 'a'; give a finite number"),
    (lambda: FewShot(ways="5"), rs.ConfigError,
     "few-shot tasks: ways is '5'; give a whole number"),
    (lambda: FewShot(ways=2.5), rs.ConfigError,
     "few-shot tasks: ways is 2.5; give a whole number"),
    (lambda: IncrementalSines(functions="3"), rs.ConfigError, "sines: functions is '3'; give"),
    (lambda: LinearTeacher(silent=-1), rs.ConfigError, "linear teacher: silent must be at least 0"),
    (lambda: search(pool=GRAMMAR), rs.ConfigError, "pool should be a TermPool, as grammar.enum"),
    (lambda: search(pool=rs.Rule(POOL, {"F0": 1})), rs.ConfigError, "not of type Rule"),
    (lambda: search(pool=POOL[:0]), rs.ConfigError, "the pool is empty: there is no term to se"),
    (lambda: search(network=[6, 1]), rs.ConfigError, "network should be a PlasticNetwork"),
    (lambda: search(tasks="digits"), rs.ConfigError,
     "tasks should be a family of tasks, as rulesearch.tasks.FewShot(), not of type str"),
    (lambda: search(penalty=10.0), rs.ConfigError,
     "penalty should be a penalty, as rulesearch.ProximalL1(10.0), not of type float"),
    (lambda: rs.Grammar.from_yaml(None), rs.ConfigError,
     "path should be the name of a file or folder, not of type NoneType"),
    (lambda: rs.Grammar.from_string(5), rs.ConfigError,
     "text should be the text of a grammar, not of type int"),
    (lambda: rs.Term.from_text(5, "-W"), rs.ConfigError, "a term's name should be a text, as 'F0'"),
    (lambda: rs.Term.from_text("a", None), rs.ConfigError,
     "a term's expression should be a text, as '-e_post * y_pre.T', not of type NoneType"),
    (lambda: rs.Term.from_text("a", "-W", "x"), rs.ConfigError, "init of a is 'x'; give a finite"),
    (lambda: rs.Term.from_text("a", "-W", 0.1, 5), rs.ConfigError, "about should be a text, not"),
    (lambda: rs.TermPool(5), rs.ConfigError, "terms should be Terms, in order, not of type int"),
    (lambda: rs.TermPool("F0"), rs.ConfigError, "terms[0] should be a Term, as Term.from_text("),
    (lambda: POOL.subset(None), rs.ConfigError, "names should be names of terms, as ['F0', 'F9']"),
    (lambda: RULE * "a", rs.ConfigError, "what a rule is multiplied by is 'a'; give a finite num"),
    (lambda: "a" * RULE, rs.ConfigError, "what a rule is multiplied by is 'a'; give a finite num"),
    (lambda: RULE * None, rs.ConfigError, "what a rule is multiplied by is None; give a finite n"),
    (lambda: RULE.latex("a"), rs.ConfigError, "digits is 'a'; give a whole number"),
    (lambda: RULE.save(5), rs.ConfigError, "path should be the name of a file or folder, not of t"),
    (lambda: rs.Rule.load(None), rs.ConfigError, "path should be the name of a file or folder, n"),
    (lambda: rs.load_run(5), rs.ConfigError, "a run should be the name of a file or folder, not"),
    (lambda: rs.PlasticNetwork([3, 2], bias="x"), rs.ConfigError,
     "bias should be True or False, not of type str"),
    (lambda: rs.PlasticNetwork([3, 2], learnt_feedback="layered"), rs.ConfigError,
     "learnt_feedback should be a LearntFeedback, not of type str"),
    (lambda: rs.LearntFeedback(plastic="x"), rs.ConfigError,
     "learnt feedback: plastic should be True or False, not of type str"),
    (lambda: NETWORK.init(3), rs.ConfigError,
     "generators should be a list of torch.Generator, one a network, not of type int"),
    (lambda: NETWORK.init([G], device="gpu"), rs.ConfigError,
     "device is cpu or cuda, or one of several as cuda:1, not 'gpu'"),
    (lambda: LEARNER.init(device=f"cuda:{GPUS}"), rs.ConfigError, f"device cuda:{GPUS}: "),
    (lambda: rs.PlasticNetwork([10**30, 3]).init([G]), rs.ConfigError,
     f"W and B of 1 networks of {10**30} x 3 units take "),
    (lambda: LEARNER.init(10**12, dtype=torch.float64), rs.ConfigError,
     "W and B of 1,000,000,000,000 networks of 3 x 4 x 2 units take 320,000.0 GB of memory"),
    (lambda: NETWORK.init([G], torch.int64), rs.ConfigError, "dtype is torch.int64; give torch.f"),
    (lambda: LEARNER.init(generator=3), rs.ConfigError,
     "generator should be a torch.Generator, or a list of them, not of type int"),
    (lambda: LEARNER.init(generator=[G, 3]), rs.ConfigError,
     "generators[1] should be a torch.Generator, not of type int"),
    (lambda: LEARNER.init(dtype="float32"), rs.ConfigError,
     "dtype is 'float32'; give torch.float32 or torch.float64"),
    (lambda: LEARNER.path("x"), rs.ConfigError, "dtype is 'x'; give torch.float32 or torch.floa"),
    (lambda: LEARNER.path(device="gpu"), rs.ConfigError, "device is cpu or cuda, or one of"),
    (lambda: LEARNER.bytes_per_lifetime("a"), rs.ConfigError, "steps is 'a'; give a whole number"),
    (lambda: rs.PlasticityLearner(NETWORK, POOL, checkpoint_every="x"), rs.ConfigError,
     "checkpoint_every is 'x'; give a whole number"),
    (lambda: rs.PlasticityLearner(NETWORK, POOL, drift_tolerance="x"), rs.ConfigError,
     "drift_tolerance should be a number, as 1e-4, not of type str"),
    (lambda: rs.PlasticityLearner(NETWORK, POOL, almost_everywhere=1), rs.ConfigError,
     "almost_everywhere should be True or False, not of type int"),
    (lambda: NETWORK(None, X[0]), rs.LearnerError, "state should be a NetworkState, as of init()"),
    (lambda: NETWORK.activations(STATE, None), rs.LearnerError, "x should be a torch tensor, not"),
    (lambda: NETWORK(rs.PlasticNetwork([3, 4, 5, 2]).init([G]), X[0]), rs.LearnerError,
     "state.W has 3 matrices, the network 2 connections"),
    (lambda: NETWORK(rs.PlasticNetwork([3, 5, 2]).init([G]), X[0]), rs.LearnerError,
     "state.W[0] has shape (1, 5, 3), the network needs (1, 4, 3)"),
    (lambda: NETWORK(rs.NetworkState([torch.tensor(1.0)] * 2, []), X[0]), rs.LearnerError,
     "state.W[0] has shape (), the network needs (4, 3)"),
    (lambda: NETWORK.activations(STATE, torch.rand(2, 7, 4)), rs.LearnerError,
     "x has shape (2, 7, 4); it should be (2, examples, 3)"),
    (lambda: NETWORK.loss(NETWORK(STATE, X[:2]), LABEL[:2] + 2), rs.LearnerError,
     "labels run from 2 to 2; the output has 2 units"),
    *((lambda call=call: call(), rs.LearnerError, f"{name} is sparse, torch.sparse_coo; give {name}"
       ".to_dense()")
      for name, call in (
        ("x", lambda: LEARNER.live(STATE, THETA, X.to_sparse(), LABEL)),
        ("label", lambda: LEARNER.live(STATE, THETA, X, LABEL.to_sparse())),
        ("theta", lambda: LEARNER.live(STATE, THETA.to_sparse(), X, LABEL)),
        ("state.W[0]", lambda: LEARNER.live(SPARSE, THETA, X, LABEL)),
        ("state.W[0]", lambda: NETWORK(SPARSE, X[0, :, None])),
        ("x", lambda: NETWORK(STATE, X[0, :, None].to_sparse())),
        ("label", lambda: NETWORK.loss(torch.rand(2, 5, 2), LABEL.T.to_sparse())),
        ("table", lambda: rs.Indexed(torch.rand(4, 3).to_sparse(), LABEL)),
      )),
    (lambda: rs.tasks.TaskBatch(X.to_sparse(), LABEL, X, LABEL), rs.DataError,
     "x is sparse, torch.sparse_coo; give x.to_dense()"),
    *((lambda call=call: call(), rs.LearnerError, "label is torch.complex64; give classes as torch"
       ".int64, or real targets")
      for call in (
        lambda: LEARNER.live(STATE, THETA, X, LABEL.to(torch.complex64)),
        lambda: NETWORK.loss(torch.rand(2, 5, 2), LABEL.T.to(torch.complex64)),
      )),
    (lambda: NETWORK(replace(STATE, W=[w.to(torch.complex64) for w in STATE.W]),
                     X[0, :, None].to(torch.complex64)), rs.LearnerError,
     "state.W[0] is torch.complex64; give torch.float32 or torch.float64"),
    (lambda: LINEAR.loss(torch.rand(2, 3, 6), torch.full((2, 3), -1)), rs.LearnerError,
     "labels run from -1 to -1; the output has 6 units"),
    (lambda: NETWORK.loss(X, None), rs.LearnerError, "label should be a torch tensor, not of type"),
    (lambda: LEARNER.live(rs.NetworkState(5, []), THETA, X, LABEL), rs.LearnerError,
     "state.W should be a list of tensors, not of type int"),
    (lambda: LEARNER.live(rs.NetworkState([1], []), THETA, X, LABEL), rs.LearnerError,
     "state.W[0] should be a torch tensor, not of type int"),
    (lambda: rs.Indexed(X, [1]), rs.LearnerError, "index should be a torch tensor, not of type"),
    (lambda: search(checkpoint_every="x"), rs.ConfigError, "checkpoint_every='x': input should be"),
    (lambda: search(stability=5), rs.ConfigError, "stability=5: input should be a mapping"),
    (lambda: search(stability={"pairs": "x"}), rs.ConfigError, "pairs='x': input should be"),
    (lambda: search(name=5), rs.ConfigError, "name should be a text, not of type int"),
    (lambda: search(name="a/b"), rs.ConfigError,
     "name should hold letters, digits, spaces, . _ and - alone, unlike 'a/b'"),
    (lambda: search(out=5), rs.ConfigError, "out should be the name of a file or folder, not of"),
    (lambda: search(sinks=5), rs.ConfigError, "sinks should be a list of functions, each called"),
    (lambda: search(sinks=[5]), rs.ConfigError, "sinks[0] should be a function that takes"),
    (lambda: search(device=torch.device("cpu")), rs.ConfigError,
     "device should be cpu or cuda, or one of several as cuda:1, not of type device"),
    (lambda: load(None), rs.ConfigError, "the name of a data set should be a text, as 'digits'"),
    (lambda: FewShot(root=5), rs.ConfigError, "root should be the name of a file or folder, not"),
    (lambda: FewShot(split=5), rs.ConfigError, "split should be the name of a part, as 'train'"),
    (lambda: FewShot(fixed_images="x"), rs.ConfigError,
     "few-shot tasks: fixed_images should be True or False, not of type str"),
    (lambda: IncrementalSines(pool="x"), rs.ConfigError, "sines: pool is 'x'; give a whole number"),
    (lambda: SpikingSines("x"), rs.ConfigError, "spiking sines: examples is 'x'; give a whole num"),
    (lambda: SpikingSines(width="x"), rs.ConfigError, "spiking sines: width is 'x'; give a finite"),
    (lambda: Wheel(0.5), rs.ConfigError,
     "wheel: delta should be a torch tensor, one number a lifetime, not of type float"),
    (lambda: Wheel(torch.tensor([0, 1])), rs.ConfigError,
     "wheel: delta is torch.int64; give real numbers, as torch.tensor([0.5])"),
    *((lambda family=family: family.sample([G, 5]), rs.ConfigError,
       "generators[1] should be a torch.Generator, not of type int")
      for family in (FewShot(), TEACHER, IncrementalSines(), SpikingSines())),
    *((lambda family=family: family.sample([G], "x"), rs.ConfigError,
       "dtype is 'x'; give torch.float32 or torch.float64")
      for family in (FewShot(), TEACHER, IncrementalSines(), SpikingSines())),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "message"), WRONG)
def test_the_wrong_kind_is_refused(
    call: Callable[[], Any], error: type[Exception], message: str, tmp_path: Any, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert_refused(call, error, message)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("left", "right", "kinds"),
    [
        (RULE, 5, "+: 'Rule' and 'int'"),
        (POOL, 5, "+: 'TermPool' and 'int'"),
        (GRAMMAR, POOL, "+: 'Grammar' and 'TermPool'"),
    ],
)
def test_what_does_not_add_is_said_by_python(left: Any, right: Any, kinds: str) -> None:
    with pytest.raises(TypeError, match=re.escape(f"unsupported operand type(s) for {kinds}")):
        left + right


def test_rules_subtract_from_rules_alone() -> None:
    assert (RULE - RULE).coefficients == {"F0": 0.0}
    with pytest.raises(TypeError, match="for -: 'Rule' and 'NoneType'"):
        RULE - None


def test_numbers_of_other_libraries_are_numbers() -> None:
    network = rs.PlasticNetwork(np.array([3, 4, 2]), beta=torch.tensor(2.0))
    assert (network.sizes, network.describe()["beta"]) == ((3, 4, 2), 2.0)
    assert type(network.beta) is float
    assert rs.Rule(POOL, {"F0": np.float32(0.5), "F2": torch.tensor(-2)}).theta == (0.5, -2.0)
    assert LEARNER.init(np.int64(3)).lifetimes == 3
    assert (RULE * torch.tensor(2.0)).theta == (2e-3,)
    assert rs.Term.from_text("a", "-W", np.float32(0.5)).init == 0.5


def test_a_network_takes_one_batch_for_all() -> None:
    x = torch.rand(7, 3)
    alone = NETWORK(STATE, x)
    assert alone.shape == (2, 7, 2)
    torch.testing.assert_close(NETWORK(STATE, x[None]), alone)
    torch.testing.assert_close(NETWORK(STATE, x.expand(2, 7, 3)), alone)


def test_a_rule_does_not_change() -> None:
    rule = rs.Rule(POOL, {"F0": 1e-3})
    for name in ("theta", "pool", "foo"):
        with pytest.raises(FrozenInstanceError):
            setattr(rule, name, 1)
    assert rule.rank == 1  # computed once, and kept
    assert rule == deepcopy(rule)
    assert len({rule, rs.Rule(POOL, {"F0": 1e-3})}) == 1


def test_labels_of_any_whole_type_are_classes() -> None:
    output = torch.rand(2, 3, 2)
    classes = torch.tensor([[0, 1, 1], [1, 0, 0]])
    for network in (NETWORK, rs.PlasticNetwork([3, 4, 2], output="linear")):
        for dtype in (torch.int32, torch.uint8, torch.bool):
            torch.testing.assert_close(
                network.loss(output, classes.to(dtype)), network.loss(output, classes)
            )
