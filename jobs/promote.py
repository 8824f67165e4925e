"""Make a registered voice the champion, if it is better than the present one."""

from dimts.cli import run_command

if __name__ == "__main__":
    run_command("promote")
