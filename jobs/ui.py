"""Open MLflow's pages over the recorded runs, or send what a run could not send."""

from dimts.cli import run_command

if __name__ == "__main__":
    run_command("ui")
