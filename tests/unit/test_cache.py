"""The compile cache: shared by processes, bounded, and whole or made again."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from qcc.cache import Cache, cache_folder, digest_of
from qcc.errors import QccError
from tests.installed import ROOT


def writing(size: int, made: list[int] | None = None) -> object:
    def make(folder: Path) -> None:
        (folder / "inner").mkdir()
        (folder / "inner" / "data").write_bytes(bytes(size))
        if made is not None:
            made.append(size)

    return make


def get(cache: Cache, key: str, size: int = 10, made: list[int] | None = None) -> Path:
    make = writing(size, made)
    assert callable(make)
    return cache.get("thing", key, make)


def test_an_entry_is_made_once(tmp_path: Path) -> None:
    cache, made = Cache(tmp_path), list[int]()
    first = get(cache, "a", 10, made)
    assert get(Cache(tmp_path), "a", 10, made) == first
    assert get(cache, "b", 20, made) != first
    assert made == [10, 20]
    assert (first / "inner" / "data").read_bytes() == bytes(10)
    assert {(one.kind, one.key) for one in cache.entries()} == {("thing", "a"), ("thing", "b")}
    assert not list((tmp_path / "aside").iterdir())


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "contents", "no contents"])
def test_a_damaged_entry_is_made_again_and_said(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    cache, made = Cache(tmp_path), list[int]()
    entry = get(cache, "a", 10, made)
    path = entry / ("contents.json" if "contents" in damage else "inner/data")
    if damage in ("remove", "no contents"):
        path.unlink()
    else:
        data = path.read_bytes()
        path.write_bytes(data[:-1] if damage == "cut" else b"{" + data[1:])
    if damage == "contents":
        path.write_bytes(b"[1]")
    with caplog.at_level(logging.WARNING, "qcc.cache"):
        assert get(cache, "a", 10, made) == entry
    assert made == [10, 10]
    assert "is damaged; it is made again" in caplog.text
    assert (entry / "inner" / "data").read_bytes() == bytes(10)


def test_what_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise QccError("no")

    cache = Cache(tmp_path)
    with pytest.raises(QccError, match="no"):
        cache.get("thing", "a", fail)
    assert cache.entries() == []
    assert not list((tmp_path / "aside").iterdir())
    get(cache, "a")


def test_the_least_recently_used_go(tmp_path: Path) -> None:
    cache = Cache(tmp_path, limit=2600, grace=0.0)
    for index, key in enumerate("abc"):
        entry = get(cache, key, 1000)
        os.utime(entry / "contents.json", (1000.0 + index, 1000.0 + index))
    # the third did not fit beside the first two: the oldest is gone
    assert {one.key for one in cache.entries()} == {"b", "c"}
    get(cache, "b", 1000)
    get(cache, "d", 1000)
    assert {one.key for one in cache.entries()} == {"b", "d"}
    get(cache, "huge", 9000)
    assert [one.key for one in cache.entries()] == ["huge"]
    young = Cache(tmp_path, limit=100)
    get(young, "e", 1000)
    assert {one.key for one in young.entries()} == {"huge", "e"}


def test_clear_and_stale_halves(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    get(cache, "a", 100)
    half = tmp_path / "aside" / "thing-x.killed"
    half.mkdir()
    os.utime(half, (1.0, 1.0))
    get(cache, "b", 100)
    assert not half.exists()
    assert cache.clear() >= 200
    assert cache.entries() == []
    get(cache, "a", 100)


def test_an_unwritable_cache_still_makes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("in the way")
    entry = get(Cache(tmp_path / "file"), "a", 10)
    assert (entry / "inner" / "data").read_bytes() == bytes(10)
    assert "cannot be written" in caplog.text


def test_threads_make_an_entry_once(tmp_path: Path) -> None:
    made: list[int] = []

    def slow(folder: Path) -> None:
        time.sleep(0.1)
        (folder / "data").write_bytes(b"x")
        made.append(1)

    threads = [threading.Thread(target=lambda: Cache(tmp_path).get("thing", "a", slow)) for _ in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert made == [1]


PROCESS = """
import sys, time
from pathlib import Path
from qcc.cache import Cache

def make(folder):
    (folder / "data").write_bytes(bytes(1000))
    print("making", flush=True)
    time.sleep(float(sys.argv[2]))
    (folder / "more").write_bytes(bytes(1000))

print(Cache(Path(sys.argv[1])).get("thing", "a", make), flush=True)
"""


def start(folder: Path, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROCESS, str(folder), str(seconds)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_processes_make_an_entry_once(tmp_path: Path) -> None:
    processes = [start(tmp_path, 0.3) for _ in range(3)]
    printed = [one.communicate(timeout=60)[0] for one in processes]
    assert all(one.returncode == 0 for one in processes)
    assert sum("making" in text for text in printed) == 1
    assert len({text.splitlines()[-1] for text in printed}) == 1


def test_a_killed_process_leaves_nothing_that_looks_whole(tmp_path: Path) -> None:
    process = start(tmp_path, 60.0)
    assert process.stdout is not None
    assert process.stdout.readline() == "making\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert Cache(tmp_path).entries() == []
    done = start(tmp_path, 0.0).communicate(timeout=60)[0]
    assert done.splitlines()[0] == "making"
    assert len(Cache(tmp_path).entries()) == 1


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("QCC_CACHE_DIR", str(tmp_path))
    assert cache_folder() == Cache().folder == tmp_path
    monkeypatch.delenv("QCC_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / "qcc"
    monkeypatch.setenv("QCC_CACHE_BYTES", "lots")
    with pytest.raises(QccError, match=r"\$QCC_CACHE_BYTES is 'lots'"):
        Cache()
    monkeypatch.setenv("QCC_CACHE_BYTES", "12")
    assert Cache().limit == 12


def test_parts_of_a_digest_do_not_run_together() -> None:
    assert digest_of(["ab", "c"]) != digest_of(["a", "bc"])
    assert digest_of([b"ab"]) == digest_of(["ab"])
