"""Pages in a browser: ``python jobs/studio.py --model runs/VOICE``."""

from dimts.cli import run_command

if __name__ == "__main__":
    run_command("studio")
