r"""The complex synapse: a weight that is drawn to a consolidated state.

.. math:: L^{\mathrm{learn}}(\phi, \theta) = l^{\mathrm{learn}}(\phi)
          + \frac{1}{2} \sum_i \lambda_i (\omega_i - \phi_i)^2

(CML, Eq. 6). It goes around any other problem, whatever learns in there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Size, Tensor

from rulesearch.arguments import check_kind
from rulesearch.errors import LearnerError, did_you_mean
from rulesearch.named import Named, detached
from rulesearch.outer.bilevel.given import check_named
from rulesearch.outer.bilevel.problem import Bilevel, learning_loss

__all__ = [
    "KINDS",
    "LAMBDA",
    "LOG_LAMBDA",
    "OMEGA",
    "Anchor",
    "ComplexSynapse",
    "allowed",
    "check_fits",
]

OMEGA, LAMBDA, LOG_LAMBDA = KINDS = "omega.", "lambda.", "log_lambda."


def allowed(theta: Named) -> dict[str, Tensor]:
    """The nearest meta-parameters that are allowed: strengths not below zero."""
    return {k: t.clamp(min=0) if k.startswith(LAMBDA) else t for k, t in theta.items()}


B_co = TypeVar("B_co", bound=Bilevel, covariant=True)


class Anchor(NamedTuple):
    """Of one parameter: the state that it is drawn to, and how strongly."""

    omega: Tensor
    strength: Tensor


@dataclass(frozen=True)
class ComplexSynapse(Generic[B_co]):
    """A problem whose parameters are anchored.

    Of the meta-parameters ``omega.W`` is the consolidated state of the parameter W, and
    ``lambda.W``, or its logarithm ``log_lambda.W``, the strength of attraction; each is as large
    as W, or of a size that broadcasts to it. Without omega the state is zero; without a strength
    the parameter is not anchored. Where omega is among the meta-parameters, learning starts
    from it. All other meta-parameters are those of the problem inside, which is told of omega where
    learning starts and of no strength.

    Parameters
    ----------
    inner : Bilevel
        The task by itself.
    fixed : mapping
        Parts of the above that are not learnt. A strength that is among the meta-parameters, in
        whichever form, takes the place of one that is fixed.

    Raises
    ------
    ConfigError
        If there is no problem inside.
    LearnerError
        If a part that is not learnt is no part of a synapse; at the start of learning, if an
        anchor is of no parameter or of another shape, is all but called so (``omgea.W``), or a
        strength is not finite or below zero. A logarithm so large that its strength overflows is
        none of these: nothing is learnt there, and the problem is rejected.
    """

    inner: B_co
    fixed: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_kind("inner", self.inner, Bilevel, "a bilevel problem, as rule_problem(...)")
        check_named("fixed", self.fixed)
        for key in self.fixed:
            if not key.startswith(KINDS):
                raise LearnerError(
                    f"fixed: '{key}' is no part of a synapse; those are called omega.W, lambda.W "
                    "or log_lambda.W, of a parameter W"
                )

    def start(self, theta: Named) -> Named:
        """Omega as large as the parameter, where it is learnt; else as the task starts."""
        strengths = (LAMBDA, LOG_LAMBDA)
        born = self.inner.start({k: v for k, v in theta.items() if not k.startswith(strengths)})
        self._check(born, theta)
        return {
            name: theta[OMEGA + name].expand_as(value) if OMEGA + name in theta else value
            for name, value in born.items()
        }

    def slope(self, phi: Named, theta: Named, beta: float, step: int) -> Named:
        """The task's own, and lambda (phi - omega)."""
        slope = dict(self.inner.slope(phi, _inside(theta), beta, step))
        for name, anchor in self.anchors(phi, theta):
            slope[name] = slope[name] + anchor.strength * (phi[name] - anchor.omega)
        return slope

    def partial(self, phi: Named, theta: Named, beta: float) -> Named:
        r"""Local to each synapse, and the same for all ways to learn (what Eq. 7 contrasts).

        .. math:: \frac{\partial L}{\partial \omega} = \lambda (\omega - \phi), \quad
                  \frac{\partial L}{\partial \lambda} = \tfrac{1}{2} (\omega - \phi)^2
        """
        rest = _inside(theta)
        found = dict(self.inner.partial(phi, rest, beta)) if rest else {}
        for name, (omega, strength) in self.anchors(phi, theta):
            away = omega - phi[name]
            asked = {
                OMEGA + name: strength * away,
                LAMBDA + name: away**2 / 2,
                LOG_LAMBDA + name: strength * away**2 / 2,
            }
            found |= {k: v.sum_to_size(theta[k].shape) for k, v in asked.items() if k in theta}
        return detached({name: found[name] for name in theta})

    def learn_loss(self, phi: Named, theta: Named) -> Tensor:
        """Eq. 6.

        Raises
        ------
        LearnerError
            If the task has no such loss.
        """
        loss = learning_loss(self.inner)(phi, _inside(theta))
        for name, (omega, strength) in self.anchors(phi, theta):
            energy = strength * (omega - phi[name]) ** 2 / 2
            loss = loss + energy.reshape(*loss.shape, -1).sum(-1)
        return loss

    def eval_loss(self, phi: Named, theta: Named) -> Tensor:
        """The task's: anchors play no part in what is judged."""
        return self.inner.eval_loss(phi, _inside(theta))

    def check_lead(self, phi: Named, theta: Named, lead: Size) -> None:
        """Refuse what the problem inside refuses, and anchors of which it is not clear whose.

        Raises
        ------
        LearnerError
            If an anchor may be one a problem or lie along a parameter's last axis, as large.
        """
        for key, part in self._known(theta).items():
            kind, _, name = key.partition(".")
            if f"{kind}." in KINDS and len(lead) == 1 and 0 < part.dim() < phi[name].dim():
                _check_whose(key, part, phi[name])
        check = getattr(self.inner, "check_lead", None)
        if check is not None:
            check(phi, _inside(theta), lead)

    def anchors(self, phi: Named, theta: Named) -> Iterator[tuple[str, Anchor]]:
        """The anchored parameters."""
        known = self._known(theta)
        for name, value in phi.items():
            strength = known.get(LAMBDA + name)
            if strength is None and LOG_LAMBDA + name in known:
                strength = known[LOG_LAMBDA + name].exp()
            if strength is not None:
                omega = known.get(OMEGA + name)
                yield name, Anchor(value.new_zeros(()) if omega is None else omega, strength)

    def _known(self, theta: Named) -> dict[str, Tensor]:
        """All parts; a strength that is learnt, in either form, in place of one that is fixed."""
        known = dict(self.fixed)
        for key in theta:
            kind, dot, name = key.partition(".")
            if kind + dot in (LAMBDA, LOG_LAMBDA):
                known.pop(LAMBDA + name, None)
                known.pop(LOG_LAMBDA + name, None)
        return {**known, **theta}

    def _check(self, phi: Named, theta: Named) -> None:
        known = self._known(theta)
        kinds = [part.rstrip(".") for part in KINDS]
        for key in known:
            kind, _, name = key.partition(".")
            hint = did_you_mean(kind, kinds)
            if kind not in kinds and name in phi and hint:
                raise LearnerError(f"{key}: '{kind}' is nothing that a parameter has{hint}")
            if f"{kind}." in KINDS and name not in phi:
                raise LearnerError(f"{key}: there is no parameter '{name}' ({', '.join(phi)})")
            if f"{kind}." == LOG_LAMBDA and LAMBDA + name in known:
                raise LearnerError(f"{key} and {LAMBDA}{name} are two strengths of one anchor")
            if f"{kind}." == OMEGA and not {LAMBDA + name, LOG_LAMBDA + name} & known.keys():
                raise LearnerError(f"{key} has no strength: give {LAMBDA}{name}")
            if f"{kind}." in KINDS:
                check_fits(key, known[key], phi[name])
        for name in phi:
            strength = known.get(LAMBDA + name)
            if strength is not None and not (strength.isfinite() & (strength >= 0)).all():
                raise LearnerError(
                    f"{LAMBDA}{name}: strengths must be finite and not below zero; clamp them "
                    f"after each meta-update, or learn {LOG_LAMBDA}{name}"
                )
            logarithm = known.get(LOG_LAMBDA + name)
            if logarithm is not None and not logarithm.isfinite().all():
                raise LearnerError(f"{LOG_LAMBDA}{name}: logarithms of strengths must be finite")


def _inside(theta: Named) -> dict[str, Tensor]:
    """Those meta-parameters that are no synapse's."""
    return {key: tensor for key, tensor in theta.items() if not key.startswith(KINDS)}


def _check_whose(key: str, part: Tensor, parameter: Tensor) -> None:
    """Refuse a part of fewer axes than the parameter that begins as if it had one a problem."""
    problems, axes = len(parameter), parameter.dim() - part.dim()
    if len(part) == problems > 1:
        size = tuple(part.shape)
        first, last = ((*size, *[1] * axes), (*[1] * axes, *size))
        raise LearnerError(
            f"{key} has shape {size}, for {problems} problems whose parameter has "
            f"{tuple(parameter.shape)}: say whether it has a part for each problem, "
            f".reshape{first}, or the same for all, .reshape{last}"
        )


def check_fits(key: str, part: Tensor, parameter: Tensor) -> None:
    """Refuse what does not broadcast to the parameter, or is of a wider type."""
    try:
        part.expand_as(parameter)
    except RuntimeError:
        raise LearnerError(
            f"{key} has shape {tuple(part.shape)}, which does not broadcast to the parameter's, "
            f"{tuple(parameter.shape)}"
        ) from None
    if torch.result_type(part, parameter) != parameter.dtype:
        raise LearnerError(
            f"{key} is {part.dtype}, the parameter {parameter.dtype}: give it as that, "
            f".to({parameter.dtype})"
        )
