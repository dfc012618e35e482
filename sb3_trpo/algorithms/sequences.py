"""Steps of a policy with memory: sequences, evaluated whole and side by side.

A sequence is what one environment saw from the start of an episode, or of the rollout, to the end of either. Their
steps are *packed*, as in `torch.nn.utils.rnn.PackedSequence`: first the first steps of all sequences, then the second
steps of those that have one, and so on, the longest sequence first. An LSTM works through all of them at once, and
there is no padding that could carry weight anywhere.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch as th
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence

from sb3_trpo.algorithms.steps import Steps, Units
from sb3_trpo.core.activations import Array
from sb3_trpo.core.lstm import PackedInputs

Memory: TypeAlias = tuple[Tensor, Tensor]
"""Hidden and cell states (L, S, H) of an LSTM of L layers, for S sequences."""


@dataclass(frozen=True)
class Sequences(Steps):
    """S sequences of N steps in all, packed.

    ``index`` (S, T) has the number of each sequence's t-th step, -1 after its end; sequences are in order of falling
    length. The memories are those with which the sequences begin; the critic's is the actor's where it has no LSTM.
    """

    index: Tensor = field(kw_only=True)
    actor_memory: Memory = field(kw_only=True)
    critic_memory: Memory = field(kw_only=True)

    @property
    def n_units(self) -> int:
        """S: a sequence can be evaluated alone, a step cannot."""
        return len(self.index)

    @property
    def lengths(self) -> Tensor:
        """Steps of each sequence, (S,)."""
        return (self.index >= 0).sum(1)

    @property
    def first_rows(self) -> Tensor:
        """The number of each sequence's first step."""
        return self.index[:, 0]

    def rows(self, units: Units) -> Tensor:
        """The numbers of the steps in these sequences, packed."""
        columns = self.index[units].t()
        return columns[columns >= 0]

    def take(self, units: Units) -> "Sequences":
        """These sequences; ``units`` must rise."""
        memories = [(hidden[:, units], cell[:, units]) for hidden, cell in (self.actor_memory, self.critic_memory)]
        return self._arranged(self.index[units], *memories)[1]

    def first(self, count: int) -> "Sequences":
        """The first ``count`` steps of the longest sequence, or ``count`` sequences where that is shorter."""
        if self.index.shape[1] < count:
            return self.take(slice(count))
        longest = self.take(slice(1))
        return longest._arranged(longest.index[:, :count], longest.actor_memory, longest.critic_memory)[1]

    @th.no_grad()
    def pieces(self, policy: Any, length: int) -> tuple[Tensor, "Sequences"]:
        """The same steps in shorter sequences, which begin with what the critic remembers there, and their numbers.

        They are for the critic: the actor's memory is brought forward only where the critic looks at it.
        """
        indices: list[Tensor] = []
        parts: list[Sequences] = []
        actor_memory, critic_memory, lengths = self.actor_memory, self.critic_memory, self.lengths
        for start in range(0, self.index.shape[1], length):
            n_running = int((lengths > start).sum())
            indices.append(self.index[:n_running, start : start + length])
            memories = [(hidden[:, :n_running], cell[:, :n_running]) for hidden, cell in (actor_memory, critic_memory)]
            parts.append(self._arranged(indices[-1], *memories)[1])
            critic_memory = parts[-1].critic_latents(policy)[1]
            if policy.shared_lstm:
                actor_memory = critic_memory
        index = th.cat([F.pad(index, (0, length - index.shape[1]), value=-1) for index in indices])
        by_length = th.sort((index >= 0).sum(1), descending=True, stable=True).indices
        actor_memory = _joined([part.actor_memory for part in parts], by_length)
        critic_memory = _joined([part.critic_memory for part in parts], by_length)
        return self._arranged(index[by_length], actor_memory, critic_memory)

    def _arranged(self, index: Tensor, actor_memory: Memory, critic_memory: Memory) -> tuple[Tensor, "Sequences"]:
        """The steps whose numbers here are in ``index``, as sequences of their own; and these numbers."""
        rows = index.t()[index.t() >= 0]
        own = packed_index((index >= 0).sum(1))
        steps = Steps.take(self, rows)
        return rows, replace(steps, index=own, actor_memory=actor_memory, critic_memory=critic_memory)

    def cut(self, count: int) -> list[slice]:
        """All sequences in at most ``count`` slices of about as many steps each."""
        ends = th.cumsum(self.lengths, 0)
        bounds = th.searchsorted(ends, th.arange(1, count) * len(self) / count, right=True).tolist()
        edges = sorted({0, *bounds, self.n_units})
        return [slice(start, end) for start, end in pairwise(edges)]

    def action_distribution(self, policy: Any) -> Any:
        """The policy's action distribution at every step."""
        latent = policy.mlp_extractor.forward_actor(self.actor_latents(policy)[0])
        distribution = policy._get_action_dist_from_latent(latent)
        if self.action_masks is not None:
            distribution.apply_masking(self.action_masks)
        return distribution

    def values(self, policy: Any) -> Tensor:
        """The policy's values (N, 1)."""
        return self.values_and_memory(policy)[0]

    def values_and_memory(self, policy: Any) -> tuple[Tensor, Memory]:
        """The policy's values (N, 1), and the critic's memory at the end of the sequences."""
        latent, memory = self.critic_latents(policy)
        return policy.value_net(policy.mlp_extractor.forward_critic(latent)), memory

    def actor_latents(self, policy: Any) -> tuple[Tensor, Memory]:
        """What the actor's LSTM says (N, H) and remembers."""
        return self._through(policy.lstm_actor, super().actor_features(policy), self.actor_memory)

    def critic_latents(self, policy: Any) -> tuple[Tensor, Memory]:
        """What the critic's perceptron sees (N, H), of its own LSTM, the actor's or none, and what is remembered."""
        if policy.lstm_critic is not None:
            return self._through(policy.lstm_critic, super().critic_features(policy), self.critic_memory)
        if policy.shared_lstm:
            latent, (hidden, cell) = self.actor_latents(policy)
            return latent.detach(), (hidden.detach(), cell.detach())
        return policy.critic(super().critic_features(policy)), self.critic_memory

    def critic_features(self, policy: Any) -> Tensor:
        """What a critic without an LSTM of its own sees and does not shape, (N, D)."""
        return self.critic_latents(policy)[0] if policy.shared_lstm else super().critic_features(policy)

    def actor_inputs(self, policy: Any) -> PackedInputs:
        """What the actor's LSTM of one layer starts from."""
        return self._inputs(super().actor_features(policy), self.actor_memory)

    def critic_inputs(self, policy: Any) -> PackedInputs:
        """What the critic's own LSTM of one layer starts from."""
        return self._inputs(super().critic_features(policy), self.critic_memory)

    @property
    def batch_sizes(self) -> Tensor:
        """How many sequences have a t-th step, (T,)."""
        return (self.index >= 0).sum(0)

    def _inputs(self, features: Tensor, memory: Memory) -> PackedInputs:
        return PackedInputs(features.detach(), self.batch_sizes, memory[0][0], memory[1][0])

    def _through(self, lstm: nn.LSTM, features: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """Outputs (N, H) and memory at the end."""
        with _differentiable(lstm):
            packed, memory = lstm(
                PackedSequence(features, self.batch_sizes), tuple(part.contiguous() for part in memory)
            )
        return packed.data, memory


def _joined(memories: list[Memory], order: Tensor) -> Memory:
    """The memories of all, one after the other, in another order."""
    hidden, cell = (th.cat(parts, 1)[:, order] for parts in zip(*memories, strict=True))
    return hidden, cell


@contextmanager
def _differentiable(lstm: nn.LSTM) -> Iterator[None]:
    """cuDNN differentiates an LSTM in training mode only; without dropout that is the mode of evaluation."""
    if not lstm.weight_ih_l0.is_cuda:
        yield
        return
    training, dropout = lstm.training, lstm.dropout
    lstm.training, lstm.dropout = True, 0.0
    try:
        yield
    finally:
        lstm.training, lstm.dropout = training, dropout


def packed_index(lengths: Tensor) -> Tensor:
    """Numbers (S, T) of the steps of packed sequences of falling ``lengths`` (S,), -1 after their ends."""
    n_steps = int(lengths.max()) if len(lengths) else 0
    exists = th.arange(n_steps) < lengths.unsqueeze(1)
    index = th.full_like(exists, -1, dtype=th.long)
    index.t()[exists.t()] = th.arange(int(lengths.sum()))
    return index


class Layout(NamedTuple):
    """How a rollout of T steps of E environments is cut into S sequences and packed.

    ``order`` (T * E,): of each packed step its number ``t * E + e``; ``positions`` as the index of `Sequences`;
    ``envs``, ``starts`` and ``ends`` (S,): the environment of each sequence, its first step and the one after its last;
    ``last`` (E,): the sequence at the end of each environment's rollout.
    """

    order: Array
    positions: Tensor
    envs: Array
    starts: Array
    ends: Array
    last: Array


def layout(episode_starts: Array) -> Layout:
    """Cut a rollout where episodes start.

    :param episode_starts: (T, E), not zero for the first step of an episode
    """
    n_steps, n_envs = episode_starts.shape
    begins = episode_starts.T != 0
    begins[:, 0] = True
    first = np.flatnonzero(begins)  # numbered env by env: e * T + t
    lengths = np.diff(first, append=begins.size)
    by_length = np.argsort(-lengths, kind="stable")
    first, lengths = first[by_length], lengths[by_length]
    index = packed_index(th.from_numpy(lengths))
    numbers = first[:, None] + np.arange(index.shape[1])
    packed = numbers.T[index.numpy().T >= 0]
    envs, starts = np.divmod(first, n_steps)
    order = packed % n_steps * n_envs + packed // n_steps
    ends = starts + lengths
    last = np.flatnonzero(ends == n_steps)
    return Layout(order, index, envs, starts, ends, last[np.argsort(envs[last])])
