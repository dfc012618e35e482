"""A list of parameter tensors seen as one flat vector.

The natural step works on a vector theta in R^P; networks hold theta as a list of tensors. The order of the
list is the order in the vector, so the same list must be used for every call within one update.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch as th
from torch import Tensor


def flatten(tensors: Sequence[Tensor]) -> Tensor:
    """Concatenate ``tensors`` into one vector of shape (P,). The result shares no memory with them."""
    return th.cat([tensor.detach().reshape(-1) for tensor in tensors])


def unflatten(vector: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Cut ``vector`` (P,) into views with the shapes of ``like``: the inverse of `flatten`.

    :raises ValueError: when the sizes do not add up.
    """
    sizes = [tensor.numel() for tensor in like]
    if vector.shape != (sum(sizes),):
        raise ValueError(
            f"vector has shape {tuple(vector.shape)}, the parameters need ({sum(sizes)},): "
            "pass the vector that was made from the same list of parameters"
        )
    return [part.view_as(tensor) for part, tensor in zip(th.split(vector, sizes), like, strict=True)]


def assign(parameters: Sequence[Tensor], vector: Tensor) -> None:
    """Copy ``vector`` (P,) into ``parameters`` in place, bit for bit."""
    with th.no_grad():
        for parameter, value in zip(parameters, unflatten(vector, parameters), strict=True):
            parameter.copy_(value)


@contextmanager
def elsewhere(parameters: Sequence[Tensor], vector: Tensor) -> Iterator[None]:
    """Have ``parameters`` be ``vector`` (P,) inside the block; afterwards they are the same as before, bit for bit.

    Graphs that were built before do not see it, and can be differentiated afterwards.
    """
    here = [parameter.detach().clone() for parameter in parameters]
    try:
        for parameter, value in zip(parameters, unflatten(vector, parameters), strict=True):
            parameter.data.copy_(value)
        yield
    finally:
        for parameter, value in zip(parameters, here, strict=True):
            parameter.data.copy_(value)


def flat_gradient(
    outputs: Sequence[Tensor],
    parameters: Sequence[Tensor],
    cotangents: Sequence[Tensor] | None = None,
    *,
    retain_graph: bool = False,
    create_graph: bool = False,
) -> Tensor:
    """Vector-Jacobian product ``sum_k J_k^T u_k`` of ``outputs`` with respect to ``parameters``, shape (P,).

    Without ``cotangents`` the outputs must be scalars and the result is the gradient of their sum. A parameter
    which the outputs do not depend on contributes zeros.
    """
    gradients = th.autograd.grad(
        outputs,
        parameters,
        cotangents,
        retain_graph=retain_graph or create_graph,
        create_graph=create_graph,
        materialize_grads=True,
    )
    return th.cat([gradient.reshape(-1) for gradient in gradients])
