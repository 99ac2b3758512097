"""Where the command line begins: ``rulesearch``, or ``python -m rulesearch`` for launchers.

An interrupt counts from the first moment, while modules are still being imported, until the exit
status is settled. The signal by which clusters and services end a job, SIGTERM, is one too.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

from rulesearch.errors import INTERRUPTED

__all__ = ["main"]

SIGNALS = (signal.SIGINT, signal.SIGTERM)

# How often torch's threads (GNU OpenMP) look whether the others are done before they sleep. By
# default it is for longer than a core is lent to a process, and runs side by side on few cores
# wait for one another many times as long as they work.
SPINS = {"GOMP_SPINCOUNT": "30000"}
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")  # by which a user may say something else


def main() -> None:
    """Run the command line; exits with its status.

    From then on interrupts are ignored until the process has ended: a second one, on the way out
    of the first, does not change its status.
    """
    if not any(name in os.environ for name in WAITING):
        os.environ.update(SPINS)  # before torch is loaded, which reads it once
    try:
        try:
            for number in SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:  # as it is in the background
                    signal.signal(number, _interrupt)
            from rulesearch.cli import main as command_line

            command_line()
        finally:
            for number in SIGNALS:
                signal.signal(number, signal.SIG_IGN)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)


def _interrupt(_: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt; in an import end at once, for libraries catch everything there."""
    while frame is not None:
        if "importlib._bootstrap" in frame.f_code.co_filename:
            os.write(sys.stderr.fileno(), b"interrupted\n")
            os._exit(INTERRUPTED)
        frame = frame.f_back
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
