"""The vocabulary: what a plasticity term may speak of, as SymPy matrix symbols.

Names and shapes follow the rule-discovery paper (Shervani-Tabar & Rosenbaum 2023,
section 2): for the connection from layer l-1 to layer l, rows are postsynaptic.
"""

from __future__ import annotations

from dataclasses import dataclass

from sympy import MatrixSymbol, Symbol

__all__ = ["N_POST", "N_PRE", "VOCABULARY", "LocalSignal", "signal"]

N_POST = Symbol("n_post", integer=True, positive=True)
N_PRE = Symbol("n_pre", integer=True, positive=True)


@dataclass(frozen=True)
class LocalSignal:
    """One name of the vocabulary.

    Attributes
    ----------
    name : str
        As written in YAML and code.
    side : {'post', 'pre', 'weight'}
        Vectors of shape ``(n_post,)`` or ``(n_pre,)``, or matrices ``(n_post, n_pre)``.
    latex : str
        As written in the paper.
    about : str
        What it means, in one line.
    """

    name: str
    side: str
    latex: str
    about: str

    @property
    def symbol(self) -> MatrixSymbol:
        """The SymPy symbol; vectors are columns."""
        rows = N_PRE if self.side == "pre" else N_POST
        columns = N_PRE if self.side == "weight" else 1
        return MatrixSymbol(self.name, rows, columns)


VOCABULARY: dict[str, LocalSignal] = {
    entry.name: entry
    for entry in (
        LocalSignal("y_pre", "pre", r"\mathbf{y}_{\ell-1}", "presynaptic activation"),
        LocalSignal("y_post", "post", r"\mathbf{y}_{\ell}", "postsynaptic activation"),
        LocalSignal("z_post", "post", r"\mathbf{z}_{\ell}", "pre-activation W y_pre"),
        LocalSignal("e_pre", "pre", r"\mathbf{e}_{\ell-1}", "presynaptic error"),
        LocalSignal("e_post", "post", r"\mathbf{e}_{\ell}", "postsynaptic error"),
        LocalSignal("ones_pre", "pre", r"\mathbf{1}_{\ell-1}", "ones, presynaptic side"),
        LocalSignal("ones_post", "post", r"\mathbf{1}_{\ell}", "ones, postsynaptic side"),
        LocalSignal("W", "weight", r"\mathbf{W}_{\ell-1,\ell}", "forward weight"),
        LocalSignal("B", "weight", r"\mathbf{B}_{\ell,\ell-1}^{T}", "feedback weight"),
        LocalSignal("Omega", "weight", r"\mathbf{\Omega}_{\ell-1,\ell}", "consolidated weight"),
    )
}


def signal(name: str) -> MatrixSymbol:
    """Return the SymPy symbol of a vocabulary name."""
    return VOCABULARY[name].symbol
