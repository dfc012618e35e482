"""Time and memory of this package against sb3-contrib's TRPO, defaults of both; PPO of Stable-Baselines3 beside them.

    .venv/bin/python -m benchmarks.speed                             # everything, about a quarter of an hour
    .venv/bin/python -m benchmarks.speed --only hopper train64       # these rows again, the others stay
    .venv/bin/python -m benchmarks.speed --quick                     # a smoke test; its numbers mean little
    .venv/bin/python -m benchmarks.speed --plot-only                 # tables and figures from the file, nothing is run

One process, one thread, for torch and for numpy. Contestants take turns, in alternating order, after a warm-up of each
that is discarded; a ratio is taken within each repetition, and its median over the repetitions is reported. Every
measurement is in measurements.csv and what it was measured on in conditions.json; a row is written when it is finished.
`benchmarks.speed_measure` tells how each figure is obtained.
"""

import argparse
import os
import sys
from pathlib import Path

# One BLAS thread for numpy, for every contestant; numpy's BLAS reads this when numpy is imported, so before it is.
os.environ.update({"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"})

from benchmarks import speed_plot

ROOT = Path(__file__).resolve().parent.parent
QUICK_FOLDER = Path("runs") / "speed"


def measure(rows: list[str], runs: int, quick: bool, folder: Path) -> None:
    """Measure row by row, and replace what the file holds about each as soon as it is finished."""
    from benchmarks import speed_measure

    speed_measure.prepare_process()
    for row in rows:
        conditions = {**speed_measure.conditions(), "runs": runs, "quick": quick}
        measurements = speed_measure.measure(row, runs, quick)
        speed_plot.replace_row(folder, row, measurements, conditions)


def main() -> None:
    """Parse the command line, measure, print the tables and draw the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    rows = list(speed_plot.ROWS)
    parser.add_argument(
        "--only", nargs="+", choices=rows, metavar="ROW", help=f"rows to measure (default all): {' '.join(rows)}"
    )
    parser.add_argument("--runs", type=int, default=5, help="repetitions of each, to take the median of (default 5)")
    parser.add_argument("--quick", action="store_true", help="one repetition of fewer steps and sizes, a smoke test")
    parser.add_argument(
        "--output",
        type=Path,
        help=f"folder of the results (default benchmarks/speed, with --quick {QUICK_FOLDER})",
    )
    parser.add_argument("--plot-only", action="store_true", help="tables and figures of what is there; measure nothing")
    arguments = parser.parse_args()
    if arguments.runs < 1:
        parser.error(f"--runs {arguments.runs}: must be >= 1")
    folder = arguments.output or (ROOT / QUICK_FOLDER if arguments.quick else Path(__file__).parent / "speed")
    if not arguments.plot_only:
        measure(arguments.only or rows, 1 if arguments.quick else arguments.runs, arguments.quick, folder)
    measurements = speed_plot.read(folder)
    if not measurements:
        parser.error(f"{folder} holds no measurements: run without --plot-only first")
    print(speed_plot.markdown(measurements, speed_plot.read_conditions(folder)))
    for file in speed_plot.draw(measurements, folder):
        print(f"drawn: {os.path.relpath(file)}", file=sys.stderr)


if __name__ == "__main__":
    main()
