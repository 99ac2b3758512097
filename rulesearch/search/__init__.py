"""Searches: which rule is kept. Calling this package runs one: ``rulesearch.search(pool, ...)``."""

import sys
import types
from typing import Any

from rulesearch.report.result import Result
from rulesearch.search.api import load_run
from rulesearch.search.api import search as _search
from rulesearch.search.config import Experiment, load_config
from rulesearch.search.events import EventSink
from rulesearch.search.run import resume_search, start_search
from rulesearch.search.settings import Settings

__all__ = [
    "EventSink",
    "Experiment",
    "Result",
    "Settings",
    "load_config",
    "load_run",
    "resume_search",
    "start_search",
]


class _CallableModule(types.ModuleType):
    """The verb and the folder have one name; importing the folder must not hide the verb."""

    def __call__(self, *args: Any, **kwargs: Any) -> Result:
        return _search(*args, **kwargs)


sys.modules[__name__].__class__ = _CallableModule
