"""Claims: a manifest is what was written, one line a chunk, and JSON for whoever reads it so; one
that is cut anywhere, or isn't there, is one clear error.
"""

from __future__ import annotations

import json

import pytest

from forwardcache.distributed.parts.folder import SUCCESS, PartsFolder
from forwardcache.distributed.parts.manifest import Manifest, ManifestChunk, write_manifest
from forwardcache.distributed.parts.opening import open_folder
from forwardcache.errors import InvalidInputError

FACTS = {"job": "ab", "counts": {"prompts": 9, "chunks": [1]}, "skipped": [{"reason": "ü\n"}]}
CHUNKS = [
    ManifestChunk([(1, 3), (6, 2)], "parts/ab/one.parquet", 10),
    ManifestChunk([(8, 4)], "parts/cd/two.parquet", 8),
]


def test_what_was_written_is_read(folder: PartsFolder) -> None:
    write_manifest(folder, FACTS, iter(CHUNKS))
    manifest = Manifest(folder)
    assert manifest.facts == {"format": "parts 1", **FACTS}
    assert list(manifest.chunks()) == CHUNKS
    assert CHUNKS[0].lines() == [1, 2, 3, 6, 7]
    content = folder.read(SUCCESS)
    told = json.loads(content)
    assert told.pop("chunks") == json.loads(json.dumps(CHUNKS))
    assert told == manifest.facts
    assert len([line for line in content.splitlines() if b"parquet" in line]) == len(CHUNKS)


def test_a_manifest_of_nothing_is_one(folder: PartsFolder) -> None:
    write_manifest(folder, FACTS, [])
    assert list(Manifest(folder).chunks()) == []
    assert json.loads(folder.read(SUCCESS))["chunks"] == []


def test_a_long_manifest_is_written_in_pieces(tmp_path: object) -> None:
    folder = open_folder(str(tmp_path))
    chunks = [ManifestChunk([(at, 256)], f"parts/{at:064}", 512) for at in range(1, 20_000, 1)]
    write_manifest(folder, FACTS, chunks)
    assert list(Manifest(folder).chunks()) == chunks


def test_a_cut_manifest_is_refused(tmp_path: object) -> None:
    folder = open_folder(str(tmp_path))
    with pytest.raises(InvalidInputError, match=r"there is no .*--parts --resume"):
        Manifest(folder)
    write_manifest(folder, FACTS, CHUNKS)
    whole = folder.read(SUCCESS)
    for end in range(0, len(whole) - 1, 9):
        folder.put(SUCCESS, whole[:end])
        with pytest.raises(InvalidInputError, match=r"cut or damaged|no manifest of parts"):
            list(Manifest(folder).chunks())


def test_a_file_of_another_kind_is_refused(tmp_path: object) -> None:
    folder = open_folder(str(tmp_path))
    folder.put(SUCCESS, b'{\n "format": "parts 0",\n "chunks": [\n ]\n}\n')
    with pytest.raises(InvalidInputError, match="no manifest of parts of this version"):
        Manifest(folder)
