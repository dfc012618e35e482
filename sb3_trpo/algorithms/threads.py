"""Threads of numpy's matrix products.

During an update, and while a perceptron acts in numpy, the matrices are small: handing them to other cores costs many
times what it saves, and more yet when another process has those cores. An environment that multiplies large matrices
with numpy in such a rollout does so on one thread, too. Torch's threads, which work on whole rollouts, are the user's
affair (``torch.set_num_threads``).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

from threadpoolctl import ThreadpoolController


@lru_cache(maxsize=1)
def _numpy_blas() -> ThreadpoolController:
    """The libraries behind ``numpy.dot``; looking for them takes a millisecond, so it is done once."""
    return ThreadpoolController().select(user_api="blas")


@contextmanager
def one_numpy_thread() -> Iterator[None]:
    """Inside the block numpy multiplies matrices on the calling thread alone."""
    with _numpy_blas().limit(limits=1):
        yield
