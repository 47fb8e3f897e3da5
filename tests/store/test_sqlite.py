"""Claims: what is put into the file is there for other processes and after a kill, or not at all;
a size limit removes the least recently used; damage, a full disk and a fork cost values and never
an exception or a wrong value; a file system where SQLite isn't safe is refused.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import closing
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from forwardcache.errors import InvalidInputError
from forwardcache.scoring import TokenDist
from forwardcache.store import Record, open_store, sqlite
from forwardcache.store.filesystem import check_local
from forwardcache.store.schema import prepare
from forwardcache.store.seal import seal, unseal
from forwardcache.store.sqlite import SQLiteStore
from tests import proof
from tests.patience import PATIENCE_S


def key_of(number: int) -> bytes:
    return sha256(b"%d" % number).digest()


def value_of(number: int) -> TokenDist:
    ids = np.arange(8) + number
    return TokenDist(ids, -np.arange(8) - number / 8, 50_000, -1.5 - number)


def record_of(number: int, view: str = "base") -> Record:
    key = key_of(number)
    return Record(key, seal(key, value_of(number)), "ab12", view, "next_token_dist")


def right(found: dict[bytes, bytes], numbers: range) -> int:
    """Asserts that whatever can be unsealed is right; how many are."""
    values = {n: unseal(key_of(n), found[key_of(n)]) for n in numbers if key_of(n) in found}
    whole = {number: value for number, value in values.items() if value is not None}
    assert all(value == value_of(number) for number, value in whole.items())
    return len(whole)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "values.db"


@pytest.fixture
def store(path: Path) -> Iterator[SQLiteStore]:
    store = SQLiteStore(path)
    yield store
    store.close()


def test_values_are_there_after_reopening(path: Path) -> None:
    first = open_store(path)
    assert first.put_many([record_of(n) for n in range(2_000)]) == 2_000
    first.close()
    second = open_store(str(path))
    found = second.get_many([key_of(n) for n in range(3_000)])
    assert len(found) == right(found, range(3_000)) == 2_000
    second.close()


def test_the_file_and_its_side_files_are_for_the_owner_only(store: SQLiteStore) -> None:
    store.put_many([record_of(1)])
    for ending in ("", "-wal", "-shm"):
        assert stat.S_IMODE(os.stat(f"{store.path}{ending}").st_mode) == 0o600


def test_a_value_put_again_replaces_the_first_and_counts_once(store: SQLiteStore) -> None:
    broken = Record(key_of(1), b"broken", "ab12", "base", "next_token_dist")
    store.put_many([broken])
    store.put_many([record_of(1)])
    assert right(store.get_many([key_of(1)]), range(2)) == 1
    info = store.info()
    assert (info.entries, info.nbytes) == (1, len(record_of(1).blob))


def test_a_key_with_the_same_beginning_is_another_key(store: SQLiteStore) -> None:
    twin = key_of(1)[:8] + bytes(24)
    store.put_many([record_of(1)])
    assert store.get_many([twin]) == {}
    store.put_many([Record(twin, b"other", "ab12", "base", "op")])
    assert store.get_many([key_of(1), twin]) == {twin: b"other"}
    assert store.info().entries == 1


def test_records_come_back_with_their_names(store: SQLiteStore) -> None:
    written = [record_of(1), record_of(2, "ft")]
    store.put_many(written)
    found = store.get_records([key_of(n) for n in (2, 1, 3)])
    assert sorted(found, key=lambda each: each.view) == written
    assert store.get_records([]) == store.get_records([key_of(3)]) == []


def test_info_and_prune_go_by_model_view_and_op(store: SQLiteStore) -> None:
    store.put_many([record_of(n) for n in range(10)] + [record_of(n, "ft") for n in range(10, 14)])
    size = len(record_of(0).blob)
    assert store.info().by_kind == {
        ("ab12", "base", "next_token_dist"): (10, 10 * size),
        ("ab12", "ft", "next_token_dist"): (4, 4 * size),
    }
    assert store.prune(model="other") == 0
    assert store.prune(view="ft", model="ab12") == 4
    assert store.prune(older_than_s=3600) == 0
    assert store.prune(max_bytes=3 * size) == 7
    assert store.prune(older_than_s=-1) == 3
    assert store.info().entries == 0


def test_a_size_limit_removes_the_least_recently_used(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = len(record_of(0).blob)
    store = SQLiteStore(path, max_bytes=100 * size)
    for number in range(100):
        store.put_many([record_of(number)])
    monkeypatch.setattr(sqlite, "_TOUCHED_EVERY_S", 0.0)
    store.get_many([key_of(n) for n in range(5)])
    store.put_many([record_of(100)])
    found = store.get_many([key_of(n) for n in range(101)])
    assert {n for n in range(101) if key_of(n) in found} == {*range(5), *range(16, 101)}
    store.close()


def test_verify_drops_what_is_damaged(store: SQLiteStore) -> None:
    bad = Record(key_of(1), record_of(2).blob, "ab12", "base", "next_token_dist")
    store.put_many([record_of(0), bad])
    check = store.verify()
    assert (check.ok, check.damaged) == (1, 1)
    assert set(store.get_many([key_of(0), key_of(1)])) == {key_of(0)}
    assert store.info().damaged == 1


def test_threads_share_one_store(store: SQLiteStore) -> None:
    def work(first: int) -> None:
        for number in range(first, first + 50):
            store.put_many([record_of(number)])
            right(store.get_many([key_of(number)]), range(number, number + 1))

    threads = [threading.Thread(target=work, args=(n * 25,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.info().entries == 125
    assert store.info().errors == 0


def _fill(path: Path, first: int) -> None:
    store = SQLiteStore(path)
    order = list(range(first, first + 2_000))
    random.Random(first).shuffle(order)
    for start in range(0, 2_000, 50):
        some = order[start : start + 50]
        found = store.get_many([key_of(n) for n in some])
        right(found, range(first, first + 2_000))
        store.put_many([record_of(n) for n in some if key_of(n) not in found])
    assert store.info().errors == 0
    store.close()


def test_four_processes_fill_one_file_with_overlapping_values(path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_fill, args=(path, n * 500)) for n in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(PATIENCE_S)
        assert process.exitcode == 0
    store = SQLiteStore(path)
    found = store.get_many([key_of(n) for n in range(3_500)])
    assert right(found, range(3_500)) == 3_500
    assert (store.verify().ok, store.info().entries) == (3_500, 3_500)
    store.close()
    [(whole,)] = sqlite3.connect(path).execute("PRAGMA integrity_check").fetchall()
    assert whole == "ok"


WRITER = """
    import sys
    from tests.store.test_sqlite import record_of
    from forwardcache.store.sqlite import SQLiteStore
    store = SQLiteStore(sys.argv[1])
    for first in range(0, 100_000, 20):
        assert store.put_many([record_of(n) for n in range(first, first + 20)]) == 20
        print(first + 20, flush=True)
"""


@pytest.mark.parametrize("after_s", [0.0, 0.02, 0.05, 0.1])
def test_a_kill_leaves_whole_batches(path: Path, after_s: float) -> None:
    command = [sys.executable, "-c", textwrap.dedent(WRITER), str(path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    said = [process.stdout.readline()]
    time.sleep(after_s)
    process.send_signal(signal.SIGKILL)
    said += process.stdout.readlines()
    process.wait()
    kept = int([line for line in said if line.endswith("\n")][-1])
    store = SQLiteStore(path)
    entries = store.info().entries
    assert kept <= entries
    assert entries % 20 == 0
    assert right(store.get_many([key_of(n) for n in range(entries)]), range(entries)) == entries
    store.close()


DAMAGED = proof.knob("DAMAGED", 2_000)


def test_flipped_bits_and_cut_files_are_misses_only(path: Path, tmp_path: Path) -> None:
    whole = SQLiteStore(path)
    whole.put_many([record_of(n) for n in range(60)])
    whole.close()
    content, chance = path.read_bytes(), random.Random(7 + proof.SEED)
    shutil.rmtree(tmp_path / "many", ignore_errors=True)
    (tmp_path / "many").mkdir()
    lost = 0
    for trial in range(DAMAGED):
        bad = bytearray(content)
        if trial % 4:
            for _ in range(chance.choice((1, 1, 8))):
                bad[chance.randrange(len(bad))] ^= 1 << chance.randrange(8)
        else:
            del bad[chance.randrange(len(bad)) :]
        damaged = tmp_path / "many" / f"{trial}.db"
        damaged.write_bytes(bad)
        with warnings.catch_warnings(action="ignore"):
            store = SQLiteStore(damaged)
        found = store.get_many([key_of(n) for n in range(60)])
        lost += 60 - right(found, range(60))
        store.put_many([record_of(0)])
        store.info()
        store.close()
        for left in (tmp_path / "many").iterdir():
            left.unlink()
    assert lost > DAMAGED
    proof.done["damaged copies"] += DAMAGED


@pytest.mark.parametrize("size", [14, 15_000])
def test_a_file_that_is_no_store_is_refused_and_left_alone(path: Path, size: int) -> None:
    path.write_bytes((b"something else " * 1_000)[:size])
    with pytest.raises(InvalidInputError, match=r"values\.db is no store"):
        SQLiteStore(path)
    assert path.read_bytes() == (b"something else " * 1_000)[:size]
    assert list(path.parent.iterdir()) == [path]


def test_a_damaged_database_of_another_program_is_refused_and_left_alone(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE theirs (a)")
    connection.commit()
    connection.close()
    whole = path.read_bytes()
    path.write_bytes(whole[:4100])
    with pytest.raises(InvalidInputError, match=r"values\.db is"):
        SQLiteStore(path)
    assert path.read_bytes() == whole[:4100]


def test_a_damaged_store_is_moved_aside_and_never_over_an_older_one(path: Path) -> None:
    for name in ("values.db.damaged", "values.db.damaged.1"):
        store = SQLiteStore(path)
        assert store.put_many([record_of(0)]) == 1
        store.close()
        with path.open("r+b") as file:
            file.write(b"not SQLite")
        with pytest.warns(UserWarning, match=re.escape(f"{name} now")):
            store = SQLiteStore(path)
        assert path.with_name(name).read_bytes().startswith(b"not SQLite")
        assert (store.info().entries, store.info().damaged) == (0, 1)
        store.close()
        path.unlink()


def test_a_store_whose_table_is_none_any_more_is_moved_aside(path: Path) -> None:
    SQLiteStore(path).close()
    path.write_bytes(path.read_bytes().replace(b"tablesealedsealed", b"Tablesealedsealed"))
    with pytest.warns(UserWarning, match=r"values\.db\.damaged now"):
        SQLiteStore(path).close()


def test_values_put_over_others_and_twice_at_once_count_once(store: SQLiteStore) -> None:
    store.put_many([record_of(n) for n in range(4)])
    other = Record(key_of(2), b"another", "cd34", "ft", "op")
    assert store.put_many([record_of(5), other, record_of(6), record_of(5)]) == 4
    kinds = store.info().by_kind
    assert kinds["ab12", "base", "next_token_dist"][0] == 5
    assert kinds["cd34", "ft", "op"] == (1, len(b"another"))
    assert [each.key for each in store.records()] == [key_of(n) for n in (0, 1, 3, 5, 6)]
    assert store.get_many([key_of(2)]) == {key_of(2): b"another"}


def test_what_is_put_gets_into_the_file_while_the_store_is_open(path: Path) -> None:
    with closing(SQLiteStore(path)) as store:
        records = [Record(key_of(n), bytes(4096), "ab12", "base", "op") for n in range(400)]
        assert store.put_many(records) == 400
        store._checkpoints.wait()
        assert path.stat().st_size > 400 * 4096
        child = os.fork()
        if child == 0:
            os._exit(0 if store.put_many(records) == 400 else 1)
        assert store.put_many(records) == 400
        assert os.waitpid(child, 0)[1] == 0


def _write_into_little_space(path: Path) -> None:
    store = SQLiteStore(path)
    store.put_many([record_of(n) for n in range(20)])
    limit = path.stat().st_size + 200_000
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    kept = [store.put_many([record_of(n) for n in range(f, f + 20)]) for f in range(20, 4_000, 20)]
    assert kept[-1] == 0
    assert store.info().errors == sum(number < 20 for number in kept)
    assert store.info().entries == 20 + sum(kept)
    assert right(store.get_many([key_of(n) for n in range(20)]), range(20)) == 20


def test_a_full_disk_is_counted_and_nothing_else(path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(
        target=_write_into_little_space, args=(path,)
    )
    process.start()
    process.join(PATIENCE_S)
    assert process.exitcode == 0
    store = SQLiteStore(path)
    assert store.verify().damaged == 0
    store.close()


def test_both_sides_of_a_fork_go_on(store: SQLiteStore) -> None:
    store.put_many([record_of(0)])
    child = os.fork()
    if child == 0:
        good = right(store.get_many([key_of(0)]), range(1)) == 1
        good &= all(store.put_many([record_of(n)]) == 1 for n in range(100, 150))
        os._exit(0 if good else 1)
    for number in range(1, 50):
        assert store.put_many([record_of(number)]) == 1
    assert os.waitpid(child, 0)[1] == 0
    assert store.info().entries == 100
    assert store.verify().damaged == 0


def test_what_can_be_no_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="is a folder"):
        SQLiteStore(tmp_path)
    with pytest.raises(InvalidInputError, match="there is no folder"):
        SQLiteStore(tmp_path / "none" / "values.db")
    with pytest.raises(InvalidInputError, match="max_bytes must be positive or None, got 0"):
        SQLiteStore(tmp_path / "values.db", max_bytes=0)
    with sqlite3.connect(tmp_path / "other.db") as connection:
        connection.execute("CREATE TABLE recipes (name)")
    with pytest.raises(InvalidInputError, match="another program's database"):
        SQLiteStore(tmp_path / "other.db")


def test_a_network_file_system_is_refused_with_the_reason(tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "21 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
        f"22 21 0:40 / {tmp_path}/far rw shared:1 - nfs4 host:/export rw\n"
        f"23 21 0:41 / {tmp_path}/a\\040b rw - fuse.sshfs host: rw\n"
    )
    check_local(tmp_path / "near.db", mounts)
    with pytest.raises(InvalidInputError, match=r"is on nfs4 \(mounted at .*/far\)"):
        check_local(tmp_path / "far" / "values.db", mounts)
    with pytest.raises(InvalidInputError, match=r"fuse\.sshfs"):
        check_local(tmp_path / "a b" / "values.db", mounts)


@pytest.mark.parametrize(
    "kind", ["vboxsf", "drvfs", "prl_fs", "wekafs", "panfs", "vmhgfs", "9p", "virtiofs", "nfs4",
             "fuse.vmhgfs-fuse"]
)  # fmt: skip
def test_what_is_shared_with_another_machine_is_refused(tmp_path: Path, kind: str) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"22 21 0:40 / {tmp_path}/far rw shared:1 - {kind} host rw\n")
    with pytest.raises(InvalidInputError, match=rf"is on {re.escape(kind)} \(mounted at .*/far\)"):
        check_local(tmp_path / "far" / "values.db", mounts)


def test_a_file_system_that_is_not_known_is_warned_of_and_taken(tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"22 21 0:40 / {tmp_path}/far rw shared:1 - newclusterfs host rw\n")
    with pytest.warns(UserWarning, match="is on newclusterfs .*not known to be local"):
        check_local(tmp_path / "far" / "values.db", mounts)
    for kind in ("ext4", "xfs", "btrfs", "zfs", "tmpfs", "overlay", "squashfs", "fuseblk"):
        mounts.write_text(f"22 21 0:40 / {tmp_path}/far rw shared:1 - {kind} /dev/sda rw\n")
        with warnings.catch_warnings(action="error"):
            check_local(tmp_path / "far" / "values.db", mounts)


def test_a_network_file_system_of_macos_is_refused_with_the_reason(tmp_path: Path) -> None:
    program = tmp_path / "mount"
    program.write_text(
        "#!/bin/sh\ncat <<'LIST'\n"
        "/dev/disk3s1s1 on / (apfs, sealed, local, read-only, journaled)\n"
        "map auto_home on /System/Volumes/Data/home (autofs, automounted, nobrowse)\n"
        f"//me@host/on%20call on {tmp_path}/far (smbfs, nodev, nosuid, mounted by me)\n"
        f"/dev/disk4s2 on {tmp_path}/far/a on (b) (apfs, local, nodev, journaled)\n"
        f"host:/export on {tmp_path}/nfs (nfs)\nLIST\n"
    )
    program.chmod(0o700)
    none = tmp_path / "mountinfo"
    for near in ("near.db", "far/a on (b)/values.db", "farther/values.db"):
        check_local(tmp_path / near, none, program)
    with pytest.raises(InvalidInputError, match=r"is on smbfs \(mounted at .*/far\)"):
        check_local(tmp_path / "far" / "values.db", none, program)
    with pytest.raises(InvalidInputError, match=r"is on nfs \(mounted at"):
        check_local(tmp_path / "nfs" / "values.db", none, program)
    program.write_text("#!/bin/sh\nexit 1\n")
    check_local(tmp_path / "far" / "values.db", none, program)
    check_local(tmp_path / "far" / "values.db", none, none)


def test_macos_is_asked_to_bring_checkpoints_through_the_drive(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        prepare(connection, path)
        assert connection.execute("PRAGMA checkpoint_fullfsync").fetchone() == (1,)


def test_a_store_that_another_process_begins_is_waited_for(path: Path) -> None:
    SQLiteStore(path).close()
    # As one leaves the file that has made the tables, and not switched to the log yet.
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("PRAGMA journal_mode = DELETE").fetchone()
    other.execute("BEGIN IMMEDIATE")
    release = threading.Timer(0.3, other.execute, ["ROLLBACK"])
    release.start()
    store = SQLiteStore(path)
    assert store.put_many([record_of(0)]) == 1
    store.close()
    release.join()
    other.close()


def test_a_closed_store_is_empty(store: SQLiteStore) -> None:
    store.put_many([record_of(0)])
    store.close()
    store.close()
    assert store.get_many([key_of(0)]) == {}
    assert store.put_many([record_of(1)]) == 0
