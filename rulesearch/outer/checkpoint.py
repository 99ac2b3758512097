"""Whether a checkpoint is of the parameters that it is to be loaded into."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from rulesearch.errors import ConfigError

__all__ = ["check_checkpoint"]


def check_checkpoint(
    tensors: Mapping[str, Tensor], parameters: Mapping[str, Tensor], of: str
) -> None:
    """Refuse tensors of other names, or of other shapes, which torch might broadcast.

    Parameters
    ----------
    tensors : mapping
        The checkpoint; those of the parameters are called ``model.``, and then as the parameter.
    parameters : mapping
        What they are to be loaded into.
    of : str
        What the checkpoint is of, where it does not fit.

    Raises
    ------
    ConfigError
        If it does not fit.
    """
    held = {k.removeprefix("model.") for k in tensors if k.startswith("model.")}
    wrong = [f"it has no {k}" for k in parameters if k not in held]
    wrong += [f"it has {k}" for k in sorted(held) if k not in parameters]
    wrong += [
        f"its {key} has shape {tuple(tensors[f'model.{key}'].shape)}, here it is {tuple(p.shape)}"
        for key, p in parameters.items()
        if key in held and tensors[f"model.{key}"].shape != p.shape
    ]
    if wrong:
        raise ConfigError(
            f"the checkpoint is of {of}: {wrong[0]}; make the training as it was when the "
            "checkpoint was, number of seeds included"
        )
