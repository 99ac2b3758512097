"""Parameters from a checkpoint."""

from __future__ import annotations

import torch

from rulesearch.errors import ConfigError
from rulesearch.named import Named, under

__all__ = ["load_parameters"]


def load_parameters(
    parameters: Named, tensors: Named, of: str, others: Named | None = None
) -> None:
    """Set parameters to those of a checkpoint.

    Parameters
    ----------
    parameters : Named
        All of the model's.
    tensors : Named
        The checkpoint; those of the parameters are called ``model.``, and then as the parameter.
    of : str
        What the checkpoint is of, where it does not fit.
    others : Named, optional
        What else it should have, as here: only names and shapes are compared.

    Raises
    ------
    ConfigError
        If they have other names, or other shapes, which torch might broadcast.
    """
    held = under("model.", tensors)
    wrong = [f"it has no {k}" for k in parameters if k not in held]
    wrong += [f"it has {k}" for k in sorted(held) if k not in parameters]
    wrong += [f"it has no {k}" for k in others or {} if k not in tensors]
    wrong += [
        f"its {key} has shape {tuple(found[key].shape)}, here it is {tuple(t.shape)}"
        for found, here in ((held, parameters), (tensors, others or {}))
        for key, t in here.items()
        if key in found and found[key].shape != t.shape
    ]
    if wrong:
        raise ConfigError(
            f"the checkpoint is of {of}: {wrong[0]}; make the training as it was when the "
            "checkpoint was, number of seeds included"
        )
    with torch.no_grad():
        for key, parameter in parameters.items():
            parameter.copy_(held[key])
