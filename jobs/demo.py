"""From nothing to speech: sample corpus -> features -> voice -> wav, by the jobs' own parts.

python jobs/demo.py
python jobs/demo.py --set training.max_steps=200
"""

from dimts.cli import run_command

if __name__ == "__main__":
    run_command("demo")
