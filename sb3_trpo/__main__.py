"""``python -m sb3_trpo`` is the command ``sb3-trpo``."""

import sys

from sb3_trpo.zoo.cli import main

if __name__ == "__main__":
    sys.exit(main())
