"""What `benchmarks.speed` measured: the file, the tables of the README and the figures."""

import csv
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from sb3_trpo.evaluation.curves import COLORS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROLLOUT = 2048
MEMORY_ROWS, MEMORY_WIDTH = 16384, 256
ROWS = {
    "cartpole": "CartPole-v1, 1 environment",
    "halfcheetah": "HalfCheetah-v5, 1 environment",
    "hopper": "Hopper-v5, 1 environment",
    "halfcheetah8": "HalfCheetah-v5, 8 environments",
    "train64": "HalfCheetah-v5, 64x64",
    "train256": "HalfCheetah-v5, 256x256",
    "memory": f"{MEMORY_WIDTH}x{MEMORY_WIDTH}, N = {MEMORY_ROWS}",
    "scaling": "HalfCheetah-v5",
}
LEARN = ("cartpole", "halfcheetah", "hopper", "halfcheetah8")
TRAIN = ("train64", "train256")
KINDS = {"rows": "rows of the rollout, 64x64", "parameters": f"parameters of the actor, N = {ROLLOUT}"}
REACH = {
    "cartpole": "10x",
    "halfcheetah": "5x",
    "hopper": "3.3x",
    "halfcheetah8": "2.8x",
    "train64": "8x",
    "train256": "5x",
    "memory": "<= 0.5x",
    "scaling": "linear",
}
REACH_OVER_ENVIRONMENT = {"halfcheetah": "<= 1.35x", "hopper": "<= 1.35x"}
NAMES = {"sb3_trpo": "sb3_trpo", "sb3_contrib": "sb3-contrib", "ppo": "PPO"}
OURS, THEIRS = "sb3_trpo", "sb3_contrib"
PART_COLORS = {
    "environment": "#c4c9cf",
    "rollout": "#8db4d2",
    "actor": COLORS[0],
    "critic": "#e0a458",
    "actor and critic at once": "#b79fca",
    "rest": "#5f6368",
}


class Measurement(NamedTuple):
    """One number; ``size`` is what it depends on where a row has several sizes."""

    row: str
    contestant: str
    repetition: int
    metric: str
    value: float
    size: int = 0


def read(folder: Path) -> list[Measurement]:
    """What was measured so far; nothing when there is no file."""
    file = folder / "measurements.csv"
    if not file.exists():
        return []
    with file.open(newline="") as stream:
        return [
            Measurement(row, contestant, int(repetition), metric, float(value), int(size))
            for row, contestant, repetition, metric, value, size in list(csv.reader(stream))[1:]
        ]


def read_conditions(folder: Path) -> dict[str, dict[str, Any]]:
    """What each row was measured on."""
    file = folder / "conditions.json"
    return json.loads(file.read_text()) if file.exists() else {}


def replace_row(folder: Path, row: str, measurements: list[Measurement], conditions: dict[str, Any]) -> None:
    """Put one row in the place of what the files hold about it; they are whole at every moment."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = [measurement for measurement in read(folder) if measurement.row != row]
    table = sorted([*kept, *measurements], key=lambda m: (list(ROWS).index(m.row), m.size, m.repetition))
    temporary = folder / "measurements.tmp"
    with temporary.open("w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(Measurement._fields)
        writer.writerows([m._replace(value=f"{m.value:.6g}") for m in table])
    temporary.replace(folder / "measurements.csv")
    everywhere = {**read_conditions(folder), row: conditions}
    temporary.write_text(json.dumps({name: everywhere[name] for name in ROWS if name in everywhere}, indent=2) + "\n")
    temporary.replace(folder / "conditions.json")


class Table:
    """Medians over repetitions and ratios within them."""

    def __init__(self, measurements: list[Measurement]):
        self._values: dict[tuple[str, str, str, int], dict[int, float]] = {}
        for row, contestant, repetition, metric, value, size in measurements:
            self._values.setdefault((row, contestant, metric, size), {})[repetition] = value

    def has(self, row: str) -> bool:
        """Whether the row was measured."""
        return any(key[0] == row for key in self._values)

    def median(self, row: str, contestant: str, metric: str, size: int = 0) -> float:
        """Over the repetitions; NaN for what was not measured."""
        values = self._values.get((row, contestant, metric, size), {})
        return float(np.median(list(values.values()))) if values else np.nan

    def ratio(self, row: str, over: tuple[str, str], under: tuple[str, str]) -> float:
        """The median of the ratios of two (contestant, metric) within each repetition."""
        numerators, denominators = self._values[(row, *over, 0)], self._values[(row, *under, 0)]
        return float(np.median([numerators[k] / denominators[k] for k in numerators.keys() & denominators.keys()]))

    def sizes(self, row: str, contestant: str, metric: str) -> list[int]:
        """Those that were measured, in order."""
        return sorted(size for (*key, size) in self._values if tuple(key) == (row, contestant, metric))

    def slope(self, contestant: str, kind: str) -> float:
        """Of a line through the seconds of an update against its size, both as logarithms."""
        metric = f"update_s by {kind}"
        sizes = self.sizes("scaling", contestant, metric)
        seconds = [self.median("scaling", contestant, metric, size) for size in sizes]
        return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0]) if len(sizes) > 1 else np.nan


def markdown(measurements: list[Measurement], conditions: dict[str, dict[str, Any]]) -> str:
    """The tables, with a line about what they were measured on."""
    table = Table(measurements)
    return "\n\n".join(
        text for text in (main_table(table), learn_table(table), train_table(table), remarks(conditions)) if text
    )


def number(value: float) -> str:
    """Three digits, or more where more stand before the point."""
    size = abs(value)
    return "–" if np.isnan(value) else f"{value:.{0 if size >= 99.95 else 1 if size >= 9.995 else 2}f}"


def main_table(table: Table) -> str:
    """Each kind of work: both contestants, their ratio, and the ratio to reach."""
    lines = ["| work | sb3_trpo | sb3-contrib | ratio | reach |", "|---|---|---|---|---|"]

    def add(work: str, cells: list[str], ratio: str, reach: str) -> None:
        lines.append(f"| {work} | {' | '.join(cells)} | {ratio} | {reach} |")

    def both(row: str, metric: str, scale: float = 1.0) -> list[str]:
        return [number(table.median(row, name, metric) * scale) for name in (OURS, THEIRS)]

    for row in filter(table.has, LEARN):
        cells = [f"{cell} µs/step" for cell in both(row, "learn_us")]
        ratio = table.ratio(row, (THEIRS, "learn_us"), (OURS, "learn_us"))
        add(f"`learn()`, {ROWS[row]}", cells, f"{number(ratio)}x", REACH[row])
    for row in filter(table.has, TRAIN):
        cells = [f"{cell} ms" for cell in both(row, "update_s", 1e3)]
        ratio = table.ratio(row, (THEIRS, "update_s"), (OURS, "update_s"))
        add(f"`train()` alone, {ROWS[row]}", cells, f"{number(ratio)}x", REACH[row])
    for row in filter(table.has, REACH_OVER_ENVIRONMENT):
        cells = [
            f"{learn} over {alone} µs/step"
            for learn, alone in zip(both(row, "learn_us"), both(row, "environment_us"), strict=True)
        ]
        ratio = table.ratio(row, (OURS, "learn_us"), (OURS, "environment_us"))
        work = f"`learn()` over `env.step` alone, {ROWS[row]}"
        add(work, cells, f"{number(ratio)}x", REACH_OVER_ENVIRONMENT[row])
    if table.has("memory"):
        ratio = table.ratio("memory", (OURS, "peak_mib"), (THEIRS, "peak_mib"))
        cells = [f"{cell} MiB" for cell in both("memory", "peak_mib")]
        add(f"peak memory of the update, {ROWS['memory']}", cells, f"{number(ratio)}x", REACH["memory"])
    for kind in KINDS if table.has("scaling") else ():
        cells = [f"slope {number(table.slope(name, kind))}" for name in (OURS, THEIRS)]
        sizes = table.sizes("scaling", OURS, f"update_s by {kind}")
        work = f"one update, {KINDS[kind]}: {sizes[0]} to {sizes[-1]}"
        add(work, cells, "", REACH["scaling"])
    return "\n".join(lines)


def learn_parts(table: Table, row: str, contestant: str) -> dict[str, float]:
    """Where the microseconds of a step go: medians, which need not add up to the median of the whole."""
    parts = {
        part: table.median(row, contestant, f"{part}_us") for part in ("environment", "rollout", "actor", "critic")
    }
    if np.isnan(parts["actor"]):
        del parts["actor"], parts["critic"]
        parts["actor and critic at once"] = table.median(row, contestant, "update_us")
    return {**parts, "rest": table.median(row, contestant, "rest_us")}


def learn_table(table: Table) -> str:
    """`learn` of each contestant and its parts."""
    rows = [row for row in LEARN if table.has(row)]
    if not rows:
        return ""
    lines = [
        "| `learn()`, µs/step | | all | environment | rollout | actor | critic | rest | over `env.step` alone |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        for name in NAMES:
            parts = {part: number(value) for part, value in learn_parts(table, row, name).items()}
            parts.setdefault("actor", f"{parts.get('actor and critic at once')}, both")
            cells = [parts.get(part, "") for part in ("environment", "rollout", "actor", "critic", "rest")]
            over = table.ratio(row, (name, "learn_us"), (name, "environment_us"))
            learn = number(table.median(row, name, "learn_us"))
            lines.append(f"| {ROWS[row]} | {NAMES[name]} | {learn} | {' | '.join(cells)} | {number(over)}x |")
    return "\n".join(lines)


def train_table(table: Table) -> str:
    """`train` alone, its parts, and the conjugate gradient steps it made."""
    rows = [row for row in TRAIN if table.has(row)]
    if not rows:
        return ""
    lines = ["| `train()` alone, ms | | all | actor | critic | CG steps |", "|---|---|---|---|---|---|"]
    for row in rows:
        for name in (OURS, THEIRS):
            cells = [number(table.median(row, name, f"{part}_s") * 1e3) for part in ("update", "actor", "critic")]
            cells.append(f"{table.median(row, name, 'cg_steps'):.0f}")
            lines.append(f"| {ROWS[row]} | {NAMES[name]} | {' | '.join(cells)} |")
    return "\n".join(lines)


def remarks(conditions: dict[str, dict[str, Any]]) -> str:
    """How it was measured, in a sentence for each set of rows that were measured alike."""
    alike: dict[str, list[str]] = {}
    for row, seen in conditions.items():
        versions = ", ".join(
            f"{name} {seen[name]}" for name in ("torch", "numpy", "stable_baselines3", "sb3_contrib", "sb3_trpo")
        )
        quick = "a quick smoke test of " if seen["quick"] else ""
        repetitions = f"{seen['runs']} interleaved repetition{'s' if seen['runs'] > 1 else ''}"
        sentence = f"{quick}{repetitions}, medians, one thread, {seen['cpu']}, Python {seen['python']}, {versions}"
        alike.setdefault(sentence, []).append(row)
    return "\n".join(f"{', '.join(rows)}: {sentence}." for sentence, rows in alike.items())


def draw(measurements: list[Measurement], folder: Path) -> list[Path]:
    """The figures of what was measured, and their files."""
    import matplotlib

    matplotlib.use("Agg")
    table, files = Table(measurements), []
    if any(map(table.has, LEARN)):
        files.append(draw_learn(table, folder / "learn.png"))
    if table.has("scaling"):
        files.append(draw_scaling(table, folder / "scaling.png"))
    return files


def draw_learn(table: Table, file: Path) -> Path:
    """A stacked bar for each contestant in each environment, with the environment's own time as a line."""
    from matplotlib import pyplot as plt
    from matplotlib.patches import Patch

    rows = [row for row in LEARN if table.has(row)]
    figure, panels = plt.subplots(
        len(rows), figsize=(8, 0.9 + 1.2 * len(rows)), sharex=True, squeeze=False, constrained_layout=True
    )
    for panel, row in zip(panels[:, 0], rows, strict=True):
        draw_bars(panel, table, row)
    longest = max(table.median(row, name, "learn_us") for row in rows for name in NAMES)
    panels[-1, 0].set_xlim(0, 1.14 * longest)  # room for the number behind the bar
    panels[-1, 0].set_xlabel("µs per environment step")
    handles = [Patch(color=color, label=part) for part, color in PART_COLORS.items()]
    handles.append(plt.Line2D([], [], color="black", linewidth=1, linestyle="--", label="env.step alone, for sb3_trpo"))
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    figure.savefig(file, dpi=150)
    plt.close(figure)
    return file


def draw_bars(panel: "Axes", table: Table, row: str) -> None:
    """The contestants of one environment, ours on top."""
    for name in NAMES:
        left, parts = 0.0, learn_parts(table, row, name)
        if parts["rollout"] < 0:  # faster than `VecEnv.step`
            parts["environment"] += parts.pop("rollout")
        for part, value in parts.items():
            panel.barh(NAMES[name], value, left=left, color=PART_COLORS[part], height=0.72)
            left += value
        ratio = table.ratio(row, (name, "learn_us"), (OURS, "learn_us"))
        learn = number(table.median(row, name, "learn_us"))
        label = learn if name == OURS else f"{learn}  ({ratio:.1f}x)"
        panel.annotate(
            label,
            (left, NAMES[name]),
            (5, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
        )
    panel.axvline(table.median(row, OURS, "environment_us"), color="black", linewidth=1, linestyle="--")
    panel.invert_yaxis()
    panel.set_title(ROWS[row], loc="left", fontsize=9)
    panel.tick_params(axis="y", length=0)
    panel.tick_params(labelsize=8)
    panel.spines[["top", "right", "left"]].set_visible(False)
    panel.grid(axis="x", alpha=0.25)
    panel.set_axisbelow(True)


def draw_scaling(table: Table, file: Path) -> Path:
    """Seconds of an update against rows and against parameters, with a line of slope 1 to compare."""
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, len(KINDS), figsize=(10, 4), constrained_layout=True)
    for panel, (kind, label) in zip(panels, KINDS.items(), strict=True):
        metric = f"update_s by {kind}"
        for name, color in zip((OURS, THEIRS), COLORS, strict=False):
            sizes = table.sizes("scaling", name, metric)
            seconds = [table.median("scaling", name, metric, size) for size in sizes]
            legend = f"{NAMES[name]}, slope {number(table.slope(name, kind))}"
            panel.loglog(sizes, seconds, "o-", color=color, linewidth=2, markersize=5, label=legend)
        sizes = table.sizes("scaling", OURS, metric)
        last = table.median("scaling", OURS, metric, sizes[-1])
        guide = [last / 2 * size / sizes[-1] for size in sizes]
        panel.loglog(sizes, guide, "--", color="#5f6368", linewidth=1, label="slope 1")
        panel.set_xlabel(label)
        panel.grid(alpha=0.25, which="major")
        panel.spines[["top", "right"]].set_visible(False)
        panel.legend(frameon=False, loc="upper left")
    panels[0].set_ylabel("seconds of one update")
    figure.savefig(file, dpi=150)
    plt.close(figure)
    return file
