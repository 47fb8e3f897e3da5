"""What does a line in the trace cost a hit, apart from the write that it needs?"""

from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benches import cases, contenders
from benches.bench_case import measure


@pytest.mark.parametrize("name", [*contenders.INSTRUMENTATIONS, "one write of a line"])
@pytest.mark.parametrize("size", cases.SIZES.values(), ids=list(cases.SIZES))
def test_traced_hit(benchmark: BenchmarkFixture, size: int, name: str, tmp_path: Path) -> None:
    benchmark.group = f"traced hit, {size} B"
    path = tmp_path / "trace.jsonl"
    is_floor = name not in contenders.INSTRUMENTATIONS
    loop = contenders.line_write(path) if is_floor else contenders.traced(name, path)
    measure(benchmark, loop, cases.same(size))
