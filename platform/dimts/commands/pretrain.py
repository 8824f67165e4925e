"""A voice of several languages to adapt others from: corpora -> features -> base voice.

dimts pretrain --config jobs/configs/mix/latin.yaml
dimts pretrain --config jobs/configs/mix/latin.yaml --export bases/latin
"""

from __future__ import annotations

from pathlib import Path

from data_prep.pipeline import prepare
from data_prep.recipes.espeak import render_corpus
from dimts.cli import config_parser
from dimts.commands.mix_config import MixConfig
from dimts.commands.report import print_result
from dimts.core.config import load_config
from dimts.core.errors import UserError
from dimts.core.home import shipped
from dimts.core.ray_session import check_cluster
from dimts.families.registry import DEFAULT, get_family
from dimts.storage.paths import require_local
from dimts.text.language import load_language


def main() -> None:
    """Prepare what is not prepared, train what is not trained, export if asked to."""
    parser = config_parser(__doc__ or "")
    parser.add_argument(
        "--export", type=Path, metavar="FOLDER",
        help="write the best bundle there, its matrices in half precision",
    )  # fmt: skip
    parser.add_argument(
        "--prepare-only", action="store_true", help="corpora and features, no training"
    )
    arguments = parser.parse_args()
    config = load_config(MixConfig, arguments.config, arguments.overrides)
    if config.ray.workers:
        check_cluster()
    prepare_parts(config)
    if arguments.prepare_only:
        return
    from dimts.bundles.fetch import local_bundle
    from dimts.families.acoustic.bundle import export_bundle
    from dimts.launch.start import start_run

    result = start_run(config.launch(), config.ray)
    print_result(get_family(DEFAULT), config.run.place, result)
    if not arguments.export:
        return
    if result["status"] == "stopped":
        raise UserError(f"{config.run.run_dir}: was stopped; it is exported when it has ended")
    if not result["best"]:
        raise UserError(f"{config.run.run_dir}: has no best checkpoint to export yet")
    size = export_bundle(local_bundle(config.run.place), arguments.export, result["metrics"])
    print(f"exported: {arguments.export}, {size / 1e6:.1f} MB")


def prepare_parts(config: MixConfig) -> None:
    """Speak and prepare every part that is not up to date."""
    extractors = get_family(DEFAULT).extractors(config)
    for part in config.parts:
        language = load_language(part.text.language).code
        if part.sentences:
            corpus = require_local(part.corpus.path, "the sentences are spoken into a folder")
            render_corpus(Path(shipped(str(part.sentences))), corpus, part.voice or language)
        manifest = prepare(part.corpus, part.text, extractors, part.prepare)
        print(
            f"{part.prepare.features}: {manifest.n_utterances} utterances, "
            f"{60 * manifest.hours:.1f} minutes, {language}"
        )
