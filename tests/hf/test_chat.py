"""Claims about chat templates: one that can't be used is refused when the backend is made; one that
refuses a prompt fails that prompt alone, with its words; no prompt is dropped; what decides a value
is the text that the template wrote, whatever the day; messages are prompts, and never share a value
with another prompt.
"""

from pathlib import Path
from typing import Any

import pytest
import torch

from forwardcache.errors import InvalidInputError
from forwardcache.hf import HFBackend, RenderedPrompt
from forwardcache.instrumentation import prompt_hash
from tests.hf import tiny
from tests.tolerance import TOLERANCE

PLAIN = (
    "{% for m in messages %}[{{ m['role'] }}:{{ m['content'] }}]{% endfor %}"
    "{% if add_generation_prompt %}[assistant:{% endif %}"
)
PARTS = (
    "{% for m in messages %}[{{ m['role'] }}:{% for part in m['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}]{% endfor %}"
    "{% if add_generation_prompt %}[assistant:{% endif %}"
)
BOTH = (
    "{% for m in messages %}[{{ m['role'] }}:{% if m['content'] is string %}{{ m['content'] }}"
    "{% else %}{% for part in m['content'] %}{{ part['text'] }}{% endfor %}{% endif %}]{% endfor %}"
)
PICKY = (
    "{% for m in messages %}{% if 'fox' in m['content'] %}{{ raise_exception('no foxes here') }}"
    "{% endif %}[{{ m['content'] }}]{% endfor %}"
)
USER_AB = [{"role": "user", "content": "ab"}]


def backend_with(template: Any, **options: Any) -> HFBackend:
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = template
    return HFBackend(tiny.llama(), tokenizer, **({"chat_template": True} | options))


def plainly(backend: HFBackend, text: str) -> torch.Tensor:
    """Log-probabilities after ``text``, which holds its own special tokens: one plain forward."""
    ids = backend.tokenizer(text, add_special_tokens=False)["input_ids"]
    return tiny.logprobs_after(backend.model, ids)[-1]


def assert_reads(backend: HFBackend, prompt: Any, text: str) -> None:
    dist = backend.next_token_dist(prompt, top_k=tiny.VOCAB)
    expected = plainly(backend, text)
    torch.testing.assert_close(
        torch.tensor(dist.logprobs), expected[torch.tensor(dist.token_ids)], atol=TOLERANCE, rtol=0
    )


@pytest.mark.parametrize(
    ("template", "asked", "words"),
    [
        (None, True, "the tokenizer has none"),
        ({"one": PLAIN, "two": PLAIN}, True, "name one of 'one', 'two'"),
        ("{% for m in %}", True, "doesn't parse"),
        ("{{ messages | nonsense }}", True, "doesn't parse"),
        (None, "{{ messages", "doesn't parse"),
        ("U:|A:", True, "drops what it is given"),
        (None, "default", "drops what it is given"),
        (None, 3, "must be True, False or a template"),
    ],
)
def test_a_template_that_can_not_be_used_is_refused_when_the_backend_is_made(
    template: Any, asked: Any, words: str
) -> None:
    with pytest.raises(InvalidInputError, match=words):
        backend_with(template, chat_template=asked)


def test_one_of_several_templates_is_taken_by_its_name() -> None:
    several = {"one": PLAIN, "two": "<{{ messages[0]['content'] }}>"}
    assert_reads(backend_with(several, chat_template="two"), "hello", "<hello>")
    assert_reads(backend_with(several | {"default": PLAIN}), "ab", "[user:ab][assistant:")


def test_a_prompt_that_the_template_refuses_fails_alone_with_the_templates_words() -> None:
    backend = backend_with(PICKY)
    prompts = ["hello", "a fox", "world"]
    found = backend.next_token_dist_batch(prompts, on_error="return")
    assert isinstance(found[1], InvalidInputError)
    assert "no foxes here" in str(found[1])
    assert found[0].token_ids.tolist() == backend.next_token_dist("hello").token_ids.tolist()
    lengths = backend.token_lengths(prompts, op="next_token_dist")
    assert [isinstance(each, int) for each in lengths] == [True, False, True]
    with pytest.raises(InvalidInputError, match="no foxes here") as raised:
        backend.logprob_of_batch([(prompt, " dog") for prompt in prompts])
    assert raised.value.index == 1
    assert raised.value.results is not None
    assert isinstance(raised.value.results[2], float)
    for ask in (
        lambda: backend.next_token_dist("a fox"),
        lambda: backend.logprob_of("a fox", " dog"),
        lambda: backend.completion_logprob("a fox", " dog"),
        lambda: backend.token_dist_at("a fox", [3]),
        lambda: backend.generate("a fox", max_new_tokens=1),
    ):
        with pytest.raises(InvalidInputError, match="no foxes here"):
            ask()


@pytest.mark.parametrize(
    "words",
    ["{{ 1 / 0 }}", "{{ 'a' + 1 }}", "{{ messages[7]['content']['x'] }}", "{{ none.x.y }}"],
)
def test_whatever_else_a_template_does_wrong_is_that_prompts_error(words: str) -> None:
    backend = backend_with(
        "{{ messages[0]['content'] }}{% if messages[1] %}" + words + "{% endif %}"
    )
    good, bad = USER_AB, [*USER_AB, {"role": "user", "content": "c"}]
    found = backend.next_token_dist_batch([good, bad], on_error="return")
    assert isinstance(found[1], InvalidInputError)
    assert found[0].vocab_size == tiny.VOCAB


def test_a_template_that_walks_over_parts_is_given_parts() -> None:
    backend = backend_with(PARTS)
    assert_reads(backend, "alpha", "[user:alpha][assistant:")
    assert_reads(backend, "beta", "[user:beta][assistant:")
    system = {"role": "system", "content": "be brief"}
    assert_reads(backend, [system, *USER_AB], "[system:be brief][user:ab][assistant:")


def test_parts_become_text_where_the_template_reads_text_and_stay_where_it_reads_both() -> None:
    part = {"type": "text", "text": "hello"}
    one = [{"role": "user", "content": [part]}]
    two = [{"role": "user", "content": [part, {"type": "text", "text": "dog"}]}]
    assert_reads(backend_with(PLAIN), one, "[user:hello][assistant:")
    assert_reads(backend_with(BOTH), two, "[user:hellodog]")
    with pytest.raises(InvalidInputError, match="one text"):
        backend_with(PLAIN).next_token_dist(two)


class Day:
    """What a moving template prints; the tokenizer gives it to every rendering."""

    def __init__(self) -> None:
        self.text = "Monday"

    def __call__(self, *_: Any) -> str:
        return self.text


@pytest.fixture
def day(monkeypatch: pytest.MonkeyPatch) -> Day:
    from transformers.utils import chat_template_utils

    today, compiled = Day(), chat_template_utils._compile_jinja_template

    def compile_with_day(template: str) -> Any:
        found = compiled(template)
        found.globals["strftime_now"] = today
        return found

    monkeypatch.setattr(chat_template_utils, "_compile_jinja_template", compile_with_day)
    return today


MOVING = "{{ strftime_now('%A') }}: " + PLAIN


@pytest.mark.parametrize("top_k", [8, 4])
def test_another_day_is_another_prompt(day: Day, top_k: int) -> None:
    backend = backend_with(MOVING)
    backend.next_token_dist("hello", top_k=8)
    day.text = "Tuesday"
    assert_reads(backend, "hello", "Tuesday: [user:hello][assistant:")
    expected = plainly(backend, "Tuesday: [user:hello][assistant:").sort(descending=True)
    dist = backend.next_token_dist("hello", top_k=top_k)
    assert dist.token_ids.tolist() == expected.indices[:top_k].tolist()
    before = backend.stats.forward_passes
    day.text = "Monday"
    backend.next_token_dist("hello", top_k=8)
    assert backend.stats.forward_passes == before


def test_another_day_is_not_served_what_the_store_keeps(day: Day, tmp_path: Path) -> None:
    store = tmp_path / "values.db"
    with backend_with(MOVING, store=store) as backend:
        backend.logprob_of("hello", " dog")
    with backend_with(MOVING, store=store) as backend:
        backend.logprob_of("hello", " dog")
        assert backend.stats.forward_passes == 0
        day.text = "Tuesday"
        found = backend.logprob_of("hello", " dog")
        assert backend.stats.forward_passes == 1
    fresh = backend_with(MOVING).logprob_of("hello", " dog")
    assert found == pytest.approx(fresh, abs=1e-5)


def test_a_rendered_prompt_keeps_its_day(day: Day) -> None:
    backend = backend_with(MOVING)
    [prompt] = backend.rendered(["hello"], op="next_token_dist")
    [pair] = backend.rendered([("hello", " dog")], op="logprob_of")
    day.text = "Tuesday"
    assert prompt == RenderedPrompt("Monday: [user:hello][assistant:")
    assert_reads(backend, prompt, "Monday: [user:hello][assistant:")
    assert backend.logprob_of(*pair) != backend.logprob_of("hello", " dog")


def test_messages_are_prompts_with_turns_and_a_beginning_of_the_answer() -> None:
    backend = backend_with(PLAIN)
    turns = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "world"},
        {"role": "user", "content": "again"},
    ]
    text = "[system:be brief][user:hello][assistant:world][user:again][assistant:"
    assert_reads(backend, turns, text)
    assert_reads(backend, [*turns, {"role": "assistant", "content": " the"}], text + " the")
    raw = HFBackend(backend.model, backend.tokenizer, add_special_tokens=False)
    assert backend.logprob_of(turns, " dog") == pytest.approx(
        raw.logprob_of(text, " dog"), abs=1e-5
    )
    assert backend.generate(turns, max_new_tokens=4) == raw.generate(text, max_new_tokens=4)
    batch = backend.next_token_dist_batch([turns, "hello"])
    assert batch[0].token_ids.tolist() == raw.next_token_dist(text).token_ids.tolist()
    at = backend.logprobs_at(turns, [3, 5])
    torch.testing.assert_close(
        torch.tensor(at), plainly(backend, text)[[3, 5]], atol=TOLERANCE, rtol=0
    )
    assert backend.completion_logprob(turns, " dog").num_tokens >= 1


def test_what_a_template_is_given_besides_the_messages_is_what_it_says() -> None:
    thinking = PLAIN + "{% if enable_thinking %}think{% endif %}"
    on = backend_with(thinking, chat_template_args={"enable_thinking": True})
    assert_reads(on, "ab", "[user:ab][assistant:think")
    off = backend_with(thinking, chat_template_args={"enable_thinking": False})
    assert_reads(off, "ab", "[user:ab][assistant:")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"tokenize": True}, "can't have 'tokenize'"),
        ({"add_generation_prompt": False}, "can't have 'add_generation_prompt'"),
        ({"x": {1, 2}}, "what JSON can hold"),
        ({3: 4}, "must map names"),
        ([1], "must map names"),
    ],
)
def test_arguments_that_change_more_than_the_text_are_refused(arguments: Any, words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        backend_with(PLAIN, chat_template_args=arguments)
    with pytest.raises(InvalidInputError, match="need chat_template"):
        backend_with(PLAIN, chat_template=False, chat_template_args={"x": 1})


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([], "at least one"),
        ([{"content": "x"}], "message 0 needs a role"),
        ([{"role": "user", "content": None}], "message 0 \\(user\\) needs a content"),
        ([{"role": "user"}], "needs a content"),
        ([{"role": 3, "content": "x"}], "needs a role"),
        ([{"role": "user", "content": 3}], "must be a str or a list of parts"),
        ([*USER_AB, "x"], "message 1 must be a dict"),
        ([{"role": "user", "content": "x", "y": {1}}], "what JSON can hold"),
        ({"role": "user", "content": "x"}, "must be a str or a list of messages"),
    ],
)
def test_bad_messages_are_that_prompts_error(messages: Any, words: str) -> None:
    backend = backend_with(PLAIN)
    found = backend.next_token_dist_batch(["hello", messages], on_error="return")
    assert isinstance(found[1], InvalidInputError)
    assert found[0].vocab_size == tiny.VOCAB
    with pytest.raises(InvalidInputError, match=words):
        backend.next_token_dist(messages)


def test_messages_without_a_template_say_what_they_need() -> None:
    backend = backend_with(PLAIN, chat_template=False)
    with pytest.raises(InvalidInputError, match="needs chat_template=True"):
        backend.next_token_dist(USER_AB)
    found = backend.logprob_of_batch([(USER_AB, "x"), ("hello", " dog")], on_error="return")
    assert isinstance(found[0], InvalidInputError)
    assert isinstance(found[1], float)


def test_messages_share_values_with_equal_ones_only() -> None:
    # The template joins contents, so that all of these are the same text to the model.
    backend = backend_with("{% for m in messages %}{{ m['content'] }}{% endfor %}")
    prompts: list[Any] = [
        "ab",
        USER_AB,
        [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}],
        [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}],
        '[{"role": "user", "content": "ab"}]',
    ]
    for count, prompt in enumerate(prompts, start=1):
        backend.next_token_dist(prompt)
        assert backend.stats.cache_misses == count
    backend.next_token_dist([{"content": "ab", "role": "user"}])
    backend.next_token_dist(tuple(USER_AB))
    assert backend.stats.cache_misses == len(prompts)


def test_the_trace_labels_a_prompt_by_the_text_that_the_template_wrote(tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    with backend_with(PLAIN, trace_path=trace) as backend:
        backend.next_token_dist("ab")
    assert prompt_hash("[user:ab][assistant:") in trace.read_text(encoding="utf-8")
