"""One Ray cluster on this machine for all tests here: starting one takes seconds."""

import os

# Before torch is imported: spinning threads cost several times the work itself on a busy machine.
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
os.environ["OMP_NUM_THREADS"] = "1"

import logging
from collections.abc import Iterator
from typing import Any

import pytest

import forwardcache.distributed.team  # noqa: F401  (turns off what Ray would report)
from tests.patient_ray import make_patient


def start(ray: Any) -> None:
    with pytest.MonkeyPatch.context() as patch:
        make_patient(patch.setattr)
        ray.init(
            address="local",
            num_cpus=4,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=100 * 2**20,
        )


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    import ray

    # Processes that have to compile all that they import take long on a busy machine. So they keep
    # what they compiled, and may try again.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    for is_last in (False, False, True):
        try:
            start(ray)
            break
        except Exception as error:
            if is_last or "timed out during startup" not in str(error):
                raise
            ray.shutdown()
    yield
    ray.shutdown()
