"""Plots and tables of scores, from tables of scores and run folders."""

from collections.abc import Sequence
from pathlib import Path

from sb3_trpo.evaluation.scores import Score, read_scores
from sb3_trpo.evaluation.summary import summarize
from sb3_trpo.files import Unwritable
from sb3_trpo.zoo.errors import UsageError
from sb3_trpo.zoo.files import write_text
from sb3_trpo.zoo.runs import SCORES, find_run


def plot(
    sources: Sequence[str | Path],
    output: str | Path | None = None,
    *,
    log_folder: str | Path = "runs",
    first: str | None = None,
) -> list[Path]:
    """Draw learning curves against steps and wall-clock, and statistics.

    :param sources: tables of scores, run folders, or environment ids for their latest run
    :param output: folder of the plots, that of the first source by default
    :param first: contestant to put first, and to compare with the others
    :return: the files: PNG, and one HTML page
    :raises UsageError: for a source that cannot be read, or a missing library
    """
    scores = gather(sources, log_folder)
    folder = Path(output) if output is not None else _files(sources[:1], log_folder)[0].parent
    try:
        from sb3_trpo.evaluation.interactive import write_page
        from sb3_trpo.evaluation.plots import draw

        folder.mkdir(parents=True, exist_ok=True)
        summary = summarize(scores, first=first)
        paths = draw(summary, folder)
        write_page(summary, folder / "scores.html", title=", ".join(summary.environments))
    except ImportError as error:
        raise UsageError(f"plots need more: pip install 'sb3-trpo[plots]' ({error})") from error
    except Unwritable as error:
        raise UsageError(str(error)) from error
    except OSError as error:
        raise UsageError(f"{folder} cannot be written: {error.strerror or error}") from error
    except ValueError as error:
        raise UsageError(str(error)) from error
    return [*paths, folder / "scores.html"]


def report(
    sources: Sequence[str | Path],
    output: str | Path | None = None,
    *,
    log_folder: str | Path = "runs",
    first: str | None = None,
) -> str:
    """Markdown tables of the scores; written to ``output``, too, if it is given.

    :raises UsageError: as `plot`
    """
    from sb3_trpo.evaluation.report import markdown_report

    try:
        text = markdown_report(gather(sources, log_folder), first=first)
    except ValueError as error:
        raise UsageError(str(error)) from error
    if output is not None:
        write_text(Path(output), text)
    return text


def gather(sources: Sequence[str | Path], log_folder: str | Path = "runs") -> list[Score]:
    """The scores of all sources, each once.

    Runs of one algorithm with different settings are contestants of their own, named after their folders; runs of one
    seed in different folders are told apart by a seed of their own.
    """
    tables = {file: _read(file) for file in dict.fromkeys(file.resolve() for file in _files(sources, log_folder))}
    settings: dict[tuple[str, str], set[str]] = {}
    for row in (row for rows in tables.values() for row in rows):
        settings.setdefault((row.env, row.implementation), set()).add(row.config_hash)
    scores: list[Score] = []
    for file, rows in tables.items():
        taken = {(score.env, score.implementation, score.seed) for score in scores}
        for row in rows:
            is_one_of_many = len(tables) > 1 and len(settings[row.env, row.implementation]) > 1
            label = f"{row.implementation}, {file.parent.name}" if is_one_of_many else row.implementation
            seed = row.seed
            while (row.env, label, seed) in taken:
                seed += 1_000_000
            scores.append(row._replace(implementation=label, seed=seed))
    if not scores:
        raise UsageError(f"{', '.join(map(str, sources)) or 'nothing'} holds no scores yet")
    return scores


def _read(file: Path) -> list[Score]:
    try:
        return read_scores(file)
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror or error}") from error
    except (ValueError, UnicodeDecodeError) as error:
        raise UsageError(str(error)) from error


def _files(sources: Sequence[str | Path], log_folder: str | Path) -> list[Path]:
    """The table of scores of each source."""
    files = []
    for source in map(Path, sources):
        if source.suffix == ".csv" or (source.is_dir() and (source / SCORES).is_file()):
            files.append(source / SCORES if source.is_dir() else source)
        else:
            files.append(find_run(source, log_folder).folder / SCORES)
    return files
