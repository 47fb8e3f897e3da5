"""Our own backend keeps every rule of the backend kit, for Llama and GPT-2."""

import pytest

from forwardcache.conformance.backend import check_backend
from tests.hf.conftest import MakeBackend

PROMPTS = ("the quick brown fox", "hello world", "the lazy dog jumps", "over the fox and the dog")
PAIRS = (("the quick", " brown fox"), ("hello", " world the dog"), ("the lazy dog", " jumps over"))


@pytest.mark.parametrize("name", ["llama+lora", "gpt2+lora"])
def test_every_rule_holds_and_none_is_skipped(make_backend: MakeBackend, name: str) -> None:
    report = check_backend(
        lambda: make_backend(name), prompts=PROMPTS, pairs=PAIRS, report_all=True
    )
    assert [result for result in report.results if result.outcome != "passed"] == []
