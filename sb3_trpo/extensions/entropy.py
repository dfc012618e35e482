r"""Entropy in the objective: a bonus that keeps exploration alive, and a floor below which it is pulled back.

.. math:: L(\theta) + c\, H(\theta), \qquad c = \text{bonus} + k \max(0, \text{floor} - H(\theta_{old}))

H is the mean entropy of the joint action in nats; for continuous actions it is a differential entropy, which may be
negative (a Gaussian of standard deviation 0.24 in one dimension has none). The second part of c is the gradient of the
quadratic penalty ``k/2 max(0, floor - H)^2`` where the policy is, as in a penalty method (Nocedal & Wright 2006,
section 17.1): the floor is one that the advantages' own pull can press in, not a wall.
"""

PULL = 1.0
"""k, in units of standardised advantages per square nat."""


def entropy_coefficient(bonus: float, floor: float | None, entropy: float) -> float:
    """c for a policy of that mean ``entropy`` in nats; ``floor`` None for none."""
    return bonus if floor is None else bonus + PULL * max(0.0, floor - entropy)
