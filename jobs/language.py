"""Draft the files of a language that dimts does not have."""

from dimts.cli import run_command

if __name__ == "__main__":
    run_command("language")
