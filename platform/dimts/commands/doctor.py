"""What is in a corpus and what is wrong with it: ``dimts doctor CORPUS --language CODE``.

Writes a page to listen and look at (index.html) and the same as report.json. Rows whose text does
not fit their recording come first.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from data_prep.doctor.examine import DoctorConfig, examine
from data_prep.doctor.page import MISFIT, page
from dimts.cli import JobParser
from dimts.core.config import build_config, flatten, put, read_settings, to_yaml
from dimts.core.errors import ConfigError
from dimts.tracking.config import TrackingConfig
from dimts.tracking.tracker import Tracker

PAGE, REPORT = "index.html", "report.json"


class RecordedConfig(DoctorConfig):
    """What is examined; and where the report is recorded, if a setting of that is given."""

    tracking: TrackingConfig = TrackingConfig(enabled=False)


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
        help="a setting of corpus, text or prepare, as for dimts prepare, or of tracking, such as "
        "tracking.enabled=true: MLflow has the report, too; may be given often",
    )  # fmt: skip
    arguments = parser.parse_args()
    out = arguments.out or Path("output", "doctor", Path(arguments.corpus.rstrip("/")).name)
    values, origins = read_settings([], arguments.overrides)
    given = {
        "corpus.path": (arguments.corpus, "CORPUS"),
        "text.language": (arguments.language, "--language"),
        "prepare.features": (str(out / "features"), "--out"),
    }
    for key, (value, option) in given.items():
        if key in flatten(values):
            raise ConfigError(f"--set {key}: is what {option} says; leave it out")
        put(values, key, value)
    config = build_config(RecordedConfig, values, origins)
    report = examine(config, out, arguments.model)
    (out / REPORT).write_text(json.dumps(report, ensure_ascii=False, indent=1), encoding="utf-8")
    (out / PAGE).write_text(page(report), encoding="utf-8")
    bad = sum(row["misfit"] > MISFIT for row in report["rows"])
    print(f"used      {report['n_used']} of {report['n_rows']} rows, {report['hours']:.2f} h")
    print(f"misfits   {bad} rows whose text does not seem to be what is said")
    print(f"page      {out / PAGE}")
    if config.tracking.enabled:
        _record(config, report, out, bad)


def _record(config: RecordedConfig, report: dict[str, Any], out: Path, bad: int) -> None:
    """Make the report a run in MLflow; the same folder is the same run again."""
    tracker = Tracker(config.tracking, out)
    values = config.model_dump(mode="json", exclude={"tracking"})
    tracker.start(f"doctor {out.name}", flatten(values), to_yaml(config))
    metrics = {"corpus/hours": report["hours"], "corpus/used": report["n_used"]}
    tracker.log_metrics({**metrics, "corpus/misfits": bad}, 0)
    for name in (PAGE, REPORT, *(row["player"] for row in report["rows"] if row["player"])):
        tracker.log_artifact(out / name, str(Path("doctor", name).parent))
    tracker.finish("FINISHED")
    print(f"mlflow    run {tracker.run_id} in {config.tracking.shown}")
