"""Write the paper's F_bio down and print it: as text, as LaTeX and as torch source."""

from __future__ import annotations

import rulesearch as rs


def main() -> None:
    pool = rs.Grammar.from_yaml("pool10").enumerate()
    rule = rs.Rule(pool, {"F0": 8e-3, "F2": -3e-2, "F9": 2e-3})

    print(rule)
    print(rule.latex())
    print(f"{rule.rank} outer products, in place of {len(rule.terms)} terms:")
    print(rule.source())


if __name__ == "__main__":
    main()
