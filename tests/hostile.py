"""Grammar files that mean harm, or are broken: each must end in one clear line."""

from __future__ import annotations

import gzip


def _term(expression: str) -> bytes:
    return f"terms:\n  F0: {{expr: {expression}}}\n".encode()


def _quoted(expression: str) -> bytes:
    escaped = expression.replace("'", "''")
    return f"terms:\n  F0: {{expr: '{escaped}'}}\n".encode()


def _alias_bomb() -> bytes:
    lines = ["a: &a [y_post, y_post]"]
    for previous, name in zip("abcdefgh", "bcdefghi", strict=True):
        lines.append(f"{name}: &{name} [{', '.join([f'*{previous}'] * 9)}]")
    return "\n".join(lines).encode()


def _many_generated() -> bytes:
    vectors = ", ".join(f"y_post**{2 + i % 7}" for i in range(2000))
    others = vectors.replace("post", "pre")
    return f"generate:\n  - outer: {{post: [{vectors}], pre: [{others}]}}\n".encode()


def corpus() -> dict[str, bytes]:
    """Return the files by name; every one must be refused with ``file:line:col: message``."""
    outer = "y_post * y_pre.T"
    return {
        # Python where an expression belongs
        "attribute": _quoted("W.__class__"),
        "attribute chain": _quoted("W.T.__class__.__mro__[1].__subclasses__()"),
        "attribute of sympy": _quoted("W.doit * y_pre.T"),
        "attribute call": _quoted("W.inverse()"),
        "dunder name": _quoted("__import__"),
        "dunder call": _quoted("__import__('os').system('touch a_grammar_was_run')"),
        "builtins": _quoted("__builtins__.open"),
        "eval": _quoted("eval(W)"),
        "exec in a string": _quoted("exec('import os')"),
        "lambda": _quoted("(lambda: W)()"),
        "comprehension": _quoted("[W for _ in range(10)]"),
        "index": _quoted("W[0, 0]"),
        "assignment": _quoted("W := y_post"),
        "statement": _quoted("import os; W"),
        "conditional": _quoted("W if W else B"),
        "f-string": _quoted("f'{W}'"),
        "call of a symbol": _quoted("W(y_post)"),
        "call of a result": _quoted("(W)(W)"),
        "sympy function": _quoted("Sum(W, (x, 0, oo))"),
        "backquotes": _quoted("`id`"),
        "template": _quoted("{{ W.__class__ }}"),
        # size and depth
        "huge exponent": _quoted("W**999999999"),
        "power tower": _quoted("W**8**8**8**8"),
        "powers of powers": _quoted("(" * 45 + "W" + "**8)" * 45),
        "powers of scalars": _quoted("(" * 45 + "2 * sum(y_post)" + "**8)" * 45 + " * W"),
        "huge coefficient": _quoted("hadamard(" + ", ".join(["1e12 * W"] * 16) + ")"),
        "number tower": _quoted("8**8**8**8 * W"),
        "negative exponent": _quoted("W**-2"),
        "fractional exponent": _quoted("W**0.5"),
        "symbolic exponent": _quoted("y_post**y_post * y_pre.T"),
        "huge number": _quoted("1e999999999 * W"),
        "tiny number": _quoted("1e-999999999 * W"),
        "long number": _quoted("9" * 9000 + " * W"),
        "growing product of numbers": _quoted(" * ".join(["1e11"] * 1000) + " * W"),
        "division by zero": _quoted("W / 0"),
        "division by a signal": _quoted("W / W"),
        "deep parentheses": _quoted("(" * 4000 + "W" + ")" * 4000),
        "deep calls": _quoted("tanh(" * 60 + "W" + ")" * 60),
        "only opening": _quoted("(" * 9000),
        "many minus signs": _quoted("-" * 9000 + "W +"),
        "many transposes": _quoted("W" + ".T" * 4001),
        "long expression": _quoted(" + ".join([outer] * 2000)),
        "exponential expansion": _quoted(
            " * ".join(["dot(y_post + e_post, z_post + ones_post)"] * 40) + f" * {outer}"
        ),
        "nested functions": _quoted(
            "tanh(hadamard(e_post + z_post, y_post + " * 23 + "y_post" + "))" * 23 + " * y_pre.T"
        ),
        "nested functions of powers": _quoted(
            "tanh((y_post + e_post + " * 20 + "y_post" + ")**8)" * 20 + " * y_pre.T"
        ),
        "nested powers": _quoted("((((y_post + e_post)**8 + z_post)**8 + y_post)**8)**8 * y_pre.T"),
        "matrix chain": _quoted("W * W.T * " * 300 + "W"),
        "many arguments": _quoted("hadamard(" + ", ".join(["W"] * 1000) + ")"),
        "long name": _quoted("y" * 9000),
        "too long for an expression": _quoted("W +" * 5000 + "W"),
        "a million terms": b"terms:\n" + b"".join(b"  a%d: -W\n" % i for i in range(1_000_000)),
        "many terms": b"terms:\n" + b"".join(b"  a%d: -W\n" % i for i in range(9_000)),
        "many generated terms": _many_generated(),
        "one large line": b"a" * 20_000_000,
        "very long key": b"terms: {" + b"k" * 100_000 + b": W}",
        # YAML
        "alias bomb": _alias_bomb(),
        "recursive alias": b"terms: &t {F0: *t}",
        "anchor": b"terms: &t {F0: -W}",
        "merge key": b"terms: {<<: {F0: -W}}",
        "python tag": b"terms: {F0: !!python/object/apply:os.system ['touch a_grammar_was_run']}",
        "local tag": b"terms: {F0: !term -W}",
        "binary tag": b"terms: {F0: !!binary LVc=}",
        "directive": b"%YAML 1.1\n---\nterms: {F0: -W}",
        "two documents": b"terms: {F0: -W}\n---\nterms: {F1: -W}\n",
        "duplicate key": b"terms:\n  F0: -W\n  F0: W\n",
        "duplicate section": b"terms: {F0: -W}\nterms: {F1: -W}\n",
        "deep lists": b"terms: " + b"[" * 5000 + b"]" * 5000,
        "deep mappings": b"terms: " + b"{a: " * 2000 + b"}" * 2000,
        "deep blocks": b"".join(b" " * i + b"a:\n" for i in range(400)),
        "unclosed flow": b"terms: {F0: {expr: -W}",
        "unclosed quote": b"terms: {F0: '-W}",
        "tab indent": b"terms:\n\tF0: -W\n",
        "key is a list": b"? [a, b]\n: 1\n",
        "escape beyond Unicode": b'terms: {F0: "\\UFFFFFFFF"}',
        "not a mapping": b"- F0\n- F1\n",
        "only a word": b"pool10",
        "empty": b"",
        "only a comment": b"# nothing\n",
        "null terms": b"terms: ~\n",
        # encodings
        "utf-16": "terms: {F0: -W}".encode("utf-16"),
        "utf-16 without mark": "terms: {F0: -W}".encode("utf-16-le"),
        "utf-32": "terms: {F0: -W}".encode("utf-32"),
        "latin-1": "terms: {F0: {expr: -W, about: naïve}}".encode("latin-1"),
        "utf-7": b"terms: {F0: +AC0-W}",
        "overlong": b"terms: {F0: \xc0\xadW}",
        "nul": b"terms: {F0: -W}\0",
        "escape codes": b"terms: {F0: \x1b[31m-W}",
        "gzip": gzip.compress(b"terms: {F0: -W}"),
        "greek letters": "terms: {F0: -\u0392}".encode(),
        "cyrillic look-alike": "terms: {F0: -W * \u0435_post}".encode(),
        "right-to-left override": "terms: {F0: -W\u202e}".encode(),
        "full-width digits": "terms: {F0: \uff12 * W}".encode(),
        # what is declared
        "unknown key": b"trems: {F0: -W}\n",
        "unknown key of a term": b"terms: {F0: {expr: -W, intt: 1}}\n",
        "init is not finite": b"terms: {F0: {expr: -W, init: .inf}}\n",
        "init is text": b"terms: {F0: {expr: -W, init: one}}\n",
        "init is huge": b"terms: {F0: {expr: -W, init: 1e300}}\n",
        "no expr": b"terms: {F0: {about: nothing}}\n",
        "expr is a list": b"terms: {F0: {expr: [W]}}\n",
        "name is a symbol": b"terms: {W: -W}\n",
        "name is no name": b"terms: {'../F0': -W}\n",
        "dunder term": b"terms: {__class__: -W}\n",
        "same term twice": b"terms: {F0: -W, F1: 2 * W}\n",
        "term is zero": b"terms: {F0: W - W}\n",
        "vector": _term("y_post"),
        "number": _term("1"),
        "wrong shape": _term("y_post * y_pre"),
        "wrong sum": _term("W + W.T"),
        "empty pool": b"name: nothing\n",
        "all excluded": b"terms: {F0: -W}\nexclude: [W]\n",
        "empty generator": b"generate: [{}]\n",
        "outer of the wrong side": b"generate: [{outer: {post: [y_pre], pre: [y_pre]}}]\n",
        "more terms than allowed": b"terms: {F0: -W, F1: B}\nconstraints: {max_terms: 1}\n",
        "unknown locality": b"terms: {F0: -W}\nconstraints: {locality: synapes}\n",
        "include by path": b"include: [../../etc/passwd]\n",
        "include unknown": b"include: [pool11]\n",
        "include unknown term": b"include: {oja: catalogue.ojaa}\n",
        "include is text": b"include: catalogue\n",
        "include ten thousand": b"include: [" + b"catalogue, " * 10_000 + b"]\n",
    }
