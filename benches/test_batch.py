"""What does a prompt cost in a batch of 1024 hits?"""

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benches import cases, contenders
from benches.bench_case import measure


@pytest.mark.parametrize("name", [*contenders.INSTRUMENTATIONS, *contenders.PEERS])
@pytest.mark.parametrize("size", cases.SIZES.values(), ids=list(cases.SIZES))
def test_batch(benchmark: BenchmarkFixture, size: int, name: str) -> None:
    benchmark.group = f"batch of {cases.BATCH} hits, {size} B"
    measure(benchmark, contenders.batch(name, 2 * cases.BATCH), cases.same_batch(size))
