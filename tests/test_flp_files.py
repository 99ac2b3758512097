"""A model of FLP and its settings in one file: made again as it was, or one line that says why."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from small_flp import IMAGE, SETTINGS, SINE, WIDE, images, sines
from torch import Tensor, nn

import rulesearch as rs
from rulesearch.errors import ConfigError, RunError
from rulesearch.networks import LearntFeedback
from rulesearch.outer import FLPSettings, flp_model, load_flp, save_flp

POOL = rs.Grammar.from_yaml("flp10").enumerate()
FOUND = rs.Rule(rs.Grammar.from_yaml("catalogue").enumerate(), {"oja_single": 0.7})

SHARING = replace(SINE, widths=(4, 5, 4, 1))


def generators() -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in (3, 4)]


@pytest.mark.parametrize(
    "settings",
    [
        *SETTINGS.values(),
        replace(SINE, rule=FOUND, feedback=LearntFeedback(pathway="layered", plastic=True)),
        replace(SINE, rate=(0.1, 0.2, 0.3), rates=replace(SINE.rates, rate=(1e-3, 1e-4, 1e-5))),
        replace(
            SINE,
            plastic_layers=np.int64(2),
            rate=np.float32(0.1),
            rates=replace(SINE.rates, forward=np.float32(1e-3)),
        ),
    ],
    ids=[*SETTINGS, "a rule of one's own", "a rate a layer", "numbers of numpy"],
)
def test_a_model_comes_back_with_its_settings(settings: FLPSettings, tmp_path: Path) -> None:
    model = flp_model(settings, seeds=2, seed=5, dtype=WIDE)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.01)  # as if it had learnt
    again, known = load_flp(save_flp(tmp_path / "model.safetensors", model, settings))
    assert known == settings
    assert again.seeds == 2
    assert again.learner.reduction == model.learner.reduction
    task = (images() if settings.image else sines()).sample(generators(), WIDE)
    assert torch.equal(again(task).output, model(task).output)


def test_candidates_come_back(tmp_path: Path) -> None:
    model = flp_model(SINE, pool=POOL, theta=range(10))
    again, _ = load_flp(save_flp(tmp_path / "model", model, SINE))
    assert list(again.learner.pool) == list(POOL)
    assert again.learner.pool.names == POOL.names
    assert again.theta.tolist() == [[float(k) for k in range(10)]]


def test_layers_of_ones_own_are_given_again(tmp_path: Path) -> None:
    settings = replace(IMAGE, channels=(), strides=(), widths=(5, 6, 4))
    own = nn.Sequential(nn.Flatten(), nn.Linear(64, 5))
    path = save_flp(tmp_path / "model", flp_model(settings, features=own), settings)
    for features in (None, nn.Sequential(nn.Flatten(), nn.Linear(64, 5, bias=False))):
        with pytest.raises(ConfigError, match=r"^features: .*; give the module that flp_model was"):
            load_flp(path, features=features)
    blank = nn.Sequential(nn.Flatten(), nn.Linear(64, 5))
    again, _ = load_flp(path, features=blank)
    assert torch.equal(again.state_dict()["features.0.0.1.weight"], own[1].weight)


class Shared(nn.Module):
    """Two layers with the same weights."""

    def __init__(self) -> None:
        super().__init__()
        self.below, self.above = nn.Linear(4, 4), nn.Linear(4, 4)
        self.above.weight = self.below.weight

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.below(x).relu()
        return self.above(hidden)


def test_layers_that_share_weights_come_back(tmp_path: Path) -> None:
    model = flp_model(SHARING, features=Shared())
    path = save_flp(tmp_path / "model", model, SHARING)
    again, _ = load_flp(path, features=Shared())
    layers = again.get_submodule("features.0.0")
    assert layers.below.weight is layers.above.weight
    task = sines().sample(generators()[:1])
    assert torch.equal(again(task).output, model(task).output)


@pytest.mark.parametrize(
    ("own", "told", "another"),
    [
        (SINE, {"rule": "hebb"}, "rule"),
        (SINE, {"reduction": "mean"}, "reduction"),
        (SINE, {"method": "autograd"}, "meta-gradient"),
        (SINE, {"widths": (9, 6, 5, 4, 1)}, "network below"),
        (replace(SINE, learning="gradient"), {"learning": "oml"}, "choice of what is learnt"),
        (
            replace(IMAGE, image=(1, 12, 12), widths=(8, 6, 4), strides=(2, 2)),
            {"strides": (3, 1)},
            "network below",
        ),
    ],
    ids=lambda value: "" if isinstance(value, FLPSettings) else str(value),
)
def test_settings_of_another_life_are_refused(
    own: FLPSettings, told: dict[str, Any], another: str, tmp_path: Path
) -> None:
    own = replace(own, plastic_layers=2)
    with pytest.raises(ConfigError, match=f"^settings: .* made of others, with another {another}"):
        save_flp(tmp_path / "model", flp_model(own), replace(own, **told))
    assert not (tmp_path / "model").exists()


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    model = flp_model(SINE)
    with pytest.raises(ConfigError, match=r"^settings: the model was made of others"):
        save_flp(tmp_path / "model", model, IMAGE)
    with pytest.raises(RunError, match="cannot be read as a model of FLP"):
        load_flp(tmp_path / "nowhere")
    save_file(dict(model.state_dict()), tmp_path / "weights")
    with pytest.raises(RunError, match="weights holds no settings of FLP; write it with save_flp"):
        load_flp(tmp_path / "weights")
    (tmp_path / "half").write_bytes((tmp_path / "weights").read_bytes()[:900])
    with pytest.raises(RunError, match="half cannot be read as a model of FLP"):
        load_flp(tmp_path / "half")
