"""Plug a rule into a network and let it learn the bundled digits online, one image a step."""

from __future__ import annotations

import torch
from torch import Tensor

import rulesearch as rs

LIFETIMES = 5


def accuracy(logits: Tensor, label: Tensor) -> str:
    share = (logits.argmax(-1) == label).float().mean(-1)
    return f"{share.mean():.2f} ± {share.std():.2f}"


def main() -> None:
    tasks = rs.tasks.FewShot("digits", ways=10, shots=100, queries=50)
    network = rs.PlasticNetwork([tasks.n_in, 48, 32, tasks.n_out], feedback="random")
    pool = rs.Grammar.from_yaml("pool10").enumerate()
    rule = rs.Rule(pool, {"F0": 3e-2, "F2": -3e-2, "F9": 2e-3})

    # Five lifetimes at once: each has its own weights, feedback and order of images.
    batch = tasks.sample([torch.Generator().manual_seed(seed) for seed in range(LIFETIMES)])
    born = rs.PlasticityLearner(network, rule).init(lifetimes=LIFETIMES)
    print("at birth:      ", accuracy(network(born, batch.x_query), batch.label_query))
    for name, candidate in {
        "gradient alone:": rs.Rule(pool, {"F0": rule.coefficients["F0"]}),
        "the whole rule:": rule,
    }.items():
        learner = rs.PlasticityLearner(network, candidate)
        lived = learner.live(born, None, batch.x, batch.label)  # None: the rule's own coefficients
        print(name, accuracy(network(lived, batch.x_query), batch.label_query))
    print(rule)


if __name__ == "__main__":
    main()
