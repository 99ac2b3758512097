"""How far a synapse must reach for a term: computed from its canonical form, not claimed.

For the (j, k) entry of the update,

- ``synapse``: only quantities of neuron j, of neuron k and W_jk itself;
- ``neuron``: also sums over the inputs of neuron j, as its pre-activation z_j is one;
- ``layer``: sums over a whole layer, which some signal must carry to the synapse.
"""

from __future__ import annotations

from typing import Literal

from rulesearch.grammar.algebra import Applied, Base, Factors, Image, Monomial, NormalForm

__all__ = ["LOCALITIES", "Locality", "locality"]

Locality = Literal["synapse", "neuron", "layer"]

LOCALITIES: tuple[Locality, ...] = ("synapse", "neuron", "layer")
"""From the closest to the farthest."""

SYNAPSE, NEURON, LAYER = range(3)


def locality(form: NormalForm) -> Locality:
    """Return the locality of a term: that of its farthest-reaching monomial."""
    return LOCALITIES[_reach(form)]


def _reach(form: NormalForm) -> int:
    return max((_monomial(m, form.shape) for m, _ in form.monomials), default=SYNAPSE)


def _monomial(m: Monomial, shape: tuple[str, str]) -> int:
    if any(sum_.factors for sum_, _ in m.scalars):  # a sum over a layer; that of ones is its size
        return LAYER
    columns = "post" if m.diagonal else shape[1]
    groups = ((m.post, shape[0]), (m.pre, columns), (m.matrix, "weight"))
    return max(_factors(factors, side) for factors, side in groups)


def _factors(factors: Factors, side: str) -> int:
    return max((_atom(atom, side) for atom, _ in factors), default=SYNAPSE)


def _atom(atom: object, side: str) -> int:
    match atom:
        case Base(name="z_post"):
            return NEURON
        case Image(transposed=False, argument=argument):
            # (W v)_j sums over the inputs of neuron j, whose own quantities v must be.
            return max(NEURON, _factors(argument, "pre"))
        case Image():
            return LAYER  # (W^T u)_k needs every neuron that k projects to
        case Applied(argument=form):
            return _reach(form)
    return SYNAPSE
