"""What is in a corpus and what is wrong with it: ``dimts doctor CORPUS --language CODE``.

Writes a page to listen and look at (index.html) and the same as report.json. Rows whose text does
not fit their recording come first.
"""

from __future__ import annotations

import json
from pathlib import Path

from data_prep.doctor.examine import DoctorConfig, examine
from data_prep.doctor.page import MISFIT, page
from dimts.cli import JobParser
from dimts.core.config import build_config, put, read_settings

PAGE, REPORT = "index.html", "report.json"


def main() -> None:
    """Examine one corpus and say where the page is."""
    parser = JobParser(description=__doc__)
    parser.add_argument("corpus", metavar="CORPUS", help="folder, here or in object storage")
    parser.add_argument("--language", required=True, help="code of what is spoken, such as am")
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER",
        help="where the report goes (default: output/doctor/NAME of the corpus)",
    )  # fmt: skip
    parser.add_argument(
        "--model", default="", metavar="RUN",
        help="run or bundle of a voice that aligns texts and recordings (default: a flat start)",
    )  # fmt: skip
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides",
        help="a setting of corpus, text or prepare, as for dimts prepare; may be given often",
    )  # fmt: skip
    arguments = parser.parse_args()
    out = arguments.out or Path("output", "doctor", Path(arguments.corpus.rstrip("/")).name)
    values, origins = read_settings([], arguments.overrides)
    put(values, "corpus.path", arguments.corpus)
    put(values, "text.language", arguments.language)
    put(values, "prepare.features", str(out / "features"))
    report = examine(build_config(DoctorConfig, values, origins), out, arguments.model)
    (out / REPORT).write_text(json.dumps(report, ensure_ascii=False, indent=1), encoding="utf-8")
    (out / PAGE).write_text(page(report), encoding="utf-8")
    bad = sum(row["misfit"] > MISFIT for row in report["rows"])
    print(f"used      {report['n_used']} of {report['n_rows']} rows, {report['hours']:.2f} h")
    print(f"misfits   {bad} rows whose text does not seem to be what is said")
    print(f"page      {out / PAGE}")
