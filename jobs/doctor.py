"""A corpus examined: ``python jobs/doctor.py CORPUS --language CODE``."""

from dimts.cli import run_command

if __name__ == "__main__":
    run_command("doctor")
