"""What does a hit cost beside other caches and the plain-Python model?"""

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benches import cases, contenders
from benches.bench_case import measure


@pytest.mark.parametrize("name", [*contenders.INSTRUMENTATIONS, *contenders.PEERS])
@pytest.mark.parametrize("again", [cases.same, cases.fresh], ids=["same", "fresh"])
@pytest.mark.parametrize("size", cases.SIZES.values(), ids=list(cases.SIZES))
def test_hit(benchmark: BenchmarkFixture, size: int, again: cases.Again, name: str) -> None:
    benchmark.group = f"hit, {size} B, {again.__name__}"
    measure(benchmark, contenders.single(name, cases.CAPACITY), again(size))
