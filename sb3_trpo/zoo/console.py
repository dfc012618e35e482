"""What the command line shows."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

console = Console(soft_wrap=True, highlight=False)
"""Results."""

stderr = Console(stderr=True, soft_wrap=True, highlight=False)
"""Progress and complaints: the output of a command can be piped."""


def print_line(text: str) -> None:
    """A line of progress, whatever signs it has."""
    stderr.print(text, markup=False)


def progress_bar(*fields: str, disable: bool = False) -> Progress:
    """A bar with description, steps done and to do, ``fields`` of the task, elapsed and remaining time."""
    return Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        *(TextColumn(f"{{task.fields[{field}]}}") for field in fields),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=stderr,
        disable=disable or not stderr.is_terminal,
    )
