"""Make a registered voice the champion, if it is better than the one that is and keeps the limits.

python jobs/promote.py --config jobs/configs/VOICE.yaml
python jobs/promote.py --config jobs/configs/VOICE.yaml --version 3 --dry-run
"""

from dimts.cli import run_command

if __name__ == "__main__":
    run_command("promote")
