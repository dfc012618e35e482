"""The commands about single models: ``train``, ``enjoy``, ``evaluate``, ``list``.

Functions are imported where they are called, so that ``--help`` and complaints about a wrong option come at once.
"""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sb3_trpo.zoo.errors import UsageError, whole
from sb3_trpo.zoo.options import (
    Algo,
    Averaged,
    Best,
    Device,
    GymPackages,
    HyperparamsFile,
    LogFolder,
    Overrides,
    RunArgument,
    Steps,
    Stochastic,
    Threads,
    Trust,
    parse_overrides,
    prepare,
)

if TYPE_CHECKING:
    from sb3_trpo.zoo.train_run import Trained

TRAIN_EXAMPLES = """[bold]Examples[/bold]

    sb3-trpo train --env CartPole-v1

    sb3-trpo train --env HalfCheetah-v5 --seed 1 --n-seeds 3 -P target_kl=0.03 -P n_envs=4

    sb3-trpo train --env Hopper-v5 --algo ppo --hyperparams my_ppo.yml --tensorboard

    sb3-trpo train --resume runs/trpo/HalfCheetah-v5_1 --n-timesteps 2e6"""

ENJOY_EXAMPLES = """[bold]Examples[/bold]

    sb3-trpo enjoy runs/trpo/CartPole-v1_1

    sb3-trpo enjoy HalfCheetah-v5 --best --video cheetah.mp4"""

EVALUATE_EXAMPLES = """[bold]Examples[/bold]

    sb3-trpo evaluate runs/trpo/CartPole-v1_1 --episodes 100

    sb3-trpo evaluate HalfCheetah-v5 --best --json | jq .iqm"""

LIST_RUNS_EXAMPLES = "[bold]Example[/bold]\n\n    sb3-trpo list --env CartPole-v1"


def train(
    context: typer.Context,
    env: Annotated[str | None, typer.Option("--env", help="Id of a registered environment.", metavar="ID")] = None,
    algo: Algo = "trpo",
    hyperparams: HyperparamsFile = None,
    param: Overrides = None,
    n_timesteps: Steps = None,
    seed: Annotated[
        int | None, typer.Option(help="Of everything.", show_default="drawn and written down; 0 with --n-seeds")
    ] = None,
    n_seeds: Annotated[int, typer.Option(help="Runs, on seeds SEED, SEED + 1, ...")] = 1,
    vec_env: Annotated[str, typer.Option(help="dummy: one process; subproc: one for each environment.")] = "dummy",
    eval_freq: Annotated[
        float | None, typer.Option(help="Steps between evaluations, 0 for one at the end.", show_default="a twentieth")
    ] = None,
    eval_episodes: Annotated[int, typer.Option(help="Episodes of each evaluation.")] = 20,
    save_freq: Annotated[
        float | None, typer.Option(help="Steps between checkpoints, 0 for none.", show_default="a fifth")
    ] = None,
    log_folder: LogFolder = Path("runs"),
    resume: Annotated[
        str | None, typer.Option(help="Go on with a run: its folder, or an environment for its latest.", metavar="RUN")
    ] = None,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Log for TensorBoard, too.")] = False,
    wandb: Annotated[bool, typer.Option("--wandb", help="Log to Weights & Biases, too.")] = False,
    wandb_project: Annotated[str, typer.Option(help="Project of Weights & Biases.")] = "sb3-trpo",
    device: Device = "auto",
    num_threads: Threads = 1,
    trust: Trust = False,
    gym_packages: GymPackages = None,
) -> None:
    """Train a model and leave it, with logs and evaluations, in a run folder that RL Zoo can read."""
    if (env is None) == (resume is None):
        raise UsageError("give an environment to train in (--env ID), or a run to go on with (--resume RUN)")
    if env is not None and trust:
        raise UsageError("--trust is for a run to go on with (--resume RUN): leave it out")
    whole("--n-seeds", n_seeds, 1)
    _refuse_ignored(context, resume)
    prepare(gym_packages, num_threads)
    from sb3_trpo.zoo.console import console
    from sb3_trpo.zoo.train_run import resume as go_on
    from sb3_trpo.zoo.train_run import train as train_one

    if resume is not None:
        trained = go_on(_run(resume, log_folder), n_timesteps, show_progress=True, trust=trust)
        _say_how_it_went(trained)
        raise typer.Exit(trained.exit_code)
    means: list[float] = []
    for k in range(n_seeds):
        trained = train_one(
            str(env),
            algo,
            hyperparams=hyperparams,
            overrides=parse_overrides(param),
            n_timesteps=n_timesteps,
            seed=None if seed is None and n_seeds == 1 else (seed or 0) + k,
            vec_env=vec_env,
            eval_freq=eval_freq,
            n_eval_episodes=eval_episodes,
            save_freq=save_freq,
            log_folder=log_folder,
            tensorboard=tensorboard or wandb,
            wandb_project=wandb_project if wandb else None,
            device=device,
            show_progress=True,
        )
        _say_how_it_went(trained)
        if trained.exit_code:
            raise typer.Exit(trained.exit_code)
        means += [trained.evaluation.mean] if trained.evaluation is not None else []
    if n_seeds > 1:
        mean = sum(means) / n_seeds
        each = ", ".join(f"{value:.1f}" for value in means)
        console.print(f"[bold]mean over {n_seeds} seeds {mean:.1f}[/bold] ({each})")


def enjoy(
    run: RunArgument,
    video: Annotated[
        Path | None, typer.Option(help="Film to write instead of opening a window: mp4, gif, webm.", metavar="FILE")
    ] = None,
    episodes: Annotated[int, typer.Option(help="Episodes to play.")] = 1,
    stochastic: Stochastic = False,
    best: Best = False,
    averaged: Averaged = False,
    no_render: Annotated[bool, typer.Option("--no-render", help="Play without looking.")] = False,
    log_folder: LogFolder = Path("runs"),
    seed: Annotated[int, typer.Option(help="Of the initial states.")] = 20_000,
    device: Device = "auto",
    trust: Trust = False,
    gym_packages: GymPackages = None,
) -> None:
    """Watch a trained model play, or film it."""
    prepare(gym_packages)
    from sb3_trpo.zoo.console import console
    from sb3_trpo.zoo.playing import enjoy as play

    returns = play(
        run,
        log_folder=log_folder,
        video=video,
        n_episodes=episodes,
        best=best,
        averaged=averaged,
        stochastic=stochastic,
        render=not no_render,
        seed=seed,
        device=device,
        trust=trust,
    )
    film = f"; film {video}" if video else ""
    console.print(f"return {', '.join(f'{value:.1f}' for value in returns)}{film}", markup=False)


def evaluate(
    run: RunArgument,
    episodes: Annotated[int, typer.Option(help="Episodes to play.")] = 100,
    stochastic: Stochastic = False,
    best: Best = False,
    averaged: Averaged = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    log_folder: LogFolder = Path("runs"),
    seed: Annotated[int, typer.Option(help="Of the initial states.")] = 20_000,
    device: Device = "auto",
    trust: Trust = False,
    gym_packages: GymPackages = None,
) -> None:
    """Measure a trained model: mean, standard deviation, interquartile mean and its interval."""
    prepare(gym_packages)
    from sb3_trpo.zoo.console import console
    from sb3_trpo.zoo.playing import evaluate_run

    score = evaluate_run(
        run,
        episodes,
        log_folder=log_folder,
        best=best,
        averaged=averaged,
        stochastic=stochastic,
        seed=seed,
        device=device,
        trust=trust,
    )
    if as_json:
        typer.echo(score.as_json())
        return
    how = "without noise" if score.deterministic else "sampled"
    console.print(f"{score.run}/{score.model}: {score.n_episodes} episodes, actions {how}", markup=False)
    console.print(f"mean [bold green]{score.mean:.1f}[/bold green] ± {score.std:.1f}, length {score.length:.0f}")
    interval = f", 95% interval {score.iqm_low:.1f} to {score.iqm_high:.1f}" if score.n_episodes > 1 else ""
    console.print(f"interquartile mean {score.iqm:.1f}{interval}")


def list_runs(
    env: Annotated[str | None, typer.Option("--env", help="Only runs of this environment.", metavar="ID")] = None,
    log_folder: LogFolder = Path("runs"),
) -> None:
    """List the runs in a folder with their last and best evaluations."""
    from rich.markup import escape
    from rich.table import Table

    from sb3_trpo.zoo.console import console
    from sb3_trpo.zoo.listing import Listed
    from sb3_trpo.zoo.listing import list_runs as listed

    runs = listed(log_folder, env)
    if not console.is_terminal:  # for other programs: every column, whole
        typer.echo("\n".join("\t".join(run) for run in (Listed._fields, *runs)))
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in Listed._fields:
        table.add_column(name, justify="left" if name == "run" else "right", overflow="fold")
    for run in runs:
        table.add_row(*map(escape, run))
    console.print(table)


def _say_how_it_went(trained: "Trained") -> None:
    """The last evaluation, and what to do next."""
    from sb3_trpo.zoo.console import console

    last, where = trained.evaluation, shlex.quote(str(trained.run.folder))
    if trained.exit_code:
        console.print(f"interrupted after {trained.model.num_timesteps:,} steps; what was learned is kept")
    if last is not None:
        console.print(
            f"return over {len(last.returns)} episodes without noise: "
            f"[bold green]{last.mean:.1f} ± {last.returns.std():.1f}[/bold green] after {last.step:,} steps"
        )
    console.print(f"watch   sb3-trpo enjoy {where}\ncurve   sb3-trpo plot {where}", markup=False)
    if trained.exit_code:
        console.print(f"go on   sb3-trpo train --resume {where}", markup=False)


def _refuse_ignored(context: typer.Context, resume: str | None) -> None:
    """Refuse options beside ``--resume`` that would be ignored: a run goes on as it was begun."""
    names = ("resume", "n_timesteps", "log_folder", "num_threads", "trust", "gym_packages")
    for parameter in context.command.params:
        source = context.get_parameter_source(str(parameter.name))
        is_given = source is not None and source.name == "COMMANDLINE"
        if resume is not None and is_given and parameter.name not in names:
            raise UsageError(f"{parameter.opts[-1]} cannot be changed when a run goes on: leave it out")


def _run(where: str, log_folder: Path) -> Path:
    from sb3_trpo.zoo.runs import find_run

    return find_run(where, log_folder).folder
