"""A reproduction that takes a second: the sines of Table 1 for networks that can hardly learn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file

from rulesearch.reproduce import Plan, make_plan, reproduce

TINY = (
    "updates=5", "hidden=[5, 5, 5]", "functions=2", "batches=3", "examples=4", "lifetimes=3",
    "checkpoint_every=2", "rate=1e-3",
)  # fmt: skip
ROWS = ("flp-3", "gradient-3")


def tiny(*overrides: str, rows: tuple[str, ...] = ROWS) -> Plan:
    return make_plan("flp-table1", "small", (*TINY, *overrides), rows)


def whole_run(run: Path) -> Path:
    """Run it without interruption."""
    reproduce(tiny(), run)
    return run


def left(run: Path) -> dict[str, Any]:
    """What a run left, but for the time that it took."""
    result = json.loads((run / "result.json").read_text())
    for row in result["rows"]:
        for figure in row["ours"].values():
            figure.pop("minutes")
    jobs = {file.name: load_file(file) for file in sorted((run / "jobs").iterdir())}
    return {
        "result": result,
        "events": (run / "events.jsonl").read_bytes(),
        "jobs": {
            f"{name}: {key}": (tensor.dtype, tensor.tolist())
            for name, tensors in jobs.items()
            for key, tensor in tensors.items()
            if key != "seconds"
        },
    }


def errors(run: Path, job: str) -> np.ndarray[Any, Any]:
    """What a finished job measured, ``(seeds, lifetimes)``."""
    return load_file(run / "jobs" / f"{job}.safetensors")["measured.error"].double().numpy()


def check_jobs(plan: Plan) -> None:
    """Every job has a place in the table, and comes after what it needs."""
    known, seen = {row.key for row in plan.reproduction.rows}, set[str]()
    # An online life is lived in updates, too, none shorter than a choice.
    most = plan.settings.updates + plan.settings.model_dump().get("horizon", 0)
    for job in plan.jobs():
        assert job.row in known
        assert job.condition in plan.reproduction.conditions
        assert 0 <= job.updates <= most  # 0: what another trained is tested
        assert set(job.needs) <= seen
        assert job.name not in seen
        seen.add(job.name)
