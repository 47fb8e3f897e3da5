"""Claims: a receipt that was written is found by its chunk's name whatever run wrote it, if its
part is there whole; one that is cut or damaged counts as none; none is lost when a run ends, and
what can't be written is said.
"""

from __future__ import annotations

import json
import logging
import time
import zlib
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from forwardcache.distributed.parts.folder import LocalFolder, PartsFolder
from forwardcache.distributed.parts.naming import (
    content_digest,
    job_digest,
    parse_part_file,
    part_file,
    receipts_file,
)
from forwardcache.distributed.parts.opening import open_folder
from forwardcache.distributed.parts.receipts import (
    _SEALED,
    KeptReceipts,
    Receipt,
    ReceiptWriter,
    float64s,
    packed_numbers,
    uint64s,
)
from forwardcache.errors import InvalidInputError
from tests.patience import PATIENCE_S

CONTENT = b"rows"


def receipt(number: int) -> Receipt:
    name = content_digest(b"%d" % number)
    digest = content_digest(CONTENT)
    return Receipt(
        name,
        part_file(name, digest),
        digest,
        len(CONTENT),
        rows=2,
        skipped=[[0, None, "too \\n long\u2028"]],
        stats={"cache_hits": 3, "hit_rate": 0.5},
        fewest_tokens=7,
        texts=packed_numbers(np.array([0, 2**64 - 1], np.uint64)),
        differences={"ft": packed_numbers(np.array([1e-300, np.nan]))},
    )


def keep(folder: PartsFolder, *receipts: Receipt) -> None:
    writer = ReceiptWriter(folder, every_s=60.0)
    for each in receipts:
        folder.put(each.file, CONTENT)
        writer.add(each.packed())
    writer.close()


def found(folder: PartsFolder, *numbers: int) -> list[bool]:
    kept = KeptReceipts(folder)
    return [kept.get(bytes.fromhex(receipt(each).name)) is not None for each in numbers]


def test_a_receipt_is_what_it_was() -> None:
    packed = receipt(1).packed()
    assert b"\n" not in packed
    assert Receipt.of(packed) == receipt(1)
    assert uint64s(receipt(1).texts).tolist() == [0, 2**64 - 1]
    assert np.array_equal(float64s(receipt(1).differences["ft"]), [1e-300, np.nan], equal_nan=True)


@pytest.mark.parametrize("at", range(0, len(receipt(1).packed()), 7))
def test_a_damaged_receipt_is_none(at: int) -> None:
    packed = receipt(1).packed()
    with pytest.raises(ValueError, match="cut or damaged"):
        Receipt.of(packed[:at])
    with pytest.raises(ValueError, match="cut or damaged"):
        Receipt.of(packed[:at] + bytes([packed[at] ^ 1]) + packed[at + 1 :])


def test_receipts_of_all_runs_are_found(folder: PartsFolder) -> None:
    keep(folder, *map(receipt, range(70)))
    keep(folder, receipt(70))
    files = sorted(folder.sizes("receipts"))
    # Any 64 are a file of their own; the thread may have taken fewer.
    assert len(files) >= 3
    assert found(folder, *range(72)) == [True] * 71 + [False]
    kept = KeptReceipts(folder)
    assert len(kept) == 71
    line = kept.get(bytes.fromhex(receipt(5).name))
    assert line is not None
    assert Receipt.of(line) == receipt(5)


def test_a_receipt_without_its_whole_part_counts_as_none(folder: PartsFolder) -> None:
    keep(folder, receipt(1), receipt(2), receipt(3))
    folder.remove(receipt(1).file)
    folder.put(receipt(2).file, CONTENT[:-1])
    assert found(folder, 1, 2, 3) == [False, False, True]


def test_a_cut_file_of_receipts_loses_what_is_cut(
    folder: PartsFolder, caplog: pytest.LogCaptureFixture
) -> None:
    for each in map(receipt, range(3)):
        folder.put(each.file, CONTENT)
    lines = b"".join(receipt(number).packed() + b"\n" for number in range(3))
    folder.put(receipts_file("ab", 0), lines[:-9])
    with caplog.at_level(logging.WARNING):
        assert found(folder, 0, 1, 2) == [True, True, False]
    assert "1 receipt is damaged" in caplog.text


def test_what_can_not_be_written_is_raised(folder: PartsFolder) -> None:
    if isinstance(folder, LocalFolder):
        folder.root.rmdir()
    else:
        folder._root = "no-such-bucket/x"  # type: ignore[attr-defined]
    writer = ReceiptWriter(folder, every_s=0.0)
    writer.add(receipt(1).packed())
    with pytest.raises(InvalidInputError, match="can't write"):
        writer.close()


def test_a_receipt_that_lacks_a_field_counts_as_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = open_folder(str(tmp_path))
    told = asdict(receipt(0))
    del told["texts"]
    body = json.dumps(told).encode()
    line = body[:-1] + _SEALED % zlib.crc32(body)
    folder.put(receipts_file("ab", 0), line + b"\n" + receipt(1).packed() + b"\n")
    for number in (0, 1):
        folder.put(receipt(number).file, CONTENT)
    with caplog.at_level(logging.WARNING):
        assert found(folder, 0, 1) == [False, True]
    assert "1 receipt is damaged" in caplog.text


def test_a_receipt_waits_for_no_other(tmp_path: Path) -> None:
    folder = open_folder(str(tmp_path))
    writer = ReceiptWriter(folder, every_s=0.0)
    # It waits for one.
    while not writer._changed._waiters:  # type: ignore[attr-defined]
        time.sleep(0.001)
    writer.add(receipt(1).packed())
    end_s = time.monotonic() + PATIENCE_S
    while not folder.sizes("receipts") and time.monotonic() < end_s:
        time.sleep(0.001)
    assert folder.sizes("receipts")
    writer.close()


def test_no_more_is_taken_once_receipts_can_not_be_written(tmp_path: Path) -> None:
    writer = ReceiptWriter(open_folder(str(tmp_path / "none")), every_s=0.0)
    writer.add(receipt(1).packed())
    writer._thread.join()
    with pytest.raises(InvalidInputError, match="can't write"):
        writer.add(receipt(2).packed())


def test_names_are_of_the_content() -> None:
    name, digest = content_digest(b"chunk"), content_digest(CONTENT)
    file = part_file(name, digest)
    assert parse_part_file(file) == (name, digest[:16])
    assert part_file(name, content_digest(b"other")) != file
    for wrong in (
        file + "x",
        file.replace("parts/", "parts/0"),
        file.upper(),
        "parts/ab/x.parquet",
    ):
        assert parse_part_file(wrong) is None
    facts = {"model": "m", "views": ["base", "ft"], "top_k": 4}
    assert job_digest(facts) == job_digest(dict(reversed(facts.items())))
    for other in ({"model": "n"}, {"views": ["ft", "base"]}, {"top_k": 5}, {"more": None}):
        assert job_digest({**facts, **other}) != job_digest(facts)
    assert replace(receipt(1), rows=3).packed() != receipt(1).packed()
