"""A voice of several languages to adapt others from: corpora -> features -> base voice."""

from dimts.cli import run_command

if __name__ == "__main__":
    run_command("pretrain")
