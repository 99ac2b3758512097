"""FLP, Figure 2 and appendix C: how its networks learn, next to gradient descent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from rulesearch.analysis import Floats
from rulesearch.analysis.flp_control import plastic_from_reuse
from rulesearch.analysis.flp_interference import interference
from rulesearch.analysis.flp_life import query_curve
from rulesearch.analysis.flp_readout import frozen_readout_error
from rulesearch.analysis.flp_updates import follow_updates
from rulesearch.errors import ConfigError
from rulesearch.outer import FLPSettings, MetaModel, MetaTraining, flp_model
from rulesearch.outer.averaged import Averaged
from rulesearch.report.flp_figures import Anatomy, InnerCurves, figure2, learning_curves
from rulesearch.reproduce.base import Job, Measured, Reproduction, Row, Trained, Training
from rulesearch.reproduce.figures import seed_means, write_figures
from rulesearch.reproduce.flp import FLPRunSettings, Tasks, chosen, flp_job, restored
from rulesearch.reproduce.flp_studied import PLASTIC, STUDIED, measured_on_tests, studied_networks
from rulesearch.reproduce.flp_table1 import FLP_TABLE1, SineSettings, sine_tasks
from rulesearch.tasks import IncrementalSines

__all__ = ["FLP_FIGURE2"]

REUSE, CONTROL, TRAINED_ON = "feature-reuse-1", "plastic-reuse-3", "feature-reuse-1-longer"
ROWS = (
    *(row for row in FLP_TABLE1.rows if row.key in STUDIED),
    Row(CONTROL, "FLP (3) on frozen feature reuse"),
    Row(TRAINED_ON, "Feature reuse (1), trained on"),
)
TITLES = {row.key: row.title for row in ROWS}


def _jobs(settings: SineSettings) -> Sequence[Job]:
    networks, everything = studied_networks(settings), sine_tasks(settings)
    if "continual" in everything and settings.functions < 2:
        raise ConfigError(
            "functions is 1, and a sine alone interferes with none; give 2 or more, or "
            "--set 'conditions=[iid]'"
        )
    jobs = []
    for condition, tasks in everything.items():
        for row, (network, like) in networks.items():
            job = flp_job((row, condition), network, tasks, settings, like)
            jobs.append(_measured_by(job, network, tasks, settings))
    if "iid" in everything:
        (reuse, _), (deepest, _) = networks[REUSE], networks["flp-3"]
        jobs += _controls(reuse, deepest, everything["iid"], settings)
    return jobs


def _controls(
    reuse: FLPSettings, deepest: FLPSettings, tasks: Tasks, settings: SineSettings
) -> list[Job]:
    """What comes of feature reuse that is made plastic, and of as much training without."""
    tasks = tasks._replace(stages=())  # they go on with whole lifetimes
    frozen = replace(deepest, rate=0.0, rates=replace(deepest.rates, forward=0.0))
    controls = {
        CONTROL: (frozen, partial(_begin_control, frozen, reuse, tasks, settings)),
        TRAINED_ON: (reuse, partial(_train_on, reuse, tasks, settings)),
    }
    jobs = []
    for row, (network, begin) in controls.items():
        job = flp_job((row, "iid"), network, tasks, settings)
        job = replace(job, begin=begin, needs=(f"{REUSE}-iid",))
        jobs.append(_measured_by(job, network, tasks, settings))
    return jobs


def _measured_by(job: Job, network: FLPSettings, tasks: Tasks, run: FLPRunSettings) -> Job:
    test = tasks.test
    assert isinstance(test, IncrementalSines)
    return replace(job, measure=partial(_measure, network, test, run))


def _begin_control(
    frozen: FLPSettings,
    reuse: FLPSettings,
    tasks: Tasks,
    run: FLPRunSettings,
    trained: Trained,
) -> Averaged[MetaModel]:
    before = restored(reuse, run, trained[f"{REUSE}-iid"])
    model = plastic_from_reuse(before, frozen, run.seed)
    return run.averaged(MetaTraining(model, tasks.train, frozen.rates, run.seed, run.episodes))


def _train_on(
    reuse: FLPSettings, tasks: Tasks, run: FLPRunSettings, trained: Trained
) -> Averaged[MetaModel]:
    """As the other control begins, and on the same tasks, but all that it had learns on."""
    model = restored(reuse, run, trained[f"{REUSE}-iid"])
    return run.averaged(MetaTraining(model, tasks.train, reuse.rates, run.seed, run.episodes))


def _measure(
    network: FLPSettings, tasks: IncrementalSines, run: FLPRunSettings, training: Training
) -> dict[str, Tensor]:
    """All analyses, on the lifetimes that the table's errors are from.

    In double precision, for updates are differences of weights that they hardly change.
    """
    model = flp_model(network, run.seeds, run.seed, dtype=torch.float64, device=run.device)
    model.load_state_dict(chosen(training).state_dict())
    found = measured_on_tests(partial(_analyses, model, tasks), run)
    count, depth = len(model.W), len(network.widths) - 1
    return {**found, "layers": torch.arange(depth - count + 1, depth + 1)}


def _analyses(
    model: MetaModel, tasks: IncrementalSines, draws: Sequence[torch.Generator]
) -> dict[str, Tensor]:
    task = tasks.sample(draws, model.dtype).to(model.device)
    curve = query_curve(model, task, _between(tasks.batches))
    updates = follow_updates(model, task)
    found = {
        "error": curve[..., -1],
        "query": curve,
        "online": updates.loss,
        "alignment": updates.alignment,
        "magnitude": updates.magnitude,
        "frozen": frozen_readout_error(model, task),
    }
    if tasks.order == "continual":
        found["interference"] = interference(model, tasks, task)
    return found


def _between(batches: int) -> int:
    """Steps between points of a curve: four or more a sine, if its steps can be divided so."""
    return max(n for n in range(1, max(batches // 4, 1) + 1) if batches % n == 0)


def _draw(measured: Mapping[str, Measured], run: Path, _: SineSettings) -> None:
    """Write both figures and the numbers drawn."""
    anatomy, curves = _anatomy(measured), _curves(measured)
    numbers = {
        "figure2": asdict(anatomy),
        "learning_curves": {condition: asdict(each) for condition, each in curves.items()},
    }
    figures = {"figure2": figure2(anatomy), "learning_curves": learning_curves(curves)}
    write_figures(run, figures, numbers)


def _anatomy(measured: Mapping[str, Measured]) -> Anatomy:
    depth = [layer for job in measured.values() for layer in job["layers"].tolist()]
    deepest = range(min(depth), max(depth) + 1)
    return Anatomy(
        usual=_by_layers(seed_means(measured, "error", "iid", PLASTIC)),
        frozen=_by_layers(seed_means(measured, "frozen", "iid", PLASTIC)),
        interference=_titled(seed_means(measured, "interference", "continual", STUDIED)),
        alignment=_titled(seed_means(measured, "alignment", "continual", ["flp-3"])),
        magnitude=_titled(seed_means(measured, "magnitude", "iid", ["flp-3", "gradient-3"])),
        layers=tuple("readout" if n == max(depth) else f"layer {n}" for n in deepest),
    )


def _curves(measured: Mapping[str, Measured]) -> dict[str, InnerCurves]:
    """By the title of each condition that was run."""
    both = {
        title: InnerCurves(
            _titled(seed_means(measured, "online", condition, STUDIED)),
            _titled(seed_means(measured, "query", condition, STUDIED)),
        )
        for condition, title in FLP_TABLE1.conditions.items()
    }
    return {title: curves for title, curves in both.items() if curves.online}


def _titled(rows: Mapping[str, Floats]) -> dict[str, Floats]:
    return {TITLES[row]: values for row, values in rows.items()}


def _by_layers(rows: Mapping[str, Floats]) -> dict[int, Floats]:
    return {PLASTIC[row]: values for row, values in rows.items()}


FLP_FIGURE2 = Reproduction(
    name="flp-figure2",
    title="FLP, Figure 2 and appendix C: how incremental sines are learnt",
    source=f"{FLP_TABLE1.source}; Figure 2 has no numbers",
    unit=FLP_TABLE1.unit,
    rows=ROWS,
    conditions=FLP_TABLE1.conditions,
    settings=SineSettings,
    scales=FLP_TABLE1.scales,
    jobs=_jobs,
    notes=(
        "The number of plastic layers is in parentheses.",
        "FLP (3) on frozen feature reuse begins as the meta-trained feature reuse (1), whose "
        "forward weights stay as they are; feedback, mixing and rates of all three layers are "
        "meta-trained (section 7.1). Feature reuse (1), trained on, is the same network trained "
        "for as many updates more, on the same tasks, without plasticity below the readout.",
        "What the paper leaves open: in A readouts are least-squares fits with a bias, to all "
        "training examples; in B inputs are fresh; in C the gradient is of the same examples at "
        "the same weights; in D norms are Frobenius's. Biases have no part in C and D.",
        "The figures and their numbers are in the run's folder figures/.",
    ),
    draw=_draw,
    trained_by=FLP_TABLE1.name,
)
"""The reproduction of the paper's Figure 2."""
