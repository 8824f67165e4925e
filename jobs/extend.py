"""A base voice that knows one language more: vocabulary and embedding, ready to fine-tune.

python jobs/extend.py --base bases/latin --language am --out bundles/am
python jobs/extend.py --tokenizer tokenizer.json --language am --out extended
"""

from dimts.cli import run_command

if __name__ == "__main__":
    run_command("extend")
