"""Rollouts of earlier policies, and experience of several of them (see `sb3_trpo.extensions.sample_reuse`)."""

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch as th
from stable_baselines3.common.buffers import RolloutBuffer
from torch import Tensor

from sb3_trpo.algorithms.acting import End, PolicyActing
from sb3_trpo.algorithms.experience import Experience, grid, stretches
from sb3_trpo.algorithms.steps import Steps
from sb3_trpo.core.activations import Array
from sb3_trpo.core.advantages import generalized_advantages
from sb3_trpo.extensions.sample_reuse import total_variation

if TYPE_CHECKING:
    from sb3_trpo.algorithms.on_policy import TrustRegionAlgorithm


class Rollout(NamedTuple):
    """One rollout of T steps in E environments, each array (T, E, ...); nobody writes into it.

    Observations and rewards are normalised by the statistics of their time, and rewards have at time limits the value
    that the critic of that time gave. ``log_probs`` are those of the policy that acted.
    """

    observations: Any
    actions: Array
    rewards: Array
    log_probs: Array
    episode_starts: Array
    action_masks: Array | None
    last_observations: Any
    last_dones: Array

    @classmethod
    def of(cls, algorithm: "TrustRegionAlgorithm") -> "Rollout":
        """The one that ``algorithm`` has just collected."""
        buffer: Any = algorithm.rollout_buffer

        def copy(array: Any) -> Any:
            if isinstance(array, dict):
                return {key: copy(part) for key, part in array.items()}
            return grid(buffer, array).copy()

        masks = getattr(buffer, "action_masks", None)
        shape = (buffer.buffer_size, buffer.n_envs)
        return cls(
            copy(buffer.observations),
            copy(buffer.actions),
            buffer.rewards.copy(),  # never flattened for samples
            copy(buffer.log_probs).reshape(shape),
            buffer.episode_starts.copy(),
            None if masks is None else copy(masks),
            _copied(algorithm._last_obs),
            np.array(algorithm._last_episode_starts),
        )

    def __deepcopy__(self, memo: Any) -> "Rollout":
        return self


class Replay(NamedTuple):
    """What an update learns from: ``n_rollouts``, from whose policies the present one has drifted.

    The ``drift`` is the mean total variation between them, in [0, 1], as the actions taken tell it.
    """

    experience: Experience
    n_rollouts: int
    drift: float


def replay(algorithm: "TrustRegionAlgorithm") -> Replay:
    """The rollout in the buffer, and those before it that are used again."""
    if algorithm.reuse == 1:
        algorithm.past_rollouts = ()  # of a file that was saved with another M
        return Replay(algorithm._experience(), 1, 0.0)
    rollouts = (*algorithm.past_rollouts, Rollout.of(algorithm))[-algorithm.reuse :]
    algorithm.past_rollouts = rollouts[1 - algorithm.reuse :]
    return _replayed(algorithm, rollouts)


def _replayed(algorithm: "TrustRegionAlgorithm", rollouts: tuple[Rollout, ...]) -> Replay:
    """All steps of ``rollouts``, whose policies differ, as the present policy and critic see them.

    Each rollout has the same weight in all. Advantages and the critic's targets are those of V-trace.
    """
    replays = [_seen_now(algorithm, rollout) for rollout in rollouts]
    parts = [one.experience for one in replays]
    counts, shift = [len(part.advantages) for part in parts], 0
    weights, clusters = [], []
    for part, count in zip(parts, counts, strict=True):
        weights.append(th.full_like(part.advantages, 1.0 / (len(parts) * count)))
        assert part.clusters is not None
        clusters.append(part.clusters + shift)
        shift += count
    joined = Experience(
        _joined_steps([part.steps for part in parts]),
        th.cat([part.actions for part in parts]),
        th.cat([part.old_log_prob for part in parts]),
        th.cat([part.advantages for part in parts]),
        th.cat([part.returns for part in parts]),
        th.cat(weights),
        th.cat(clusters),
    )
    return Replay(joined, len(replays), sum(one.drift for one in replays) / len(replays))


def _seen_now(algorithm: "TrustRegionAlgorithm", rollout: Rollout) -> Replay:
    """One rollout's steps, environment by environment; its weights are another's business."""
    shape = rollout.rewards.shape
    seen: Any = SimpleNamespace(
        observations=rollout.observations,
        actions=rollout.actions,
        action_dim=rollout.actions.shape[-1],
        values=np.zeros(shape, np.float32),
        log_probs=np.zeros(shape, np.float32),
    )
    if rollout.action_masks is not None:
        seen.action_masks = rollout.action_masks
    last_values = PolicyActing(algorithm).evaluate(seen, End([], rollout.last_observations, rollout.last_dones))
    truncated_ratios = np.exp(np.minimum(seen.log_probs - rollout.log_probs, 0.0))
    advantages = generalized_advantages(
        rollout.rewards,
        seen.values,
        rollout.episode_starts,
        last_values.flatten().cpu().numpy(),
        rollout.last_dones,
        algorithm.gamma,
        algorithm.gae_lambda,
        truncated_ratios,
    )

    def rows(array: Any) -> Any:
        if isinstance(array, dict):
            return {key: rows(part) for key, part in array.items()}
        return th.as_tensor(RolloutBuffer.swap_and_flatten(array), device=algorithm.device)

    def column(array: Array) -> Tensor:
        return th.as_tensor(np.ascontiguousarray(array.T).reshape(-1), dtype=th.float32, device=algorithm.device)

    masks = rollout.action_masks
    experience = Experience(
        Steps(rows(rollout.observations), None if masks is None else rows(masks).bool()),
        rows(rollout.actions).float(),
        column(rollout.log_probs),
        column(advantages),
        column(seen.values + truncated_ratios * advantages),
        column(np.ones(shape)),
        th.as_tensor(stretches(rollout.episode_starts).reshape(-1), device=algorithm.device),
    )
    return Replay(experience, 1, total_variation(truncated_ratios))


def _joined_steps(parts: list[Steps]) -> Steps:
    masks = [part.action_masks for part in parts if part.action_masks is not None]
    observations: Any = [part.observations for part in parts]
    if isinstance(observations[0], dict):
        joined: Any = {key: th.cat([one[key] for one in observations]) for key in observations[0]}
    else:
        joined = th.cat(observations)
    return Steps(joined, th.cat(masks) if masks else None)


def _copied(observations: Any) -> Any:
    if isinstance(observations, dict):
        return {key: np.array(part) for key, part in observations.items()}
    return np.array(observations)
