"""Open MLflow's pages over the recorded runs, or send what a run could not send.

python jobs/ui.py
python jobs/ui.py --config jobs/configs/sample_am.yaml --port 5001
python jobs/ui.py --host 0.0.0.0 --auth
python jobs/ui.py --sync runs/sample_am
python jobs/ui.py --moved
"""

from dimts.cli import run_command

if __name__ == "__main__":
    run_command("ui")
