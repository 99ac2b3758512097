"""A plasticity rule: terms of a pool with coefficients."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

import sympy
import torch
from torch import Tensor

from rulesearch.arguments import check_kind, check_path, real, whole
from rulesearch.compile.program import Program, lower
from rulesearch.compile.torch_source import compile_torch, matvec, torch_source
from rulesearch.errors import GrammarError, LearnerError, RuleSearchError
from rulesearch.files import write_atomically
from rulesearch.grammar import Term, TermPool
from rulesearch.grammar.symbols import N_POST, N_PRE
from rulesearch.rules.printing import rule_latex, rule_text

__all__ = ["Rule"]

SCHEMA = 1
_VECTORS = {"y_pre": "pre", "e_pre": "pre", "y_post": "post", "e_post": "post", "z_post": "post",
            "theta": "terms"}  # fmt: skip


@dataclass(frozen=True, init=False, eq=False, repr=False)
class Rule:
    r"""The change :math:`\Delta W = \sum_r \theta_r F_r` of one connection, immutable.

    Eq. 5 of the rule-discovery paper.

    Parameters
    ----------
    pool : TermPool
    coefficients : mapping of str to float
        By name; terms that are not named are absent from the rule.

    Attributes
    ----------
    pool : TermPool
        The rule's terms as a pool.
    theta : tuple of float
        Coefficients, in the order of ``terms``.

    Raises
    ------
    ConfigError
        If the pool has no term of a name, or a coefficient is no finite number.

    Examples
    --------
    >>> rule = Rule(pool, {"F0": 1e-3, "F9": 2e-3})
    >>> dW = rule.delta(W, y_pre=x, y_post=y, e_pre=d, e_post=e)
    """

    pool: TermPool
    theta: tuple[float, ...]

    def __init__(self, pool: TermPool, coefficients: Mapping[str, float]) -> None:
        check_kind("pool", pool, TermPool, "a TermPool, as grammar.enumerate()")
        check_kind("coefficients", coefficients, Mapping, "a mapping, as {'F0': 1e-3}")
        chosen = pool.subset(coefficients)
        numbers = (real(f"the coefficient of {n}", coefficients[n]) for n in chosen.names)
        object.__setattr__(self, "pool", chosen)
        object.__setattr__(self, "theta", tuple(numbers))

    @property
    def terms(self) -> tuple[Term, ...]:
        """The rule's terms, in the order of the pool that they came from."""
        return tuple(self.pool)

    @property
    def coefficients(self) -> dict[str, float]:
        """Coefficients by name."""
        return dict(zip(self.pool.names, self.theta, strict=True))

    @cached_property
    def program(self) -> Program:
        """The compiled form."""
        return lower([(term.name, term.normal_form) for term in self.pool])

    @property
    def rank(self) -> int:
        """Outer products that one update costs: the minimum vertex cover of the terms."""
        return self.program.rank

    @property
    def locality(self) -> str:
        """The farthest that any of its terms reaches: 'synapse', 'neuron' or 'layer'."""
        order = ("synapse", "neuron", "layer")
        return max((t.locality for t in self.pool), key=order.index, default="synapse")

    def sympy(self) -> sympy.MatrixExpr:
        """Return the rule as one SymPy matrix expression."""
        if not self.pool:
            return sympy.ZeroMatrix(N_POST, N_PRE)
        parts = [
            sympy.MatMul(sympy.Float(c), t.expr) for c, t in zip(self.theta, self.pool, strict=True)
        ]
        return parts[0] if len(parts) == 1 else sympy.MatAdd(*parts)

    def latex(self, digits: int = 3, symbols: Mapping[str, str] | None = None) -> str:
        r"""Return the rule in LaTeX.

        Parameters
        ----------
        digits : int
            Significant digits that coefficients are rounded to.
        symbols : mapping of str to str, optional
            LaTeX in place of the paper's, as ``{"y_post": r"\mathbf{r}"}``.

        Raises
        ------
        ConfigError
            If one of the symbols is not of the vocabulary.
        """
        digits = whole("digits", digits, least=1)
        return rule_latex(list(zip(self.theta, self.pool, strict=True)), digits, symbols)

    def source(self) -> str:
        """Return the torch source that computes the update in factored form."""
        return torch_source(self.program)

    def delta(
        self,
        W: Tensor,
        *,
        y_pre: Tensor | None = None,
        y_post: Tensor | None = None,
        e_pre: Tensor | None = None,
        e_post: Tensor | None = None,
        z_post: Tensor | None = None,
        B: Tensor | None = None,
        Omega: Tensor | None = None,
        theta: Tensor | None = None,
    ) -> Tensor:
        """Return the change of W.

        Parameters
        ----------
        W : Tensor (..., n_post, n_pre)
            Leading dimensions of all arguments broadcast. float32 or float64.
        y_pre, e_pre : Tensor (..., n_pre)
        y_post, e_post, z_post : Tensor (..., n_post)
            ``z_post`` is ``W y_pre`` where it is not given, and in terms that do not name it.
        B, Omega : Tensor (..., n_post, n_pre)
        theta : Tensor (n_terms,) or (..., n_terms), optional
            Other coefficients than the rule's own; differentiable, as everything here.

        Returns
        -------
        Tensor (..., n_post, n_pre)

        Raises
        ------
        LearnerError
            If a signal that a term needs is missing, or shapes, types or devices do not fit.
        """
        named = {"y_pre": y_pre, "y_post": y_post, "e_pre": e_pre, "e_post": e_post,
                 "z_post": z_post, "W": W, "B": B, "Omega": Omega}  # fmt: skip
        signals = {name: value for name, value in named.items() if value is not None}
        saying, meaning = self._by_drive
        if saying and meaning and z_post is not None:
            return self._delta_in_two(signals, theta)
        if "z_post" in self.program.inputs and not (saying and z_post is not None):
            if y_pre is None:
                raise LearnerError("a term needs z_post = W y_pre: give z_post=, or y_pre=")
            _check_shapes({"W": W, "y_pre": y_pre}, len(self))
            signals["z_post"] = matvec(W, y_pre)
        missing = [name for name in self.program.inputs if name not in signals]
        if missing:
            raise LearnerError(
                f"the rule needs {', '.join(missing)}: give {', '.join(f'{m}=' for m in missing)}"
            )
        given = signals if theta is None else {**signals, "theta": theta}
        batch = _check_shapes(given, len(self))
        if theta is None:
            theta = W.new_tensor(self.theta)
        change = W.new_zeros(()) + compile_torch(self.program)(theta, **signals).delta(W)
        return change.expand(batch + W.shape[-2:])

    @cached_property
    def _by_drive(self) -> tuple[list[int], list[int]]:
        """Terms that are written with z_post, and those that need it but say W * y_pre."""
        needing = [row for row, term in enumerate(self.pool) if "z_post" in term.symbols]
        named = [
            row
            for row in needing
            if any(str(s) == "z_post" for s in self.terms[row].expr.atoms(sympy.MatrixSymbol))
        ]
        return named, [row for row in needing if row not in named]

    @cached_property
    def _halves(self) -> tuple[tuple[list[int], Rule], ...]:
        """The terms that name z_post and all others, as rules."""
        named = self._by_drive[0]
        others = [row for row in range(len(self)) if row not in named]
        names = self.pool.names
        return tuple(
            (rows, Rule(self.pool, {names[row]: self.theta[row] for row in rows}))
            for rows in (named, others)
        )

    def _delta_in_two(self, signals: Mapping[str, Tensor], theta: Tensor | None) -> Tensor:
        """Terms that name z_post, which is given, apart from those that mean W y_pre."""
        if theta is not None:
            _check_shapes({"W": signals["W"], "theta": theta}, len(self))
        first, second = (
            part.delta(**signals, theta=None if theta is None else theta[..., rows])
            for rows, part in self._halves
        )
        return first + second

    def save(self, path: str | Path) -> Path:
        """Write the rule as JSON, atomically; :meth:`load` reads it."""
        check_path("path", path)
        return write_atomically(path, json.dumps(self.to_json(), indent=1) + "\n")

    def to_json(self) -> dict[str, Any]:
        """Return what :meth:`save` writes."""
        terms = [
            {"name": t.name, "coefficient": c, "expr": str(t), "about": t.about}
            for t, c in zip(self.pool, self.theta, strict=True)
        ]
        return {"kind": "rulesearch rule", "schema": SCHEMA, "terms": terms}

    @classmethod
    def load(cls, path: str | Path) -> Rule:
        """Read a rule that :meth:`save` wrote; expressions are parsed, nothing is evaluated.

        Raises
        ------
        RuleSearchError
            If the file is no rule, or one of a newer schema.
        """
        check_path("path", path)
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise RuleSearchError(
                f"{path}: cannot be read as a rule, the JSON of Rule.save: {error}"
            ) from None
        try:
            return cls.from_json(content)
        except RuleSearchError as error:
            raise RuleSearchError(f"{path}: {error}") from None

    @classmethod
    def from_json(cls, content: Any) -> Rule:
        """Build a rule from what :meth:`to_json` returned."""
        if not isinstance(content, dict) or content.get("kind") != "rulesearch rule":
            raise RuleSearchError("not a rule: 'kind' should be 'rulesearch rule'")
        if content.get("schema") != SCHEMA:
            raise RuleSearchError(
                f"schema {content.get('schema')} of rules is not known here (known: {SCHEMA})"
            )
        entries = content.get("terms")
        if not isinstance(entries, list):
            raise RuleSearchError("not a rule: 'terms' should be a list")
        terms, coefficients = [], {}
        for number, entry in enumerate(entries, 1):
            match entry:
                case {"name": str(name), "expr": str(expr), "coefficient": float() | int() as c}:
                    try:
                        terms.append(Term.from_text(name, expr, about=str(entry.get("about", ""))))
                    except GrammarError as error:
                        raise RuleSearchError(f"term {number}: {error.message}") from None
                case _:
                    raise RuleSearchError(
                        f"term {number} is malformed: it should have a name and an expr, "
                        "both texts, and a coefficient, a number"
                    )
            try:
                coefficients[name] = float(c)
            except OverflowError:
                raise RuleSearchError(f"the coefficient of {name} is out of range") from None
        return cls(TermPool(terms), coefficients)

    def __add__(self, other: Rule) -> Rule:
        """Add two rules; coefficients of one term add up, however it is spelled."""
        if not isinstance(other, Rule):
            return NotImplemented
        total = self.coefficients
        mine = {t.normal_form.direction(): t for t in self.pool}
        for term, c in zip(other.pool, other.theta, strict=True):
            same = mine.get(term.normal_form.direction())
            if same is None:
                total[term.name] = c
            elif not term.normal_form.is_zero:
                ratio = term.normal_form.monomials[0][1] / same.normal_form.monomials[0][1]
                total[same.name] += c * float(ratio)
        return Rule(self.pool + other.pool, total)

    def __mul__(self, factor: float) -> Rule:
        """Multiply every coefficient by a number."""
        factor = real("what a rule is multiplied by", factor)
        return Rule(self.pool, {name: factor * c for name, c in self.coefficients.items()})

    __rmul__ = __mul__

    def __neg__(self) -> Rule:
        return -1.0 * self

    def __sub__(self, other: Rule) -> Rule:
        if not isinstance(other, Rule):
            return NotImplemented
        return self + (-other)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Rule):
            return NotImplemented
        return (self.pool, self.theta) == (other.pool, other.theta)

    def __hash__(self) -> int:
        return hash((self.pool, self.theta))

    def __len__(self) -> int:
        return len(self.pool)

    def __str__(self) -> str:
        return rule_text(list(zip(self.theta, self.pool, strict=True)))

    def __repr__(self) -> str:
        return f"Rule(dW = {rule_text(list(zip(self.theta, self.pool, strict=True)), None)})"

    def _repr_latex_(self) -> str:
        return f"$\\displaystyle {self.latex()}$"

    def _repr_html_(self) -> str:
        return f"<p>${escape(self.latex())}$</p>"


def _check_shapes(signals: Mapping[str, Tensor], n_terms: int) -> torch.Size:
    """Return the batch shape; every side must have one size, and all are where W is."""
    for name, value in signals.items():
        wanted = f"a torch tensor, as torch.as_tensor({name}, dtype=torch.float32)"
        check_kind(name, value, Tensor, wanted, LearnerError)
    W = signals["W"]
    if W.ndim < 2 or W.dtype not in (torch.float32, torch.float64):
        raise LearnerError(
            f"W has shape {tuple(W.shape)} and type {W.dtype}; "
            "it should be (..., n_post, n_pre), float32 or float64"
        )
    n_post, n_pre = W.shape[-2:]
    ends = {"pre": (n_pre,), "post": (n_post,), "terms": (n_terms,)}
    batches = []
    for name, value in signals.items():
        last = ends.get(_VECTORS.get(name, ""), (n_post, n_pre))
        if tuple(value.shape[-len(last) :]) != last:
            raise LearnerError(f"{name} has shape {tuple(value.shape)}; it should end in {last}")
        if value.dtype != W.dtype or value.device != W.device:
            raise LearnerError(
                f"{name} is {value.dtype} on {value.device}, W is {W.dtype} on {W.device}; "
                f"give {name}.to(W)"
            )
        batches.append(value.shape[: -len(last)])
    try:
        return torch.Size(torch.broadcast_shapes(*batches))
    except RuntimeError:
        shapes = ", ".join(f"{n} {tuple(v.shape)}" for n, v in signals.items())
        raise LearnerError(f"leading dimensions do not broadcast: {shapes}") from None
