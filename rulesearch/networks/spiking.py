r"""A recurrent network of leaky integrate-and-fire neurons with a leaky readout.

.. math:: v_{t+1} &= \alpha v_t + W_{in} x_t + W_{rec} z_t - \vartheta z_t, \qquad
                     z_t = [v_t > \vartheta] \\
          u_{t+1} &= \kappa u_t + W_{out} z_{t+1}

from a state of rest (CML, section 5.4; Bellec et al. 2020, Eq. 6 to 8, without the factor
:math:`1 - \alpha`). Its answer is the mean of u over time, rest included. A reset carries no
gradient, and a spike that of a surrogate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rulesearch.arguments import check_kind, number, whole
from rulesearch.errors import ConfigError, LearnerError
from rulesearch.networks.drawing import draw_each
from rulesearch.networks.given import check_shapes
from rulesearch.torch_arguments import check_floating

__all__ = ["Activity", "SpikingNetwork", "fast_sigmoid_spike", "filtered"]

STEEPNESS = 100.0
GAINS = {"W_in": 0.1, "W_rec": 0.01, "W_out": 0.1}


class _Spike(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, excess: Tensor) -> Tensor:
        ctx.save_for_backward(excess)
        return (excess > 0).to(excess.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # can be differentiated again
        (excess,) = ctx.saved_tensors
        slope: Tensor = grad / (STEEPNESS * excess.abs() + 1) ** 2
        return slope


def fast_sigmoid_spike(excess: Tensor) -> Tensor:
    r"""1 where the excess over the threshold is positive, with a surrogate derivative.

    .. math:: \frac{\partial z}{\partial v} := \frac{1}{(100 |v - \vartheta| + 1)^2}

    (Zenke and Ganguli 2018), which may be differentiated again.
    """
    spike: Tensor = _Spike.apply(excess)  # type: ignore[no-untyped-call]
    return spike


class Activity(NamedTuple):
    """States of networks, from rest on.

    Attributes
    ----------
    v, z : Tensor (lifetimes, time, examples, hidden)
        Voltages and spikes.
    u : Tensor (lifetimes, time, examples, n_out)
        Readout.
    """

    v: Tensor
    z: Tensor
    u: Tensor

    @property
    def answer(self) -> Tensor:
        """Mean readout, ``(lifetimes, examples, n_out)``."""
        return self.u.mean(1)


def filtered(signal: Tensor, decay: float, delay: int = 0) -> Tensor:
    r"""Low-pass filter over time, :math:`\sum_{s \le t - d} \alpha^{t - d - s} x_s`.

    Parameters
    ----------
    signal : Tensor (lifetimes, time, ...)
    decay : float
    delay : int
        d, in steps.
    """
    time = torch.arange(signal.shape[1], device=signal.device)
    age = time[:, None] - time - delay
    kernel = torch.where(age >= 0, decay ** age.clamp(min=0).to(signal.dtype), 0.0)
    return (kernel @ signal.flatten(2)).reshape(signal.shape)


@dataclass(frozen=True)
class SpikingNetwork:
    """Many networks side by side; weights are ``W_in``, ``W_rec`` and ``W_out`` by name.

    Parameters
    ----------
    n_in, hidden, n_out : int
    membrane, readout : float
        Time constants in steps: alpha = exp(-1 / membrane), kappa = exp(-1 / readout).
    threshold : float
    spike : callable
        From the excess over the threshold to spikes.

    Raises
    ------
    ConfigError
        For a size, time constant or threshold that is not positive.
    """

    n_in: int = 100
    hidden: int = 100
    n_out: int = 1
    membrane: float = 30.0
    readout: float = 30.0
    threshold: float = 0.1
    spike: Callable[[Tensor], Tensor] = fast_sigmoid_spike

    def __post_init__(self) -> None:
        for name in ("n_in", "hidden", "n_out"):
            whole(f"spiking network: {name}", getattr(self, name), least=1)
        for name in ("membrane", "readout", "threshold"):
            value = getattr(self, name)
            if not 0 < number(value) < math.inf:
                raise ConfigError(f"spiking network: {name} must be positive, not {value!r}")
        if not callable(self.spike):
            raise ConfigError(f"spiking network: spike should be a function, not {self.spike!r}")

    @property
    def alpha(self) -> float:
        """What is left of a voltage after a step."""
        return math.exp(-1 / self.membrane)

    @property
    def kappa(self) -> float:
        """What is left of the readout after a step."""
        return math.exp(-1 / self.readout)

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """Of the weights of a network, rows post, columns pre."""
        return {
            "W_in": (self.hidden, self.n_in),
            "W_rec": (self.hidden, self.hidden),
            "W_out": (self.n_out, self.hidden),
        }

    def init(
        self,
        generators: Sequence[torch.Generator],
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> dict[str, Tensor]:
        """Draw weights, one network a generator: normal, with deviation gain * sqrt(2 / n_pre).

        Gains are 0.1 into the network and out of it, and 0.01 within. They are drawn on the CPU,
        and moved.

        Raises
        ------
        ConfigError
            If there is no generator, or no such device.
        """
        check_floating(dtype)

        def draw(generator: torch.Generator) -> dict[str, Tensor]:
            drawn = {
                name: torch.randn(shape, generator=generator, dtype=torch.float64)
                for name, shape in self.shapes.items()
            }
            return {
                name: (GAINS[name] * math.sqrt(2 / w.shape[1]) * w).to(dtype)
                for name, w in drawn.items()
            }

        return draw_each("spiking network", draw, generators, device)

    def check_target(self, x: Tensor, target: Tensor) -> None:
        """Raise LearnerError unless there is a target for each example of spikes."""
        check_kind("x", x, Tensor, "a torch tensor, of spikes", LearnerError)
        check_kind("target", target, Tensor, "a torch tensor", LearnerError)
        wanted = (*x.shape[:3:2], self.n_out)
        if target.shape != wanted:  # else one would be spread over the other
            raise LearnerError(
                f"target has shape {tuple(target.shape)}; it should be {wanted}, lifetimes, "
                "examples and outputs; spikes are (lifetimes, time, examples, n_in)"
            )

    def __call__(self, phi: Mapping[str, Tensor], x: Tensor) -> Activity:
        """Run the networks.

        Parameters
        ----------
        phi : mapping
            Weights, ``(lifetimes, n_post, n_pre)``.
        x : Tensor (lifetimes, time, examples, n_in)
            Spikes; those of the last step come too late to have an effect.

        Raises
        ------
        LearnerError
            If a weight is missing or of another shape or type, or spikes do not have the network's
            width, or are of other lifetimes or another type.
        """
        check_kind("weights", phi, Mapping, "tensors by name, as of init()", LearnerError)
        check_kind("x", x, Tensor, "a torch tensor, of spikes", LearnerError)
        if not phi.keys() >= GAINS.keys():
            raise LearnerError(f"weights are {', '.join(GAINS)}, not {', '.join(phi)}")
        W_in, W_rec, W_out = (phi[name].mT for name in ("W_in", "W_rec", "W_out"))
        if x.ndim != 4 or x.shape[-1] != self.n_in or x.shape[0] != W_in.shape[0]:
            raise LearnerError(
                f"spikes are (lifetimes, time, examples, n_in), here ({W_in.shape[0]}, time, "
                f"examples, {self.n_in}), not {tuple(x.shape)}"
            )
        if x.dtype != W_in.dtype:
            raise LearnerError(f"spikes are {x.dtype}, the weights {W_in.dtype}")
        check_shapes(phi, self.shapes, len(x))
        lifetimes, time, examples, _ = x.shape
        current = (x[:, :-1].flatten(1, 2) @ W_in).reshape(
            lifetimes, time - 1, examples, self.hidden
        )
        v = z = current.new_zeros(lifetimes, examples, self.hidden)
        vs, zs = [v], [z]
        for drive in current.unbind(1):
            moved = torch.baddbmm(drive, z, W_rec).add(v, alpha=self.alpha)
            v = moved.sub(z.detach(), alpha=self.threshold)
            z = self.spike(v - self.threshold)
            vs.append(v)
            zs.append(z)
        spikes = torch.stack(zs, 1)
        read = (spikes.flatten(1, 2) @ W_out).reshape(lifetimes, time, examples, -1)
        return Activity(torch.stack(vs, 1), spikes, filtered(read, self.kappa))
