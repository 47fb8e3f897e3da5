"""One tiny model, with its adapters, for all engines of these tests."""

import os
from collections.abc import Iterator
from pathlib import Path

# Before torch is imported: spinning threads cost several times the work itself on a busy machine.
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch

from forwardcache.conformance.adapter.ground import Ground
from forwardcache.conformance.adapter.run import ground_of
from tests.conformance.adapter.toy import Arithmetic, model

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model's."""
    path = tmp_path_factory.mktemp("model")
    model().save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def ground(folder: Path) -> Iterator[Ground]:
    """Made once; a run on it costs what the engine costs."""
    with ground_of(folder, "quick") as made:
        yield made


@pytest.fixture(scope="session")
def arithmetic() -> Arithmetic:
    """That of all engines, which keeps what it has computed."""
    return Arithmetic()
