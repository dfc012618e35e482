"""Actions from noise drawn beforehand follow the distributions."""

import math

import numpy as np
import pytest
import torch as th

from sb3_trpo.core.distributions import Categorical
from sb3_trpo.core.sampling import sampler
from tests.core.cases import make_case

N_SAMPLES = 40_000


@pytest.mark.parametrize("kind", ["gaussian", "categorical", "bernoulli"])
@pytest.mark.parametrize("n_states", [1, 4])
def test_samples_follow_the_distribution(kind, n_states):
    """Frequencies, or mean and standard deviation, of many samples of each state against the distribution's own."""
    case = make_case(kind, seed=5, n=n_states, sizes=(3, 2), n_dims=2)
    with th.no_grad():
        distribution = case.distribution()
        th.manual_seed(0)
        drawn = sampler(distribution, N_SAMPLES, n_states)
        parameters = distribution.parameters[0].numpy().T
        samples = np.stack([drawn.sample(parameters, step).reshape(n_states, -1) for step in range(N_SAMPLES)])
        for k, part in enumerate(case.components()):
            for state in range(n_states):
                taken = th.as_tensor(samples[:, state, k])
                if kind == "gaussian":
                    z = (taken - part.mean[state]) / part.stddev[state]
                    assert abs(float(z.mean())) < 4.5 / N_SAMPLES**0.5
                    assert abs(float(z.square().mean()) - 1) < 4.5 * (2 / N_SAMPLES) ** 0.5
                    continue
                n_options = part.probs.shape[-1] if kind == "categorical" else 2
                p = part.log_prob(th.arange(n_options, dtype=th.float64)[:, None]).exp()[:, state]
                frequencies = th.bincount(taken.long(), minlength=n_options) / N_SAMPLES
                assert ((frequencies - p).abs() < 4.5 * (p * (1 - p) / N_SAMPLES).sqrt()).all()


def test_masked_options_are_never_sampled():
    logits = th.tensor([[0.1, -math.inf, 0.4]])
    drawn = sampler(Categorical(logits, (3,)), 10_000, 1)
    assert {int(drawn.sample(logits.numpy().T, step)[0]) for step in range(10_000)} == {0, 2}
