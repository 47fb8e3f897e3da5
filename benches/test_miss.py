"""What does a miss cost that inserts its value and evicts another?"""

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benches import cases, contenders
from benches.bench_case import measure


@pytest.mark.parametrize("name", [*contenders.INSTRUMENTATIONS, *contenders.PEERS])
@pytest.mark.parametrize("size", cases.SIZES.values(), ids=list(cases.SIZES))
def test_miss(benchmark: BenchmarkFixture, size: int, name: str) -> None:
    benchmark.group = f"miss, insert and evict, {size} B"
    measure(benchmark, contenders.single(name, cases.CAPACITY), cases.new(size))
