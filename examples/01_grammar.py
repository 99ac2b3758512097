"""Read a grammar from YAML and list its terms, what each needs to know, and its LaTeX."""

from __future__ import annotations

from pathlib import Path

import rulesearch as rs


def main() -> None:
    mine = rs.Grammar.from_yaml(Path(__file__).with_name("my_grammar.yaml"))
    pool = mine.enumerate()
    print(f"{len(pool)} terms")
    width = max(map(len, pool.names))
    for term in pool:
        print(f"  {term.name:<{width}}  {term.locality:<7}  {term.latex()}")

    # Grammars add; a term that is already there, however it is spelt, adds nothing.
    paper = rs.Grammar.from_yaml("pool10")
    print(f"together with the paper's {len(paper)}: {len((paper + mine).enumerate())} terms")


if __name__ == "__main__":
    main()
