"""Files and folders of runs that several parts of the launcher know."""

CONFIG_FILE = "config.yaml"
LOCK = "lock"
BASES = ".bases"
"""Beside the runs: copies of bases that MLflow keeps, for the machines that train."""
START = "start"
"""In object storage: which start of the run was the last."""
FAILURE = "failure.txt"
TOLD_OF_CHECKPOINTS = "checkpoint_manager_snapshot.json"
"""Ray Train's own list. It refuses to go on where one of them is gone, though the loop keeps only
the latest."""
