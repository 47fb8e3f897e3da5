"""One Ray cluster on this machine for all tests here: starting one takes seconds."""

import os

# Before torch is imported: spinning threads cost several times the work itself on a busy machine.
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
os.environ["OMP_NUM_THREADS"] = "1"

import logging
from collections.abc import Iterator

import pytest

import forwardcache.distributed  # noqa: F401  (turns off what Ray would report)


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    import ray

    ray.init(
        address="local",
        num_cpus=4,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=100 * 2**20,
    )
    yield
    ray.shutdown()
