"""A trained model for other programs.

dimts export --model runs/VOICE --out voice [--precision int8] [--page] [--apps]
dimts export --model runs/am --base chatterbox --out exported

A voice becomes a folder that speaks with onnxruntime and numpy alone: ONNX of the voice and of its
vocoder, its text as data, and the module dimts_runtime; with --page a page that speaks in a
browser, with --apps files that Piper and sherpa-onnx load, too. In fp32 it is compared with the
trained voice.

A Chatterbox becomes a folder that the stock package loads: the T3, adapters merged, and the
tokenizer under the published names, read again and compared. With --base, a folder of the
published model, its voice encoder, speech decoder and default voice are put beside.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from dimts.bundles.bundle import read_manifest, resolve_bundle
from dimts.cli import JobParser
from dimts.core.errors import UserError
from dimts.core.home import shipped
from dimts.families.registry import SHIPPED_VOCODER
from dimts.tracking.config import add_tracking_uri
from dimts.tracking.mlflow_model import resolve_model

PRECISIONS = ("fp32", "fp16", "int8")


def main() -> None:
    """Export, and say what was written and how it differs from the trained model."""
    parser = JobParser(description=__doc__)
    parser.add_argument("--model", required=True, help="bundle, run folder or MLflow URI")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    voice = parser.add_argument_group("of a voice")
    voice.add_argument(
        "--precision", choices=PRECISIONS, help="of weights; in int8 it is computed, too"
    )
    voice.add_argument("--vocoder", help="bundle, run or MLflow URI (default: the one that ships)")
    voice.add_argument("--page", action="store_true", help="write a page for browsers as well")
    voice.add_argument("--apps", action="store_true", help="write files for Piper and sherpa-onnx")
    chatterbox = parser.add_argument_group("of a Chatterbox")
    chatterbox.add_argument("--base", type=Path, help="published model, for its other parts")
    add_tracking_uri(parser)
    arguments = parser.parse_args()
    bundle = resolve_model(arguments.model, arguments.tracking)
    family = read_manifest(resolve_bundle(bundle), verify=False).family
    if family == "acoustic":
        _voice(bundle, arguments)
    elif family == "chatterbox":
        _chatterbox(bundle, arguments)
    else:
        raise UserError(
            f"{arguments.model}: is of the family {family}; voices of the acoustic family and "
            "Chatterbox are exported, a vocoder with its voice"
        )


def _voice(bundle: Path, arguments: argparse.Namespace) -> None:
    _refuse(arguments, "base")
    try:
        from dimts.export.voice import export_voice
    except ImportError as error:
        raise UserError(
            f"{error.name} is not installed: pip install 'dimts[export]'; voices are exported by it"
        ) from error
    vocoder = resolve_model(arguments.vocoder or shipped(SHIPPED_VOCODER), arguments.tracking)
    precision: Any = arguments.precision or "fp32"
    found = export_voice(bundle, vocoder, arguments.out, precision, arguments.page, arguments.apps)
    print(
        f"log mel differs by {found.mel_difference:.1e} at most from the trained voice's, the wave "
        f"by {found.wave_db:.0f} dB"
    )
    print(f"written: {arguments.out}, {found.size / 1e6:.1f} MB in {precision}")
    print(f'speak: cd {arguments.out} && python -m dimts_runtime . "..." out.wav')


def _chatterbox(bundle: Path, arguments: argparse.Namespace) -> None:
    from dimts.families.chatterbox.bundle import load_bundle
    from dimts.families.chatterbox.export import export

    _refuse(arguments, "precision", "vocoder", "page", "apps")
    loaded = load_bundle(bundle)
    exported = export(loaded, arguments.out, arguments.base)
    print(f"logits differ by {exported.difference:.1e} at most from the trained model's")
    if not exported.loads:
        print(
            f"the package does not load {loaded.tokenizer.n_vocab} rows of text: extend the base "
            "with --rows in_place for it"
        )
    print(f"written: {arguments.out / exported.t3_file}")


def _refuse(arguments: argparse.Namespace, *names: str) -> None:
    """Refuse options that mean nothing for the model's family."""
    if given := [name for name in names if getattr(arguments, name)]:
        raise UserError(f"--{given[0]}: does nothing for {arguments.model}; leave it out")
