"""From nothing to speech: sample corpus -> features -> voice -> wav, by the jobs' own parts."""

from dimts.cli import run_command

if __name__ == "__main__":
    run_command("demo")
