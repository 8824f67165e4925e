"""Held-out metrics of a voice: ``python jobs/evaluate.py --model runs/VOICE --config FILE``."""

from dimts.cli import run_command

if __name__ == "__main__":
    run_command("evaluate")
