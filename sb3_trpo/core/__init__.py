"""The mathematics of the trust-region step: tensors and callables in, named tuples out.

Nothing in this package knows of policies, rollout buffers, environments or processes.
"""
