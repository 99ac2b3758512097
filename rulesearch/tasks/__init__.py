"""What a lifetime is filled with: data sets, few-shot tasks drawn from them, and regressions."""

from __future__ import annotations

from rulesearch.tasks.base import IMAGENET, ImageData, Normalisation, TaskBatch, TaskFamily
from rulesearch.tasks.few_shot import FewShot
from rulesearch.tasks.oml_trajectories import OMLTrajectories
from rulesearch.tasks.online_few_shot import OnlineFewShot
from rulesearch.tasks.planted import LinearTeacher
from rulesearch.tasks.registry import DataSetInfo, data_sets, fetch, load
from rulesearch.tasks.sines import IncrementalSines, SineLifetimes
from rulesearch.tasks.spiking_sines import SpikingSines, SpikingTasks
from rulesearch.tasks.wheel import Experience, Wheel, WheelLogs

__all__ = [
    "IMAGENET",
    "DataSetInfo",
    "Experience",
    "FewShot",
    "ImageData",
    "IncrementalSines",
    "LinearTeacher",
    "Normalisation",
    "OMLTrajectories",
    "OnlineFewShot",
    "SineLifetimes",
    "SpikingSines",
    "SpikingTasks",
    "TaskBatch",
    "TaskFamily",
    "Wheel",
    "WheelLogs",
    "data_sets",
    "fetch",
    "load",
]
