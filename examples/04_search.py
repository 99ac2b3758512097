"""Search a rule on tasks whose best rule is known: the delta rule with decay, F0 and F3."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import rulesearch as rs


def main() -> None:
    # Regression on a linear teacher. Six inputs are silent while the network learns: only
    # forgetting removes the random weights that they start with.
    tasks = rs.tasks.LinearTeacher(inputs=8, outputs=6, silent=6)
    network = rs.PlasticNetwork([tasks.n_in, tasks.n_out], output="linear", feedback="random")
    pool = rs.Grammar.from_yaml("pool10").enumerate()

    with TemporaryDirectory() as folder:
        result = rs.search(
            pool,
            network=network,
            tasks=tasks,
            episodes=200,
            refit_episodes=60,
            seeds=5,
            lams=[1.0, 3.0],
            meta_batch=4,
            rate=1e-2,
            clip=10.0,
            controls=False,
            out=Path(folder) / "run",
        )
        print(result)


if __name__ == "__main__":
    main()
