"""Text -> wav: ``python jobs/synthesize.py --model runs/VOICE/checkpoint_best --text "..."``."""

from dimts.cli import run_command

if __name__ == "__main__":
    run_command("synthesize")
