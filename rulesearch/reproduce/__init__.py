"""Tables and figures of the papers, run again, the paper's figures beside ours."""

from __future__ import annotations

from rulesearch.reproduce.base import Job, Published, Reproduction, Row, RunSettings, Training
from rulesearch.reproduce.model import trained_model
from rulesearch.reproduce.outcome import Finished, Outcome
from rulesearch.reproduce.plan import Plan, load_plan, make_plan, run_folder
from rulesearch.reproduce.pooled import pooled
from rulesearch.reproduce.registry import REPRODUCTIONS, find_reproduction
from rulesearch.reproduce.run import load_outcome, reproduce, resume_reproduction

__all__ = [
    "REPRODUCTIONS",
    "Finished",
    "Job",
    "Outcome",
    "Plan",
    "Published",
    "Reproduction",
    "Row",
    "RunSettings",
    "Training",
    "find_reproduction",
    "load_outcome",
    "load_plan",
    "make_plan",
    "pooled",
    "reproduce",
    "resume_reproduction",
    "run_folder",
    "trained_model",
]
