"""What a lifetime is filled with: data sets and the few-shot tasks drawn from them."""

from __future__ import annotations

from rulesearch.tasks.base import ImageData, TaskBatch, TaskFamily
from rulesearch.tasks.few_shot import FewShot
from rulesearch.tasks.planted import LinearTeacher
from rulesearch.tasks.registry import DataSetInfo, data_sets, fetch, load

__all__ = [
    "DataSetInfo",
    "FewShot",
    "ImageData",
    "LinearTeacher",
    "TaskBatch",
    "TaskFamily",
    "data_sets",
    "fetch",
    "load",
]
