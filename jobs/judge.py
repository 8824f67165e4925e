"""What judges hear in a folder of wave files: ``python jobs/judge.py --waves FOLDER ...``."""

from dimts.cli import run_command

if __name__ == "__main__":
    run_command("judge")
