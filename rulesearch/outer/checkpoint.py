"""Parameters from a checkpoint."""

from __future__ import annotations

import torch

from rulesearch.errors import ConfigError
from rulesearch.named import Named, under

__all__ = ["load_parameters", "misfits"]


def misfits(found: Named, wanted: Named) -> list[str]:
    """Tell what is missing, unknown, or of another shape, which torch might broadcast."""
    wrong = [f"it has no {name}" for name in wanted if name not in found]
    wrong += [f"it has {name}" for name in sorted(found) if name not in wanted]
    wrong += [
        f"its {name} has shape {tuple(found[name].shape)}, here it is {tuple(value.shape)}"
        for name, value in wanted.items()
        if name in found and found[name].shape != value.shape
    ]
    return wrong


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
        If they have other names or shapes.
    """
    held = under("model.", tensors)
    others = others or {}
    wrong = misfits(held, parameters)
    wrong += misfits({k: t for k, t in tensors.items() if k in others}, others)
    if wrong:
        raise ConfigError(
            f"the checkpoint is of {of}: {wrong[0]}; make the training as it was when the "
            "checkpoint was, number of seeds included"
        )
    with torch.no_grad():
        for key, parameter in parameters.items():
            parameter.copy_(held[key])
