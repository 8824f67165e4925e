"""From how a table writes the name of a recording to the file that it means."""

from __future__ import annotations

import errno
import os
import re
import stat
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path, PurePosixPath

from data_prep.readers.corpus_folder import CorpusFolder
from data_prep.readers.refusal import RowError
from data_prep.utterance import Reason
from dimts.core.errors import UserError
from dimts.core.untrusted import NotAFile

AUDIO_SUFFIXES = (
    ".wav", ".flac", ".ogg", ".mp3",
    ".opus", ".oga", ".m4a", ".aac", ".amr", ".webm", ".mp4", ".mkv", ".mka", ".3gp", ".mov",
    ".aif", ".aiff", ".au", ".caf", ".w64", ".sph",
)  # fmt: skip
"""In the order in which they are tried for a name without one."""
AUDIO_FOLDERS = ("wavs", "", "wav", "clips", "audio", "audios")
"""Where recordings are looked for unless `corpus.audio_folder` says it; "" is beside the table."""

_DRIVE = re.compile(r"^[A-Za-z]:(?=[\\/])")


class AudioNames:
    """Finds recordings by what tables call them.

    A name is tried as it is written, then with another case and another Unicode form (a Mac
    decomposes `é`), with `\\` as a separator, and an absolute one by its end.

    Args:
        folder: the corpus.
        folders: where to look, the first first.
    """

    def __init__(self, folder: CorpusFolder, folders: tuple[str, ...] = AUDIO_FOLDERS) -> None:
        self._folder = folder
        self._root = folder.root
        home = self._root.real("")
        self._allowed = [home] if home else []
        self._n_dropped: int | None = None  # leading parts of another machine's absolute paths
        if own := folder.config.audio_folder:
            folders = (self._own_folder(own),)
        self.folders = folders
        self._keys = lru_cache(maxsize=None)(self._names_by_key)

    def _own_folder(self, name: str) -> str:
        """`corpus.audio_folder`: the one folder outside the corpus that may be named."""
        if path := self._root.real(name):
            [home] = self._allowed
            if not path.is_dir():
                raise UserError(f"corpus.audio_folder: {name}: no such folder")
            if not path.is_relative_to(home):
                self._allowed.append(path)
                return str(path)
            return "" if path == home else path.relative_to(home).as_posix()
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise UserError(
                f"corpus.audio_folder: {name}: must lie in {self._folder.config.path}, as a corpus "
                "in object storage is read from there alone"
            )
        return PurePosixPath(name).as_posix()

    def id_of(self, name: str) -> str:
        """The id of a recording: its name without suffix and without the folder of recordings."""
        path = PurePosixPath(_posix(name))
        if path.suffix.lower() in AUDIO_SUFFIXES:
            path = path.with_suffix("")
        for folder in ("wavs", self.folders[0]):
            if folder and path.is_relative_to(folder) and path != PurePosixPath(folder):
                return str(path.relative_to(folder))
        return str(path)

    def exists(self, name: str, beside: str = "") -> bool:
        """Whether `find` finds a recording of this name."""
        try:
            self.find(name, beside)
        except RowError:
            return False
        return True

    def find(self, name: str, beside: str = "") -> Path:
        """The file, relative to the corpus folder; absolute if it lies in `corpus.audio_folder`.

        Args:
            name: as the table writes it.
            beside: the folder of the table, relative to the corpus.

        Raises:
            RowError: there is none, it lies outside, or it is no file.
        """
        problem: RowError | None = None
        first = ""
        for candidate in self._candidates(_posix(name), beside):
            first = first or candidate
            try:
                if found := self._look_up(candidate):
                    self._check(found)
                    return Path(found)
            except RowError as error:
                problem = problem or error
        if problem:
            raise problem
        if PurePosixPath(_posix(name)).is_absolute():
            raise RowError(
                Reason.OUTSIDE_CORPUS,
                f"{name} leads out of the corpus folder; corpus.audio_folder may name a folder",
            )
        detail = f"{first} does not exist"
        if not self._folder.config.audio_folder:
            detail += "; corpus.audio_folder names the folder of the recordings"
        raise RowError(Reason.MISSING_FILE, detail)

    def _candidates(self, name: str, beside: str) -> Iterator[str]:
        """Paths that a name may stand for, the likeliest first."""
        path = PurePosixPath(name)
        if ".." in path.parts:
            raise RowError(Reason.OUTSIDE_CORPUS, f"{name} leads out of the corpus folder")
        if not path.is_absolute():
            yield from self._below(path, beside)
            return
        for allowed in (*self._allowed, self._folder.config.path):
            if path.is_relative_to(str(allowed)):
                inside = path.relative_to(str(allowed))
                prefix = f"{allowed}/" if allowed in self._allowed[1:] else ""
                yield from (prefix + name for name in _with_suffix(inside))
        # Of another machine: its end is looked for here.
        parts = path.parts
        dropped = [n for n in [self._n_dropped or 0] if 0 < n < len(parts)]
        for n in (*dropped, *range(1, len(parts))):
            tail = PurePosixPath(*parts[n:])
            for candidate in self._below(tail, beside):
                if self._look_up(candidate):
                    self._n_dropped = n
                    self._folder.note(
                        "paths", "absolute ones of another machine are found by their ends"
                    )
                    yield candidate

    def _below(self, path: PurePosixPath, beside: str) -> Iterator[str]:
        """A relative path in each folder of recordings."""
        if not path.parts:
            return
        places = [beside, ""] if beside else [""]
        for folder in self.folders:
            for place in places if not folder.startswith("/") else [""]:
                base = "/".join(filter(None, (place, folder)))
                yield from (f"{base}/{name}" if base else name for name in _with_suffix(path))
        if self._folder.config.audio_folder:  # `wavs/a.wav` beside `audio_folder: wavs`
            yield from _with_suffix(path)

    def _look_up(self, path: str) -> str | None:
        """The path as its folders write it, if there is one.

        Raises:
            RowError: two names fit and neither exactly, or a folder cannot be listed.
        """
        whole = PurePosixPath(path)
        found = next((str(a) for a in self._allowed[1:] if whole.is_relative_to(a)), "")
        for part in whole.relative_to(found).parts:
            try:
                names = self._keys(found)
            except PermissionError as error:
                raise RowError(Reason.NOT_READABLE, f"{path}: {error.strerror}") from None
            fits = (part,) if part in names.get(_key(part), ()) else names.get(_key(part), ())
            if not fits:
                return None
            if len(fits) > 1:
                raise RowError(Reason.MISSING_FILE, f"{path}: {' and '.join(fits)} differ in case")
            found = f"{found}/{fits[0]}" if found else fits[0]
        return found

    def _names_by_key(self, folder: str) -> dict[str, tuple[str, ...]]:
        """Names in a folder by what they have in common with others of the same letters."""
        if folder and (real := self._root.real(folder)):
            self._check_inside(folder, real)
        listing = self._folder.listing(folder)
        names: dict[str, tuple[str, ...]] = {}
        for name in (*listing.files, *listing.folders):
            names[_key(name)] = (*names.get(_key(name), ()), name)
        return names

    def _check_inside(self, name: str, real: Path) -> None:
        if not any(real.is_relative_to(allowed) for allowed in self._allowed):
            raise RowError(Reason.OUTSIDE_CORPUS, f"{name} is a link to {real}")

    def _check(self, audio: str) -> None:
        """Refuse what cannot be used as a recording, as far as can be told without opening it."""
        if (real := self._root.real(audio)) is None:
            return
        self._check_inside(audio, real)
        try:
            mode = os.stat(real).st_mode
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise RowError(Reason.NOT_A_FILE, f"{audio} is a link in a circle") from None
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
                raise RowError(Reason.MISSING_FILE, f"{audio} does not exist") from None
            raise RowError(Reason.NOT_READABLE, f"{audio}: {error.strerror}") from None
        if not stat.S_ISREG(mode):
            raise RowError(Reason.NOT_A_FILE, f"{audio} {NotAFile(mode).strerror}")


def has_audio_suffix(name: str) -> bool:
    """Whether a name ends as those of recordings do."""
    return PurePosixPath(name).suffix.lower() in AUDIO_SUFFIXES


def _posix(name: str) -> str:
    """With slashes and without the letter of a drive."""
    return _DRIVE.sub("", name).replace("\\", "/") if "\\" in name or ":" in name else name


def _with_suffix(path: PurePosixPath) -> Iterator[str]:
    """A name as it is, or with each suffix that it may lack."""
    if has_audio_suffix(path.name):
        yield str(path)
    elif path.name:
        yield from (f"{path}{suffix}" for suffix in AUDIO_SUFFIXES)


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
