"""A trained Chatterbox as a folder that the stock package loads."""

from dimts.cli import run_command

if __name__ == "__main__":
    run_command("export")
