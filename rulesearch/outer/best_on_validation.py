"""Model selection: of all updates, the meta-parameters that do best on validation tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from rulesearch.arguments import whole
from rulesearch.named import spread, under
from rulesearch.outer.bilevel.training import MetaParameters
from rulesearch.outer.choice import Choice
from rulesearch.outer.record import UpdateRecord

__all__ = ["BestOnValidation"]

ERROR, BEST = "validation.error", "validation.best."


@dataclass(eq=False)
class BestOnValidation(Choice[MetaParameters]):
    """A meta-training that remembers what each seed's validation tasks liked best.

    Parameters
    ----------
    training : BilevelTraining
    judge : callable
        From meta-parameters to a validation error ``(seeds,)``, on their device; NaN is never
        the best.
    every : int
        Updates between two looks at it.

    Raises
    ------
    ConfigError
        If that is no number of updates.
    """

    judge: Callable[[MetaParameters], Tensor]
    every: int
    _error: Tensor | None = field(init=False, default=None)
    _best: dict[str, Tensor] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        whole("updates between validations", self.every, least=1)

    def update(self) -> UpdateRecord:
        """Take a step, and look at the validation tasks where it is time to."""
        record = self.training.update()
        if self.updates % self.every:
            return record
        return replace(record, validation=self._look())

    def choose(self) -> None:
        """Give the model the best of each seed; the last, where no error was ever finite."""
        if self._error is None:
            return
        known = self._error.isfinite()
        with torch.no_grad():
            for name, best in self._best.items():
                last = self.model.get_parameter(name)
                last.copy_(torch.where(spread(known, best), best, last))

    def _look(self) -> Tensor:
        error = self.judge(self.model)
        if self._error is None:
            self._error = torch.full_like(error, torch.inf)
        better = error < self._error
        self._error = torch.where(better, error, self._error)
        for name, now in self.model.named_parameters():
            before = self._best.get(name, now)
            self._best[name] = torch.where(spread(better, now), now, before).detach().clone()
        return error

    def tensors(self) -> dict[str, Tensor]:
        """Of the training, and of the best so far."""
        found = self.training.tensors()
        if self._error is not None:
            found |= {ERROR: self._error, **{BEST + k: v for k, v in self._best.items()}}
        return found

    def load(self, tensors: Mapping[str, Tensor], updates: int) -> None:
        """Go on from a checkpoint made after so many updates."""
        self.training.load(tensors, updates)
        here = self.model.device
        self._error = tensors[ERROR].to(here, copy=True) if ERROR in tensors else None
        self._best = {name: best.to(here, copy=True) for name, best in under(BEST, tensors).items()}
