"""``python -m sb3_trpo.zoo`` is RL Zoo's ``train`` or ``enjoy`` with our algorithms."""

import sys

from sb3_trpo.zoo.rl_zoo import main

if __name__ == "__main__":
    sys.exit(main())
