r"""FLP's universality theorem as a network that can be run and read out.

Lindsey & Litwin-Kumar 2020, Appendix A: feedback and a local rule, Hebb's or Oja's, let a deep
ReLU network learn online such that its last activity :math:`z^*`, for a query :math:`x^*`, holds
every example :math:`(x_k, y_k)` of its lifetime, up to their order. A network on top that reads
it can then be any learning algorithm.

The construction, with J cells of x, d cells (here classes) of y, and pairs i = (j, l) of cells:

* Features :math:`\phi(x) = (0, 1_x, 0_{J^2 d}, 1_x)`: a scalar, two copies of the cell's one-hot
  vector, and between them a slot of d units for each of the J² pairs.
* Layers :math:`W_1 \ldots W_N`, of which :math:`W_N` acts first. The input of :math:`W_i` is
  :math:`G_i \phi(x)`, :math:`G_i = W_{i+1} \ldots W_N`, so any invertible G can be had from
  :math:`W_i = G_{i-1} G_i^{-1}` (Eq. 4). The G of a pair is :math:`\epsilon I`, plus I in the last
  block, plus a first row that sums the units of cells j and l (Eq. 6); :math:`G_0` lacks the row.
* Feedback :math:`B_i` copies the one-hot y to slot i and replaces the activity at the output of
  :math:`W_i` by it (beta = 1, Eq. 7). An identity layer between :math:`W_i` and :math:`W_{i-1}`,
  fed forward alone (beta = 0, alpha = 0), keeps :math:`W_{i-1}` from seeing this: the activity
  that :math:`W_{i-1}` learns from is the one before feedback. So identities need not be stored.

Followed through, a lifetime of K examples leaves in the slots of :math:`z^*`

.. math:: z^*_{jl,m} = \alpha \sum_{k: y_k = m} \omega_k \bigl( [x_k \in \{j, l\}]
    [x^* \in \{j, l\}] + (\gamma - 1) [x_k = x^*] + h_k \bigr),
    \qquad \gamma = 2 (1 + \epsilon + \epsilon^2),

where :math:`\omega_k = (1 - \alpha)^r` with Oja's rule, r later examples having the same y, and 1
with Hebb's; and :math:`h_k = O(\alpha^2)` is what slots written earlier in the forward pass add to
the overlap of two activities.

Where this departs from the appendix:

* There J² layers have feedback and the G of each is chosen; but the G of the layer that acts first
  is an empty product, I. One more layer, without feedback, acts first here: N = J² + 1.
* The appendix's overlaps of :math:`G_i \phi(x_k)` and :math:`G_i \phi(x^*)` leave out the last
  block. With the epsilon of the other copy it adds :math:`\gamma - 1` to *every* slot when
  :math:`x_k = x^*`. Subtracting slot (j, j), as the appendix does, removes that from the others;
  slot (j, j) itself has to be divided by :math:`\gamma`, or each example of the query's own cell
  counts twice.
* Epsilon need not be small, and no power of it is ever taken: :math:`G_0 G_{i-1}^{-1}` is the
  identity on the slots, and the decoder knows :math:`\gamma`. If it is a power of two, no
  product or sum of the network at birth is rounded but :math:`1 + \epsilon`.
* The decay of Oja's rule acts on units that are silent in :math:`G_i \phi`, so its term of first
  order (Eq. 5) is exactly zero. At the next order it makes recent examples weigh more, so
  :math:`z^*` does depend on their order; what is decoded does not.
* "Alpha small enough" means small for a lifetime's length: see :meth:`UniversalNetwork.capacity`.
"""

from __future__ import annotations

import sys
from bisect import bisect_left
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from rulesearch.arguments import check_choice, check_kind, number, whole
from rulesearch.errors import ConfigError, LearnerError
from rulesearch.grammar.catalogue import catalogue
from rulesearch.rules import Rule

__all__ = ["Decoded", "UniversalNetwork"]

LONGEST = 1 << 26  # rounding alone ends every capacity below this: 2 K^2 2^-52 < 1/2


class Decoded(NamedTuple):
    """What a network's last activity says.

    Attributes
    ----------
    x_query : Tensor of int64, shape (...)
        Cell of the query.
    counts : Tensor of int64, shape (..., cells, classes)
        How often each example was seen: the examples, without their order.
    """

    x_query: Tensor
    counts: Tensor


@dataclass(frozen=True)
class UniversalNetwork:
    r"""The network of FLP's Appendix A, in float64, up to the features' and read-out's networks.

    Those two are universal approximators: one gives x its cell, the other is :meth:`decode` with
    any function of the examples behind it. Examples are given as cells.

    Parameters
    ----------
    cells : int
        J, the number of cells that x is told apart by.
    classes : int
        d, the number of classes, or of cells of y.
    term : {"oja_single", "hebb"}
        The rule, by its name in the catalogue.
    alpha : float
        Rate of plasticity, in every layer that has feedback.
    epsilon : float
        What makes the layers invertible; a power of two is exact.

    Raises
    ------
    ConfigError
        If a number is out of range, or the theorem is not about the term.
    """

    cells: int
    classes: int
    term: Literal["oja_single", "hebb"] = "oja_single"
    alpha: float = 2.0**-30
    epsilon: float = 2.0**-4

    def __post_init__(self) -> None:
        for name in ("cells", "classes"):
            whole(name, getattr(self, name), least=1)
        check_choice("term", self.term, ("oja_single", "hebb"))
        tiny, huge = sys.float_info.min, sys.float_info.max
        for name, most in (("alpha", 1.0), ("epsilon", huge)):
            value = getattr(self, name)
            if not tiny <= number(value) <= most:
                raise ConfigError(
                    f"{name} is {value!r}; it should be from {tiny:.3g} to {most:.3g}"
                )

    @property
    def layers(self) -> int:
        """N, the plastic layers: one for each pair of cells, and the one that acts first."""
        return self.cells**2 + 1

    @property
    def width(self) -> int:
        """n, the units of every layer: a scalar, a cell, the slots, a cell."""
        return 1 + 2 * self.cells + self.cells**2 * self.classes

    @property
    def gamma(self) -> float:
        r"""What an example of the query's own cell leaves in a slot of it, over alpha."""
        return 2.0 * (1.0 + self.epsilon + self.epsilon * self.epsilon)

    @cached_property
    def rule(self) -> Rule:
        """The catalogue's term, with alpha as its coefficient."""
        return Rule(catalogue(), {self.term: self.alpha})

    @cached_property
    def feedback_weights(self) -> Tensor:
        """B, from y to the outputs of the layers: (N, n, d), to slot i of layer i (Eq. 7).

        No feedback goes to W_N. Nothing is negative, so the ReLU behind it changes nothing.
        """
        pairs, d = self.layers - 1, self.classes
        B = torch.zeros(self.layers, self.width, d, dtype=torch.float64)
        slots = B[:-1, 1 + self.cells : -self.cells].unflatten(1, (pairs, d))
        slots.diagonal(dim1=0, dim2=1).copy_(torch.eye(d).unsqueeze(-1))
        return B

    def error_bound(self, steps: int) -> float:
        r"""Return how far a count can be from a whole number, after so many examples.

        .. math:: \frac{\alpha K (K - 1)}{2} + K \eta + \gamma K (K + n + N)\, 2^{-52},
            \qquad \eta = (J (\gamma + 1) \alpha K)^2.

        The first part is Oja's decay, :math:`\sum_k (1 - \omega_k)`, nearly reached when all are
        alike. The second is the slots' own overlap: while all :math:`h_k \le 1`, a pair's slot
        holds at most :math:`\alpha (\gamma + 1) K`, and the J² of them overlap by at most
        :math:`\eta`, which is below 1 where the bound is below 1/2. The third estimates rounding.
        """
        K, n, N = float(steps), self.width, self.layers
        decay = self.alpha * K * (K - 1) / 2 if self.term == "oja_single" else 0.0
        overlap = self.cells * (self.gamma + 1) * self.alpha * K
        rounding = self.gamma * K * (K + n + N) * sys.float_info.epsilon
        return decay + K * overlap * overlap + rounding

    @cached_property
    def capacity(self) -> int:
        """The longest lifetime sure to be decoded: its error bound is below 1/2.

        With the default constants and 3 cells of x and 2 of y, 32,680 examples by Oja's rule and
        186,873 by Hebb's. It grows as alpha to the power -1/2 and -2/3, until at some 1e7 examples
        rounding sets the limit. Alpha may then be as small as a normal number of float64: what is
        learnt stands in weights that were zero. An epsilon above a few millions leaves no
        capacity, for rounding of gamma hides the ones that are added to it.
        """
        return bisect_left(range(1, LONGEST), True, key=lambda k: self.error_bound(k) >= 0.5)

    def init(self, lifetimes: int = 1) -> Tensor:
        """Return the weights at birth, W_1 first and W_N, which acts first, last.

        Returns
        -------
        Tensor, shape (lifetimes, N, n, n)
            Of float64; :math:`W_i = G_{i-1} G_i^{-1}` (Eq. 4 and 6).
        """
        whole("lifetimes", lifetimes, least=1)
        J, N, n = self.cells, self.layers, self.width
        diagonal = torch.full((n,), self.epsilon, dtype=torch.float64)
        diagonal[-J:] += 1.0
        G = torch.diag(diagonal).repeat(N + 1, 1, 1)
        for i in range(1, N):
            G[i, 0, [1 + cell for cell in divmod(i - 1, J)]] = 1.0
        G[N] = torch.eye(n, dtype=torch.float64)
        # Solves W_i G_i = G_{i-1}; every G is upper triangular.
        W: Tensor = torch.linalg.solve_triangular(G[1:], G[:-1], upper=True, left=False)
        return W.expand(lifetimes, N, n, n)

    def activations(self, W: Tensor, x: Tensor) -> Tensor:
        """Return the features and what the layers make of them, z first.

        Parameters
        ----------
        W : Tensor, shape (lifetimes, N, n, n)
        x : Tensor of int64, shape (lifetimes, examples)
            Cells.

        Returns
        -------
        Tensor, shape (lifetimes, N + 1, examples, n)
            Output of W_1 (which is z), ..., output of W_N, features.

        Raises
        ------
        LearnerError
            If x holds something else than cells, or shapes do not fit.
        """
        check_kind("W", W, Tensor, "a torch tensor, as of init()", LearnerError)
        _check_range("x", x, self.cells)
        expected = (self.layers, self.width, self.width)
        if W.shape[1:] != expected or x.ndim != 2 or len(x) != len(W):
            raise LearnerError(
                f"W has shape {tuple(W.shape)} and x {tuple(x.shape)}; they should be "
                f"(lifetimes, {', '.join(map(str, expected))}) and (lifetimes, examples)"
            )
        cell = one_hot(x, self.cells).to(W.dtype)
        scalar = cell.new_zeros((*x.shape, 1))
        slots = cell.new_zeros((*x.shape, self.cells**2 * self.classes))
        y = [torch.cat([scalar, cell, slots, cell], dim=-1)]
        for i in reversed(range(self.layers)):
            y.append(torch.relu(y[-1] @ W[:, i].mT))
        return torch.stack(y[::-1], dim=1)

    def live(self, W: Tensor, x: Tensor, label: Tensor, *, feedback: bool = True) -> Tensor:
        """Learn examples online, one a step, in every layer at once.

        Parameters
        ----------
        W : Tensor, shape (lifetimes, N, n, n)
        x, label : Tensor of int64, shape (steps, lifetimes)
            Cells and classes, in the order in which a lifetime meets them.
        feedback : bool
            Whether it arrives (beta = 1). Without it (beta = 0) plasticity is unsupervised: the
            layers learn from their own outputs.

        Returns
        -------
        Tensor, shape (lifetimes, N, n, n)

        Raises
        ------
        LearnerError
            If x or label are out of range, or shapes do not fit.
        """
        check_kind("W", W, Tensor, "a torch tensor, as of init()", LearnerError)
        for name, value in (("x", x), ("label", label)):
            check_kind(name, value, Tensor, "a torch tensor", LearnerError)
        if x.shape != label.shape or x.shape[1:] != W.shape[:1]:
            raise LearnerError(
                f"x has shape {tuple(x.shape)} and label {tuple(label.shape)}; "
                f"both should be (steps, {len(W)}), a column for each lifetime of W"
            )
        _check_range("label", label, self.classes)
        for cell, wanted in zip(x, label, strict=True):
            y = self.activations(W, cell.unsqueeze(-1)).squeeze(-2)
            y_post = self.feedback_weights[..., wanted].movedim(-1, 0) if feedback else y[:, :-1]
            W = W + self.rule.delta(W, y_pre=y[:, 1:], y_post=y_post)
        return W

    def decode(self, z: Tensor) -> Decoded:
        """Read the query and all examples from z (the appendix's procedure, gamma added).

        With j the query's cell, slot (j, l) holds alpha times the counts of cell l and gamma times
        those of j, slot (j, j) the latter alone. Exact for lifetimes within :attr:`capacity`.

        Parameters
        ----------
        z : Tensor, shape (..., n)
            The output of W_1, ``activations(W, x_query)[:, 0]``.
        """
        check_kind("z", z, Tensor, "a torch tensor", LearnerError)
        if z.shape[-1:] != (self.width,):
            raise LearnerError(
                f"z has shape {tuple(z.shape)}; its last dimension should be {self.width}"
            )
        J = self.cells
        x_query = z[..., -J:].argmax(-1)
        at = x_query[..., None, None]
        slots = z[..., 1 + J : -J].unflatten(-1, (J, J, self.classes)) / self.alpha
        row = slots.take_along_dim(at.unsqueeze(-1), -3).squeeze(-3)
        own = row.take_along_dim(at, -2)
        is_own = one_hot(x_query, J).bool().unsqueeze(-1)
        counts = torch.where(is_own, own / self.gamma, row - own)
        return Decoded(x_query, counts.round().long())


def _check_range(name: str, value: Tensor, count: int) -> None:
    check_kind(name, value, Tensor, "a torch tensor", LearnerError)
    inside = value.dtype == torch.int64 and bool(((value >= 0) & (value < count)).all())
    if not inside:
        raise LearnerError(f"{name} should be of int64, in 0 ... {count - 1}")
