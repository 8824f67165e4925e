"""Speech over HTTP: ``python jobs/serve.py --model models:/NAME@champion``."""

from dimts.cli import run_command

if __name__ == "__main__":
    run_command("serve")
