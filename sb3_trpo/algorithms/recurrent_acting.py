"""How actions come about during one rollout of a policy with memory."""

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch as th
from gymnasium import spaces
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.utils import obs_as_tensor
from torch import Tensor

from sb3_trpo.algorithms.acting import Chooser, End, as_rows, chunks, stack
from sb3_trpo.algorithms.action_distribution import action_head
from sb3_trpo.algorithms.experience import sequential_steps
from sb3_trpo.algorithms.exploration import exploration_of
from sb3_trpo.algorithms.perceptrons import actor_network
from sb3_trpo.algorithms.sequences import Layout, Memory, Sequences
from sb3_trpo.algorithms.steps import Steps
from sb3_trpo.core.activations import Array
from sb3_trpo.core.folded_mlp import FoldedMlp
from sb3_trpo.core.lstm import LstmCell, MemoryNetwork

if TYPE_CHECKING:
    from sb3_trpo.algorithms.recurrent import RecurrentAlgorithm


class StepwiseActor(Protocol):
    """What acts and remembers, a step at a time; it begins with the memory at the start of the rollout."""

    def act(self, observations: Any, episode_starts: Array, masks: Array | None, step: int) -> Array:
        """Actions (E, ...); environments whose episode starts are forgotten before."""

    def memory(self) -> Memory:
        """Hidden and cell states (L, E, H) as they are now."""


def stepwise_actor(algorithm: "RecurrentAlgorithm", n_steps: int) -> StepwiseActor:
    """The cheapest that the policy allows."""
    network = actor_network(algorithm.policy)
    space = algorithm.observation_space
    if network is not None and isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating):
        return NumpyActor(algorithm, network, n_steps)
    return PolicyActor(algorithm)


class NumpyActor:
    """A copy of LSTM and perceptron in numpy, and noise drawn beforehand."""

    def __init__(self, algorithm: "RecurrentAlgorithm", network: MemoryNetwork, n_steps: int):
        hidden, cell = algorithm._last_lstm_states.pi
        self._cell = LstmCell(network.lstm, hidden[0], cell[0])
        self._rows = self._cell.inputs.T
        self._folded = FoldedMlp(network.mlp, algorithm.n_envs)
        self._columns = self._folded.as_columns(np.zeros((algorithm.n_envs, network.lstm.n_units)))
        self._chooser = Chooser(algorithm, action_head(algorithm.policy), self._folded.output, n_steps)

    def act(self, observations: Any, episode_starts: Array, masks: Array | None, step: int) -> Array:
        """One step of the LSTM, one forward pass and one addition."""
        self._cell.forget(episode_starts)
        self._rows[:] = observations.reshape(self._rows.shape)
        self._cell.step()
        self._columns[:-1] = self._cell.hidden
        self._folded.forward(self._columns)
        return self._chooser.choose(episode_starts, masks, step)

    def memory(self) -> Memory:
        """Hidden and cell states (1, E, H)."""
        hidden, cell = self._cell.states()
        return hidden.unsqueeze(0), cell.unsqueeze(0)


class PolicyActor:
    """The policy's own distribution, without the critic and without log-probabilities."""

    def __init__(self, algorithm: "RecurrentAlgorithm"):
        self._policy, self._device, self._n_envs = algorithm.policy, algorithm.device, algorithm.n_envs
        self._exploration = exploration_of(algorithm)
        self._sde_sample_freq = algorithm.sde_sample_freq if algorithm.use_sde else -1
        self._shape = (-1, *algorithm.action_space.shape)  # type: ignore[misc]
        self._memory: Any = algorithm._last_lstm_states.pi

    @th.no_grad()
    def act(self, observations: Any, episode_starts: Array, masks: Array | None, step: int) -> Array:
        """As sb3-contrib's loop, with the random numbers that it would draw."""
        if self._sde_sample_freq > 0 and step % self._sde_sample_freq == 0:
            self._policy.reset_noise(self._n_envs)
        starts = th.as_tensor(episode_starts, dtype=th.float32, device=self._device)
        allowed = {} if masks is None else {"action_masks": masks}
        obs = obs_as_tensor(observations, self._device)
        distribution, self._memory = self._policy.get_distribution(obs, self._memory, starts, **allowed)
        actions = self._exploration.actions(distribution, episode_starts)
        return actions.reshape(self._shape).cpu().numpy()

    def memory(self) -> Memory:
        """Hidden and cell states (L, E, H)."""
        memory: Memory = self._memory
        return memory


class RecurrentActing:
    """Act with a memory; log-probabilities, values and the critic's memory follow afterwards.

    In the buffer the memories of the first step are kept, with which the rollout begins. Those of later steps are NaN:
    whoever cuts sequences elsewhere than at the start of an episode or of the rollout shall notice.
    """

    def __init__(self, algorithm: "RecurrentAlgorithm", buffer: Any, n_steps: int):
        self._algorithm = algorithm
        self._policy, self._device = algorithm.policy, algorithm.device
        self._actor = stepwise_actor(algorithm, n_steps)
        self.is_in_numpy = isinstance(self._actor, NumpyActor)
        begun = algorithm._last_lstm_states
        self._before: Any = begun.pi
        self._step = -1
        for (hidden, cell), name in ((begun.pi, "pi"), (begun.vf, "vf")):
            for part, kind in ((hidden, "hidden"), (cell, "cell")):
                states = getattr(buffer, f"{kind}_states_{name}")
                states[0], states[1:] = part.cpu().numpy(), np.nan

    def act(self, observations: Any, episode_starts: Array, masks: Array | None, step: int) -> Array:
        """Actions (E, ...)."""
        self._before, self._step = self._actor.memory(), step
        return self._actor.act(observations, episode_starts, masks, step)

    @th.no_grad()
    def evaluate(self, buffer: RolloutBuffer, end: End) -> Tensor:
        """All sequences side by side, then one more step for those that were cut short."""
        steps, layout = sequential_steps(buffer, self._device)
        actions = th.as_tensor(
            buffer.actions.reshape(len(steps), -1)[layout.order], dtype=th.float32, device=self._device
        )
        if isinstance(self._algorithm.action_space, spaces.Discrete):
            actions = actions.flatten()
        values, log_probs = (np.empty(len(steps), np.float32) for _ in range(2))
        memories = []
        for units in steps.cut(len(chunks(as_rows(buffer.observations)))):
            rows, part = steps.rows(units).numpy(), steps.take(units)  # numpy takes a tensor of one for a number
            part_values, memory = part.values_and_memory(self._policy)
            values[rows] = part_values.flatten().cpu().numpy()
            log_probs[rows] = part.action_distribution(self._policy).log_prob(actions[rows]).cpu().numpy()
            memories.append(memory)
        buffer.values.reshape(-1)[layout.order] = values
        buffer.log_probs.reshape(-1)[layout.order] = log_probs
        memory = (th.cat([hidden for hidden, _ in memories], 1), th.cat([cell for _, cell in memories], 1))
        self._bootstrap(buffer, end, layout, memory)

        last = layout.last
        critic_memory = (memory[0][:, last], memory[1][:, last])
        self._remember(self._actor.memory(), critic_memory)
        goes_on = th.as_tensor(np.equal(end.dones, 0), device=self._device)[:, None]
        return self._next_values(
            obs_as_tensor(end.observations, self._device), (critic_memory[0] * goes_on, critic_memory[1] * goes_on)
        )

    @th.no_grad()
    def abandon(self, buffer: RolloutBuffer) -> None:
        """Remember what was remembered before the first step that is not in the buffer."""
        if buffer.pos == 0:
            return
        actor = self._before if self._step == buffer.pos else self._actor.memory()
        steps, layout = sequential_steps(buffer, self._device, buffer.pos)
        _, (hidden, cell) = steps.values_and_memory(self._policy)
        self._remember(actor, (hidden[:, layout.last], cell[:, layout.last]))

    def _bootstrap(self, buffer: RolloutBuffer, end: End, layout: Layout, memory: Memory) -> None:
        """Add to the rewards at time limits what the critic, which remembers the episode, expects after them."""
        if not end.time_limits:
            return
        which = {(int(e), int(t) - 1): s for s, (e, t) in enumerate(zip(layout.envs, layout.ends, strict=True))}
        cut = [which[limit.env, limit.step] for limit in end.time_limits]
        terminal, _ = self._policy.obs_to_tensor(stack([limit.observation for limit in end.time_limits]))
        values = self._next_values(terminal, (memory[0][:, cut], memory[1][:, cut]))
        for limit, value in zip(end.time_limits, values.flatten().tolist(), strict=True):
            buffer.rewards[limit.step, limit.env] += self._algorithm.gamma * value

    def _next_values(self, observations: Any, memory: Memory) -> Tensor:
        """Values (S, 1) of one step for each memory."""
        index = th.arange(memory[0].shape[1])[:, None]
        return Sequences(observations, index=index, actor_memory=memory, critic_memory=memory).values(self._policy)

    def _remember(self, actor: Memory, critic: Memory) -> None:
        """The algorithm goes on from here; a critic without an LSTM of its own has the actor's memory."""
        own = self._policy.lstm_critic is not None
        self._algorithm._last_lstm_states = RNNStates(actor, critic if own else actor)


def without_memory(policy: Any, observations: Any) -> Sequences:
    """Observations (N, ...) as N sequences of one step each, of a policy that remembers nothing."""
    n = len(Steps(observations))
    lstm = policy.lstm_actor
    nothing = th.zeros(lstm.num_layers, n, lstm.hidden_size, device=policy.device)
    memory = (nothing, nothing)
    return Sequences(observations, index=th.arange(n)[:, None], actor_memory=memory, critic_memory=memory)
