"""What meta-gradients are made of and given: of the right kind, or one line that says so."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from rulesearch.arguments import check_kind
from rulesearch.errors import LearnerError
from rulesearch.outer.bilevel.problem import Bilevel, BilevelLearner

__all__ = [
    "check_depends",
    "check_given",
    "check_learner",
    "check_named",
    "check_names",
    "check_sources",
]


def check_learner(name: str, learner: object) -> None:
    """Refuse what does not learn so many steps."""
    check_kind(name, learner, BilevelLearner, "a learner, as Descent(100)")


def check_given(problem: object, theta: object) -> None:
    """Refuse what is no problem, and meta-parameters that are no tensors by name."""
    wanted = "a bilevel problem, as rule_problem(...)"
    check_kind("problem", problem, Bilevel, wanted)
    check_named("theta", theta)
    assert isinstance(theta, Mapping)
    for key, tensor in theta.items():
        if not tensor.is_floating_point():
            raise LearnerError(
                f"theta[{key!r}] is {tensor.dtype}; give floating point, as theta[{key!r}].float()"
            )


def check_named(name: str, tensors: object) -> None:
    """Refuse what are no tensors by name."""
    wanted = "tensors by name, as {'omega.W0': tensor}"
    check_kind(name, tensors, Mapping, wanted, LearnerError)
    assert isinstance(tensors, Mapping)
    for key, tensor in tensors.items():
        check_kind(f"the name of a tensor in {name}", key, str, "a text", LearnerError)
        check_kind(f"{name}[{key!r}]", tensor, Tensor, "a torch tensor", LearnerError)


def check_names(what: str, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Refuse tensors of other names than are wanted."""
    if found.keys() != wanted.keys():
        raise LearnerError(
            f"{what} has {', '.join(found) or 'nothing'}; give one tensor for each of "
            f"{', '.join(wanted) or 'none'}"
        )


def check_depends(what: str, loss: Tensor, phi: Mapping[str, Tensor]) -> None:
    """Refuse a loss without a graph, whose slope would be zero, where parameters have one."""
    if not loss.requires_grad and any(tensor.requires_grad for tensor in phi.values()):
        raise LearnerError(
            f"{what} does not depend on phi; compute it from phi, without torch.no_grad() and "
            ".detach(), or let Evolution judge by it, which takes no slope"
        )


def check_sources(**sources: object) -> None:
    """Refuse what gives no examples of a step; examples themselves do not."""
    for name, source in sources.items():
        wanted = "a function from a step to its examples, as always(examples)"
        check_kind(name, source, Callable, wanted)  # type: ignore[arg-type]
