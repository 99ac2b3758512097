"""Presets of FLP: networks with learnt feedback and local plasticity, and their baselines.

Lindsey & Litwin-Kumar 2020, section 5 and appendix B, and the authors' released code where the
paper is silent: updates are summed over a batch, feedback reaches the output in regression, the
layer before the output learns a hundred times as fast as the output in classification.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from rulesearch.errors import ConfigError
from rulesearch.grammar import Grammar, TermPool
from rulesearch.learners import PlasticityLearner
from rulesearch.networks import LearntFeedback, PlasticNetwork
from rulesearch.outer.features import conv_features, mlp_features
from rulesearch.outer.meta_model import MetaModel
from rulesearch.outer.meta_training import MetaRates
from rulesearch.outer.seeds import NETWORK, generators
from rulesearch.rules import Rule

__all__ = ["LEARNING", "OMNIGLOT", "SINES", "FLPSettings", "flp_model"]

LEARNING = ("flp", "gradient", "oml")


@dataclass(frozen=True)
class FLPSettings:
    """A network of FLP, and how it is meta-trained.

    Attributes
    ----------
    widths : tuple of int
        Units of the fully connected layers; the first is what convolutions give, if there are any.
    plastic_layers : int
        How many of the last layers learn within a lifetime. 1 is feature reuse.
    learning : {'flp', 'gradient', 'oml'}
        Learnt feedback and a local rule; gradient descent with a learnt rate a weight (biases
        learn too); gradient descent with one fixed rate (OML).
    method : {'reversible', 'autograd', 'first-order'}
        The meta-gradient: exact, or with what a lifetime asks for taken as a constant.
    rule : str
        Term of the catalogue that weights learn by under ``flp``.
    output : {'linear', 'softmax'}
    feedback : LearntFeedback
    mixing : float
        Its strength at the start of meta-training.
    rate : float or tuple of float
        alpha at the start of meta-training, or for all time under ``oml``, of all plastic layers
        or of each, first to last; and the rate of feedback that is plastic.
    rates : MetaRates
    image : tuple of int or None
        Channels, height and width, where the lowest layers are convolutions.
    channels, strides : tuple of int
        Of the convolutions.
    """

    widths: tuple[int, ...]
    plastic_layers: int
    learning: str = "flp"
    method: str = "reversible"
    rule: str = "oja_single"
    output: str = "linear"
    feedback: LearntFeedback = field(default_factory=LearntFeedback)
    mixing: float = 0.5
    rate: float | tuple[float, ...] = 0.0
    rates: MetaRates = field(default_factory=MetaRates)
    image: tuple[int, int, int] | None = None
    channels: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.learning not in LEARNING:
            raise ConfigError(
                f"FLP: learning is one of {', '.join(LEARNING)}, not '{self.learning}'"
            )
        if not 1 <= self.plastic_layers < len(self.widths):
            raise ConfigError(
                f"FLP: {len(self.widths) - 1} layers, of which 1 or more can be plastic, "
                f"not {self.plastic_layers}"
            )
        if isinstance(self.rate, tuple) and len(self.rate) != self.plastic_layers:
            raise ConfigError(
                f"FLP: {len(self.rate)} values of rate for {self.plastic_layers} plastic layers"
            )

    @property
    def plastic_widths(self) -> tuple[int, ...]:
        """Units of the plastic layers, those of the layer below them first."""
        return self.widths[-self.plastic_layers - 1 :]

    @property
    def network(self) -> PlasticNetwork:
        """The plastic layers."""
        return PlasticNetwork(
            self.plastic_widths,
            activation="relu",
            output=self.output,
            feedback="flp" if self.learning == "flp" else "symmetric",
            feedback_init="kaiming",
            weight_init="kaiming",
            bias=True,
            learnt_feedback=self.feedback,
        )


SINES = FLPSettings((11, 300, 300, 300, 300, 300, 900, 300, 300, 1), 3)
"""Incremental sines (protocol of the paper's Table 1)."""

OMNIGLOT = FLPSettings(
    (1152, 128, 1000),
    2,
    output="softmax",
    feedback=LearntFeedback(source="target", clamp_output=True),
    mixing=1.0,
    rates=MetaRates(mixing=0.0, rate=(1e-3, 1e-5)),
    image=(1, 84, 84),
    channels=(128,) * 6,
    strides=(2, 1, 2, 1, 2, 2),
)
"""Omniglot, 5 ways and 5 shots (protocol of the paper's Table 2)."""


def flp_model(
    settings: FLPSettings,
    seeds: int = 1,
    seed: int = 0,
    *,
    like: MetaModel | None = None,
    pool: TermPool | None = None,
    theta: Sequence[float] | None = None,
    dtype: torch.dtype = torch.float32,
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

    Raises
    ------
    ConfigError
        If ``like`` has other layers.
    """
    members = [(row, 0) for row in range(seeds)]
    network = settings.network
    rule: Rule | TermPool = pool if pool is not None else _rule(settings)
    learner = PlasticityLearner(
        network,
        rule,
        settings.method,
        reduction="sum" if settings.learning == "flp" else "mean",
        almost_everywhere=True,
    )
    draws = generators(seed, 0, NETWORK, members)
    features = [m for g in draws for m in [_features(settings, g)] if m is not None]
    born = network.init(draws, dtype)

    start = settings.rate if isinstance(settings.rate, tuple) else (settings.rate,) * len(born.W)

    def rates(part: list[Tensor], there: bool = True) -> list[Tensor]:
        pairs = zip(part, start, strict=True)
        return [torch.full_like(t, rate) for t, rate in pairs] if there else []

    born = replace(
        born,
        mixing=[torch.full_like(m, settings.mixing) for m in born.mixing],
        rate=rates(born.W),
        bias_rate=rates(born.bias, settings.learning != "flp"),
        feedback_rate=rates(born.B, network.plastic_feedback),
    )
    coefficients = None if theta is None else torch.tensor(theta, dtype=dtype)
    model = MetaModel(learner, born, [m.to(dtype) for m in features], coefficients)
    return model if like is None else _start_from(model, like)


def _rule(settings: FLPSettings) -> Rule:
    pool = Grammar.from_yaml("catalogue").enumerate()
    if settings.learning == "flp":
        return Rule(pool, {settings.rule: 1.0})
    return Rule(pool, {"pseudo_gradient": 1.0})


def _features(settings: FLPSettings, generator: torch.Generator) -> nn.Module | None:
    """Layers below the plastic ones."""
    fixed = settings.widths[: -settings.plastic_layers]
    parts: list[nn.Module] = []
    if settings.image is not None:
        parts.append(conv_features(settings.image, settings.channels, settings.strides, generator))
    if len(fixed) > 1:
        parts.append(mlp_features(fixed, generator))
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
