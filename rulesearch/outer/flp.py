"""Networks of FLP, learnt feedback and local plasticity, and of its baselines, from settings."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from operator import index
from typing import SupportsIndex

import torch
from torch import Tensor, nn

from rulesearch.arguments import check_choice, check_kind, number, whole
from rulesearch.errors import ConfigError
from rulesearch.grammar import TermPool
from rulesearch.grammar.catalogue import catalogue
from rulesearch.learners import PlasticityLearner
from rulesearch.networks import LearntFeedback, PlasticNetwork
from rulesearch.outer.features import OwnFeatures, conv_features, conv_size, mlp_features
from rulesearch.outer.meta_model import MetaModel
from rulesearch.outer.meta_training import MetaRates
from rulesearch.outer.seeds import NETWORK, generators, members
from rulesearch.rules import Rule
from rulesearch.torch_arguments import device_at_hand

__all__ = ["LEARNING", "FLPSettings", "flp_learner", "flp_model"]

LEARNING = ("flp", "gradient", "oml")


@dataclass(frozen=True)
class FLPSettings:
    """A network of FLP, and how it is meta-trained.

    Attributes
    ----------
    widths : tuple of int
        Units of the fully connected layers; the first is what the layers below them give, if there
        are any.
    plastic_layers : int
        How many of the last layers learn within a lifetime. 1 is feature reuse.
    learning : {'flp', 'gradient', 'oml'}
        Learnt feedback and a local rule; gradient descent with a learnt rate a weight (biases
        learn too); gradient descent with one fixed rate (OML).
    method : {'reversible', 'autograd', 'first-order'}
        The meta-gradient: exact, or with what a lifetime asks for taken as a constant.
    rule : str or Rule
        What weights learn by under ``flp``: a term of the catalogue, or a rule of one's own.
    reduction : {'sum', 'mean'} or None
        Of the updates that the examples of a step call for. None is what the papers' released
        code has: the sum under ``flp``, the mean under gradient descent.
    output : {'linear', 'softmax'}
    feedback : LearntFeedback
    mixing : float or tuple of float
        Its strength at the start of meta-training, in all plastic layers or in each, first to
        last.
    rate : float or tuple of float
        alpha at the start of meta-training, or for all time under ``oml``, of all plastic layers
        or of each, first to last; and the rate of feedback that is plastic.
    rates : MetaRates
    image : tuple of int or None
        Channels, height and width, where the lowest layers are convolutions.
    channels, strides : tuple of int
        Of the convolutions.

    Raises
    ------
    ConfigError
        If a size is not a whole number from 1 on, something is not finite, or the parts do not
        fit together.
    """

    widths: tuple[int, ...]
    plastic_layers: int
    learning: str = "flp"
    method: str = "reversible"
    rule: str | Rule = "oja_single"
    reduction: str | None = None
    output: str = "linear"
    feedback: LearntFeedback = field(default_factory=LearntFeedback)
    mixing: float | tuple[float, ...] = 0.5
    rate: float | tuple[float, ...] = 0.0
    rates: MetaRates = field(default_factory=MetaRates)
    image: tuple[int, int, int] | None = None
    channels: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_choice("FLP: learning", self.learning, LEARNING)
        for name in ("widths", "image", "channels", "strides"):
            sizes = getattr(self, name)
            if name == "image" and sizes is None:
                continue
            check_kind(f"FLP: {name}", sizes, Iterable, "whole numbers, as (784, 100, 10)")
            if not all(isinstance(size, SupportsIndex) and index(size) > 0 for size in sizes):
                raise ConfigError(f"FLP: {name} is {sizes!r}; give whole numbers from 1 on")
            object.__setattr__(self, name, tuple(map(index, sizes)))
        check_kind("FLP: rule", self.rule, (str, Rule), "a term of the catalogue, or a Rule")
        check_kind("FLP: feedback", self.feedback, LearntFeedback, "a LearntFeedback")
        check_kind("FLP: rates", self.rates, MetaRates, "MetaRates")
        if len(self.widths) < 2:
            raise ConfigError(
                f"FLP: widths is {self.widths}; give the units of two layers or more, as "
                "(784, 100, 10)"
            )
        if not 1 <= whole("FLP: plastic_layers", self.plastic_layers, 0) < len(self.widths):
            raise ConfigError(
                f"FLP: {len(self.widths) - 1} layers, of which 1 or more can be plastic, "
                f"not {self.plastic_layers}"
            )
        for name in ("mixing", "rate"):
            given = getattr(self, name)
            if isinstance(given, tuple | list):
                object.__setattr__(self, name, tuple(given))
                if len(given) != self.plastic_layers:
                    raise ConfigError(
                        f"FLP: {len(given)} values of {name} for {self.plastic_layers} plastic "
                        "layers"
                    )
            if any(isinstance(value, str) for value in self._each(name)):
                raise ConfigError(f"FLP: {name} is text, {given!r}; give finite numbers")
            if not all(math.isfinite(number(value)) for value in self._each(name)):
                raise ConfigError(f"FLP: {name} is {given!r}; give finite numbers")
        self._check_convolutions()

    def _each(self, name: str) -> tuple[float, ...]:
        """A value for each plastic layer."""
        given = getattr(self, name)
        return given if isinstance(given, tuple) else (given,) * self.plastic_layers

    def _check_convolutions(self) -> None:
        if self.image is not None and len(self.image) != 3:
            raise ConfigError(f"FLP: image is {self.image}; give channels, height and width")
        if self.image is None and (self.channels or self.strides):
            raise ConfigError("FLP: convolutions (channels, strides) need the image's shape")
        if self.image is not None and (self.channels or self.strides):
            given = conv_size(self.image, self.channels, self.strides)
            if given != self.widths[0]:
                raise ConfigError(
                    f"FLP: convolutions give {given} values of an image of {self.image}, but "
                    f"widths begins with {self.widths[0]}; make it {given}"
                )

    @property
    def starts(self) -> tuple[float, ...]:
        """First value of the rates of each plastic layer."""
        return self._each("rate")

    @property
    def mixings(self) -> tuple[float, ...]:
        """First value of the mixing of each plastic layer."""
        return self._each("mixing")

    @property
    def plastic_widths(self) -> tuple[int, ...]:
        """Units of the plastic layers, those of the layer below them first."""
        return self.widths[-self.plastic_layers - 1 :]

    @property
    def network(self) -> PlasticNetwork:
        """The plastic layers."""
        network = PlasticNetwork(
            self.plastic_widths,
            activation="relu",
            output=self.output,
            feedback="flp",
            feedback_init="kaiming",
            weight_init="kaiming",
            bias=True,
            learnt_feedback=self.feedback,
        )
        return network if self.learning == "flp" else network.with_feedback("symmetric")


def flp_model(
    settings: FLPSettings,
    seeds: int = 1,
    seed: int = 0,
    *,
    like: MetaModel | None = None,
    pool: TermPool | None = None,
    theta: Sequence[float] | None = None,
    features: nn.Module | Sequence[nn.Module] | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> MetaModel:
    """Make a meta-model.

    Parameters
    ----------
    settings : FLPSettings
    seeds : int
        Independent meta-parameters, learnt side by side.
    seed : int
        Of the run, from which all initial values follow.
    like : MetaModel, optional
        Take initial forward weights and features from it, as the paper's baselines do.
    pool, theta : TermPool and sequence of float, optional
        Candidate terms, in place of the settings' rule, and the coefficients they begin with.
    features : Module or sequence of Module, optional
        The lowest layers in place of convolutions: one for all seeds to begin with, or one a seed.
        They are copied, see images of ``settings.image`` where it is given and else examples as
        they are, and give ``widths[0]`` values of each, which may have several dimensions. What
        is frozen in them (``requires_grad=False``) stays as it is.

    Raises
    ------
    ConfigError
        If there are no seeds, ``like`` has other layers, or features do not fit the settings.
    """
    check_kind("settings", settings, FLPSettings, "FLPSettings, as SINES of the presets")
    seeds, seed = whole("FLP: seeds", seeds, least=1), whole("FLP: seed", seed, least=0)
    if like is not None:
        check_kind("like", like, MetaModel, "a MetaModel")
    if pool is not None:
        check_kind("pool", pool, TermPool, "a TermPool, as grammar.enumerate()")
    if theta is not None:
        check_kind("theta", theta, Iterable, "numbers, one a term, as [1.0, 0.0]")
    device = device_at_hand(device)
    learner = flp_learner(settings, pool)
    network = learner.network
    draws = generators(seed, 0, NETWORK, members(seeds))
    given = _own_features(settings, features, seeds)
    lowest = [_features(settings, g, own) for g, own in zip(draws, given, strict=True)]
    born, start = network.init(draws, dtype), settings.starts

    def rates(part: list[Tensor], there: bool = True) -> list[Tensor]:
        pairs = zip(part, start, strict=True)
        return [torch.full_like(t, rate) for t, rate in pairs] if there else []

    born = replace(
        born,
        mixing=[
            torch.full_like(m, mixing)
            for m, mixing in zip(born.mixing, settings.mixings, strict=False)  # none in baselines
        ],
        rate=rates(born.W),
        bias_rate=rates(born.bias, settings.learning != "flp"),
        feedback_rate=rates(born.B, network.plastic_feedback),
    )
    coefficients = None if theta is None else torch.tensor([number(t) for t in theta], dtype=dtype)
    below = [m.to(dtype) for m in lowest if m is not None]
    fixed = ("rate", "bias_rate") if settings.learning == "oml" else ()
    model = MetaModel(learner, born, below, coefficients, settings.image, fixed).to(device)
    return model if like is None else _start_from(model, like)


def flp_learner(settings: FLPSettings, pool: TermPool | None = None) -> PlasticityLearner:
    """How the network learns within a lifetime: by its rule, or by the terms of a pool.

    Raises
    ------
    LearnerError
        If a term needs a signal that the network does not carry.
    """
    return PlasticityLearner(
        settings.network,
        _rule(settings) if pool is None else pool,
        settings.method,
        reduction=settings.reduction or ("sum" if settings.learning == "flp" else "mean"),
        almost_everywhere=True,
    )


def _rule(settings: FLPSettings) -> Rule:
    pool = catalogue()
    if settings.learning == "flp":
        rule = settings.rule
        return rule if isinstance(rule, Rule) else Rule(pool, {rule: 1.0})
    return Rule(pool, {"pseudo_gradient": 1.0})


def _own_features(
    settings: FLPSettings, features: nn.Module | Sequence[nn.Module] | None, seeds: int
) -> list[nn.Module | None]:
    """Copies of the user's modules, one a seed."""
    if features is None:
        return [None] * seeds
    if settings.channels:
        raise ConfigError(
            "FLP: features of one's own take the place of convolutions; leave channels and "
            "strides empty"
        )
    kinds = (nn.Module, Sequence)
    check_kind("features", features, kinds, "a torch module, or a list of them, one a seed")
    several = [features] * seeds if isinstance(features, nn.Module) else features
    for i, module in enumerate(several):
        check_kind(f"features[{i}]", module, nn.Module, "a torch module")
    if len(several) != seeds:
        raise ConfigError(f"FLP: {len(several)} feature modules for {seeds} seeds")
    return [deepcopy(module) for module in several]


def _features(
    settings: FLPSettings, generator: torch.Generator, own: nn.Module | None
) -> nn.Module | None:
    """Layers below the plastic ones."""
    fixed = settings.widths[: -settings.plastic_layers]
    parts: list[nn.Module] = []
    if own is None and settings.image is not None:
        colours = settings.image[0]
        parts.append(conv_features(colours, settings.channels, settings.strides, generator))
    if len(fixed) > 1:
        parts.append(mlp_features(fixed, generator))
    if own is not None:
        return OwnFeatures(own, *parts)
    return nn.Sequential(*parts) if parts else None


def _start_from(model: MetaModel, like: MetaModel) -> MetaModel:
    """Forward weights of another model, whichever of its layers are plastic."""
    own, other = _forward(model), _forward(like)
    if [t.shape for t in own] != [t.shape for t in other]:
        raise ConfigError(
            "FLP: the model to start from has other layers or another number of seeds"
        )
    with torch.no_grad():
        for mine, theirs in zip(own, other, strict=True):
            mine.copy_(theirs)
    return model


def _forward(model: MetaModel) -> list[Tensor]:
    """Weights and biases of a seed from the first layer to the last, seed after seed."""
    features = [list(m.parameters()) for m in model.features] or [[]] * model.seeds
    found: list[Tensor] = []
    for i, below in enumerate(features):
        pairs = zip(model.W, model.bias, strict=True)
        found += below + [p[i] for pair in pairs for p in pair]
    return found
