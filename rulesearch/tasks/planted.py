"""Tasks for which the best rule is known, to test a search on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rulesearch.arguments import whole
from rulesearch.tasks.base import TaskBatch
from rulesearch.torch_arguments import check_floating, check_generators

__all__ = ["LinearTeacher"]


@dataclass(frozen=True)
class LinearTeacher:
    r"""Regression on a linear teacher, for one linear connection under squared error.

    Inputs are standard normal and targets are :math:`y^* = A x`, without noise, with a random
    orthogonal A, drawn anew for each lifetime, and many more steps than inputs. So the delta
    rule alone, ``F0`` of the paper's pool, brings the loss to zero.

    With ``silent`` inputs, which are zero in training and as strong as the others in the
    queries, without bearing on the target, the gradient never touches their random initial
    weights :math:`W_s`; something has to forget them. Decay (``F3``) moves W away from A as
    well. Oja's rule (``F9``) does not: at :math:`W = (A, W_s)` it is
    :math:`A x x^T (1 - A^T A) = 0` on the informative weights and :math:`-y y^T W_s` on the
    silent ones. So ``F0`` with ``F9`` brings the loss to zero; neither does alone, and decay in
    place of ``F9`` leaves a bias. Terms with an odd power of ``e_pre`` have no gradient at zero,
    the random B behind it being as likely as -B.

    Inputs have both signs, and the derivative of softplus, written in y, explodes at negative
    y: use ``activation='tanh'``, which bears on nothing here but the input's error.

    Parameters
    ----------
    inputs : int
        Width of the informative input and of the target.
    silent : int
        Further inputs, silent in training.
    steps, queries : int
        Examples of a lifetime, and those that judge it.

    Raises
    ------
    ConfigError
        If a size is not positive.
    """

    inputs: int = 6
    silent: int = 0
    steps: int = 100
    queries: int = 20

    def __post_init__(self) -> None:
        for name in ("inputs", "steps", "queries"):
            whole(f"linear teacher: {name}", getattr(self, name), least=1)
        whole("linear teacher: silent", self.silent, least=0)

    @property
    def n_in(self) -> int:
        """Width of an example."""
        return self.inputs + self.silent

    @property
    def n_out(self) -> int:
        """Width of a target."""
        return self.inputs

    @property
    def name(self) -> str:
        """For the manifest."""
        return "linear-teacher"

    @property
    def optimum(self) -> frozenset[str]:
        """Terms of the paper's pool that the best rule has."""
        return frozenset({"F0", "F9"} if self.silent else {"F0"})

    def describe(self) -> dict[str, object]:
        """Everything that makes these tasks what they are."""
        return {"family": self.name, **self.arguments}

    @property
    def arguments(self) -> dict[str, object]:
        """Arguments that make these tasks again."""
        return dict(vars(self))

    def sample(
        self, generators: Sequence[torch.Generator], dtype: torch.dtype = torch.float32
    ) -> TaskBatch:
        """Draw one lifetime per generator; labels are targets ``(steps, lifetimes, n_out)``."""
        check_generators(generators, "lifetime")
        check_floating(dtype)
        drawn = [self._draw(generator, dtype) for generator in generators]
        x, target, x_query, target_query = (torch.stack(part) for part in zip(*drawn, strict=True))
        return TaskBatch(x.transpose(0, 1), target.transpose(0, 1), x_query, target_query)

    def _draw(self, generator: torch.Generator, dtype: torch.dtype) -> tuple[Tensor, ...]:
        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=dtype)

        teacher = torch.linalg.qr(normal(self.inputs, self.inputs)).Q
        x, x_query = normal(self.steps, self.n_in), normal(self.queries, self.n_in)
        x[:, self.inputs :] = 0
        return (
            x,
            x[:, : self.inputs] @ teacher.T,
            x_query,
            x_query[:, : self.inputs] @ teacher.T,
        )
