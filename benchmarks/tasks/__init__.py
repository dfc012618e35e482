"""Tasks on which masks and memory are measured; importing this package registers them with Gymnasium.

    InvalidActionsDiscrete-v0, InvalidActionsMultiDiscrete-v0, InvalidActionsMultiBinary-v0     invalid_actions.py
    ConnectFour-v0              against a tactical opponent; needs PettingZoo                   connect_four.py
    DelayedRecall-v0            a cue, a delay, the cue wanted: optimum 1, without memory 1/4   delayed_recall.py

In a grid they are ``benchmarks.tasks:ConnectFour-v0`` and so on. Beside them stand CartPole and Pendulum without
velocities, which the package itself knows, and one task of others:

``popgym:popgym-RepeatPreviousEasy-v0`` (Morad et al., POPGym, ICLR 2023; MIT licence). Observation and action are one
of four suits; the action must name that of the card dealt three steps before the one in sight. One deck, 51 steps; the
48 that have such a card give +1/48 or -1/48. Optimum 1. Without memory 2 * 13/51 - 1 = -0.49: the deck is dealt without
replacement, and any suit but the one in sight is the best guess.

Chosen among POPGym's and MiniGrid's memory tasks because it tells memory from none at every step instead of once an
episode: it is learned within 3e5 steps where MiniGrid-MemoryS7 must first be explored. A step takes some 15 µs.
"""

import gymnasium as gym

gym.register(
    "InvalidActionsDiscrete-v0",
    f"{__name__}.invalid_actions:InvalidActionsDiscrete",
    kwargs={"dim": 80, "n_invalid_actions": 60},
)
gym.register(
    "InvalidActionsMultiDiscrete-v0",
    f"{__name__}.invalid_actions:InvalidActionsMultiDiscrete",
    kwargs={"dims": [10, 10, 10], "n_invalid_actions": 20},
)
gym.register(
    "InvalidActionsMultiBinary-v0",
    f"{__name__}.invalid_actions:InvalidActionsMultiBinary",
    kwargs={"dims": 10, "n_invalid_actions": 5},
)
gym.register("ConnectFour-v0", f"{__name__}.connect_four:ConnectFour")
gym.register("DelayedRecall-v0", f"{__name__}.delayed_recall:DelayedRecall")
