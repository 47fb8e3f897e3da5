"""Claims about batches with bad items, progress, preflight, generation, traces and closing."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from forwardcache import BackendInstrumentation
from forwardcache.errors import (
    AdapterError,
    ContextLengthError,
    EmptyCompletionError,
    EmptyPromptError,
    ForwardCacheError,
    InvalidInputError,
    ViewParameterError,
)
from forwardcache.hf import HFBackend
from forwardcache.hf.batch.forward import ForwardRunner
from tests.hf import tiny
from tests.hf.conftest import MakeBackend

PROMPT = "the quick brown fox"
TOO_LONG = "the " * (tiny.CONTEXT + 1)


@pytest.fixture
def without_bos(make_backend: MakeBackend) -> HFBackend:
    return make_backend("llama", tokenizer=tiny.tokenizer(bos=False))


@pytest.mark.thread_unsafe(reason="counts the values that one backend computes")
def test_one_bad_prompt_does_not_lose_its_batch(without_bos: HFBackend) -> None:
    prompts = ["hello", "", TOO_LONG, "fox"]
    with pytest.raises(EmptyPromptError) as caught:
        without_bos.next_token_dist_batch(prompts)
    assert caught.value.index == 1
    results = caught.value.results or []
    assert [type(each).__name__ for each in results] == [
        "TokenDist",
        "EmptyPromptError",
        "ContextLengthError",
        "TokenDist",
    ]
    assert without_bos.stats.forward_passes == 2
    assert without_bos.next_token_dist("fox") is results[3]
    assert without_bos.stats.forward_passes == 2


def test_errors_can_stand_in_for_values(without_bos: HFBackend) -> None:
    found = without_bos.logprob_of_batch(
        [("hello", " fox"), ("hello", ""), ("", "x"), (TOO_LONG, "x")], on_error="return"
    )
    assert type(found[0]) is float
    assert [type(each) for each in found[1:]] == [
        EmptyCompletionError,
        EmptyPromptError,
        ContextLengthError,
    ]


@pytest.mark.parametrize(
    ("op", "item", "error"),
    [
        ("next_token_dist", "", EmptyPromptError),
        ("next_token_dist", TOO_LONG, ContextLengthError),
        ("next_token_dist", 3, InvalidInputError),
        ("rolling_logprob", TOO_LONG, ContextLengthError),
        ("logprob_of", ("hello", ""), EmptyCompletionError),
        ("logprob_of", ("", "hello"), EmptyPromptError),
        ("logprob_of", (TOO_LONG, "hello"), ContextLengthError),
    ],
)
def test_single_and_batched_raise_the_same_and_store_nothing(
    op: str, item: Any, error: type[Exception], without_bos: HFBackend
) -> None:
    arguments = item if op == "logprob_of" else (item,)
    with pytest.raises(error) as single:
        getattr(without_bos, op)(*arguments)
    with pytest.raises(error) as batched:
        getattr(without_bos, f"{op}_batch")([item])
    assert type(single.value) is type(batched.value)
    assert str(single.value) == str(batched.value)
    assert len(without_bos.instrumentation.cache) == 0
    (length,) = without_bos.token_lengths([item], op=op)
    assert type(length) is type(single.value)


def test_empty_batches_give_empty_lists(make_backend: MakeBackend) -> None:
    backend = make_backend()
    assert backend.next_token_dist_batch([]) == []
    assert backend.rolling_logprob_batch([]) == []
    assert backend.logprob_of_batch([]) == []
    assert backend.logprobs_at_batch([], []) == []
    assert backend.stats.total_lookups == 0


@pytest.mark.parametrize("top_k", [0, -1, 2.5, "8", None, True])
def test_top_k_must_be_a_positive_integer(top_k: Any, make_backend: MakeBackend) -> None:
    with pytest.raises(ViewParameterError, match="top_k"):
        make_backend().next_token_dist(PROMPT, top_k=top_k)


@pytest.mark.parametrize("ids", [[], [-1], [tiny.VOCAB], [1.5], [[1]], "12"])
def test_ids_outside_the_vocabulary_are_refused(ids: Any, make_backend: MakeBackend) -> None:
    with pytest.raises(InvalidInputError):
        make_backend().logprobs_at(PROMPT, ids)


@pytest.mark.parametrize("bad", [[], [tiny.VOCAB], [1.5], [[1], [2, 3]], None])
@pytest.mark.parametrize("form", ["logprobs_at_batch", "token_dist_at_batch"])
def test_one_bad_list_of_ids_does_not_lose_its_batch(
    form: str, bad: Any, make_backend: MakeBackend
) -> None:
    backend = make_backend()
    prompts, ids = ["hello", "a", "the fox"], [[3, 4], bad, [5]]
    with backend.as_base() as base:
        found = getattr(base, form)(prompts, ids, on_error="return")
        assert isinstance(found[1], InvalidInputError)
        with pytest.raises(InvalidInputError) as raised:
            getattr(base, form)(prompts, ids)
        assert raised.value.index == 1
        assert raised.value.results is not None
        for index in (0, 2):
            logprobs = getattr(found[index], "logprobs", found[index])
            np.testing.assert_array_equal(logprobs, base.logprobs_at(prompts[index], ids[index]))
    assert backend.stats.forward_passes == 2


def test_prompts_and_lists_of_ids_go_in_pairs(make_backend: MakeBackend) -> None:
    with make_backend().as_base() as base:
        for prompts, ids in ((["a", "b"], [[1]]), ("ab", [[1], [2]])):
            with pytest.raises(InvalidInputError):
                base.logprobs_at_batch(prompts, ids)


def test_a_single_str_is_no_batch(make_backend: MakeBackend) -> None:
    backend = make_backend()
    for call in (backend.next_token_dist_batch, backend.rolling_logprob_batch):
        with pytest.raises(InvalidInputError, match="list"):
            call(PROMPT)
    with pytest.raises(InvalidInputError, match="on_error"):
        backend.rolling_logprob_batch([PROMPT], on_error="ignore")  # type: ignore[arg-type]


@pytest.mark.parametrize("op", ["next_token_dist", "rolling_logprob", "logprob_of"])
def test_progress_reports_every_token_once_cached_or_not(
    op: str, make_backend: MakeBackend
) -> None:
    backend = make_backend(token_budget=24)
    items: Any = [*tiny.PROMPTS, tiny.PROMPTS[0]]
    if op == "logprob_of":
        items = [(prompt, " dog") for prompt in items]
    lengths = backend.token_lengths(items, op=op)
    assert all(isinstance(length, int) for length in lengths)
    assert backend.stats.total_lookups == 0
    reports: list[int] = []
    backend.progress = reports.append
    getattr(backend, f"{op}_batch")(items)
    assert len(reports) > 2
    assert sum(reports) == sum(length for length in lengths if isinstance(length, int))
    reports.clear()
    getattr(backend, f"{op}_batch")(items)
    assert sum(reports) == sum(length for length in lengths if isinstance(length, int))


def test_token_lengths_knows_its_ops(make_backend: MakeBackend) -> None:
    with pytest.raises(InvalidInputError, match="unknown op 'guess'"):
        make_backend().token_lengths([PROMPT], op="guess")


def test_preflight_runs_real_forwards_on_a_warm_backend(
    make_backend: MakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = make_backend()
    ran: list[int] = []
    call = ForwardRunner.all_logits

    def counting(self: ForwardRunner, row: Any) -> Any:
        ran.append(1)
        return call(self, row)

    monkeypatch.setattr(ForwardRunner, "all_logits", counting)
    for _ in range(2):
        before = len(ran)
        assert backend.preflight_finite_check() == (True, "all logits finite in base and ft")
        assert len(ran) >= before + 2
    assert backend.stats.total_lookups == 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_preflight_finds_what_is_not_finite(bad: float, make_backend: MakeBackend) -> None:
    backend = make_backend(copied=True)
    named = backend.model.named_parameters()
    # In the values: NaN in the queries may be gone after the softmax of torch's attention.
    parameter = next(each for name, each in named if "v_proj.lora_B" in name)
    with torch.no_grad():
        parameter[0] = bad
    fine, reason = backend.preflight_finite_check()
    assert not fine
    assert reason.startswith("view ft: ")


def test_results_that_are_not_finite_are_counted_and_not_stored(
    make_backend: MakeBackend,
) -> None:
    backend = make_backend("llama", copied=True)
    embedding = backend.model.model.embed_tokens.weight
    broken = backend.tokenizer("Z", add_special_tokens=False)["input_ids"][0]
    with torch.no_grad():
        embedding[broken] = float("nan")
    prompts = ["hello", "Z", "fox", "aZ", "Z"]
    found = backend.next_token_dist_batch(prompts)
    assert [each.is_finite for each in found] == [True, False, True, False, False]
    assert backend.nonfinite_results == 2
    assert len(backend.instrumentation.cache) == 2
    assert backend.next_token_dist("hello") is found[0]
    assert not backend.next_token_dist("Z").is_finite
    assert backend.nonfinite_results == 3
    assert not backend.rolling_logprob("Z a").is_finite
    assert backend.logprob_of("Z", " fox") != backend.logprob_of("Z", " fox")
    assert len(backend.instrumentation.cache) == 2


@pytest.mark.parametrize("name", ["llama+lora", "gpt2+lora"])
def test_greedy_generation_is_transformers_own(
    name: str, make_backend: MakeBackend, shared_models: Any, tokenizer: Any
) -> None:
    inputs = tokenizer(PROMPT, return_tensors="pt")
    written = shared_models[name].generate(
        input_ids=inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        do_sample=False,
        max_new_tokens=12,
        pad_token_id=0,
    )
    expected = tokenizer.decode(
        written[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True
    )
    backend = make_backend(name)
    with backend.as_finetuned() as ft:
        assert ft.generate(PROMPT, max_new_tokens=12) == expected
    assert backend.generate(PROMPT, max_new_tokens=12) == expected
    with backend.as_base() as base:
        assert base.generate(PROMPT, max_new_tokens=12) != expected
    assert backend.stats.total_lookups == 0


@pytest.mark.thread_unsafe(reason="sets the seed of all of torch")
def test_sampling_depends_on_the_seed_alone(make_backend: MakeBackend) -> None:
    backend = make_backend()

    def sample(seed: int) -> str:
        return backend.generate(PROMPT, max_new_tokens=16, temperature=1.5, top_p=0.95, seed=seed)

    torch.manual_seed(99)
    first = sample(1)
    following = torch.rand(1)
    torch.manual_seed(99)
    assert torch.rand(1) == following
    assert sample(1) == first
    assert len({sample(seed) for seed in range(4)}) > 1


@pytest.mark.thread_unsafe(reason="has threads of its own, and draws in none but them")
def test_two_models_that_sample_at_once_depend_on_their_seeds_alone(
    make_backend: MakeBackend,
) -> None:
    backends = [make_backend("llama"), make_backend("gpt2")]

    def sample(backend: HFBackend, temperature: float = 1.5) -> str:
        return backend.generate(PROMPT, max_new_tokens=12, temperature=temperature, seed=1)

    alone = [sample(backend) for backend in backends]
    with ThreadPoolExecutor(3) as threads:
        for _ in range(10):
            greedy = threads.submit(sample, make_backend("gpt2+lora"), 0.0)
            assert list(threads.map(sample, backends)) == alone
            greedy.result()


def test_sampling_has_no_limit_but_top_p(make_backend: MakeBackend) -> None:
    backend = make_backend()

    def texts(top_p: float) -> set[str]:
        return {
            backend.generate(PROMPT, max_new_tokens=1, temperature=1e4, top_p=top_p, seed=seed)
            for seed in range(300)
        }

    # At such a temperature all tokens are alike; transformers would leave the first 50 of them.
    assert len(texts(1.0)) > 50
    assert len(texts(0.01)) < 5


@pytest.mark.parametrize(
    "options",
    [
        {"max_new_tokens": 0},
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"top_p": 0.0},
        {"top_p": 1.1},
    ],
)
def test_generation_options_out_of_range_are_refused(
    options: Any, make_backend: MakeBackend
) -> None:
    with pytest.raises(InvalidInputError):
        make_backend().generate(PROMPT, **({"max_new_tokens": 4} | options))


def test_generation_beyond_the_context_is_refused(make_backend: MakeBackend) -> None:
    with pytest.raises(ContextLengthError, match=f"{tiny.CONTEXT}"):
        make_backend("gpt2").generate(PROMPT, max_new_tokens=tiny.CONTEXT)


def test_the_trace_names_views_and_ops(make_backend: MakeBackend, tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    backend = make_backend(trace_path=path)
    with backend.as_null_adapter(3, rank_scale=2.0) as null, backend.instrumentation.probe("p"):
        null.next_token_dist(PROMPT, top_k=5)
        null.logprob_of_batch([("a", " b")])
    with backend.as_scaled_adapter(1.0) as scaled:
        scaled.rolling_logprob(PROMPT)
    backend.close()
    backend.close()
    events = [json.loads(line) for line in path.read_text().splitlines()]
    shown = [(each["view_id"], each["op"], each["top_k"], each["probe"]) for each in events]
    assert shown == [
        ("null_3_rank2.00", "next_token_dist", 5, "p"),
        ("null_3_rank2.00", "logprob_of", 0, "p"),
        ("ft", "rolling_logprob", 0, None),
    ]


def test_an_instrumentation_that_was_given_is_not_closed(
    make_backend: MakeBackend, tmp_path: Path
) -> None:
    path = tmp_path / "trace.jsonl"
    with BackendInstrumentation(trace_path=path) as instrumentation:
        with make_backend(instrumentation=instrumentation) as backend:
            backend.next_token_dist(PROMPT)
        backend.next_token_dist(PROMPT)
    assert len(path.read_text().splitlines()) == 2


def test_the_instrumentation_can_be_replaced(make_backend: MakeBackend) -> None:
    backend = make_backend()
    backend.next_token_dist(PROMPT)
    backend.instrumentation = BackendInstrumentation()
    backend.next_token_dist(PROMPT)
    assert (backend.stats.cache_misses, backend.stats.cache_hits) == (1, 0)


@pytest.mark.parametrize(
    "options", [{"token_budget": 0}, {"max_padding": 2.0}, {"adapter": "/nowhere"}]
)
def test_bad_options_are_refused_when_the_backend_is_made(
    options: Any, make_backend: MakeBackend
) -> None:
    with pytest.raises(ForwardCacheError):
        make_backend("llama", **options)


def test_a_name_that_is_no_adapter_of_the_model_is_refused(make_backend: MakeBackend) -> None:
    with pytest.raises(AdapterError, match="default"):
        make_backend("llama+lora", adapter="other")
