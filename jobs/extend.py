"""A base voice that knows one language more: vocabulary and embedding, ready to fine-tune."""

from dimts.cli import run_command

if __name__ == "__main__":
    run_command("extend")
