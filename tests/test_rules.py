"""Rules: the change they compute, their text, their file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import mutually_broadcastable_shapes
from matplotlib.mathtext import MathTextParser
from torch import Tensor

from rulesearch.errors import ConfigError, LearnerError, RuleSearchError
from rulesearch.grammar import Grammar, Term, TermPool
from rulesearch.rules import Rule

Array = np.ndarray[Any, np.dtype[Any]]
GRAMMARS = Path(__file__).parent.parent / "grammars"
POOL = Grammar.from_yaml(GRAMMARS / "pool10.yaml").enumerate()
THETA = dict(zip(POOL.names, (1.3, -0.7, 0.9, 0.2, -1.1, 0.6, -0.4, 0.8, 0.5, -1.2), strict=True))

# Section 4.2 of the paper, columns y = y_l, x = y_(l-1), e = e_l, d = e_(l-1).
PAPER: dict[str, Callable[[Array, Array, Array, Array, Array], Array]] = {
    "F0": lambda y, x, e, d, W: -e @ x.T,
    "F1": lambda y, x, e, d, W: -y @ d.T,
    "F2": lambda y, x, e, d, W: -e @ d.T,
    "F3": lambda y, x, e, d, W: -W,
    "F4": lambda y, x, e, d, W: -np.ones_like(e) @ d.T,
    "F5": lambda y, x, e, d, W: -e @ np.ones_like(e).T @ y @ x.T,
    "F6": lambda y, x, e, d, W: -y @ y.T @ W @ d @ d.T,
    "F7": lambda y, x, e, d, W: -e @ y.T @ W @ d @ x.T,
    "F8": lambda y, x, e, d, W: -y @ x.T @ W.T @ e @ d.T,
    "F9": lambda y, x, e, d, W: y @ x.T - (y @ y.T) @ W,
}
SIGNALS = ("y_post", "y_pre", "e_post", "e_pre", "W")


def paper(name: str, signals: dict[str, Array], size: bool = False) -> Array:
    """A term by the paper's formula, one network after another; ``size`` bounds its summands."""
    batch = np.broadcast_shapes(*(signals[s].shape[: -1 - (s == "W")] for s in SIGNALS))
    n_post, n_pre = signals["W"].shape[-2:]
    out = np.zeros((*batch, n_post, n_pre), signals["W"].dtype)
    whole = [
        np.broadcast_to(signals[s], (*batch, *signals[s].shape[-1 - (s == "W") :])) for s in SIGNALS
    ]
    for index in np.ndindex(*batch):
        y, x, e, d, W = (v[index] if v is whole[-1] else v[index][:, None] for v in whole)
        if size:
            y, x, e, d, W = map(np.abs, (y, x, e, d, W))
        sign = -1 if size and name == "F9" else 1  # of the second summand of Oja's rule
        out[index] = PAPER[name](y, x, e, d, sign * W)
    return np.abs(out) if size else out


@st.composite
def connections(draw: st.DrawFn, dtype: Any = np.float64) -> dict[str, Array]:
    """Signals of random widths, with leading dimensions that broadcast."""
    sizes = {side: draw(st.integers(1, 6)) for side in ("post", "pre")}
    shapes = draw(
        mutually_broadcastable_shapes(num_shapes=5, min_dims=0, max_dims=2, max_side=3)
    ).input_shapes
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scale = 10.0 ** draw(st.integers(-2, 1))
    ends = [(sizes[s.split("_")[-1]],) if s != "W" else tuple(sizes.values()) for s in SIGNALS]
    return {
        name: (scale * rng.normal(size=(*batch, *end))).astype(dtype)
        for name, batch, end in zip(SIGNALS, shapes, ends, strict=True)
    }


def as_torch(signals: dict[str, Array]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(value) for name, value in signals.items()}


@pytest.mark.parametrize("name", POOL.names)
@settings(max_examples=20, deadline=None)
@given(signals=connections())
def test_each_term_is_the_papers_formula(name: str, signals: dict[str, Array]) -> None:
    change = Rule(POOL, {name: 1.7}).delta(**as_torch(signals)).numpy()
    expected = 1.7 * paper(name, signals)
    assert change.shape == expected.shape
    assert (np.abs(change - expected) <= 1e-12 * (1 + 1.7 * paper(name, signals, size=True))).all()


@settings(max_examples=20, deadline=None)
@given(signals=connections(np.float32))
def test_all_terms_at_once_in_single_precision(signals: dict[str, Array]) -> None:
    change = Rule(POOL, THETA).delta(**as_torch(signals))
    doubled = {name: value.astype(np.float64) for name, value in signals.items()}
    expected = sum(c * paper(name, doubled) for name, c in THETA.items())
    size = sum(abs(c) * paper(name, doubled, size=True) for name, c in THETA.items())
    assert change.dtype == torch.float32
    assert (np.abs(change.numpy() - expected) <= 3e-6 * (1 + size)).all()


def example(seed: int = 0, batch: tuple[int, ...] = (2,)) -> dict[str, Tensor]:
    rng = np.random.default_rng(seed)
    sizes = {"y_post": (3,), "y_pre": (4,), "e_post": (3,), "e_pre": (4,), "W": (3, 4)}
    return {name: torch.from_numpy(rng.normal(size=(*batch, *end))) for name, end in sizes.items()}


def test_given_pre_activation_is_used_where_a_term_names_it() -> None:
    signals = example()
    z = torch.ones(2, 3, dtype=torch.float64)
    named = Rule(TermPool([Term.from_text("t", "z_post * y_pre.T")]), {"t": 1.0})
    torch.testing.assert_close(
        named.delta(**signals, z_post=z), z[..., None] * signals["y_pre"][:, None]
    )
    computed = (signals["W"] @ signals["y_pre"][..., None]) * signals["y_pre"][:, None]
    torch.testing.assert_close(named.delta(**signals), computed)
    spelled_out = Rule(POOL, {"F8": 1.0})  # holds W y_pre without naming z_post
    torch.testing.assert_close(spelled_out.delta(**signals, z_post=z), spelled_out.delta(**signals))


def test_a_drive_that_is_given_moves_no_term_that_does_not_name_it() -> None:
    """As that of a layer with a bias; whatever terms stand beside, with any coefficients."""
    signals = example(batch=())
    W, y = signals["W"], signals["y_pre"]
    z = W @ y + 1
    pool = TermPool([
        Term.from_text("named", "z_post * y_pre.T"),
        Term.from_text("meant", "hadamard(W * y_pre, y_post) * y_pre.T"),
        Term.from_text("dotted", "dot(W.T * y_post, y_pre) * W"),
    ])  # fmt: skip
    drive = torch.outer((W @ y) * signals["y_post"], y), (signals["y_post"] @ W @ y) * W
    theta = torch.tensor([0.5, -2.0, 3.0], dtype=torch.float64).requires_grad_()
    expected = 0.5 * torch.outer(z, y) - 2.0 * drive[0] + 3.0 * drive[1]
    rule = Rule(pool, {"named": 0.5, "meant": -2.0, "dotted": 3.0})
    torch.testing.assert_close(rule.delta(**signals, z_post=z), expected)
    found = rule.delta(**signals, z_post=z, theta=theta)
    torch.testing.assert_close(found.detach(), expected)
    (slope,) = torch.autograd.grad(found.sum(), theta)
    sums = torch.stack([each.sum() for each in (torch.outer(z, y), *drive)])
    torch.testing.assert_close(slope, sums)
    beside = Rule(pool, {"named": 0.0, "meant": 1.0}).delta(**signals, z_post=z)
    torch.testing.assert_close(beside, drive[0])
    with pytest.raises(LearnerError, match=r"theta has shape \(2,\); it should end in \(3,\)"):
        rule.delta(**signals, z_post=z, theta=theta[:2])


def test_no_terms_change_nothing() -> None:
    rule = Rule(POOL, {})
    assert torch.equal(rule.delta(**example()), torch.zeros(2, 3, 4, dtype=torch.float64))
    assert (rule.rank, len(rule), str(rule)) == (0, 0, "0 * W")
    assert rule.sympy().shape == Rule(POOL, {"F0": 1.0}).sympy().shape


def test_delta_is_differentiable_in_everything() -> None:
    signals = {name: value.requires_grad_() for name, value in example(1).items()}
    theta = torch.tensor(list(THETA.values()), dtype=torch.float64, requires_grad=True)
    rule = Rule(POOL, THETA)

    def change(theta: Tensor, *values: Tensor) -> Tensor:
        return rule.delta(**dict(zip(signals, values, strict=True)), theta=theta)

    assert torch.autograd.gradcheck(change, (theta, *signals.values()))


def test_other_coefficients_and_one_set_for_each_network() -> None:
    signals, rule = example(), Rule(POOL, THETA)
    own = torch.tensor(list(THETA.values()), dtype=torch.float64)
    torch.testing.assert_close(rule.delta(**signals, theta=own), rule.delta(**signals))
    rows = torch.stack([own, 2 * own])
    doubled = rule.delta(**signals) * torch.tensor([1.0, 2.0])[:, None, None]
    torch.testing.assert_close(rule.delta(**signals, theta=rows), doubled)


@pytest.mark.parametrize("names", [("F0",), ("F4",), ("F0", "F2", "F9"), POOL.names])
def test_source_is_what_runs(names: tuple[str, ...]) -> None:
    rule = Rule(POOL, {name: THETA[name] for name in names})
    signals = example(2)
    given = {**signals, "z_post": (signals["W"] @ signals["y_pre"][..., None]).squeeze(-1)}
    scope: dict[str, Any] = {
        "torch": torch,
        "matvec": lambda M, v: torch.einsum("...ij,...j->...i", M, v),
    }
    exec(rule.source(), scope)  # noqa: S102 - the text under test
    theta = torch.tensor(rule.theta, dtype=torch.float64)
    scale, masks, outers, others = scope["factors"](
        theta, **{name: given[name] for name in rule.program.inputs}
    )
    change = torch.zeros_like(given["W"])
    if scale is not None:
        change += scale[..., None] * given["W"]
    for p, q in masks:
        change += torch.einsum("...i,...j,...ij->...ij", p, q, given["W"])
    for u, v in outers:
        change += torch.einsum("...i,...j->...ij", u, v)
    assert not others
    torch.testing.assert_close(change, rule.delta(**signals))
    assert len(outers) == rule.rank


def test_rank_is_the_papers() -> None:
    assert Rule(POOL, THETA).rank == 3
    assert Rule(POOL, dict.fromkeys(("F0", "F2", "F9"), 1.0)).rank == 2
    assert Rule(POOL, {"F3": 1.0}).rank == 0


def test_locality_is_that_of_the_farthest_term() -> None:
    assert Rule(POOL, {"F0": 1.0, "F3": 1.0}).locality == "synapse"
    assert Rule(POOL, {"F0": 1.0, "F9": 1.0}).locality == "layer"
    assert Rule(POOL, {}).locality == "synapse"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y_post": None}, "needs y_post: give y_post="),
        ({"y_pre": None}, "z_post"),
        ({"y_pre": torch.zeros(5, dtype=torch.float64)}, r"y_pre has shape \(5,\).*end in \(4,\)"),
        ({"e_post": torch.zeros(4, dtype=torch.float64)}, r"e_post has shape"),
        (
            {"e_pre": torch.zeros(2, 4)},
            r"e_pre is torch.float32 on cpu, W is torch.float64 on cpu; give e_pre\.to\(W\)",
        ),
        (
            {"e_pre": torch.zeros(4, dtype=torch.float64, device="meta")},
            "e_pre is torch.float64 on meta, W is torch.float64 on cpu",
        ),
        ({"e_pre": torch.zeros(7, 4, dtype=torch.float64)}, "do not broadcast"),
        ({"W": torch.zeros(4, dtype=torch.float64)}, "W has shape"),
        ({"W": torch.zeros(3, 4, dtype=torch.int64)}, "float32 or float64"),
        ({"theta": torch.zeros(9, dtype=torch.float64)}, r"end in \(10,\)"),
        ({"theta": torch.zeros(10)}, "theta .*torch.float32"),
        ({"theta": torch.zeros(10, dtype=torch.float64, device="meta")}, "theta .*on meta, W"),
        ({"theta": torch.zeros(7, 10, dtype=torch.float64)}, "do not broadcast: .*theta"),
    ],
)
def test_signals_that_do_not_fit(change: dict[str, Any], message: str) -> None:
    with pytest.raises(LearnerError, match=message):
        Rule(POOL, THETA).delta(**{**example(), **change})


def test_coefficients_that_are_no_numbers_or_of_no_term() -> None:
    with pytest.raises(RuleSearchError, match="coefficient of F0 is nan"):
        Rule(POOL, {"F0": float("nan")})
    with pytest.raises(ConfigError, match="did you mean 'F0'"):
        Rule(POOL, {"F_0": 1.0})


@settings(max_examples=20, deadline=None)
@given(
    a=st.dictionaries(st.sampled_from(POOL.names), st.floats(-2, 2), max_size=5),
    b=st.dictionaries(st.sampled_from(POOL.names), st.floats(-2, 2), max_size=5),
    k=st.floats(-3, 3),
)
def test_arithmetic_is_that_of_the_changes(
    a: dict[str, float], b: dict[str, float], k: float
) -> None:
    one, two, signals = Rule(POOL, a), Rule(POOL, b), example(3)
    torch.testing.assert_close(
        (k * one - two + (-one)).delta(**signals),
        (k - 1) * one.delta(**signals) - two.delta(**signals),
    )


def test_one_term_in_two_spellings_adds_up() -> None:
    minus = Rule(POOL, {"F0": 0.25})
    plus = Rule(TermPool([Term.from_text("backprop", "2 * outer(e_post, y_pre)")]), {"backprop": 1})
    assert (minus + plus).coefficients == {"F0": 0.25 - 2.0}
    assert (2 * minus).coefficients == (minus * 2).coefficients == {"F0": 0.5}


def test_a_term_that_cancels_adds_nothing() -> None:
    nothing = TermPool([Term.from_text("none", "W - W"), Term.from_text("decay", "-W")])
    rule = Rule(nothing, {"none": 1.0, "decay": 0.5})
    assert (rule + rule).coefficients["decay"] == 1.0


def test_a_rule_cannot_be_changed() -> None:
    rule = Rule(POOL, THETA)
    before = hash(rule)
    for name in ("coefficients", "terms", "theta", "pool"):
        with pytest.raises(AttributeError):
            setattr(rule, name, ())
    rule.coefficients["F0"] = 5.0
    assert rule.coefficients == THETA
    assert hash(rule) == before
    assert rule == Rule(POOL, THETA)
    assert rule != Rule(POOL, {**THETA, "F0": 5.0})


def test_text_reads_back_and_signs_fold() -> None:
    rule = Rule(POOL, {"F0": 1e-3, "F2": -2e-3, "F9": 2e-3})
    assert str(rule) == (
        "-0.001 * e_post * y_pre.T + 0.002 * e_post * e_pre.T"
        " + 0.002 * (y_post * y_pre.T - y_post * y_post.T * W)"
    )
    again = Rule(TermPool([Term.from_text("all", str(rule))]), {"all": 1.0})
    signals = example(4)
    torch.testing.assert_close(again.delta(**signals), rule.delta(**signals))


@pytest.mark.parametrize("grammar", sorted(p.stem for p in GRAMMARS.glob("*.yaml")))
def test_latex_can_be_typeset(grammar: str) -> None:
    pool = Grammar.from_yaml(GRAMMARS / f"{grammar}.yaml").enumerate()
    rule = Rule(pool, {name: -1.25e-5 * (i + 1) for i, name in enumerate(pool.names)})
    assert r"\times 10^{-5}" in rule.latex()
    MathTextParser("agg").parse(f"${rule.latex()}$")
    assert rule.latex() in rule._repr_latex_()


def test_file_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "rule.json"
    rule = Rule(POOL, {name: c / 3 for name, c in THETA.items()})
    rule.save(path)
    again = Rule.load(path)
    assert again == rule
    assert again.coefficients == rule.coefficients
    assert [t.about for t in again.terms] == [t.about for t in rule.terms]
    signals = example(5)
    assert torch.equal(again.delta(**signals), rule.delta(**signals))
    assert json.loads(path.read_text())["schema"] == 1


def one_term(**fields: Any) -> Any:
    term = {"name": "t", "expr": "-W", "coefficient": 1.0, **fields}
    kept = {key: value for key, value in term.items() if value is not ...}
    return {"kind": "rulesearch rule", "schema": 1, "terms": [kept]}


HOSTILE = {
    "empty": "",
    "no JSON": "import os",
    "binary": b"\x80\x04\x95pickle",
    "a list": "[]",
    "another kind": '{"kind": "model"}',
    "a later schema": '{"kind": "rulesearch rule", "schema": 99}',
    "no terms": '{"kind": "rulesearch rule", "schema": 1}',
    "terms no list": '{"kind": "rulesearch rule", "schema": 1, "terms": {"a": 1}}',
    "deep": "[" * 100_000,
    "huge integer": "1" * 10_000,
    "a call": one_term(expr="__import__('os').system('touch MARK')"),
    "an attribute": one_term(expr="W.__class__"),
    "a lambda": one_term(expr="(lambda: W)()"),
    "a huge power": one_term(expr="W**9**9**9**9"),
    "another shape": one_term(expr="y_post"),
    "a number as expr": one_term(expr=3),
    "a list as expr": one_term(expr=["-W"]),
    "no expr": one_term(expr=...),
    "no coefficient": one_term(coefficient=...),
    "a text as coefficient": one_term(coefficient="__import__('os')"),
    "NaN": one_term(coefficient=float("nan")),
    "infinity": one_term(coefficient=float("inf")),
    "beyond floats": one_term(coefficient=10**400),
    "no name": one_term(name=None),
    "a term that is a number": {"kind": "rulesearch rule", "schema": 1, "terms": [3]},
    "twice": {"kind": "rulesearch rule", "schema": 1, "terms": one_term()["terms"] * 2},
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_are_one_line(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    content = HOSTILE[case]
    path = tmp_path / "rule.json"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(RuleSearchError) as caught:
        Rule.load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["rule.json"]


def test_a_file_that_is_missing_or_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(RuleSearchError, match="cannot be read as a rule"):
        Rule.load(tmp_path / "absent.json")
    with pytest.raises(RuleSearchError, match="cannot be written"):
        Rule(POOL, THETA).save(tmp_path / "absent" / "rule.json")
