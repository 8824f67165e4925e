"""A voice of several languages to adapt others from: corpora -> features -> base voice.

dimts pretrain --config jobs/configs/mix/natural.yaml
dimts pretrain --config jobs/configs/mix/natural.yaml --export bases/natural
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from data_prep.pipeline import prepare
from data_prep.recipes.espeak import ENGINES, render_corpus
from dimts.cli import config_parser
from dimts.commands.mix_config import MixConfig, Part
from dimts.commands.report import print_result
from dimts.core.config import load_config
from dimts.core.errors import UserError
from dimts.core.home import shipped
from dimts.core.ray_session import check_ray
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
        "--prepare-only",
        action="store_true",
        help="the features of parts whose corpus can be made or is there; no training",
    )
    arguments = parser.parse_args()
    config = load_config(MixConfig, arguments.config, arguments.overrides)
    if config.ray.workers:
        check_ray()
    prepare_parts(config, config.parts if not arguments.prepare_only else can_be_made(config))
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


def can_be_made(config: MixConfig) -> list[Part]:
    """The parts of a mix that have sentences to be spoken, or whose corpus is there."""
    return [part for part in config.parts if part.sentences or part.corpus.path.exists()]


def prepare_parts(config: MixConfig, parts: Iterable[Part]) -> None:
    """Speak and prepare those parts of a mix that are not up to date."""
    extractors = get_family(DEFAULT).extractors(config)
    for part in parts:
        language = load_language(part.text.language).code
        if part.sentences:
            corpus = require_local(part.corpus.path, "the sentences are spoken into a folder")
            sentences, voice = Path(shipped(str(part.sentences))), part.voice or language
            render_corpus(sentences, corpus, voice, engine=ENGINES[part.engine])
        manifest = prepare(part.corpus, part.text, extractors, part.prepare)
        print(
            f"{part.prepare.features}: {manifest.n_utterances} utterances, "
            f"{60 * manifest.hours:.1f} minutes, {language}"
        )
