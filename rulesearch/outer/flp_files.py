"""A model of FLP in one file, with the settings that it was made of."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from rulesearch.arguments import check_kind, check_path
from rulesearch.errors import ConfigError, RuleSearchError, RunError
from rulesearch.files import write_atomically
from rulesearch.grammar import Term, TermPool
from rulesearch.networks import LearntFeedback
from rulesearch.outer.features import OwnFeatures
from rulesearch.outer.flp import FLPSettings, flp_model
from rulesearch.outer.meta_model import MetaModel
from rulesearch.outer.meta_training import MetaRates
from rulesearch.rules import Rule

__all__ = ["load_flp", "save_flp"]

KEY, SCHEMA = "rulesearch flp", 1


def save_flp(path: str | Path, model: MetaModel, settings: FLPSettings) -> Path:
    """Write a model's parameters and its settings as safetensors; :func:`load_flp` reads them.

    Raises
    ------
    ConfigError
        If the model was made of other settings.
    RunError
        If the file cannot be written.
    """
    check_path("path", path)
    check_kind("model", model, MetaModel, "a MetaModel, as of flp_model(settings)")
    check_kind("settings", settings, FLPSettings, "FLPSettings, as SINES of the presets")
    network, wanted = model.learner.network, settings.network
    if (network, model.image) != (wanted, settings.image):
        raise ConfigError(
            f"settings: the model was made of others, with plastic layers {list(network.sizes)}, "
            f"not {list(wanted.sizes)}, or other feedback; give those that flp_model was given"
        )
    _check_made_of(model, settings)
    about = {"schema": SCHEMA, "settings": _told(settings), "pool": None}
    if model.learner.rule is None:
        about["pool"] = [[t.name, str(t), t.init, t.about] for t in model.learner.pool]
    tensors = {
        k: t.clone(memory_format=torch.contiguous_format) for k, t in model.state_dict().items()
    }
    return write_atomically(path, save(tensors, {KEY: json.dumps(about, default=_plain)}))


def load_flp(
    path: str | Path,
    *,
    features: nn.Module | Sequence[nn.Module] | None = None,
    device: torch.device | str = "cpu",
) -> tuple[MetaModel, FLPSettings]:
    """Make a model again from what :func:`save_flp` wrote, with the settings it was made of.

    Parameters
    ----------
    features : Module or sequence of Module, optional
        As in :func:`flp_model`, where the model has lowest layers of one's own: no file holds
        what they are, only their parameters, which are read.

    Raises
    ------
    ConfigError
        If features are other ones, or the device is not here.
    RunError
        If the file cannot be read, or is no model of FLP.
    """
    check_path("path", path)
    about, tensors = _read(Path(path))
    try:
        settings = _settings(about["settings"])
        terms = about["pool"]
        pool = None if terms is None else TermPool(Term.from_text(*term) for term in terms)
        theta = tensors["theta"]
    except (KeyError, TypeError, RuleSearchError) as error:
        raise RunError(f"{path} is no model of FLP that can be read here: {error}") from None
    coefficients = None if pool is None else [0.0] * len(pool)  # those of the file come below
    model = flp_model(
        settings, len(theta), pool=pool, theta=coefficients, features=features, dtype=theta.dtype,
        device=device,
    )  # fmt: skip
    own, read = ({k: t.shape for k, t in part.items()} for part in (model.state_dict(), tensors))
    if own != read:
        other = sorted(k for k in own.keys() | read.keys() if own.get(k) != read.get(k))
        raise ConfigError(
            f"features: {path} has other parameters than these settings and features give "
            f"({other[0]}); give the module that flp_model was given"
        )
    model.load_state_dict(tensors)
    return model, settings


def _check_made_of(model: MetaModel, settings: FLPSettings) -> None:
    """Refuse settings of which :func:`flp_model` makes one that lives in another way."""
    pool = model.learner.pool if model.learner.rule is None else None
    again = flp_model(
        settings,
        pool=pool,
        theta=None if pool is None else [0.0] * len(pool),
        features=nn.Identity() if any(isinstance(m, OwnFeatures) for m in model.features) else None,
    )
    wanted = _parts(again)
    other = [name for name, part in _parts(model).items() if part != wanted[name]]
    if other:
        raise ConfigError(
            f"settings: the model was made of others, with another {other[0]}; give those that "
            "flp_model was given"
        )


def _parts(model: MetaModel) -> dict[str, object]:
    """What of a model follows from its settings and is no parameter."""
    layers = [list(m)[1:] if isinstance(m, OwnFeatures) else [m] for m in model.features]
    return {
        "rule": model.learner.rule,
        "reduction": model.learner.reduction,
        "meta-gradient (method)": model.learner.method,
        "choice of what is learnt (learning)": model.fixed,
        "network below the plastic layers": {repr(part) for part in layers},
    }


def _read(path: Path) -> tuple[Mapping[str, Any], dict[str, Tensor]]:
    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {}).get(KEY, "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, ValueError, SafetensorError) as error:
        raise RunError(f"{path} cannot be read as a model of FLP: {error}") from None
    if not isinstance(about, dict) or about.get("schema") != SCHEMA:
        raise RunError(f"{path} holds no settings of FLP; write it with save_flp")
    return about, tensors


def _plain(value: np.generic) -> Any:
    """A number of numpy, as sweeps and arrays have them, as one of Python's."""
    return value.item()


def _told(settings: FLPSettings) -> dict[str, Any]:
    """Settings as JSON values."""
    told = {each.name: getattr(settings, each.name) for each in fields(settings)}
    rule = settings.rule
    told["rule"] = rule.to_json() if isinstance(rule, Rule) else rule
    return told | {"feedback": asdict(settings.feedback), "rates": asdict(settings.rates)}


def _settings(told: Mapping[str, Any]) -> FLPSettings:
    """The inverse."""
    rates: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in told["rates"].items()
    }
    rule = told["rule"]
    made = {
        "rule": rule if isinstance(rule, str) else Rule.from_json(rule),
        "feedback": LearntFeedback(**told["feedback"]),
        "rates": MetaRates(**rates),
    }
    return FLPSettings(**{**told, **made})
