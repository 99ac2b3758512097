"""FLP's Figure 2: the reproduction that measures it, and how it is drawn."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from safetensors.torch import load_file
from torch import Tensor

from rulesearch.errors import ConfigError
from rulesearch.outer import MetaModel, flp_model
from rulesearch.report.flp_figures import Anatomy, InnerCurves, figure2, learning_curves
from rulesearch.report.style import figure_bytes
from rulesearch.reproduce.figures import plain, seed_means
from rulesearch.reproduce.flp import lifetime_errors, restored
from rulesearch.reproduce.flp_figure2 import FLP_FIGURE2
from rulesearch.reproduce.flp_table1 import SineSettings, sine_network, sine_tasks
from rulesearch.reproduce.plan import Plan
from rulesearch.reproduce.run import reproduce

TINY = SineSettings(
    updates=2, seeds=2, lifetimes=3, hidden=(7, 7, 7), functions=4, batches=4, examples=3,
    forward=1e-2, rate=1e-4,
)  # fmt: skip
pytestmark = pytest.mark.usefixtures("one_thread")


def same(found: Tensor, wanted: Any, tolerance: float = 1e-9) -> None:
    np.testing.assert_allclose(
        found.numpy(), np.asarray(wanted), rtol=tolerance, atol=tolerance * 1e-3
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole reproduction, of networks that can hardly learn."""
    path = tmp_path_factory.mktemp("runs") / "figure2"
    reproduce(Plan(FLP_FIGURE2, "small", TINY), path)
    return path


def numbers(run: Path) -> Any:
    return json.loads((run / "figures" / "numbers.json").read_text())


def test_a_reproduction_draws_what_it_measured(run: Path) -> None:
    found = numbers(run)
    done = measured_in(run)
    anatomy, curves = found["figure2"], found["learning_curves"]
    assert anatomy["layers"] == ["layer 2", "layer 3", "readout"]  # of four
    drawn = [
        (anatomy["usual"]["1"], "feature-reuse-1-iid", "error", ()),
        (anatomy["frozen"]["2"], "flp-2-iid", "frozen", ()),
        (anatomy["interference"]["Gradient (3)"], "gradient-3-continual", "interference", (3,)),
        (anatomy["alignment"]["FLP (3)"], "flp-3-continual", "alignment", (16, 3)),
        (anatomy["magnitude"]["Gradient (3)"], "gradient-3-iid", "magnitude", (16, 3)),
        (
            anatomy["interference"]["Gradient (3), first order"],
            "gradient-3-first-order-continual", "interference", (3,),
        ),
        (curves["iid"]["online"]["FLP (2)"], "flp-2-iid", "online", (16,)),
        (curves["continual"]["query"]["FLP (3)"], "flp-3-continual", "query", (17,)),
    ]  # fmt: skip
    for shown, job, quantity, shape in drawn:
        measured = done[job][quantity]
        assert measured.shape == (TINY.seeds, TINY.lifetimes, *shape)
        # An update or a gradient that is zero has no direction.
        same(measured.nanmean(1), shown, 1e-5)
    assert set(curves) == {"iid", "continual"}
    files = {f"{name}.{form}" for name in ("figure2", "learning_curves") for form in ("svg", "pdf")}
    assert {file.name for file in (run / "figures").iterdir()} == files | {"numbers.json"}


def test_its_analyses_are_of_the_trained_networks_on_the_tables_lifetimes(run: Path) -> None:
    done = measured_in(run)
    file = run / "jobs" / "flp-3-iid.safetensors"
    trained = {k.removeprefix("model."): v for k, v in load_file(file).items() if "model." in k}
    model = restored(sine_network(TINY, 3), TINY, trained)
    errors = lifetime_errors(model, sine_tasks(TINY)["iid"].test, TINY.lifetimes, TINY.seed)
    same(done["flp-3-iid"]["error"], errors, 1e-3)
    untrained = flp_model(sine_network(TINY, 3), TINY.seeds, TINY.seed)
    untrained_errors = lifetime_errors(
        untrained, sine_tasks(TINY)["iid"].test, TINY.lifetimes, TINY.seed
    )
    assert not torch.allclose(errors, untrained_errors, rtol=1e-2)


def test_its_control_goes_on_from_feature_reuse() -> None:
    """Of this job's forward weights nothing changes, and it needs the job that made them."""
    jobs = {job.name: job for job in FLP_FIGURE2.jobs(TINY)}
    control = jobs["plastic-reuse-3-iid"]
    assert control.needs == ("feature-reuse-1-iid",)
    reuse = learning_reuse()
    training = control.begin({"feature-reuse-1-iid": reuse.state_dict()})
    assert isinstance(training.model, MetaModel)
    task = sine_tasks(TINY)["iid"].test.sample(
        [torch.Generator().manual_seed(i) for i in range(TINY.seeds)]
    )
    torch.testing.assert_close(training.model(task).loss, reuse(task).loss)
    training.update()
    assert torch.equal(training.model.W[-1], reuse.W[0])
    assert not torch.equal(training.model.rate[-1], reuse.rate[0])


def test_its_other_control_is_feature_reuse_that_is_trained_on() -> None:
    jobs = {job.name: job for job in FLP_FIGURE2.jobs(TINY)}
    control = jobs["feature-reuse-1-longer-iid"]
    assert (control.needs, control.updates) == (("feature-reuse-1-iid",), TINY.updates)
    reuse = learning_reuse()
    training = control.begin({"feature-reuse-1-iid": reuse.state_dict()})
    assert isinstance(training.model, MetaModel)
    assert len(training.model.W) == 1
    before = {k: v.clone() for k, v in training.model.state_dict().items()}
    assert all(v.equal(reuse.state_dict()[k]) for k, v in before.items())
    training.update()
    moved = {
        k.split(".")[0] for k, v in training.model.state_dict().items() if v.ne(before[k]).any()
    }
    assert {"features", "W", "rate"} <= moved


def test_what_goes_on_from_feature_reuse_has_whole_lifetimes_from_the_start() -> None:
    """By them the time left is told; feature reuse itself begins with shorter ones."""
    stage = {"updates": 1, "functions": 2, "batches": 1}
    staged = SineSettings.model_validate(TINY.model_dump() | {"stages": [stage]})
    jobs = {job.name: job for job in FLP_FIGURE2.jobs(staged)}
    assert jobs["feature-reuse-1-iid"].lengths == ((1, 2), (1, 16))
    trained = {"feature-reuse-1-iid": learning_reuse().state_dict()}
    for name in ("plastic-reuse-3-iid", "feature-reuse-1-longer-iid"):
        assert jobs[name].lengths == ((2, 16),)
        training: Any = jobs[name].begin(trained)
        assert not training.training.stages


def test_one_condition_alone() -> None:
    names = {
        job.name for job in FLP_FIGURE2.jobs(TINY.model_copy(update={"conditions": ("continual",)}))
    }
    assert names == {
        f"{row}-continual"
        for row in ("feature-reuse-1", "flp-2", "flp-3", "gradient-3", "gradient-3-first-order")
    }


def test_a_sine_alone_is_refused_before_anything_is_trained() -> None:
    one = TINY.model_copy(update={"functions": 1})
    with pytest.raises(ConfigError, match="functions is 1, and a sine alone interferes with none"):
        FLP_FIGURE2.jobs(one)
    assert FLP_FIGURE2.jobs(one.model_copy(update={"conditions": ("iid",)}))


def learning_reuse() -> MetaModel:
    """A feature-reuse network that learns."""
    model = flp_model(sine_network(TINY, 1), TINY.seeds, seed=9)
    with torch.no_grad():
        model.rate[0].fill_(1e-3)
    return model


def measured_in(run: Path) -> dict[str, dict[str, Tensor]]:
    """What each job measured, by its name."""
    return {
        file.stem: {
            key.removeprefix("measured."): tensor
            for key, tensor in load_file(file).items()
            if key.startswith("measured.")
        }
        for file in (run / "jobs").iterdir()
    }


def test_rows_that_were_not_run_are_not_drawn(run: Path, tmp_path: Path) -> None:
    plan = Plan(FLP_FIGURE2, "small", TINY, ("plastic-reuse-3",))
    reproduce(plan, tmp_path / "run")
    found = numbers(tmp_path / "run")
    anatomy = found["figure2"]
    assert anatomy["usual"] == {"1": numbers(run)["figure2"]["usual"]["1"]}
    assert not any(anatomy[part] for part in ("interference", "alignment", "magnitude"))
    assert set(found["learning_curves"]) == {"iid"}


def test_lifetimes_that_diverged_are_left_out() -> None:
    rows = torch.arange(12, dtype=torch.float64).reshape(2, 3, 2)
    error = torch.tensor([[1.0, np.inf, 3.0], [np.nan, np.nan, np.nan]], dtype=torch.float64)
    measured = {"flp-2-iid": {"error": error, "online": rows}}
    means = seed_means(measured, "online", "iid", ["flp-2", "flp-3"])
    np.testing.assert_array_equal(means["flp-2"], [[2.0, 3.0], [np.nan, np.nan]])
    assert set(means) == {"flp-2"}
    assert plain(means) == {"flp-2": [[2.0, 3.0], [None, None]]}


def anatomy_of(seeds: int) -> Anatomy:
    g = np.random.default_rng(0)
    titles = ("FLP (3)", "Gradient (3)")
    return Anatomy(
        usual={n: g.random(seeds) for n in (1, 2, 3)},
        frozen={n: g.random(seeds) for n in (1, 2, 3)},
        interference={title: g.random((seeds, 3)) for title in titles},
        alignment={"FLP (3)": g.random((seeds, 16, 3)) - 0.5},
        magnitude={title: g.random((seeds, 16, 3)) for title in titles},
        layers=("layer 3", "layer 4", "readout"),
    )


def plotted(figure: Figure) -> list[Any]:
    """Values of the prominent lines of each panel."""
    return [
        [line.get_ydata() for line in ax.lines if line.get_linewidth() > 0.8 and line.get_zorder()]
        for ax in figure.axes
    ]


@pytest.mark.parametrize("seeds", [1, 2])
def test_figure2_shows_means_over_seeds(seeds: int) -> None:
    data = anatomy_of(seeds)
    a, b, c, *d = plotted(figure2(data))
    pairs = zip(
        (*a, *b, *c, *(line for panel in d for line in panel)),
        (
            [np.mean(data.usual[n]) for n in (1, 2, 3)],
            [np.mean(data.frozen[n]) for n in (1, 2, 3)],
            *(rows.mean(0) for rows in data.interference.values()),
            *(data.alignment["FLP (3)"].mean(0)[:, k] for k in range(3)),
            *(rows.mean(0)[:, k] for k in range(3) for rows in data.magnitude.values()),
        ),
        strict=True,
    )
    for shown, wanted in pairs:
        np.testing.assert_allclose(shown, wanted)
    assert len(d) == 3


def test_figure2_leaves_out_what_is_not_known() -> None:
    data = replace(anatomy_of(2), alignment={}, interference={})
    assert len(figure2(data).axes) == 1 + 3
    assert len(figure2(replace(data, magnitude={})).axes) == 1


@pytest.mark.parametrize("value", [np.nan, 0.0])
def test_networks_of_which_nothing_can_be_shown_are_drawn_all_the_same(value: float) -> None:
    """As of a run whose test lifetimes all diverged: no logarithm is asked of what is not there."""
    data = anatomy_of(2)
    parts = ("usual", "frozen", "interference", "alignment", "magnitude")
    none = {
        part: {key: np.full_like(rows, value) for key, rows in getattr(data, part).items()}
        for part in parts
    }
    figure = figure2(replace(data, **none))
    assert b"<svg" in figure_bytes(figure, "svg")
    assert {ax.get_yscale() for ax in figure.axes} == {"linear"}


def test_two_sines_have_one_interference() -> None:
    one = {title: rows[:, :1] for title, rows in anatomy_of(2).interference.items()}
    figure = figure2(replace(anatomy_of(2), interference=one))
    _, panel, *_ = plotted(figure)
    for line, rows in zip(panel, one.values(), strict=True):
        np.testing.assert_allclose(line, rows.mean(0))
    points = [line for line in figure.axes[1].lines if line.get_xdata()[0] == 2]
    assert len(points) == 2 * (1 + 2)  # a mean and both seeds, which no line would show
    assert {point.get_marker() for point in points} == {"o"}


def test_a_seed_that_is_lost_leaves_the_others() -> None:
    data = anatomy_of(2)
    data.interference["FLP (3)"][1] = np.nan
    _, interference_panel, *_ = plotted(figure2(data))
    np.testing.assert_allclose(interference_panel[0], data.interference["FLP (3)"][0])


def test_learning_curves_run_from_birth_to_the_end() -> None:
    g = np.random.default_rng(1)
    online, query = g.random((2, 8)), g.random((2, 5))
    figure = learning_curves({"iid": InnerCurves({"FLP (2)": online}, {"FLP (2)": query})})
    left, right = figure.axes
    np.testing.assert_allclose(left.lines[-1].get_ydata(), online.mean(0))
    mean = next(line for line in right.lines if line.get_linewidth() > 0.8)
    np.testing.assert_allclose(mean.get_ydata(), query.mean(0))
    np.testing.assert_array_equal(mean.get_xdata(), [0, 2, 4, 6, 8])
