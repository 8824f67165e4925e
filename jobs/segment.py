"""Long recordings -> corpus: ``python jobs/segment.py --recordings FOLDER --language am``."""

from dimts.cli import run_command

if __name__ == "__main__":
    run_command("segment")
