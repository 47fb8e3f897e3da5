"""Claims: another process runs no forward for what is in the store and has equal values; other
weights, views, options and tokenizers never meet; a damaged value is computed again; the self-check
finds and replaces a wrong value.
"""

from __future__ import annotations

import json
import subprocess
import textwrap
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from forwardcache.errors import ForwardCacheError, InvalidInputError
from forwardcache.hf import HFBackend
from forwardcache.store import Record, open_store
from forwardcache.store.seal import seal, unseal
from tests.hf.conftest import MakeBackend
from tests.patience import HANG_S
from tests.tolerance import TOLERANCE, hold_to_tolerance
from tests.warm import WarmPython

PROMPTS = ["the cat sat", "a dog", "the end of it", "on the mat"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "values.db"


def scored(backend: HFBackend) -> dict[str, list[Any]]:
    views = [backend.as_base(), backend.as_finetuned()]
    return backend.score(PROMPTS, views, "next_token_dist", top_k=8)


SECOND = """
    import json, sys
    from tests.hf.test_store import asked
    print(json.dumps(asked(*sys.argv[1:])))
"""


def asked(model: str, adapter: str, store: str) -> list[Any]:
    """What a process computes, hits, finds and keeps, and its values."""
    with HFBackend.load(model, adapter, device="cpu", store=store) as backend:
        found = scored(backend)
        rolled = backend.rolling_logprob_batch(PROMPTS)
        pairs = backend.logprob_of_batch([(prompt, " and") for prompt in PROMPTS])
        stats, kept = backend.stats, backend.store
        return [
            *(stats.forward_passes, stats.cache_hits, kept.hits, kept.kept),
            [dist.logprobs.tolist() for values in found.values() for dist in values],
            [text.logprobs.tolist() for text in rolled],
            pairs,
        ]


def test_a_second_process_runs_no_forward(
    folders: dict[str, Path], path: Path, warm: WarmPython
) -> None:
    arguments = str(folders["model"]), str(folders["adapter"]), str(path)
    first = asked(*arguments)
    command = [str(warm.python), "-c", textwrap.dedent(SECOND), *arguments]
    second = json.loads(subprocess.check_output(command, text=True))
    assert first[:4] == [16, 0, 0, 16]
    assert second[:4] == [0, 16, 16, 0]
    assert first[4:] == second[4:]


def test_one_number_of_the_adapter_is_another_fine_tuned_model(
    make_backend: MakeBackend, path: Path
) -> None:
    scored(make_backend(copied=True, store=path))
    backend = make_backend(copied=True, store=path)
    adapter = next(each for name, each in backend.model.named_parameters() if "lora_B" in name)
    with torch.no_grad():
        adapter.view(-1)[3] += 1.0
    scored(backend)
    assert (backend.stats.forward_passes, backend.store.hits) == (len(PROMPTS), len(PROMPTS))
    with backend.as_base() as base:
        base.rolling_logprob_batch(PROMPTS)
    with torch.no_grad():
        weight = next(each for name, each in backend.model.named_parameters() if "lora" not in name)
        weight.view(-1)[3] += 1.0
    found = backend.store.hits
    scored(backend)
    assert backend.store.hits == found


def test_policies_share_values_and_a_label_does_not(make_backend: MakeBackend, path: Path) -> None:
    scored(make_backend(store=path))
    strict = make_backend(store=path, identity="strict")
    scored(strict)
    assert strict.stats.forward_passes == 0
    for label in ("one", "two"):
        named = make_backend(store=path, identity="label", identity_label=label)
        scored(named)
        assert named.stats.forward_passes == 8
    again = make_backend(store=path, identity="label", identity_label="one")
    scored(again)
    assert again.stats.forward_passes == 0


@pytest.mark.parametrize(
    "options", [{"add_special_tokens": False}, {"chat_template": "{{ messages[0].content }}!"}]
)
def test_other_options_are_other_values(
    make_backend: MakeBackend, path: Path, options: dict[str, Any]
) -> None:
    scored(make_backend(store=path))
    other = make_backend(store=path, **options)
    scored(other)
    assert other.store.hits == 0


def test_nothing_is_kept_for_a_state_without_a_name(make_backend: MakeBackend, path: Path) -> None:
    backend = make_backend(copied=True, store=path)
    backend.weights_changed()
    scored(backend)
    assert backend.store.kept == backend.store.hits == 0
    assert backend.stats.forward_passes == 8


def test_views_with_close_parameters_are_apart(make_backend: MakeBackend, path: Path) -> None:
    for lam in (0.5, 0.5001):
        backend = make_backend(store=path)
        backend.score(PROMPTS, [backend.as_scaled_adapter(lam)], "rolling_logprob")
        assert backend.stats.forward_passes == len(PROMPTS)


def test_a_damaged_value_is_computed_again_and_replaced(
    make_backend: MakeBackend, path: Path
) -> None:
    first = scored(make_backend(store=path))
    store = open_store(path)
    records = list(store.records())  # type: ignore[attr-defined]
    broken = [
        Record(each.key, each.blob[:-1] + b"x", each.model, each.view, each.op)
        for each in records[:3]
    ]
    store.put_many(broken)
    second = make_backend(store=store)
    found = scored(second)
    for view, values in first.items():
        # Those that are computed again run in a smaller batch.
        hold_to_tolerance(found[view], values)
    intact = sum(
        one == other for view in first for one, other in zip(found[view], first[view], strict=True)
    )
    assert intact >= len(records) - 3
    assert (second.store.damaged, second.stats.forward_passes) == (3, 3)
    assert store.verify().damaged == 0
    store.close()


def test_the_self_check_finds_and_replaces_what_differs(
    make_backend: MakeBackend, path: Path
) -> None:
    pairs = [(prompt, " and") for prompt in PROMPTS]
    first = make_backend(store=path).logprob_of_batch(pairs)
    store = open_store(path)
    wrong = list(store.records())[0]  # type: ignore[attr-defined]  # noqa: RUF015
    value = unseal(wrong.key, wrong.blob)
    assert isinstance(value, float)
    other = seal(wrong.key, value + 1.0)
    store.put_many([Record(wrong.key, other, wrong.model, wrong.view, wrong.op)])
    checked = make_backend(store=store, verify=1.0)
    assert checked.logprob_of_batch(pairs) == pytest.approx(first, abs=TOLERANCE)
    assert (checked.store.verified, checked.store.mismatches) == (len(PROMPTS), 1)
    assert checked.logprob_of_batch(pairs) == pytest.approx(first, abs=TOLERANCE)
    assert checked.store.mismatches == 1
    unchecked = make_backend(store=store)
    assert unchecked.logprob_of_batch(pairs) == pytest.approx(first, abs=TOLERANCE)
    assert unchecked.stats.forward_passes == 0
    store.close()


def test_a_share_outside_0_to_1_is_refused(make_backend: MakeBackend) -> None:
    with pytest.raises(InvalidInputError, match=r"verify is a share of the hits, 0 to 1, got 2"):
        make_backend(verify=2)


def test_a_cache_that_is_too_small_for_a_call_still_runs_no_forward(
    make_backend: MakeBackend, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make_backend(store=path).rolling_logprob_batch(PROMPTS)
    small = make_backend(store=path, cache_maxsize=1)
    monkeypatch.setattr(small._scorer, "run", None)
    assert small.rolling_logprob_batch(PROMPTS) == first


class Counted:
    """A tokenizer that counts the texts it is given."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.calls = 0

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        self.calls += 1
        return self._tokenizer(*arguments, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)


def test_what_is_found_is_not_tokenized(make_backend: MakeBackend, path: Path) -> None:
    first = scored(make_backend(store=path))
    backend = make_backend(store=path)
    scorer = backend._scorer
    scorer._encoder_for(scorer.identity.structure(scorer.tokenizer))
    encoder = scorer._encoder[1]  # type: ignore[index]
    counted = Counted(scorer.tokenizer)
    encoder._reader.tokenizer = encoder._ahead._tokenizer = counted
    assert scored(backend) == first
    assert scored(backend) == first
    assert (counted.calls, backend.stats.forward_passes) == (0, 0)
    backend.next_token_dist("another prompt")
    assert counted.calls == 1


def test_progress_counts_the_tokens_of_what_is_found(make_backend: MakeBackend, path: Path) -> None:
    backend = make_backend(store=path)
    lengths = backend.token_lengths(PROMPTS, op="next_token_dist")
    for _ in range(2):
        told: list[int] = []
        backend.progress = told.append
        backend.next_token_dist_batch(PROMPTS, top_k=8)
        assert sum(told) == sum(lengths)  # type: ignore[arg-type]
        backend = make_backend(store=path)
    assert backend.store.hits == 0


@pytest.mark.parametrize("bad", ["\ud800", 7, "word " * 5000])
def test_an_item_that_can_not_be_scored_fails_and_the_rest_is_found(
    make_backend: MakeBackend, path: Path, bad: Any
) -> None:
    results = [
        make_backend(store=path).next_token_dist_batch(
            [PROMPTS[0], bad, PROMPTS[1]], top_k=8, on_error="return"
        )
        for _ in range(2)
    ]
    assert [type(each) for each in results[0]] == [type(each) for each in results[1]]
    assert isinstance(results[1][1], ForwardCacheError)
    assert results[0][::2] == results[1][::2]


def test_no_other_thread_waits_while_a_store_is_read(make_backend: MakeBackend) -> None:
    waiting, go_on = threading.Event(), threading.Event()

    class Slow:
        def get_many(self, _: Any) -> dict[bytes, bytes]:
            waiting.set()
            assert go_on.wait(HANG_S)
            return {}

        def put_many(self, records: Any) -> int:
            return len(records)

    backend = make_backend(store=Slow())
    backend.identity()
    thread = threading.Thread(target=backend.next_token_dist, args=(PROMPTS[0],))
    thread.start()
    assert waiting.wait(HANG_S)
    other = threading.Thread(target=backend.identity)
    other.start()
    other.join(HANG_S / 2)
    waited = other.is_alive()
    go_on.set()
    thread.join()
    assert not waited
