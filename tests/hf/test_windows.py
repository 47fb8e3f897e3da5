"""Claims: texts over the context are scored in the windows of lm-evaluation-harness, each token
once; a text that fits has the value it has anyway; without being asked for, they are refused. A
named prefix token stands where a BOS token would.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from forwardcache.errors import ContextLengthError, EmptyPromptError, InvalidInputError
from forwardcache.hf import HFBackend
from forwardcache.hf.batch.row import Encoded
from forwardcache.hf.scoring.windows import windows_of
from tests.hf import tiny
from tests.hf.conftest import MakeBackend

LONG = "the quick brown fox jumps over the lazy dog and again, the dog " * 18


@pytest.mark.parametrize("length", [2, 3, 7, 64])
@pytest.mark.parametrize("count", [2, 3, 4, 7, 8, 9, 13, 14, 15, 64, 65, 66, 127, 128, 129, 200])
def test_windows_are_those_of_the_harness(length: int, count: int) -> None:
    ids = tuple(range(100, 100 + count))
    found = windows_of(Encoded(ids, 1), length)
    theirs = get_rolling_token_windows(list(ids[1:]), ids[0], length, 1)
    expected = [make_disjoint_window(pair) for pair in theirs]
    assert [(list(w.token_ids[: w.first_scored]), list(w.scored)) for w in found] == [
        (list(context), list(continuation)) for context, continuation in expected
    ]
    assert all(len(window.fed) <= length for window in found)


def test_a_long_text_has_the_harness_sum_and_each_token_once(
    make_backend: MakeBackend, tokenizer: Any
) -> None:
    backend = make_backend("llama", windows=True)
    ids = tokenizer(LONG)["input_ids"]
    assert len(ids) > 3 * tiny.CONTEXT
    found = backend.rolling_logprob(LONG)
    assert found.token_ids.tolist() == ids
    assert found.num_tokens == len(ids)
    expected = []
    for window in windows_of(Encoded(tuple(ids), 1), tiny.CONTEXT):
        after = tiny.logprobs_after(backend.model, window.fed)
        at = range(window.first_scored - 1, len(window.fed))
        expected += [float(after[i, window.token_ids[i + 1]]) for i in at]
    np.testing.assert_allclose(found.logprobs, expected, atol=1e-4)
    assert found.total_logprob == pytest.approx(sum(expected), abs=1e-2)


@pytest.mark.parametrize("bos", [False, True])
def test_with_a_prefix_token_a_rolling_sum_is_the_harness_own(tmp_path: Path, bos: bool) -> None:
    # One without BOS, where the harness takes EOS, and one that has a BOS and doesn't add it.
    tokenizer = tiny.tokenizer(bos=False)
    if bos:
        tokenizer.bos_token = "</s>"
    model = tiny.llama()
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    kind: Any = HFLM
    hf = kind(str(tmp_path), device="cpu", dtype="float32", logits_cache=False)
    asked: Any = [Instance("loglikelihood_rolling", {}, (t,), 0) for t in (LONG, "a", "fox dog")]
    expected = hf.loglikelihood_rolling(asked)
    with HFBackend.load(tmp_path, windows=True, prefix_token_id=hf.prefix_token_id) as backend:
        found = [backend.rolling_logprob(each.args[0]) for each in asked]
        sums = [each.total_logprob for each in found]
        np.testing.assert_allclose(sums, expected, rtol=1e-5)
        assert [len(each.logprobs) for each in found] == [
            len(tokenizer(each.args[0])["input_ids"]) for each in asked
        ]
        pair = Instance("loglikelihood", {}, ("", "hello world"), 0)
        [(logprob, _)] = hf.loglikelihood([pair])
        assert backend.logprob_of("", "hello world") == pytest.approx(logprob, abs=1e-4)
        assert backend.rolling_logprob("").num_tokens == 0


def test_a_long_text_is_refused_unless_windows_are_asked_for(make_backend: MakeBackend) -> None:
    backend = make_backend("llama", windows=False)
    for _ in range(2):
        with pytest.raises(ContextLengthError, match="windows=True"):
            backend.rolling_logprob(LONG)
        assert backend.rolling_logprob(LONG, windows=True).num_tokens > tiny.CONTEXT
    [length] = backend.token_lengths([LONG], op="rolling_logprob")
    assert isinstance(length, ContextLengthError)
    other = make_backend("llama", windows=True)
    [length] = other.token_lengths([LONG], op="rolling_logprob")
    assert length == len(other.tokenizer(LONG)["input_ids"]) - 1
    with pytest.raises(ContextLengthError):
        other.rolling_logprob(LONG, windows=False)


def test_texts_that_fit_have_their_value_and_batches_equal_singles(
    make_backend: MakeBackend,
) -> None:
    texts = [*tiny.PROMPTS, LONG, "", LONG[:300]]
    plain, wide = make_backend("llama"), make_backend("llama", windows=True)
    found = wide.rolling_logprob_batch(texts)
    alone = make_backend("llama", windows=True)
    for text, one in zip(texts, found, strict=True):
        np.testing.assert_allclose(one.logprobs, alone.rolling_logprob(text).logprobs, atol=1e-4)
        if len(one.token_ids) <= tiny.CONTEXT + 1:
            np.testing.assert_allclose(
                one.logprobs, plain.rolling_logprob(text).logprobs, atol=1e-4
            )
    computed = wide.stats.forward_passes
    wide.rolling_logprob_batch(texts)
    assert wide.stats.forward_passes == computed
    assert wide.noise_floor(texts, "rolling_logprob").prompts == len(texts)


def test_windows_last_in_a_store_and_never_answer_who_did_not_ask(tmp_path: Path) -> None:
    model, tokenizer, store = tiny.llama(), tiny.tokenizer(), tmp_path / "values.db"
    with HFBackend(model, tokenizer, store=store, windows=True) as backend:
        first = backend.rolling_logprob(LONG)
    with HFBackend(model, tokenizer, store=store) as backend:
        again = backend.rolling_logprob(LONG, windows=True)
        assert backend.stats.forward_passes == 0
        np.testing.assert_array_equal(first.logprobs, again.logprobs)
        with pytest.raises(ContextLengthError):
            backend.rolling_logprob(LONG)


def test_a_named_prefix_stands_before_a_first_token(make_backend: MakeBackend) -> None:
    tokenizer = tiny.tokenizer(bos=False)
    bare = make_backend("llama", tokenizer=tokenizer)
    for ask in (lambda: bare.next_token_dist(""), lambda: bare.logprob_of("", "fox")):
        with pytest.raises(EmptyPromptError, match="prefix_token_id"):
            ask()
    for prefix in (tokenizer.eos_token_id, "</s>"):
        backend = make_backend("llama", tokenizer=tokenizer, prefix_token_id=prefix)
        after = tiny.logprobs_after(backend.model, [tokenizer.eos_token_id])[-1]
        at = backend.logprobs_at("", [3, 5])
        np.testing.assert_allclose(at, after[[3, 5]].numpy(), atol=1e-4)
        [fox] = tokenizer("a")["input_ids"]
        assert backend.logprob_of("", "a") == pytest.approx(float(after[fox]), abs=1e-4)
        rolling = backend.rolling_logprob("a")
        assert rolling.token_ids.tolist() == [tokenizer.eos_token_id, fox]
        assert rolling.total_logprob == pytest.approx(float(after[fox]), abs=1e-4)
        assert backend.logprob_of("fox", " dog") == pytest.approx(
            bare.logprob_of("fox", " dog"), abs=1e-4
        )


def test_another_prefix_is_another_value_and_bos_needs_none(make_backend: MakeBackend) -> None:
    tokenizer, inst = tiny.tokenizer(bos=False), make_backend("llama").instrumentation
    values = {
        make_backend(
            "llama", tokenizer=tokenizer, prefix_token_id=token, instrumentation=inst
        ).logprob_of("", "fox")
        for token in (1, 5, 9)
    }
    assert len(values) == 3
    with_bos = make_backend("llama", prefix_token_id=5)
    plain = make_backend("llama")
    found, expected = (each.rolling_logprob("hello world") for each in (with_bos, plain))
    assert found.token_ids.tolist() == expected.token_ids.tolist()


@pytest.mark.parametrize("prefix", [-1, tiny.VOCAB, True, 1.5, "two words", "", [1]])
def test_a_prefix_that_is_no_token_of_the_model_is_refused(
    make_backend: MakeBackend, prefix: Any
) -> None:
    with pytest.raises(InvalidInputError):
        make_backend("llama", prefix_token_id=prefix)
