"""Features -> voice: ``dimts train --config jobs/configs/VOICE.yaml``.

A run that was interrupted goes on when it is started again with the same run.name. Ctrl-C
ends it with a checkpoint.
"""

from __future__ import annotations

from dimts.cli import config_parser
from dimts.commands.report import print_result
from dimts.commands.voice_config import load_voice
from dimts.core.ray_session import check_ray


def main() -> None:
    """Train one voice and print its held-out metrics."""
    arguments = config_parser(__doc__ or "").parse_args()
    config = load_voice(arguments.config, arguments.overrides)
    if config.ray.workers:
        check_ray()
    from dimts.launch.start import start_run

    print_result(config.of_family, config.run.place, start_run(config.launch(), config.ray))
