"""What a job of a finished run has trained, as a model that can live."""

from __future__ import annotations

from pathlib import Path

from rulesearch.errors import ConfigError, did_you_mean
from rulesearch.outer import MetaModel
from rulesearch.reproduce.run import load_outcome

__all__ = ["trained_model"]


def trained_model(run: str | Path, row: str, condition: str, device: str = "cpu") -> MetaModel:
    """Return the networks of a row of FLP's reproductions under a condition, of all seeds.

    Needs what the run needed: images where its tasks are of images, and files that its settings
    name. Networks of the row ``oml-2`` have the outputs of meta-training.

    Parameters
    ----------
    run : path
        Run folder; the job has to be finished, the run need not be.
    row, condition : str
        As ``flp-3`` and ``iid``.
    device : str
        Where the model is put, wherever it was trained.

    Raises
    ------
    ConfigError
        If the run has finished no such job, or it trains no network of FLP, or there is no such
        device.
    RunError
        If the folder is no reproduction, or no job of it is finished.

    Examples
    --------
    >>> model = trained_model("runs/flp-table1-small", "flp-3", "iid")
    >>> task = tasks.sample([torch.Generator().manual_seed(k) for k in range(model.seeds)])
    >>> model(task).loss
    """
    outcome, name = load_outcome(run), f"{row}-{condition}"
    finished, plan = outcome.finished, outcome.plan.on(device)
    if name not in finished:
        hint = did_you_mean(name, finished) or f"; there are {', '.join(finished)}"
        raise ConfigError(f"{run} has finished no job '{name}'{hint}")
    job = next(job for job in plan.jobs() if job.name == name)
    model = job.begin({need: finished[need].model for need in job.needs}).model
    if not isinstance(model, MetaModel):
        raise ConfigError(
            f"{run}: {plan.reproduction.name} trains no networks of FLP; what its jobs have learnt "
            f"is load_outcome(run).finished['{name}'].model"
        )
    model.load_state_dict(dict(finished[name].model))
    return model
