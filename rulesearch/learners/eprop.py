r"""E-prop: eligibility traces of single synapses, gated by a learning signal.

.. math:: e_{ji,t} &= h_{j,t} \sum_{s < t} \alpha^{t - 1 - s} x_{i,s}, \qquad
          L_{j,t} = \sum_k W^{out}_{kj} (u_{k,t} - y_k) \\
          \Delta W_{ji} &\propto -\sum_t L_{j,t} \sum_{s \le t} \kappa^{t - s} e_{ji,s}

(Bellec et al. 2020, Eq. 4, 22 and 28), x being the input or the network's own spikes. It descends
half the squared error at every time, :math:`\frac{1}{2} \sum_t |u_t - y|^2`, summed over examples,
and leaves out only that a spike acts on other neurons' later voltages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from rulesearch.arguments import check_kind, real
from rulesearch.errors import ConfigError, did_you_mean
from rulesearch.named import Named
from rulesearch.networks.spiking import SpikingNetwork, filtered

__all__ = ["EProp", "triangle"]


def triangle(excess: Tensor, threshold: float) -> Tensor:
    r"""Pseudo-derivative :math:`0.3 \max(0, 1 - |v - \vartheta| / \vartheta)` of a spike."""
    return 0.3 * (1 - excess.abs() / threshold).clamp(min=0)


@dataclass(frozen=True)
class EProp:
    r"""What e-prop descends, for all weights at once.

    The sum over time of a filtered trace and a signal is that of the trace and the signal
    filtered backward in time. So no trace of a synapse is ever stored: a gradient is one product
    of matrices, of what is post times what is pre, over time and examples.

    Parameters
    ----------
    network : SpikingNetwork
    pseudo : callable
        From the excess of voltages over the threshold, and the threshold, to h.
    rate_strength, rate_target : float
        A second learning signal, on unfiltered traces: the strength times how far a neuron's
        mean rate in an example is above the target, in spikes a step.
    modulation : mapping
        Factors of the gradients of weights by name, by default 1: steps, which the strength of a
        complex synapse around does not know of (``lambda.W_out`` should be as many times smaller).

    Raises
    ------
    ConfigError
        If one of them is of another kind, or a factor is of no weight.
    """

    network: SpikingNetwork
    pseudo: Callable[[Tensor, float], Tensor] = triangle
    rate_strength: float = 0.0
    rate_target: float = 0.0
    modulation: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_kind("network", self.network, SpikingNetwork, "a SpikingNetwork")
        if not callable(self.pseudo):
            raise ConfigError(f"pseudo should be a function, as triangle, not {self.pseudo!r}")
        real("rate_strength", self.rate_strength)
        real("rate_target", self.rate_target)
        check_kind("modulation", self.modulation, Mapping, "factors by name, as {'W_in': 0.5}")
        known = self.network.shapes
        for name, factor in self.modulation.items():
            if name not in known:
                hint = did_you_mean(str(name), known)
                raise ConfigError(f"modulation is of {', '.join(known)}, not of {name!r}{hint}")
            real(f"modulation[{name!r}]", factor)

    def __call__(self, phi: Named, x: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return the gradient of every weight.

        Parameters
        ----------
        phi : mapping
            Weights, ``(lifetimes, n_post, n_pre)``.
        x : Tensor (lifetimes, time, examples, n_in)
            Spikes.
        target : Tensor (lifetimes, examples, n_out)

        Raises
        ------
        LearnerError
            If they do not fit the network or one another.
        """
        net = self.network
        net.check_target(x, target)
        v, z, u = net(phi, x)
        error = u - target[:, None]
        signal = (error.flatten(1, 2) @ phi["W_out"]).reshape(z.shape)
        gate = filtered(signal.flip(1), net.kappa).flip(1)
        if self.rate_strength:
            rate = z.mean(1, keepdim=True)
            gate = gate + self.rate_strength * (rate - self.rate_target)
        post = (self.pseudo(v - net.threshold, net.threshold) * gate).flatten(1, 2).mT
        found = {
            "W_in": post @ filtered(x, net.alpha, 1).flatten(1, 2),
            "W_rec": post @ filtered(z, net.alpha, 1).flatten(1, 2),
            "W_out": error.flatten(1, 2).mT @ filtered(z, net.kappa).flatten(1, 2),
        }
        return {name: self.modulation.get(name, 1.0) * g for name, g in found.items()}
