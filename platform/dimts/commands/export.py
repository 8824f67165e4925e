"""A trained Chatterbox as a folder that the stock package loads.

dimts export --model runs/am --base chatterbox --out exported

Writes the T3, adapters merged, and the tokenizer under the published names, reads them again and
compares logits with the trained model. With --base, a folder of the published model, its voice
encoder, speech decoder and default voice are put beside.
"""

from __future__ import annotations

from pathlib import Path

from dimts.cli import JobParser
from dimts.core.config import build_config
from dimts.families.chatterbox.bundle import load_bundle
from dimts.families.chatterbox.export import export
from dimts.tracking.config import TrackingConfig
from dimts.tracking.mlflow_model import resolve_model


def main() -> None:
    """Export, and say whether the package loads it."""
    parser = JobParser(description=__doc__)
    parser.add_argument("--model", required=True, help="bundle, run folder or MLflow URI")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--base", type=Path, help="published model, for its other parts")
    parser.add_argument(
        "--tracking-uri", default=TrackingConfig().uri, help="MLflow store of an MLflow URI"
    )
    arguments = parser.parse_args()
    given = {"uri": arguments.tracking_uri}
    tracking = build_config(TrackingConfig, given, {("uri",): "--tracking-uri"})
    bundle = load_bundle(resolve_model(arguments.model, tracking))
    exported = export(bundle, arguments.out, arguments.base)
    print(f"logits differ by {exported.difference:.1e} at most from the trained model's")
    if not exported.loads:
        print(
            f"the package does not load {bundle.tokenizer.n_vocab} rows of text: extend the base "
            "with --rows in_place for it"
        )
    print(f"written: {arguments.out / exported.t3_file}")
