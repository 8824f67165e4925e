"""Languages that dimts does not have, from a corpus to a voice by commands alone, as a table.

python benchmarks/new_languages.py --steps 300 ka hi nl

In DIMTS_HOME or the current folder. Georgian (ka) and Hindi (hi) are spoken by espeak-ng, Dutch
(nl) by a person: the small fish of the game Fish Fillets, whose texts and recordings Debian's
packages fillets-ng-data and fillets-ng-data-nl hold (GPL 2; apt-get fetches them). What is there
already is kept: remove {languages,transliterations,configs}/CODE.yaml to draft again.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.machine_facts import cpu_name
from data_prep.recipes.folder import new_corpus
from dimts.core.errors import UserError
from dimts.launch.names import RESULT

SENTENCES = Path(__file__).parent / "languages"
PACKAGES = ("fillets-ng-data", "fillets-ng-data-nl")
GAME = Path("usr/share/games/fillets-ng")
LINE = re.compile(r'dialogId\("([^"]+)",\s*"font_small",[^\n]*\ndialogStr\("([^"\\|]+)"\)')
COLUMNS = {
    "test/mcd": "MCD, dB",
    "test/mcd_of_untrained": "MCD / untrained",
    "test/length_ratio": "length ratio",
    "test/utterances": "test sentences",
}


def main() -> None:
    """Make corpora, files, features and voices that are not there; print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("codes", nargs="+", choices=["ka", "hi", "nl"])
    parser.add_argument("--steps", type=int, default=300, help="of each training")
    options = parser.parse_args()
    rows = {code: figures(code, options.steps) for code in options.codes}
    names = list(next(iter(rows.values())))
    print("| | " + " | ".join(rows) + " |", "| --- |" + " --- |" * len(rows), sep="\n")
    for name in names:
        print(f"| {name} | " + " | ".join(str(row[name]) for row in rows.values()) + " |")
    print(f"\n{options.steps} steps, one seed; {cpu_name()}")


def figures(code: str, steps: int) -> dict[str, Any]:
    """What came of one language."""
    corpus, config = Path("corpora", code), Path("configs", f"{code}.yaml")
    if not corpus.exists():
        if code == "nl":
            fish_fillets(corpus)
        else:
            spoken = [f"--sentences={SENTENCES / code}.txt", f"--out={corpus}"]
            dimts("sample-corpus", "--engine=espeak", f"--voice={code}", *spoken)
    if not config.exists():
        dimts("language", "new", code, f"--corpus={corpus}")
    dimts("prepare", f"--config={config}")
    # So few steps are too few for a discriminator.
    voice = ("training.adversarial=null", "training.threads=1")
    plain = (*voice, "ray.workers=0", "tracking.enabled=false")
    chosen = (f"training.max_steps={steps}", f"training.validate_every={steps // 2}", *plain)
    dimts("train", f"--config={config}", *(f"--set={each}" for each in chosen))
    features = Path("features", code)
    manifest = json.loads((features / "manifest.json").read_text(encoding="utf-8"))
    with (features / "quarantine.csv").open(encoding="utf-8", newline="") as file:
        refused = [row["reason"] for row in csv.DictReader(file)]
    for_text = sum(r in ("unknown_character", "no_number_words", "empty_text") for r in refused)
    n_rows = manifest["corpus"]["n_rows"]
    metrics = json.loads(Path("runs", code, RESULT).read_text(encoding="utf-8"))["metrics"]
    hours = sum(split["hours"] for split in manifest["splits"].values())
    return {
        "rows": n_rows,
        "refused for their text": f"{for_text} ({for_text / n_rows:.1%})",
        "refused for their recording": len(refused) - for_text,
        "minutes used": f"{hours * 60:.1f}",
        **{name: f"{metrics[key]:.3g}" for key, name in COLUMNS.items()},
    }


def dimts(*arguments: str) -> None:
    """Run a command; raises a `CalledProcessError` if it fails."""
    subprocess.run([sys.executable, "-m", "dimts", *arguments], check=True)


def fish_fillets(corpus: Path) -> None:
    """Recordings and texts of one speaker, as a table ``recording|text``.

    Raises:
        UserError: Debian's packages cannot be had.
    """
    with tempfile.TemporaryDirectory() as scratch, new_corpus(corpus, False) as folder:
        try:
            subprocess.run(["apt-get", "download", *PACKAGES], cwd=scratch, check=True)
            for package in sorted(Path(scratch).glob("*.deb")):
                subprocess.run(["dpkg", "-x", package.name, "."], cwd=scratch, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise UserError(f"Debian's packages {', '.join(PACKAGES)}: {error}") from error
        rows = dict(lines(Path(scratch) / GAME))
        for name in rows:
            (recording,) = (Path(scratch) / GAME).glob(f"sound/*/nl/{name}.ogg")
            shutil.move(recording, folder / "wavs" / recording.name)
        table = "".join(f"{name}|{text}\n" for name, text in sorted(rows.items()))
        (folder / "metadata.csv").write_text(table, encoding="utf-8")


def lines(game: Path) -> Iterator[tuple[str, str]]:
    """Names of recordings and what is said in them, of one recording a name."""
    recordings = [file.stem for file in game.glob("sound/*/nl/*.ogg")]
    for file in sorted(game.glob("script/*/dialogs_nl.lua")):
        for name, text in LINE.findall(file.read_text(encoding="utf-8")):
            if recordings.count(name) == 1:
                yield name, " ".join(text.split())


if __name__ == "__main__":
    main()
