"""Classifiers of named weights as bilevel problems: some weights learn, others are meta-learnt."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional

from rulesearch.arguments import check_kind
from rulesearch.errors import LearnerError, did_you_mean
from rulesearch.named import Named
from rulesearch.networks.fit import as_classes
from rulesearch.outer.accuracy import share_right
from rulesearch.outer.bilevel.given import check_named, check_sources
from rulesearch.outer.bilevel.losses import LossProblem
from rulesearch.outer.bilevel.networks import Source, seen

__all__ = ["Classifier", "CrossEntropy", "accuracy", "classifier_problem", "fast_and_slow"]

CLASSIFIER = "a function of weights and examples, as ModulatedNetwork([4, 6, 2])"
AT_ONCE = 500  # images that are judged side by side


@runtime_checkable
class Classifier(Protocol):
    """A network as a function of its weights."""

    def __call__(self, weights: Named, x: Tensor, reference: int | None = None) -> Tensor:
        """Return logits: see :class:`rulesearch.networks.convolutional.ConvNet`."""
        ...


@dataclass(frozen=True)
class CrossEntropy:
    """Mean cross-entropy of a network whose weights are phi, and what of theta it has."""

    network: Classifier
    source: Source

    def __call__(self, phi: Named, theta: Named, step: int | None) -> Tensor:
        """Return the loss of a step's examples, ``(problems,)``."""
        x, label = seen(self.source, step, next(iter(phi.values())))
        logits = self.network({**theta, **phi}, x)
        # Whether classes are in range a GPU would have to be waited for: at first, and of all.
        label = _classes(label, logits, known=bool(step))
        loss = functional.cross_entropy(logits.flatten(0, 1), label.flatten(), reduction="none")
        return loss.reshape(label.shape).mean(1)


def _classes(label: Tensor, logits: Tensor, *, known: bool = False) -> Tensor:
    """Return labels as int64, one an example; they are in range, or known to be."""
    if label.is_floating_point() or label.shape != logits.shape[:2]:
        raise LearnerError(
            f"label is {label.dtype} of shape {tuple(label.shape)}; give the class of each "
            f"example, whole numbers of shape {tuple(logits.shape[:2])}"
        )
    return label.long() if known else as_classes(label, logits.shape[-1])


def classifier_problem(
    network: Classifier, born: Named, learn: Source, evaluate: Source
) -> LossProblem:
    """A network that learns by descending its cross-entropy.

    Parameters
    ----------
    born : Named
        The weights that learn, as they are at first. All others are meta-parameters of the same
        names as in the network: slow weights.
    learn, evaluate : Source
        Examples that are learnt, and that judge.

    Raises
    ------
    ConfigError, LearnerError
        If one of them is of another kind; where they are used, if labels are no classes.
    """
    check_kind("network", network, Classifier, CLASSIFIER)
    check_named("born", born)
    check_sources(learn=learn, evaluate=evaluate)
    return LossProblem(
        CrossEntropy(network, learn), CrossEntropy(network, evaluate), lambda theta: born
    )


def fast_and_slow(weights: Named, fast: Collection[str]) -> tuple[Named, Named]:
    """Divide weights into those that learn and those that meta-learn, by the ends of their names.

    Top-down modulation (CML, section 4.2) is ``fast=("gain", "shift")``; with ``"head"`` the
    readout learns as well.

    Raises
    ------
    LearnerError
        If an end is of no weight, or nothing learns.
    """
    check_named("weights", weights)
    if isinstance(fast, str) or not isinstance(fast, Collection):
        raise LearnerError(f"fast should be ends of names, as ('gain', 'shift'), not {fast!r}")
    ends = {"head"} | {k.rpartition(".")[2] for k in weights}
    unknown = [str(end) for end in fast if end not in ends]
    if unknown:
        hint = did_you_mean(unknown[0], ends)
        raise LearnerError(f"none of {', '.join(weights)} is one of {', '.join(unknown)}{hint}")
    chosen = {k for k in weights if k.startswith("head.") and "head" in fast}
    chosen |= {k for k in weights if k.rpartition(".")[2] in fast}
    if not chosen:
        raise LearnerError(f"nothing learns: fast is empty; give one of {', '.join(sorted(ends))}")
    return (
        {k: w for k, w in weights.items() if k in chosen},
        {k: w for k, w in weights.items() if k not in chosen},
    )


@torch.no_grad()
def accuracy(
    network: Classifier, weights: Named, source: Source, reference: Source | None = None
) -> Tensor:
    """Part of all examples that are classified rightly, ``(problems,)``; NaN of what diverged.

    Parameters
    ----------
    reference : Source, optional
        Whose examples give a normalised network its means and deviations, none of which then
        depends on what is judged. By default all that is judged does.
    """
    check_kind("network", network, Classifier, CLASSIFIER)
    check_named("weights", weights)
    check_sources(source=source, **({} if reference is None else {"reference": reference}))
    x, label = seen(source, None, next(iter(weights.values())))
    if reference is None:
        logits = network(weights, x)
    else:
        shown = reference(None).x
        count = shown.shape[1]
        parts = [
            network(weights, torch.cat([shown, part], 1), count)[:, count:]
            for part in x.split(AT_ONCE, 1)
        ]
        logits = torch.cat(parts, 1)
    return share_right(logits, _classes(label, logits), *weights.values())
