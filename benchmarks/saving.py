"""What whole, checked and harmless files cost: milliseconds of ``save`` and ``load`` beside Stable-Baselines3's.

    python -m benchmarks.saving            a model of about 1 MB

Stable-Baselines3's own `save` and `load` of the same model write and read its format: no hashes, nothing forced to the
disk, pickles. The time that the disk itself takes (two ``fsync``) is told apart.
"""

import argparse
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_trpo import TRPO
from sb3_trpo.files import replacing


def milliseconds(work: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Median and lower quartile."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(1000 * (time.perf_counter() - started))
    quartiles = statistics.quantiles(times, n=4)
    return quartiles[1], quartiles[0]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--units", type=int, default=256, help="of each of two hidden layers")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    model = TRPO("MlpPolicy", "Pendulum-v1", policy_kwargs={"net_arch": [options.units] * 2}, device="cpu").learn(2048)
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs, bare = (Path(folder) / name for name in ("ours.zip", "theirs.zip", "bare"))
        model.save(ours)
        content = ours.read_bytes()

        def flush() -> None:
            with replacing(bare) as temporary:
                temporary.write_bytes(content)

        rows = {
            "save, Stable-Baselines3": lambda: BaseAlgorithm.save(model, theirs),
            "save": lambda: model.save(ours),
            "  of which flush and rename": flush,
            "load, with the policy": lambda: TRPO.load(ours, device="cpu"),
            "load of Stable-Baselines3's format": lambda: TRPO.load(theirs, device="cpu"),
        }
        print(f"{len(content) / 2**20:.2f} MB; milliseconds, median (lower quartile) of {options.repeats}")
        for name, work in rows.items():
            print("{:36} {:7.1f} ({:.1f})".format(name, *milliseconds(work, options.repeats)))


if __name__ == "__main__":
    main()
