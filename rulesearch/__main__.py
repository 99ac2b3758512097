"""Where the command line begins: ``rulesearch``, or ``python -m rulesearch`` for launchers.

An interrupt counts from the first moment, while the rest is still being imported.
"""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line; exits with its status."""
    try:
        from rulesearch.cli import main as command_line

        command_line()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(3)


if __name__ == "__main__":
    main()
