"""The options of ``rulesearch bench``; what it does is imported when it is called."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["bench"]


def bench(
    suite: Annotated[
        list[str] | None,
        typer.Option(
            help="main, steps, steps-one, width, depth, examples, terms, terms-dense, flp, cml, "
            "compile, all."
        ),
    ] = None,
    peers: Annotated[
        list[str] | None, typer.Option("--peers", help="Only these; may be given several times.")
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Runs after the first, at most.")] = 5,
    quick: Annotated[bool, typer.Option("--quick", help="One small problem a suite.")] = False,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    seconds: Annotated[float, typer.Option(min=0, help="Skip what would take longer.")] = 60.0,
    memory: Annotated[float, typer.Option(min=0, help="Skip what would hold more GB.")] = 12.0,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="JSON to write, or to add to.")
    ] = None,
    show_: Annotated[
        Path | None, typer.Option("--show", metavar="FILE", help="Print what such a file holds.")
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Tables in Markdown.")] = False,
    figures: Annotated[
        Path | None, typer.Option("--figures", metavar="DIR", help="Draw the suites there.")
    ] = None,
) -> None:
    """Measure the meta-gradient beside torch and JAX, and beside the machine's floor."""
    from rulesearch.bench.command import measure, run_bench, show_bench

    if show_ is not None:
        show_bench(show_, markdown, figures)
        return
    measured = partial(
        measure, suite or ["main"], peers, repeats, quick, device, (seconds, memory), out
    )
    raise typer.Exit(run_bench(measured, out, markdown, figures))
