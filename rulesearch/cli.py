"""The command line. It holds no mathematics: every command is a few calls of the library.

Exit status: 0 done; 2 a mistake of the user's, in one line; 3 interrupted, and resumable.
torch is imported by the commands that need it, so that ``check`` answers at once.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from rulesearch import __version__
from rulesearch.bench.cli import bench
from rulesearch.errors import ConfigError, RuleSearchError, RunError
from rulesearch.grammar import Grammar

__all__ = ["app", "main"]

app = typer.Typer(
    help="Discover how synapses should change.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(help="Data sets: where they are, and fetching them.", no_args_is_help=True)
app.add_typer(data_app, name="data")


def _folder(text: str) -> Path:
    if not text.strip():
        raise typer.BadParameter("name a folder")
    return Path(text)


GrammarArgument = Annotated[
    str, typer.Argument(metavar="GRAMMAR", help="A YAML file, or a bundled grammar's name.")
]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")]
ConfigArgument = Annotated[Path, typer.Argument(metavar="CONFIG", help="A search's YAML file.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a setting, as tasks.ways=3."),
]
OutOption = Annotated[
    Path | None, typer.Option("--out", metavar="RUN", parser=_folder, help="The run's folder.")
]
LatexOption = Annotated[bool, typer.Option("--latex", help="LaTeX.")]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON.")]
DeviceOption = Annotated[
    str | None,
    typer.Option("--device", help="Where lifetimes are lived: cpu, cuda, or one as cuda:1."),
]
TensorBoardOption = Annotated[
    bool, typer.Option("--tensorboard", help="Curves for TensorBoard, in RUN/tensorboard.")
]


def _version(shown: bool) -> None:
    if shown:
        print(f"rulesearch {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


@app.command()
def enumerate(
    grammar: GrammarArgument, latex: LatexOption = False, as_json: JsonOption = False
) -> None:
    """List a grammar's candidate terms."""
    _either(latex, as_json)
    pool = Grammar.from_yaml(grammar).enumerate()
    if as_json:
        print(json.dumps([term.describe() for term in pool], indent=1))
    elif latex:
        for term in pool:
            print(rf"{term.name}: {term.latex()}")
    else:
        print(repr(pool))


@app.command()
def check(grammar: GrammarArgument) -> None:
    """Say whether a grammar is sound: exit status 0, or 2 and file:line:col."""
    found = Grammar.from_yaml(grammar)
    print(f"{found.name}: {len(found)} terms")


@app.command()
def search(
    config: ConfigArgument,
    set_: SetOption = None,
    out: OutOption = None,
    tensorboard: TensorBoardOption = False,
    device: DeviceOption = None,
) -> None:
    """Search a rule: pool, survivors, controls; ends with the table."""
    from rulesearch.search.command import run_search

    raise typer.Exit(run_search(config, set_ or (), out, tensorboard, device))


@app.command()
def sweep(
    config: ConfigArgument,
    storage: Annotated[str | None, typer.Option(metavar="URL", help="Where workers meet.")] = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes on this machine.")] = 1,
    set_: SetOption = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="STUDY", parser=_folder, help="The study's folder, of all runs."
        ),
    ] = None,
    device: DeviceOption = None,
) -> None:
    """Search over the configuration's 'sweep:', or go on with it; ends with the front."""
    from rulesearch.search.sweep.command import run_sweep

    raise typer.Exit(run_sweep(config, set_ or (), storage, workers, out, device))


@app.command()
def worker(
    storage: Annotated[str, typer.Argument(metavar="URL", help="The storage of a sweep.")],
    study: Annotated[str | None, typer.Option(metavar="NAME", help="If there are several.")] = None,
    device: DeviceOption = None,
    parent: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> None:
    """Run trials of a sweep until all are finished; start as many as you like, anywhere."""
    from rulesearch.search.sweep.command import run_worker

    raise typer.Exit(run_worker(storage, study, parent, device))


@app.command()
def resume(
    run: RunArgument, tensorboard: TensorBoardOption = False, device: DeviceOption = None
) -> None:
    """Continue a run that was interrupted or killed; it ends as if it had not been."""
    from rulesearch.reproduce.command import run_and_print
    from rulesearch.reproduce.plan import is_reproduction, load_plan
    from rulesearch.search.command import run_resume

    if not is_reproduction(run):
        raise typer.Exit(run_resume(run, tensorboard, device))
    plan = load_plan(run)
    raise typer.Exit(run_and_print(plan if device is None else plan.on(device), run))


@app.command()
def show(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="A folder; of a reproduction several.")
    ],
    latex: LatexOption = False,
    as_json: JsonOption = False,
    follow: Annotated[bool, typer.Option("--follow", help="Watch it run elsewhere.")] = False,
    against: Annotated[
        str | None,
        typer.Option(metavar="ROW", help="Of a reproduction: every other row less this one."),
    ] = None,
) -> None:
    """Show a run: its table, or its rule in LaTeX, or everything as JSON; of a sweep, its trials.

    Of a reproduction, as far as it got, the table; several runs' rows and seeds make one.
    """
    from rulesearch.reproduce import command as reproduction
    from rulesearch.reproduce.plan import is_reproduction
    from rulesearch.search.command import follow_run, print_run
    from rulesearch.search.sweep.command import follow_study, is_study, print_study

    _either(latex, as_json)
    run, *more = runs = list(dict.fromkeys(runs))
    if follow:
        if more:
            raise ConfigError("--follow watches one run; give one RUN alone")
        if against is not None:
            raise ConfigError("--follow watches a run; leave out --against")
        if latex or as_json:
            form = "--latex" if latex else "--json"
            raise ConfigError(
                f"--follow and {form} cannot be combined: follow it, or show it with {form}"
            )
        raise typer.Exit((follow_study if is_study(run) else follow_run)(run))
    if more or is_reproduction(run):
        reproduction.print_runs(runs, latex, as_json, against)
    elif against is not None:
        raise ConfigError(
            f"--against is for rows of a reproduction, and {run} is none; 'rulesearch evaluate' "
            "compares rules of searches"
        )
    else:
        (print_study if is_study(run) else print_run)(run, latex, as_json)


@app.command()
def report(run: RunArgument) -> None:
    """Write report.html, one self-contained page, and the figures as SVG and PDF."""
    from rulesearch.report.page import write_report
    from rulesearch.reproduce.plan import is_reproduction

    if is_reproduction(run):
        raise RunError(f"{run} is a reproduction, which has no page; 'rulesearch show {run}'")
    print(write_report(run))


@app.command()
def evaluate(
    targets: Annotated[
        list[Path], typer.Argument(metavar="RUN_OR_RULE...", help="Run folders, or rules' JSON.")
    ],
    tasks: Annotated[
        str | None, typer.Option(help="A data set's name; by default that of the run.")
    ] = None,
    held_out: Annotated[
        bool | None,
        typer.Option(help="Draw the classes that the run held out; by default if it held any."),
    ] = None,
    lifetimes: Annotated[int, typer.Option(min=1, help="Fresh networks, each with a task.")] = 200,
    ways: Annotated[
        int | None, typer.Option(show_default="5", help="Classes of a task (with --tasks).")
    ] = None,
    shots: Annotated[
        int | None,
        typer.Option(show_default="50", help="Training images of a class (with --tasks)."),
    ] = None,
    queries: Annotated[
        int | None, typer.Option(show_default="10", help="Queries of a class (with --tasks).")
    ] = None,
    root: Annotated[str | None, typer.Option(help="Where the data lies (with --tasks).")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of tasks and networks.")] = 0,
    vary: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=V,V", help="Also with one thing changed, as depth=2,10."),
    ] = None,
    rules: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME,NAME", help="backprop, feedback-alignment, catalogue names."),
    ] = None,
    baseline: Annotated[
        str | None, typer.Option(help="Whom to test against; feedback alignment if it is there.")
    ] = None,
    device: DeviceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let rules live the same tasks, with 98% intervals and tests; see docs/evidence.md."""
    from rulesearch.search.evaluate_command import run_evaluate

    few_shot = {"ways": ways, "shots": shots, "queries": queries, "root": root}
    run_evaluate(
        targets, tasks, held_out, lifetimes, seed, vary or (), rules or (), baseline, as_json,
        device or "cpu", **{name: value for name, value in few_shot.items() if value is not None},
    )  # fmt: skip


@app.command()
def reproduce(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A reproduction's name; or 'list', to see them.")
    ],
    scale: Annotated[
        str,
        typer.Option(
            help="small: minutes on a laptop; full: the paper's own sizes; of FLP's tables also "
            "narrow, and of its sines staged, in between."
        ),
    ] = "small",
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a setting, as updates=100."),
    ] = None,
    rows: Annotated[
        list[str] | None,
        typer.Option("--rows", metavar="ROW", help="Only these; may be given several times."),
    ] = None,
    trained: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="Take networks of this run: of flp-table1 there, in flp-figure2 and flp-longer; "
            "of flp-table2 in flp-curves; of cml-table5 there.",
        ),
    ] = None,
    out: OutOption = None,
) -> None:
    """Run a paper's table or figure again, its figures beside ours."""
    from rulesearch.reproduce.command import list_reproductions, run_and_print
    from rulesearch.reproduce.plan import make_plan, run_folder

    if name == "list":
        given: dict[str, Any] = {"--scale": scale != "small", "--set": set_, "--rows": rows}
        given |= {"--trained": trained, "--out": out}
        if told := [option for option, value in given.items() if value]:
            raise ConfigError(f"'list' takes no {told[0]}; name a reproduction in its place")
        list_reproductions()
        return
    plan = make_plan(name, scale, set_ or (), rows or (), trained)
    with run_folder(plan) if out is None else nullcontext(out) as run:
        raise typer.Exit(run_and_print(plan, run))


app.command()(bench)


@data_app.command("list")
def data_list() -> None:
    """List the data sets, and where they were found."""
    from rulesearch.tasks.command import list_data_sets

    list_data_sets()


@data_app.command("fetch")
def data_fetch(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A data set's name.")],
) -> None:
    """Download a data set into the cache, its checksum verified."""
    from rulesearch.tasks.command import fetch_data_set

    fetch_data_set(name)


INTERRUPTED = 130  # typer's status of an interrupt, where it raises no Abort

# typer's own class where it carries click inside, click's where it does not.
UsageError: type[Exception] = typer.BadParameter.__mro__[1]


def main() -> None:
    """Run the command line; a mistake of the user's is one line and exit status 2.

    Raises
    ------
    KeyboardInterrupt
        If it is interrupted where no command says how to go on, as while it starts.
    """
    try:
        status = app(prog_name="rulesearch", standalone_mode=False)
        if status == INTERRUPTED:
            raise KeyboardInterrupt
        sys.stdout.flush()
    except typer.Abort:
        raise KeyboardInterrupt from None
    except RuleSearchError as error:
        status = _refused(str(error))
    except UsageError as error:
        status = _refused(_usage(error))
    except BrokenPipeError:  # the reader went away, as in `rulesearch enumerate ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    sys.exit(status)


def _usage(error: Any) -> str:
    """A mistake in the command itself, and where its options are told."""
    command = error.ctx.command_path if error.ctx is not None else "rulesearch"
    message = error.format_message().strip().rstrip(".")
    see = f"see '{command} --help'"
    if message.endswith("?"):  # as where it asks whether another command was meant
        return f"{message} Else {see}"
    return f"{message}; {see}" if message else ""


def _either(latex: bool, as_json: bool) -> None:
    if latex and as_json:
        raise ConfigError("--latex and --json are two forms of one thing: give one of them")


def _refused(message: str) -> int:
    if message:
        print(" ".join(message.split()), file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
