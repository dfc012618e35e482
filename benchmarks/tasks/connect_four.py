"""Connect four against an opponent that is part of the environment: PettingZoo's game, seen by one player.

observation   (84,) of 0 and 1: for each of 6 x 7 cells, from the top row down, whether a piece of ours and whether one
              of theirs is there; PettingZoo's (6, 7, 2), flattened
action        ``Discrete(7)``, the column to drop a piece into
masks         `ConnectFour.action_masks`: the columns that are not full
reward        1 for four in a line, -1 for theirs and for a piece into a full column, which ends the game; 0 for a draw
              and for all other moves
episode       a game; who begins is drawn
opponents     ``tactical``: completes a line of four where it can, else stops ours, else plays at random;
              ``random``: plays at random
optimum       at most 1, and near it: the first player can force a win against anybody (Allis, A Knowledge-Based
              Approach of Connect-Four, 1988), and neither opponent looks two moves ahead
info          ``invalid_actions``: 1 after a piece into a full column, else 0

The mean return is the share of games won less the share lost. Rules: `pettingzoo.classic.connect_four_v3`, whose own
rule for illegal moves this is, too. Opponents draw from the environment's generator: ``reset(seed=...)`` decides all.
"""

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from pettingzoo.classic import connect_four_v3

from benchmarks.tasks.invalid_actions import InvalidAction

ROWS, COLUMNS = 6, 7
OPPONENTS = ("tactical", "random")


class ConnectFour(gym.Env[NDArray[np.int8], int]):
    """A game against ``opponent``.

    :param strict: raise `InvalidAction` for a piece into a full column: a run that ends has played none
    """

    def __init__(self, opponent: str = "tactical", strict: bool = False):
        if opponent not in OPPONENTS:
            raise ValueError(f"opponent={opponent!r} must be one of {', '.join(OPPONENTS)}")
        self.opponent, self.strict = opponent, strict
        # Without PettingZoo's wrappers, which check what is checked here and take longer than the game.
        self.game = connect_four_v3.raw_env()
        self.observation_space = spaces.Box(0, 1, (ROWS * COLUMNS * 2,), np.int8)
        self.action_space = spaces.Discrete(COLUMNS)

    def action_masks(self) -> NDArray[np.bool_]:
        """Which columns are not full."""
        return np.array(self.game.board[:COLUMNS]) == 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.int8], dict[str, Any]]:
        """An empty board, or one with the opponent's first piece."""
        super().reset(seed=seed)
        self.game.reset()
        ours = int(self.np_random.integers(2))
        self.us, self.piece, self.their_piece = self.game.agents[ours], ours + 1, 2 - ours
        if ours == 1:
            self.game.step(self._answer())
        return self._observation(), {"invalid_actions": 0}

    def step(self, action: int) -> tuple[NDArray[np.int8], float, bool, bool, dict[str, Any]]:
        """Our piece, and theirs unless the game is over."""
        if self.game.board[action]:
            if self.strict:
                raise InvalidAction(f"column {action} is full, valid ones are {self.action_masks()}")
            return self._observation(), -1.0, True, False, {"invalid_actions": 1}
        self.game.step(int(action))
        if not self._is_over:
            self.game.step(self._answer())
        return self._observation(), float(self.game.rewards[self.us]), self._is_over, False, {"invalid_actions": 0}

    @property
    def _is_over(self) -> bool:
        return self.game.terminations[self.us]

    def _observation(self) -> NDArray[np.int8]:
        return self.game.observe(self.us)["observation"].ravel()

    def _answer(self) -> int:
        """The opponent's column."""
        board = self.game.board
        free = [column for column in range(COLUMNS) if not board[column]]
        if self.opponent == "tactical":
            for piece in (self.their_piece, self.piece):
                for column in free:
                    if completes_four(board, column, piece):
                        return column
        return free[self.np_random.integers(len(free))]


def completes_four(board: Sequence[int], column: int, piece: int) -> bool:
    """Whether ``piece`` would make four in a line in a column that is not full; the board row by row, 0 for empty."""
    cell = max(cell for cell in range(column, ROWS * COLUMNS, COLUMNS) if not board[cell])
    return any(board[a] == board[b] == board[c] == piece for a, b, c in OTHER_THREE[cell])


def lines_of_four() -> list[tuple[int, ...]]:
    """The cells of all 69 lines of four."""
    return [
        tuple((row + k * down) * COLUMNS + column + k * right for k in range(4))
        for down, right in ((0, 1), (1, 0), (1, 1), (1, -1))
        for row in range(ROWS)
        for column in range(COLUMNS)
        if row + 3 * down < ROWS and 0 <= column + 3 * right < COLUMNS
    ]


OTHER_THREE = [
    [tuple(other for other in line if other != cell) for line in lines_of_four() if cell in line]
    for cell in range(ROWS * COLUMNS)
]
"""Cell -> the other three of each line of four through it."""
