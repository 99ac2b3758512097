"""Search a rule on tasks whose best rule is known: the delta rule with Oja's, F0 and F9."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import rulesearch as rs


def main() -> None:
    # Regression on an orthogonal teacher. Four inputs are silent while it learns: something
    # has to forget the random weights that they start with, and Oja's rule forgets nothing else.
    tasks = rs.tasks.LinearTeacher(silent=4, steps=60, queries=10)
    # Inputs have both signs, where softplus' error of the input would explode.
    network = rs.PlasticNetwork([tasks.n_in, tasks.n_out], activation="tanh", output="linear")
    pool = rs.Grammar.from_yaml("pool10").enumerate()

    with TemporaryDirectory() as folder:
        result = rs.search(
            pool,
            network=network,
            tasks=tasks,
            episodes=100,
            refit_episodes=40,
            seeds=5,
            lams=[1.0, 3.0],
            meta_batch=2,
            rate=1e-2,
            clip=10.0,
            controls=False,
            out=Path(folder) / "run",
        )
        print(result)


if __name__ == "__main__":
    main()
