"""What runs the training loop: this process alone, or Ray Train; and what records it."""

from dimts.core.environment import prepare_own_ray

prepare_own_ray()  # before a module of this package loads Ray
