"""The commands about many runs: ``tune``, ``benchmark``, ``plot``, ``report``.

Functions are imported where they are called, so that ``--help`` and complaints about a wrong option come at once.
"""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from sb3_trpo.zoo.options import (
    Algo,
    Env,
    First,
    GymPackages,
    HyperparamsFile,
    LogFolder,
    Overrides,
    Steps,
    parse_overrides,
    prepare,
)

TUNE_EXAMPLES = """[bold]Examples[/bold]

    sb3-trpo tune --env Pendulum-v1 --n-trials 50

    sb3-trpo tune --env Hopper-v5 --n-timesteps 3e5 --n-seeds 5 --n-jobs 2 --sampler gp

    sb3-trpo tune --env Ant-v5 --storage postgresql://user@host/studies   (on each of several machines)

Stop it with Ctrl-C, or lose a worker; the same command goes on where it was."""

BENCHMARK_EXAMPLES = """[bold]Example[/bold]

    sb3-trpo benchmark grid.yml --jobs 2

A grid file:

    environments: [CartPole-v1, Pendulum-v1]
    seeds: 5
    n_timesteps: 1e5
    contestants:
      sb3_trpo: {algo: trpo}
      sb3-contrib: {algo: "sb3_contrib:TRPO", hyperparams: theirs.yml}
      PPO: {algo: ppo, hyperparams: ppo.yml}"""

PLOT_EXAMPLES = """[bold]Examples[/bold]

    sb3-trpo plot runs/benchmark/mujoco/scores.csv

    sb3-trpo plot runs/trpo/CartPole-v1_1 runs/trpo/CartPole-v1_2 -o plots"""

REPORT_EXAMPLES = "[bold]Example[/bold]\n\n    sb3-trpo report runs/benchmark/mujoco/scores.csv > scores.md"


def tune(
    env: Env,
    algo: Algo = "trpo",
    n_trials: Annotated[int, typer.Option(help="Trials of the study in all, whoever runs them.")] = 50,
    storage: Annotated[
        str | None,
        typer.Option(help="Database of the study.", show_default="sqlite in the output folder", metavar="URL"),
    ] = None,
    study_name: Annotated[str | None, typer.Option(show_default="ALGO-ENV", help="Name of the study.")] = None,
    n_jobs: Annotated[int, typer.Option(help="Worker processes here.")] = 1,
    sampler: Annotated[str, typer.Option(help="tpe, gp, cmaes or random.")] = "tpe",
    pruner: Annotated[
        str | None,
        typer.Option(
            help="wilcoxon (compares seeds), hyperband or median (compare curves), none.",
            show_default="wilcoxon for 3 seeds or more, else median",
        ),
    ] = None,
    n_seeds: Annotated[int, typer.Option(help="Runs of each trial.")] = 3,
    n_startup: Annotated[int, typer.Option("--n-startup", "--n-startup-trials", help="Random trials first.")] = 10,
    n_evaluations: Annotated[int, typer.Option(help="Evaluations of each run.")] = 10,
    eval_episodes: Annotated[int, typer.Option(help="Episodes of each evaluation.")] = 10,
    score: Annotated[str, typer.Option(help="What to maximise of a learning curve: final, best or area.")] = "final",
    timeout: Annotated[float | None, typer.Option(help="Seconds after which no trial is begun.")] = None,
    confirm: Annotated[int, typer.Option(help="Best trials to run again on fresh seeds before one is chosen.")] = 0,
    hyperparams: HyperparamsFile = None,
    param: Overrides = None,
    n_timesteps: Steps = None,
    seed: Annotated[int, typer.Option(help="Of the search and, from there on, of the runs.")] = 0,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder.", show_default="runs/tune/ALGO-ENV")
    ] = None,
    gym_packages: GymPackages = None,
) -> None:
    """Search for hyperparameters: stop it, resume it, join it from other processes and machines."""
    prepare(gym_packages)
    from sb3_trpo.zoo.tuning import tune as search

    result = search(
        env,
        algo,
        n_trials=n_trials,
        storage=storage,
        study_name=study_name,
        n_jobs=n_jobs,
        sampler=sampler,
        pruner=pruner,
        n_seeds=n_seeds,
        n_startup=n_startup,
        n_evaluations=n_evaluations,
        n_eval_episodes=eval_episodes,
        score=score,
        timeout=timeout,
        confirm=confirm,
        hyperparams=hyperparams,
        overrides=parse_overrides(param),
        n_timesteps=n_timesteps,
        seed=seed,
        folder=output,
        packages=gym_packages or (),
    )
    if result.interrupted:
        raise typer.Exit(130)


def benchmark(
    grid: Annotated[Path, typer.Argument(metavar="GRID.yml", help="Environments, contestants and seeds.")],
    jobs: Annotated[int, typer.Option("-j", "--jobs", help="Runs at a time, one thread each.")] = 2,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder.", show_default="runs/benchmark/GRID")
    ] = None,
    gym_packages: GymPackages = None,
) -> None:
    """Train every contestant on every environment and seed, and keep one table of scores; resumable."""
    prepare(gym_packages)
    from sb3_trpo.zoo.benchmarking import benchmark as run_grid
    from sb3_trpo.zoo.console import console

    scores = run_grid(grid, output, jobs, packages=gym_packages or ())
    where = shlex.quote(str(scores))
    console.print(f"scores  {where}\nplots   sb3-trpo plot {where}\ntables  sb3-trpo report {where}", markup=False)


def plot(
    sources: Annotated[list[str], typer.Argument(metavar="scores.csv|RUN...", help="A table of scores, or runs.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder.", show_default="beside the source")
    ] = None,
    first: First = None,
    log_folder: LogFolder = Path("runs"),
) -> None:
    """Draw learning curves and statistics, as PNG and as one HTML page."""
    from sb3_trpo.zoo.console import console
    from sb3_trpo.zoo.figures import plot as draw

    for path in draw(sources, output, log_folder=log_folder, first=first):
        console.print(f"drawn   {path}", markup=False)


def report(
    sources: Annotated[list[str], typer.Argument(metavar="scores.csv|RUN...", help="A table of scores, or runs.")],
    first: First = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="File to write, too.")] = None,
    log_folder: LogFolder = Path("runs"),
) -> None:
    """Print Markdown tables of the scores."""
    from sb3_trpo.zoo.figures import report as tables

    typer.echo(tables(sources, output, log_folder=log_folder, first=first).rstrip())
