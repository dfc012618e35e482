"""Random numbers of torch are the same in every run of a test."""

import hypothesis
import pytest
import torch as th


class TorchRandom:
    """Torch's global generator, in the form that hypothesis seeds before every example."""

    seed = staticmethod(th.manual_seed)
    getstate = staticmethod(th.get_rng_state)
    setstate = staticmethod(th.set_rng_state)


TORCH_RANDOM = TorchRandom()  # hypothesis keeps a weak reference only
hypothesis.register_random(TORCH_RANDOM)


@pytest.fixture(autouse=True)
def _seed_torch():
    th.manual_seed(0)
