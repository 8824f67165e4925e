from dimts.core.environment import prepare_own_ray

prepare_own_ray()  # before a module of this package loads Ray
