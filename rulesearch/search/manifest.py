"""What a run is, written down when it begins."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from rulesearch import __version__
from rulesearch.errors import ConfigError, GrammarError, RunError
from rulesearch.learners import Indexed
from rulesearch.networks import NetworkState
from rulesearch.outer import term_scales
from rulesearch.outer.scaling import term_correlations
from rulesearch.outer.seeds import NETWORK, TASK, generators
from rulesearch.report.configuration import REMEDY, no_longer, said
from rulesearch.search.config import Experiment, experiment_from, read_config
from rulesearch.tasks.family import check_batch, check_finite, explodes

__all__ = ["begun_with", "check_same", "correlations", "manifest_of"]

PROBE_NETWORKS, PROBE_STEPS = 8, 4
PROBE_STREAM = 2
Probe: TypeAlias = tuple[NetworkState, Tensor | Indexed, Tensor]


def manifest_of(experiment: Experiment) -> dict[str, Any]:
    """Return the manifest of a run that begins now."""
    probe = _probe(experiment)
    return {
        "schema": 1,
        "rulesearch": __version__,
        **_identity(experiment),
        "config_sha256": said(experiment.to_yaml()),
        "scales": _scales(experiment, probe).tolist(),
        "notes": list(_notes(experiment, probe[1])),
        "software": {
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "numpy": np.__version__,
        },
        "machine": {
            "processor": platform.machine(),
            "threads": torch.get_num_threads(),
            "devices": [experiment.device],
        },
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _notes(experiment: Experiment, x: Tensor | Indexed) -> Iterator[str]:
    """What speaks against trusting the search, known before it begins."""
    settings = experiment.settings
    note = explodes(experiment.tasks, experiment.network, experiment.pool.symbols, x)
    if note is not None:
        yield note
    penalised = settings.penalty.name != "none"
    if penalised and any(settings.lams) and settings.ramp[1] > settings.episodes:
        yield (
            f"the penalty comes in along the ramp {list(settings.ramp)}, which ends after the last "
            f"of {settings.episodes} episodes, so that no lambda has its whole weight: end it "
            "within them, or leave it out, for a tenth to a fifth of them"
        )
    if not penalised and len(settings.lams) > 1:
        yield (
            f"there is no penalty that the {len(settings.lams)} lambdas could weigh, and all of "
            "them are one search: give one alone, or a penalty, as proximal-l1"
        )


def begun_with(run: Path, manifest: Mapping[str, Any]) -> Experiment:
    """Return the experiment that a run began with, from its ``config.yaml``.

    Raises
    ------
    RunError
        If that cannot be read, or says something else than the manifest.
    """
    path = run / "config.yaml"
    try:
        document = read_config(path)
    except (ConfigError, GrammarError) as error:
        raise RunError(f"{error}; {REMEDY}") from None
    experiment = experiment_from(document, path.parent, path.stem)
    check_same(manifest, experiment, str(run))
    return experiment


def check_same(manifest: Mapping[str, Any], experiment: Experiment, run: str) -> None:
    """Raise RunError where an experiment is not the one that a run began with."""
    for name, now in json.loads(json.dumps(_identity(experiment))).items():
        if now != manifest.get(name):
            raise no_longer(run, name)


def _identity(experiment: Experiment) -> dict[str, Any]:
    """Everything that a run's bits follow from, as JSON values."""
    settings = experiment.settings
    return {
        "name": experiment.name,
        "grammar": experiment.grammar,
        "terms": [
            {
                "name": t.name,
                "latex": t.latex(),
                "locality": t.locality,
                "about": t.about,
                "text": str(t),
                "init": t.init,
            }
            for t in experiment.pool
        ],
        "rows": [
            {"seed": seed, "lam": lam, **({"batch": batch} if len(settings.batches) > 1 else {})}
            for batch, lams in enumerate(settings.batches, 1)
            for lam in lams
            for seed in range(settings.seeds)
        ],
        "network": experiment.network.describe(),
        "tasks": experiment.tasks.describe(),
        "episodes": settings.episodes,
        "settings": settings.model_dump(mode="json"),
        "seed": settings.seed,
    }


def correlations(experiment: Experiment) -> Tensor:
    """Correlations of the terms' updates on the batch that their scales are measured on."""
    return term_correlations(experiment.pool, experiment.network, *_probe(experiment))


def _scales(experiment: Experiment, probe: Probe) -> Tensor:
    """C of ``theta = c t``."""
    optimiser = experiment.settings.optimiser
    if not optimiser.scaling:
        return torch.ones(len(experiment.pool), dtype=torch.float64)
    return term_scales(experiment.pool, experiment.network, *probe, optimiser.scale_cap)


def _probe(experiment: Experiment) -> Probe:
    """Networks at birth, and a few examples with their labels, of a stream of their own."""
    seed, some = experiment.settings.seed, [(k, 0) for k in range(PROBE_NETWORKS)]
    draws = generators(seed, PROBE_STREAM, TASK, some)
    task = check_batch("tasks", experiment.tasks, experiment.tasks.sample(draws), len(draws))
    check_finite("tasks", experiment.tasks, task)
    state = experiment.network.init(generators(seed, PROBE_STREAM, NETWORK, some))
    return state, task.x[:PROBE_STEPS], task.label[:PROBE_STEPS]
