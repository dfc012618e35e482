"""The command ``sb3-trpo``: every subcommand parses its options and calls one function of this package.

Functions are imported where they are called, so that ``--help`` and complaints about a wrong option come at once.
"""

import itertools
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from sb3_trpo.zoo.errors import UsageError, did_you_mean, whole

app = typer.Typer(
    name="sb3-trpo",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Trust Region Policy Optimization: train, tune, compare, watch.",
    epilog="Every command has examples: [bold]sb3-trpo train --help[/bold]. "
    "Completion for your shell: [bold]sb3-trpo --install-completion[/bold].",
)

Env = Annotated[str, typer.Option("--env", help="Id of a registered environment.", metavar="ID")]
Algo = Annotated[
    str,
    typer.Option("--algo", help="trpo; with --hyperparams also ppo, a2c, or module:Class such as sb3_contrib:TRPO."),
]
HyperparamsFile = Annotated[
    Path | None,
    typer.Option(
        "--hyperparams", "--conf-file", help="File in RL Zoo's format.", show_default="the shipped one", metavar="FILE"
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("-P", "--param", help="Set a hyperparameter, as often as you like.", metavar="KEY=VALUE"),
]
Steps = Annotated[
    float | None,
    typer.Option("-n", "--n-timesteps", help="Environment steps.", show_default="from the file", metavar="N"),
]
LogFolder = Annotated[Path, typer.Option("-f", "--log-folder", help="Where run folders are.", metavar="FOLDER")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, ... Small networks are fastest on the CPU.")]
Threads = Annotated[int, typer.Option(help="Threads of torch; one is fastest for small networks.")]
RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="Run folder, or environment id for its latest run.")]
Best = Annotated[bool, typer.Option("--best", help="The model of the best evaluation, not the last one.")]
Stochastic = Annotated[bool, typer.Option("--stochastic", help="Sample actions, as in training.")]
First = Annotated[
    str | None, typer.Option("--first", help="Contestant to put first.", show_default="the first in the table")
]
GymPackages = Annotated[
    list[str] | None,
    typer.Option("--gym-packages", help="Module to import first: it registers environments.", metavar="MODULE"),
]


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


@app.command(
    epilog="""[bold]Examples[/bold]

    sb3-trpo train --env CartPole-v1

    sb3-trpo train --env HalfCheetah-v5 --seed 1 --n-seeds 3 -P target_kl=0.03 -P n_envs=4

    sb3-trpo train --env Hopper-v5 --algo ppo --hyperparams my_ppo.yml --tensorboard

    sb3-trpo train --resume runs/trpo/HalfCheetah-v5_1 --n-timesteps 2e6"""
)
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
    gym_packages: GymPackages = None,
) -> None:
    """Train a model and leave it, with logs and evaluations, in a run folder that RL Zoo can read."""
    if (env is None) == (resume is None):
        raise UsageError("give an environment to train in (--env ID), or a run to go on with (--resume RUN)")
    whole("--n-seeds", n_seeds, 1)
    if resume is not None:
        _refuse_all_but(context, ("resume", "n_timesteps", "log_folder", "num_threads", "gym_packages"))
    _prepare(gym_packages, num_threads)
    from sb3_trpo.zoo.console import console
    from sb3_trpo.zoo.train_run import Trained
    from sb3_trpo.zoo.train_run import resume as go_on
    from sb3_trpo.zoo.train_run import train as train_one

    def say(trained: Trained) -> None:
        last, where = trained.evaluation, shlex.quote(str(trained.run.folder))
        if trained.was_interrupted:
            console.print(f"interrupted after {last.step:,} steps; what was learned is kept")
        console.print(
            f"return over {len(last.returns)} episodes without noise: "
            f"[bold green]{last.mean:.1f} ± {last.returns.std():.1f}[/bold green] after {last.step:,} steps"
        )
        console.print(f"watch   sb3-trpo enjoy {where}\ncurve   sb3-trpo plot {where}", markup=False)
        if trained.was_interrupted:
            console.print(f"go on   sb3-trpo train --resume {where}", markup=False)

    if resume is not None:
        trained = go_on(_run(resume, log_folder), n_timesteps, show_progress=True)
        say(trained)
        raise typer.Exit(130 if trained.was_interrupted else 0)
    means: list[float] = []
    for k in range(n_seeds):
        trained = train_one(
            str(env),
            algo,
            hyperparams=hyperparams,
            overrides=_overrides(param),
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
        say(trained)
        means.append(trained.evaluation.mean)
        if trained.was_interrupted:
            raise typer.Exit(130)
    if n_seeds > 1:
        mean = sum(means) / n_seeds
        each = ", ".join(f"{value:.1f}" for value in means)
        console.print(f"[bold]mean over {n_seeds} seeds {mean:.1f}[/bold] ({each})")


@app.command(
    epilog="""[bold]Examples[/bold]

    sb3-trpo enjoy runs/trpo/CartPole-v1_1

    sb3-trpo enjoy HalfCheetah-v5 --best --video cheetah.mp4"""
)
def enjoy(
    run: RunArgument,
    video: Annotated[
        Path | None, typer.Option(help="Film to write instead of opening a window: mp4, gif, webm.", metavar="FILE")
    ] = None,
    episodes: Annotated[int, typer.Option(help="Episodes to play.")] = 1,
    stochastic: Stochastic = False,
    best: Best = False,
    no_render: Annotated[bool, typer.Option("--no-render", help="Play without looking.")] = False,
    log_folder: LogFolder = Path("runs"),
    seed: Annotated[int, typer.Option(help="Of the initial states.")] = 20_000,
    device: Device = "auto",
    gym_packages: GymPackages = None,
) -> None:
    """Watch a trained model play, or film it."""
    _prepare(gym_packages)
    from sb3_trpo.zoo.console import console
    from sb3_trpo.zoo.playing import enjoy as play

    returns = play(
        run,
        log_folder=log_folder,
        video=video,
        n_episodes=episodes,
        best=best,
        stochastic=stochastic,
        render=not no_render,
        seed=seed,
        device=device,
    )
    film = f"; film {video}" if video else ""
    console.print(f"return {', '.join(f'{value:.1f}' for value in returns)}{film}", markup=False)


@app.command(
    epilog="""[bold]Examples[/bold]

    sb3-trpo evaluate runs/trpo/CartPole-v1_1 --episodes 100

    sb3-trpo evaluate HalfCheetah-v5 --best --json | jq .iqm"""
)
def evaluate(
    run: RunArgument,
    episodes: Annotated[int, typer.Option(help="Episodes to play.")] = 100,
    stochastic: Stochastic = False,
    best: Best = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    log_folder: LogFolder = Path("runs"),
    seed: Annotated[int, typer.Option(help="Of the initial states.")] = 20_000,
    device: Device = "auto",
    gym_packages: GymPackages = None,
) -> None:
    """Measure a trained model: mean, standard deviation, interquartile mean and its interval."""
    _prepare(gym_packages)
    from sb3_trpo.zoo.console import console
    from sb3_trpo.zoo.playing import evaluate_run

    score = evaluate_run(
        run, episodes, log_folder=log_folder, best=best, stochastic=stochastic, seed=seed, device=device
    )
    if as_json:
        typer.echo(score.as_json())
        return
    how = "without noise" if score.deterministic else "sampled"
    console.print(f"{score.run}/{score.model}: {score.n_episodes} episodes, actions {how}", markup=False)
    console.print(f"mean [bold green]{score.mean:.1f}[/bold green] ± {score.std:.1f}, length {score.length:.0f}")
    interval = f", 95% interval {score.iqm_low:.1f} to {score.iqm_high:.1f}" if score.n_episodes > 1 else ""
    console.print(f"interquartile mean {score.iqm:.1f}{interval}")


@app.command("list", epilog="[bold]Example[/bold]\n\n    sb3-trpo list --env CartPole-v1")
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


@app.command(
    epilog="""[bold]Examples[/bold]

    sb3-trpo tune --env Pendulum-v1 --n-trials 50

    sb3-trpo tune --env Hopper-v5 --n-timesteps 3e5 --n-seeds 5 --n-jobs 2 --sampler gp

    sb3-trpo tune --env Ant-v5 --storage postgresql://user@host/studies   (on each of several machines)

Stop it with Ctrl-C, or lose a worker; the same command goes on where it was."""
)
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
    _prepare(gym_packages)
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
        overrides=_overrides(param),
        n_timesteps=n_timesteps,
        seed=seed,
        folder=output,
        packages=gym_packages or (),
    )
    if result.interrupted:
        raise typer.Exit(130)


@app.command(
    epilog="""[bold]Example[/bold]

    sb3-trpo benchmark grid.yml --jobs 2

A grid file:

    environments: [CartPole-v1, Pendulum-v1]
    seeds: 5
    n_timesteps: 1e5
    contestants:
      sb3_trpo: {algo: trpo}
      sb3-contrib: {algo: "sb3_contrib:TRPO", hyperparams: theirs.yml}
      PPO: {algo: ppo, hyperparams: ppo.yml}"""
)
def benchmark(
    grid: Annotated[Path, typer.Argument(metavar="GRID.yml", help="Environments, contestants and seeds.")],
    jobs: Annotated[int, typer.Option("-j", "--jobs", help="Runs at a time, one thread each.")] = 2,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder.", show_default="runs/benchmark/GRID")
    ] = None,
    gym_packages: GymPackages = None,
) -> None:
    """Train every contestant on every environment and seed, and keep one table of scores; resumable."""
    _prepare(gym_packages)
    from sb3_trpo.zoo.benchmarking import benchmark as run_grid
    from sb3_trpo.zoo.console import console

    scores = run_grid(grid, output, jobs, packages=gym_packages or ())
    where = shlex.quote(str(scores))
    console.print(f"scores  {where}\nplots   sb3-trpo plot {where}\ntables  sb3-trpo report {where}", markup=False)


@app.command(
    epilog="""[bold]Examples[/bold]

    sb3-trpo plot runs/benchmark/mujoco/scores.csv

    sb3-trpo plot runs/trpo/CartPole-v1_1 runs/trpo/CartPole-v1_2 -o plots"""
)
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


@app.command(epilog="[bold]Example[/bold]\n\n    sb3-trpo report runs/benchmark/mujoco/scores.csv > scores.md")
def report(
    sources: Annotated[list[str], typer.Argument(metavar="scores.csv|RUN...", help="A table of scores, or runs.")],
    first: First = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="File to write, too.")] = None,
    log_folder: LogFolder = Path("runs"),
) -> None:
    """Print Markdown tables of the scores."""
    from sb3_trpo.zoo.figures import report as tables

    typer.echo(tables(sources, output, log_folder=log_folder, first=first).rstrip())


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
    commands = [command.name or command.callback.__name__ for command in app.registered_commands if command.callback]
    word = next((word for word in given if not word.startswith("-")), "")
    if sentence.startswith("No such command") and word:
        return f"command {word!r} is unknown{did_you_mean(word, commands)}"
    if sentence.startswith("Invalid value for "):
        names, _, reason = sentence.removeprefix("Invalid value for ").partition(": ")
        options = [name.strip("' ") for name in names.split("/")]
        values = [after for before, after in itertools.pairwise(given) if before in options]
        sentence = f"{options[-1]}={values[-1]!r}: {reason}" if values else sentence
    return f"{sentence} (see sb3-trpo {word} --help)" if word in commands else sentence


def _prepare(gym_packages: Sequence[str] | None = None, num_threads: int = 1) -> None:
    """Register environments, and set threads before numpy is loaded."""
    import importlib

    whole("--num-threads", num_threads, 1)
    os.environ.setdefault("OMP_NUM_THREADS", str(num_threads))
    from sb3_trpo.zoo.training import hush_mujoco, use_threads

    use_threads(num_threads)
    hush_mujoco()
    if gym_packages:
        sys.path.insert(0, "")  # modules in this folder, as with `python -m`
    try:
        for module in gym_packages or ():
            importlib.import_module(module)
    except ImportError as error:
        raise UsageError(f"--gym-packages: {error}") from error


def _overrides(pairs: Sequence[str] | None) -> dict[str, Any]:
    from sb3_trpo.zoo.hyperparams import parse_override

    return dict(parse_override(pair) for pair in pairs or ())


def _refuse_all_but(context: typer.Context, names: Sequence[str]) -> None:
    """Refuse options beside ``--resume`` that would be ignored: a run goes on as it was begun."""
    for parameter in context.command.params:
        source = context.get_parameter_source(str(parameter.name))
        if source is not None and source.name == "COMMANDLINE" and parameter.name not in names:
            raise UsageError(f"{parameter.opts[-1]} cannot be changed when a run goes on: leave it out")


def _run(where: str, log_folder: Path) -> Path:
    from sb3_trpo.zoo.runs import find_run

    return find_run(where, log_folder).folder
