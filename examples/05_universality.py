"""Feedback and Oja's rule store a whole lifetime in one activity, which any algorithm can read."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from rulesearch.analysis.universality import UniversalNetwork

CELLS, LEVELS, STEPS = 5, 3, 8


def nearest(counts: Tensor, cell: int) -> float:
    """Mean level of the seen cells that are nearest."""
    seen = counts.sum(-1).nonzero().squeeze(-1)
    near = seen[(seen - cell).abs() == (seen - cell).abs().min()]
    votes = counts[near].sum(0).double()
    return float(votes @ torch.arange(LEVELS).double() / votes.sum())


def straight_line(counts: Tensor, cell: int) -> float:
    """Least squares."""
    x, y = np.divmod(np.repeat(np.arange(CELLS * LEVELS), counts.flatten().numpy()), LEVELS)
    return float(np.polyval(np.polyfit(x, y, deg=1), cell))


def main() -> None:
    network = UniversalNetwork(CELLS, LEVELS)
    print(f"{network.layers} plastic layers of {network.width} units, dW = {network.rule}")
    print(f"decodes any lifetime of up to {network.capacity} examples\n")

    # Noisy points of a falling line; features and feedback tell x and y apart by cells.
    g = torch.Generator().manual_seed(0)
    x = torch.rand(STEPS, generator=g)
    y = (1 - x + 0.2 * torch.randn(STEPS, generator=g)).clamp(0, 0.999)
    cell, level = (x * CELLS).long(), (y * LEVELS).long()
    print("it sees, one at a time:", *(f"{a}->{b}" for a, b in zip(cell, level, strict=True)))

    query = 2
    for feedback in (True, False):
        W = network.live(network.init(), cell[:, None], level[:, None], feedback=feedback)
        z = network.activations(W, torch.tensor([[query]]))[0, 0, 0]
        x_query, counts = network.decode(z)
        print(f"\nread from {len(z)} numbers, feedback {'on' if feedback else 'off'}:")
        print(f"  the query is in cell {x_query}, and {int(counts.sum())} examples were seen")
        if feedback:
            for a, row in enumerate(counts.tolist()):
                print(f"  cell {a}: ", *(f"level {b} x{n}" for b, n in enumerate(row) if n))
            print(f"  nearest neighbours answer {nearest(counts, query):.2f},", end=" ")
            print(f"a straight line {straight_line(counts, query):.2f}")


if __name__ == "__main__":
    main()
