"""The command `dimts`, and the shape all jobs share: ``--config FILE --set key=value``, and errors
of one line."""

from __future__ import annotations

import argparse
import errno
import ipaddress
import logging
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from importlib import import_module
from typing import Any, NoReturn

import dimts
import dimts.core.posix
from dimts.core.environment import bypass_proxies, choose_caches, sleep_while_waiting
from dimts.core.errors import UserError
from dimts.core.home import HOME, go_home, shipped
from dimts.core.masking import mask_secrets
from dimts.core.terminal import print_whatever_happens
from dimts.core.untrusted import printable

COMMANDS = {
    "demo": "from nothing to speech: sample corpus, features, voice, wav",
    "segment": "long recordings and their texts -> corpus",
    "prepare": "corpus -> features",
    "doctor": "what is in a corpus, and what is wrong with it",
    "train": "features -> voice",
    "synthesize": "text -> wav",
    "evaluate": "held-out metrics of a voice, and what judges hear",
    "judge": "what judges hear in a folder of wave files",
    "tune": "search for the best voice",
    "promote": "make a registered voice the champion",
    "language": "draft the files of a language that dimts does not have",
    "extend": "a base voice's vocabulary and embedding, extended by a language",
    "export": "a voice that speaks without torch, or a Chatterbox for its package",
    "pretrain": "a voice of several languages to adapt others from",
    "ui": "MLflow's pages over the recorded runs",
    "serve": "speak over HTTP, on Ray Serve",
    "studio": "pages to speak, to compare voices blindly, to record",
    "sample-corpus": "a corpus that a synthetic voice speaks",
    "asterisk-corpus": "a corpus of a recorded English speaker",
}
"""Name -> what it does; each is the `main` of a module of `dimts.commands`."""
EXIT_USER_ERROR = 2
LOOPBACK = "127.0.0.1"
NOT_ALLOWED = {errno.EACCES, errno.EPERM, errno.EROFS}
WHERE_TO_WRITE = (
    f"start the job in a folder that this user may write, or name one by {HOME} or run.storage"
)


class JobParser(argparse.ArgumentParser):
    """Shows its description as it is written, and errors without secrets."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **options)

    def error(self, message: str) -> NoReturn:
        super().error(str(UserError(message)))


def config_parser(
    description: str, default: str | None = None, **options: Any
) -> argparse.ArgumentParser:
    """A parser with the options every job has; `default` says what is used if no file is named."""
    parser = JobParser(description=description, **options)
    parser.add_argument(
        "--config", type=shipped, action="append", metavar="FILE", required=default is None,
        help="YAML settings; may be given several times, later files win"
        + (f" (default: {default})" if default else ""),
    )  # fmt: skip
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides",
        help="one setting, e.g. training.max_steps=500; may be given several times",
    )  # fmt: skip
    return parser


def tcp_port(text: str) -> int:
    """A TCP port, or argparse refuses it."""
    if not (text.isdecimal() and 1 <= int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"{text}: must be 1 to 65535")
    return int(text)


def count(text: str) -> int:
    """A number from 0 on, or argparse refuses it."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text}: must be 0 or more")
    return int(text)


def add_address(parser: argparse.ArgumentParser, port: int, more: str = "") -> None:
    """Add the options `--port` and `--host`; `more` is added to the latter's help."""
    parser.add_argument("--port", type=tcp_port, default=port, help=f"TCP port (default: {port})")
    parser.add_argument(
        "--host", type=ipaddress.IPv4Address, default=LOOPBACK,
        help=f"IPv4 address to listen on{more} (default: {LOOPBACK}, which others cannot reach)",
    )  # fmt: skip


def main() -> None:
    """Run `dimts COMMAND ...`."""
    width = max(map(len, COMMANDS))
    parser = JobParser(
        prog="dimts",
        description=dimts.__doc__,
        epilog="\n".join(["commands:", *(f"  {c:<{width}}  {d}" for c, d in COMMANDS.items())]),
    )
    parser.add_argument("--version", action="version", version=f"dimts {dimts.__version__}")
    parser.add_argument(
        "command", choices=COMMANDS, metavar="COMMAND", help="see below; each has --help"
    )
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="of the command")
    given = parser.parse_args()
    sys.argv = [f"dimts {given.command}", *given.arguments]
    run_command(given.command)


def run_command(name: str) -> None:
    """Run one of `COMMANDS` with what stands in ``sys.argv``, and exit as `run_job` does."""
    module = f"dimts.commands.{name.replace('-', '_')}"
    run_job(lambda: import_module(module).main())


def run_job(main: Callable[[], int | None]) -> None:
    """Run `main` and exit: a `UserError` is one line, anything else also names its log.

    What libraries read from the environment when they are imported is set before `main` is called.
    """
    print_whatever_happens()
    console = logging.StreamHandler()
    console.setFormatter(_Masking("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[console])
    choose_caches()
    sleep_while_waiting()
    bypass_proxies()
    try:
        go_home()
        sys.exit(main() or 0)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in NOT_ALLOWED and error.filename:
            error = UserError(f"{error.filename}: {error.strerror}; {WHERE_TO_WRITE}")
        if isinstance(error, UserError):
            print(f"error: {error}", file=sys.stderr)
            sys.exit(EXIT_USER_ERROR)
        descriptor, log = tempfile.mkstemp(prefix="dimts-error-", suffix=".log")  # ours to read
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(mask_secrets(traceback.format_exc()))
        first = (mask_secrets(str(error)).strip() or type(error).__name__).splitlines()[0]
        what = f"{type(error).__name__}: {printable(first)}"
        print(f"error: {what} (traceback: {log})", file=sys.stderr)
        sys.exit(1)


class _Masking(logging.Formatter):
    """Keeps secrets out of what libraries have to say."""

    def format(self, record: logging.LogRecord) -> str:
        return mask_secrets(super().format(record))
