"""Learning a quadratic loss to its minimum: one step of Newton's."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from rulesearch.arguments import whole
from rulesearch.named import Named, flat, leaves, shaped
from rulesearch.outer.bilevel.problem import Bilevel

__all__ = ["Newton"]


@dataclass(frozen=True)
class Newton:
    r"""Goes to where the slope would vanish, if it is affine in the parameters.

    .. math:: \phi \leftarrow \phi - \left(\frac{\partial s}{\partial\phi}\right)^{-1} s(\phi)

    That is the minimum of a quadratic loss, as that of a linear readout, and what any way to
    descend it comes to in the end. Elsewhere the residual of an estimate tells what is left. The
    slope has to be differentiable; the matrices have ``(*lead, n, n)`` entries.

    Parameters
    ----------
    steps : int

    Raises
    ------
    ConfigError
        For less than one step.
    """

    steps: int = 1

    def __post_init__(self) -> None:
        whole("steps", self.steps, least=1)

    def __call__(
        self, problem: Bilevel, theta: Named, phi: Named, beta: float = 0.0, first: int = 0
    ) -> Named:
        """Return the minimum; where the matrix is singular, what is not a number."""
        lead = problem.eval_loss(phi, theta).shape
        for step in range(self.steps):
            with torch.enable_grad():
                at = leaves(phi)
                slope = flat(problem.slope(at, theta, beta, first + step), lead)
                n = slope.shape[-1]
                rows = torch.eye(n, dtype=slope.dtype, device=slope.device)
                found = torch.autograd.grad(
                    slope,
                    list(at.values()),
                    rows.reshape(n, *[1] * len(lead), n).expand(n, *slope.shape),
                    is_grads_batched=True,
                    materialize_grads=True,
                )
            matrix = torch.cat([part.reshape(n, *lead, -1) for part in found], -1).movedim(0, -2)
            change, info = torch.linalg.solve_ex(matrix, slope.detach().unsqueeze(-1))
            change = change.squeeze(-1).masked_fill((info != 0).unsqueeze(-1), torch.nan)
            step_by = shaped(change, at)
            phi = {name: value.detach() - step_by[name] for name, value in phi.items()}
        return phi
