"""Search for the best voice: ``python jobs/tune.py --config VOICE.yaml --config SPACE.yaml``."""

from dimts.cli import run_command

if __name__ == "__main__":
    run_command("tune")
