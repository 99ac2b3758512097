"""Time of lifetimes with their meta-gradient: the compiled engine beside plain autograd.

The paper's network and its ten terms, 250 online steps, float32, on made-up images (time does
not depend on what they show). Run it on an idle machine:

    python benchmarks/lifetimes.py [--lifetimes 1 20] [--repeats 5] [--plain]
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time

import torch

import rulesearch as rs

STEPS = 250


def measure(learner: rs.PlasticityLearner, lifetimes: int, repeats: int) -> list[float]:
    """Seconds for the lives and the meta-gradient, one figure a repeat, after a warm-up."""
    network = learner.network
    g = torch.Generator().manual_seed(0)
    state = learner.init(lifetimes, g)
    x = torch.rand(STEPS, lifetimes, network.sizes[0], generator=g)
    x = x * (torch.rand(x.shape, generator=g) > 0.8)
    label = torch.randint(0, 5, (STEPS, lifetimes), generator=g)
    x_query = torch.rand(lifetimes, 50, network.sizes[0], generator=g)
    label_query = torch.randint(0, 5, (lifetimes, 50), generator=g)
    theta = torch.tensor([1e-3, 0, -1e-3, 0, 0, 0, 0, 0, 0, 1e-3], requires_grad=True)
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        final = learner.live(state, theta, x, label)
        loss = network.loss(network(final, x_query), label_query).sum()
        torch.autograd.grad(loss, theta)
        seconds.append(time.perf_counter() - start)
    return seconds[1:]


def main() -> None:
    """Print a line per case: median and range of the seconds, and the peak memory so far."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lifetimes", type=int, nargs="+", default=[1, 20])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--plain", action="store_true", help="time plain autograd too (slow)")
    options = parser.parse_args()
    pool = rs.Grammar.from_yaml("pool10").enumerate()
    network = rs.PlasticNetwork([784, 170, 130, 100, 70, 47])
    cases = [("compiled", rs.PlasticityLearner(network, pool), n) for n in options.lifetimes]
    if options.plain:
        cases.append(("plain autograd", rs.PlasticityLearner(network, pool, method="autograd"), 1))
    sizes = "-".join(map(str, network.sizes))
    print(f"{torch.get_num_threads()} threads, {STEPS} steps, {sizes}, {len(pool)} terms")
    for name, learner, lifetimes in cases:
        seconds = measure(learner, lifetimes, options.repeats if name == "compiled" else 1)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        median = statistics.median(seconds)
        print(
            f"{name:<15} {lifetimes:>3} lifetimes  {median:.3f} s "
            f"({min(seconds):.3f} to {max(seconds):.3f})  {lifetimes / median:5.1f} a second  "
            f"peak {memory:.0f} MB"
        )


if __name__ == "__main__":
    main()
