"""The cache of compiled things: folders by the hash of what they were made from.

One rule for programs, kernels and objects: an entry is written aside, checked and renamed into place under a lock of
its own, so that any number of processes may share a cache, and one that dies leaves nothing that looks complete.
Every file of an entry has a checksum; an entry that does not match is made again. The entries used longest ago go when
the whole grows over its bound.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock
from platformdirs import user_cache_path

from qcc.errors import QccError

log = logging.getLogger("qcc.cache")

FOLDER_VARIABLE, LIMIT_VARIABLE = "QCC_CACHE_DIR", "QCC_CACHE_BYTES"
LIMIT = 4 * 10**9
"""Bytes that a cache may hold, unless $QCC_CACHE_BYTES says otherwise."""
STALE_SECONDS = 24 * 3600.0
"""Age at which what a killed process left half-written is removed."""
GRACE_SECONDS = 60.0
CONTENTS = "contents.json"
_ENTRIES, _LOCKS, _ASIDE = "entries", "locks", "aside"


def cache_folder() -> Path:
    """Return the folder of the cache: $QCC_CACHE_DIR, else `qcc` in the user's cache folder ($XDG_CACHE_HOME)."""
    named = os.environ.get(FOLDER_VARIABLE)
    return Path(named) if named else user_cache_path("qcc")


def digest_of(parts: Iterable[str | bytes | memoryview]) -> str:
    """Return the hash of some parts, none of which runs into the next."""
    found = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        found.update(f"{memoryview(data).nbytes}:".encode())
        found.update(data)
    return found.hexdigest()


@dataclass(frozen=True)
class CacheEntry:
    """An entry as `qcc cache` lists it: its key, kind, bytes, and when it was last used (seconds since 1970)."""

    key: str
    kind: str
    bytes: int
    used: float


class Cache:
    """A folder of entries, at most `limit` bytes; see the module."""

    def __init__(self, folder: Path | None = None, limit: int | None = None, *, grace: float = GRACE_SECONDS) -> None:
        """Use a folder, or the one of `cache_folder`; entries younger than `grace` seconds never go.

        Raises:
            QccError: if $QCC_CACHE_BYTES is no number.
        """
        self.folder = cache_folder() if folder is None else folder
        self.limit = _limit() if limit is None else limit
        self._grace = grace

    def get(self, kind: str, key: str, make: Callable[[Path], None]) -> Path:
        """Return the folder of an entry, made by `make` in an empty folder if there is none or it is damaged.

        What `make` raises is passed on, and nothing is kept then. Where the cache cannot be written, the entry is made
        in a folder that lives as long as the process.
        """
        entry = self.folder / _ENTRIES / f"{kind}-{key}"
        if _is_whole(entry):
            _touch(entry)
            return entry
        try:
            lock = self._lock(entry.name)
        except OSError as error:
            log.warning("the cache %s cannot be written (%s): nothing is kept", self.folder, error)
            return _made_for_now(make)
        with lock:
            if _is_whole(entry):  # another process made it meanwhile
                return entry
            if entry.exists():
                log.warning("the cache entry %s is damaged; it is made again", entry)
                shutil.rmtree(entry)
            self._make(entry, make)
        self._shrink(entry)
        return entry

    def entries(self) -> list[CacheEntry]:
        """List the entries, the one used last first."""
        found: list[CacheEntry] = []
        for path in self._paths():
            kind, _, key = path.name.rpartition("-")
            try:
                found.append(CacheEntry(key, kind, _size(path), (path / CONTENTS).stat().st_mtime))
            except OSError:  # it went away while it was looked at
                continue
        return sorted(found, key=lambda one: -one.used)

    def clear(self) -> int:
        """Remove all entries; returns the bytes they took. What a process is using stays usable to it."""
        freed = sum(one.bytes for one in self.entries())
        for name in (_ENTRIES, _ASIDE):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        return freed

    def _paths(self) -> list[Path]:
        folder = self.folder / _ENTRIES
        return [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []

    def _lock(self, name: str) -> FileLock:
        """Return the lock of an entry; the operating system frees that of a process that dies."""
        for folder in (_LOCKS, _ASIDE, _ENTRIES):
            (self.folder / folder).mkdir(parents=True, exist_ok=True)
        path = self.folder / _LOCKS / f"{name}.lock"
        path.touch()
        return FileLock(path)

    def _make(self, entry: Path, make: Callable[[Path], None]) -> None:
        aside = Path(tempfile.mkdtemp(prefix=f"{entry.name[:40]}.", dir=self.folder / _ASIDE))
        try:
            make(aside)
            contents = {one.relative_to(aside).as_posix(): _contents(one) for one in sorted(_files(aside))}
            (aside / CONTENTS).write_text(json.dumps(contents), "utf-8")
            aside.rename(entry)
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    def _shrink(self, keep: Path) -> None:
        """Remove the entries used longest ago until the rest fits, and what killed processes left behind.

        Another process may be opening what it was given a moment ago, so the youngest stay.
        """
        total = 0
        for one in self.entries():
            path = self.folder / _ENTRIES / f"{one.kind}-{one.key}"
            total += one.bytes
            if total > self.limit and path != keep and time.time() - one.used >= self._grace:
                log.info("the cache is over %d bytes: %s goes", self.limit, path.name)
                shutil.rmtree(path, ignore_errors=True)
        aside = self.folder / _ASIDE
        for path in aside.iterdir() if aside.is_dir() else ():
            try:
                if time.time() - path.stat().st_mtime > STALE_SECONDS:
                    shutil.rmtree(path, ignore_errors=True)
            except OSError:
                continue


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in _files(folder))


def _made_for_now(make: Callable[[Path], None]) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="qcc-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    make(folder)
    return folder


def _is_whole(entry: Path) -> bool:
    """Say whether every file that was written is there as it was written; what was added since does not matter."""
    try:
        contents = json.loads((entry / CONTENTS).read_text("utf-8"))
        return all(_contents(entry / name) == wanted for name, wanted in contents.items())
    except (OSError, ValueError, AttributeError):
        return False


def _contents(path: Path) -> list[object]:
    with path.open("rb") as file:
        return [path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()]


def _limit() -> int:
    text = os.environ.get(LIMIT_VARIABLE, str(LIMIT))
    if not text.isdecimal():
        raise QccError(f"${LIMIT_VARIABLE} is '{text}', no number of bytes", fix=f"e.g. {LIMIT_VARIABLE}={LIMIT}")
    return int(text)


def _touch(entry: Path) -> None:
    try:
        os.utime(entry / CONTENTS)
    except OSError:  # a cache that may only be read is used all the same
        pass


def cache_data(cache: Cache) -> dict[str, object]:
    """Describe a cache for a program to read: its folder, its bound, and every entry."""
    entries = [asdict(one) for one in cache.entries()]
    return {"folder": str(cache.folder), "limit": cache.limit, "entries": entries}


def cache_lines(cache: Cache, freed: int | None) -> list[str]:
    """Describe a cache for a person: its folder and bytes, then how much of each kind there is."""
    entries = cache.entries()
    lines = [] if freed is None else [f"freed {_megabytes(freed)}"]
    total = sum(one.bytes for one in entries)
    lines.append(f"{cache.folder}: {_megabytes(total)} of {_megabytes(cache.limit)}")
    for kind in sorted({one.kind for one in entries}):
        chosen = [one for one in entries if one.kind == kind]
        plural = "entry" if len(chosen) == 1 else "entries"
        lines.append(f"  {kind}: {len(chosen)} {plural}, {_megabytes(sum(one.bytes for one in chosen))}")
    return lines


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB"
