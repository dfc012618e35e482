"""Runs of a benchmark that take no training: what a test wants to happen is in the environment variable FAKES.

FAKES is a folder. A file ``slow`` there makes a run last as many seconds as it says, ``raise-LABEL`` makes those of a
contestant raise, ``die-LABEL`` kills their process, ``garble`` has them spoil the table of scores.

    python -m tests.zoo.fakes GRID OUTPUT JOBS        # a benchmark of such runs
"""

import os
import signal
import sys
import time
from pathlib import Path

from sb3_trpo.evaluation.scores import Score


def fake_run(run, report):
    """Two evaluations; the versions tell what the process was like."""
    folder = Path(os.environ["FAKES"])
    slow = folder / "slow"
    ends = time.monotonic() + (float(slow.read_text()) if slow.exists() else 0)
    while time.monotonic() < ends:
        report(run.n_timesteps // 2, 1.5)
        time.sleep(0.05)
    if (folder / f"raise-{run.implementation}").exists():
        raise ArithmeticError("this one\nfails")
    if (folder / f"die-{run.implementation}").exists():
        os.kill(os.getpid(), signal.SIGKILL)
    if (folder / "garble").exists():
        Path(os.environ["TABLE"]).write_text("spoilt")
    print("hello from the run")
    process = f"threads {os.environ.get('OMP_NUM_THREADS')}; torch {'torch' in sys.modules}"
    return [
        Score(
            run.env,
            run.algo,
            run.implementation,
            run.seed,
            step,
            float(step),
            0.0,
            float(step),
            5,
            float("nan"),
            step / 1000,
            run.config_hash,
            process,
        )
        for step in (run.n_timesteps // 2, run.n_timesteps)
    ]


if __name__ == "__main__":
    from sb3_trpo.zoo.benchmarking import benchmark
    from sb3_trpo.zoo.errors import UsageError
    from tests.zoo.fakes import fake_run as make_run  # by the name that workers know it by

    try:
        benchmark(sys.argv[1], sys.argv[2], int(sys.argv[3]), make_run=make_run)
    except UsageError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
