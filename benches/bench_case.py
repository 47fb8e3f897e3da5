"""One case of the pytest-benchmark suite: a loop over prompts that are made for every round."""

from collections.abc import Callable

from pytest_benchmark.fixture import BenchmarkFixture

from benches.cases import Prompts
from benches.contenders import Loop

ROUNDS = 15


def measure(benchmark: BenchmarkFixture, loop: Loop, prompts: Callable[[], Prompts]) -> None:
    """Measures ``loop``; the times are those of as many lookups as the extra info says."""
    loop(prompts())
    benchmark.extra_info["lookups"] = len(prompts())

    def arguments() -> tuple[tuple[Prompts], dict[str, object]]:
        return (prompts(),), {}

    benchmark.pedantic(loop, setup=arguments, rounds=ROUNDS)  # type: ignore[no-untyped-call]
