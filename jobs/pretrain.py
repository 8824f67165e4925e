"""A voice of several languages to adapt others from: corpora -> features -> base voice.

python jobs/pretrain.py --config jobs/configs/mix/latin.yaml
python jobs/pretrain.py --config jobs/configs/mix/latin.yaml --export bases/latin
"""

from dimts.cli import run_command

if __name__ == "__main__":
    run_command("pretrain")
