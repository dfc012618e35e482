"""The command ``sb3-trpo``: every subcommand parses its options and calls one function of this package."""

import itertools
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from sb3_trpo.zoo import model_commands, study_commands
from sb3_trpo.zoo.errors import UsageError, did_you_mean

app = typer.Typer(
    name="sb3-trpo",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Trust Region Policy Optimization: train, tune, compare, watch.",
    epilog="Every command has examples: [bold]sb3-trpo train --help[/bold]. "
    "Completion for your shell: [bold]sb3-trpo --install-completion[/bold].",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        import sb3_trpo

        typer.echo(f"sb3-trpo {sb3_trpo.__version__}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error came from.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and end.")
    ] = False,
) -> None:
    """Trust Region Policy Optimization: train, tune, compare, watch."""


for name, examples, function in (
    ("train", model_commands.TRAIN_EXAMPLES, model_commands.train),
    ("enjoy", model_commands.ENJOY_EXAMPLES, model_commands.enjoy),
    ("evaluate", model_commands.EVALUATE_EXAMPLES, model_commands.evaluate),
    ("list", model_commands.LIST_RUNS_EXAMPLES, model_commands.list_runs),
    ("tune", study_commands.TUNE_EXAMPLES, study_commands.tune),
    ("benchmark", study_commands.BENCHMARK_EXAMPLES, study_commands.benchmark),
    ("plot", study_commands.PLOT_EXAMPLES, study_commands.plot),
    ("report", study_commands.REPORT_EXAMPLES, study_commands.report),
):
    app.command(name, epilog=examples)(function)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    :return: 0 when it was done, 2 when it could not be done and the reason was printed in one line, 130 after Ctrl-C
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    given = [word for word in given if word != "--debug"]
    try:
        result = app(given, prog_name="sb3-trpo", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except UsageError as error:
        return _complain(str(error), debug)
    except typer.TyperException as error:
        return _complain(_suggestion(error, given), debug)


def _complain(sentence: str, debug: bool) -> int:
    """Print a refusal in one line, where it came from on request."""
    if debug:
        import traceback

        traceback.print_exc()
    typer.secho(f"error: {' '.join(sentence.split())}", fg="red", err=True)
    return 2


def _suggestion(error: Any, given: Sequence[str]) -> str:
    """What the parser says, with the nearest command for a misspelt one, and the value that an option was given."""
    sentence = error.format_message()
    commands = [str(command.name) for command in app.registered_commands]
    word = next((word for word in given if not word.startswith("-")), "")
    if sentence.startswith("No such command") and word:
        return f"command {word!r} is unknown{did_you_mean(word, commands)}"
    if sentence.startswith("Invalid value for "):
        names, _, reason = sentence.removeprefix("Invalid value for ").partition(": ")
        options = [name.strip("' ") for name in names.split("/")]
        values = [after for before, after in itertools.pairwise(given) if before in options]
        sentence = f"{options[-1]}={values[-1]!r}: {reason}" if values else sentence
    return f"{sentence} (see sb3-trpo {word} --help)" if word in commands else sentence
