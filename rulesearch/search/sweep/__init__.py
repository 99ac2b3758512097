"""Sweeps: many searches over anything of a configuration, in many processes and on many machines.

An Optuna study holds the trials and its storage is where workers meet; each trial is an ordinary
run folder. ``spec`` says what is swept, ``reading`` reads it from a file, ``storage`` is where
workers meet and says who may run which trial, ``study`` is the table of trials, ``worker`` runs
them, ``outcome`` is what they add up to, and ``command`` starts workers and watches them.
"""

from rulesearch.search.sweep.outcome import StudyResult
from rulesearch.search.sweep.reading import load_sweep
from rulesearch.search.sweep.spec import Sweep
from rulesearch.search.sweep.study import Study
from rulesearch.search.sweep.worker import work

__all__ = ["Study", "StudyResult", "Sweep", "load_sweep", "work"]
