r"""Learning a rule together with a rate for each weight: its shape, apart from its size.

Weights move by :math:`\alpha \circ \sum_r t_r F_r`, which is the same for :math:`c\,t` and
:math:`\alpha / c`: a penalty on t would shrink nothing, but drive the size of the rule into the
rates. So after each update the largest coefficient is made one, and the rates take up what it
was. No lifetime changes by that, and the penalty is left with the shape of the rule, which terms
there are and how large beside one another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from rulesearch.arguments import check_kind
from rulesearch.errors import ConfigError
from rulesearch.grammar import Term, TermPool
from rulesearch.outer.meta_model import MetaModel
from rulesearch.outer.meta_training import MetaTraining
from rulesearch.outer.record import UpdateRecord

__all__ = ["ShapeTraining", "in_common_units"]


@dataclass(eq=False)
class ShapeTraining:
    """Meta-training of rules whose largest coefficient is one.

    Parameters
    ----------
    training : MetaTraining
        Of a model with terms in common units.
    kept : Tensor (seeds, n_terms) bool, optional
        Terms that each seed may use; the coefficients of the others are zero for all time. By
        default it may use all of them.

    Raises
    ------
    ConfigError
        If a seed may use no term, or has no coefficient to begin with.
    """

    training: MetaTraining
    kept: Tensor | None = None

    def __post_init__(self) -> None:
        check_kind("training", self.training, MetaTraining, "a MetaTraining")
        theta = self.model.theta
        if self.kept is not None:
            check_kind("kept", self.kept, Tensor, "a torch tensor, True where a term is")
            if self.kept.shape != theta.shape:
                raise ConfigError(
                    f"kept has shape {tuple(self.kept.shape)}; it should be {tuple(theta.shape)}, "
                    "a value for each seed and term"
                )
            kept = self.kept.to(theta)
            with torch.no_grad():
                theta.mul_(kept)
            theta.register_hook(lambda gradient: gradient * kept)  # so that Adam leaves it alone
        if not theta.detach().any(1).all():
            raise ConfigError("a rule's shape: a seed begins without any term; give one a start")
        self._normalise()

    @property
    def updates(self) -> int:
        """Updates made so far."""
        return self.training.updates

    @property
    def model(self) -> MetaModel:
        """The meta-parameters."""
        return self.training.model

    def update(self) -> UpdateRecord:
        """Take one step of meta-training."""
        theta = self.model.theta
        largest = torch.where(theta.detach().abs() == 1, theta.detach(), 0.0)
        record = self.training.update()
        with torch.no_grad():
            gone = ~theta.any(1, keepdim=True)  # a penalty may take all terms but the largest
            theta.copy_(torch.where(gone, largest, theta))
        self._normalise()
        return record

    def _normalise(self) -> None:
        model = self.model
        with torch.no_grad():
            size = model.theta.abs().amax(1)
            model.theta.div_(size[:, None])
            for rate in (*model.rate, *model.bias_rate, *model.feedback_rate):
                rate.mul_(size.reshape(-1, *[1] * (rate.ndim - 1)))

    def tensors(self) -> dict[str, Tensor]:
        """Everything that the next update needs, for a checkpoint."""
        return self.training.tensors()

    def load(self, tensors: Mapping[str, Tensor], updates: int) -> None:
        """Go on from a checkpoint made after so many updates."""
        self.training.load(tensors, updates)


def in_common_units(pool: TermPool, scales: Tensor) -> TermPool:
    """Return the pool with each term times its scale, see :func:`rulesearch.outer.term_scales`.

    A coefficient t of the result is a coefficient ``scale * t`` of `pool`.
    """
    return TermPool(
        Term(term.name, float(scale) * term.expr, term.init, term.about)
        for term, scale in zip(pool, scales.tolist(), strict=True)
    )
