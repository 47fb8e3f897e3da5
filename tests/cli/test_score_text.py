"""``forwardcache score``: templates, messages, boundaries, tokenizers, windows and prefixes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from forwardcache.hf import HFBackend
from tests.cli.conftest import ASSETS, Run


@pytest.fixture
def chatty(tmp_path: Path) -> Callable[[str], Path]:
    """The demo's model in a folder of its own with a chat template."""

    def make(template: str) -> Path:
        folder = tmp_path / "chatty"
        folder.mkdir()
        for path in (ASSETS / "model").iterdir():
            (folder / path.name).symlink_to(path)
        (folder / "chat_template.jinja").write_text(template, "utf-8")
        return folder

    return make


def test_with_a_chat_template_a_row_says_what_was_a_hit(
    run: Run, chatty: Callable[[str], Path]
) -> None:
    model = chatty("Ship's log: {{ messages[0]['content'] }}")
    options = ("--model", model, "--dtype", "float32", "--chat-template", "--prompts", "-")
    for op in ("next_token_dist", "logprob_of"):
        lines = b'{"prompt": "day", "completion": " 3"}\n' * 2
        ended = run("score", *options, "--op", op, stdin=lines)
        assert [row["hit"] for row in ended.rows] == [False, True], ended.err


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ raise_exception('only\n sonnets') }}", ("line 1", "only sonnets")),
        ("{% if messages[0].content == 'two' %}{{ raise_exception('two?') }}{% endif %}"
         "{{ messages[0].content }}", ("line 2", "two?")),
        ("{% for %}", ("chat_template", "doesn't parse")),
        ("always the same", ("chat_template", "drops what it is given")),
    ],
)  # fmt: skip
def test_a_template_that_refuses_a_prompt_or_can_t_be_used_is_one_line(
    run: Run, chatty: Callable[[str], Path], template: str, words: tuple[str, ...]
) -> None:
    options = ("--model", chatty(template), "--chat-template", "--prompts", "-")
    run("score", *options, stdin=b"one\ntwo\n").refused(*words)


TURNS = (
    "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}{% if loop.last and "
    "add_generation_prompt %}{{ tail | default(' so') }}{% endif %}{% endfor %}"
)
CHAT = [{"role": "system", "content": "log"}, {"role": "user", "content": "day 3"}]


@pytest.mark.parametrize("field", ["prompt", "messages"])
def test_a_prompt_may_be_a_list_of_turns(
    run: Run, chatty: Callable[[str], Path], field: str
) -> None:
    options = ("score", "--dtype", "float32", "--no-special-tokens", "--prompts", "-")
    framed = ("--model", chatty(TURNS), "--chat-template")
    lines = [
        {field: CHAT, "completion": " one", "topic": "x"},
        {field: [*CHAT, {"role": "assistant", "content": "two"}], "completion": " one"},
        {"prompt": "[system] log", "completion": " one"},
    ]
    texts = ["[system] log[user] day 3", "[system] log[user] day 3[assistant] two"]
    stdin = "".join(json.dumps(line) + "\n" for line in lines).encode()
    plain = "".join(
        json.dumps({"prompt": text, "completion": " one"}) + "\n"
        for text in (texts[0] + " so", texts[1], "[user] [system] log so")
    ).encode()
    for op in ("next_token_dist", "logprob_of"):
        found = run(*options, *framed, "--op", op, stdin=stdin)
        expected = run(*options, "--model", ASSETS / "model", "--op", op, stdin=plain)
        assert found.code == 0, found.err
        for row, other in zip(found.rows, expected.rows, strict=True):
            assert row.get("token_ids") == other.get("token_ids")
            assert row.get("logprob") == pytest.approx(other.get("logprob"), abs=1e-4)
        assert found.rows[0]["input"] == {"topic": "x"}
    run(*options, *framed, "--op", "rolling_logprob", stdin=stdin).refused("rolling_logprob")


def test_arguments_of_the_chat_template_are_json(run: Run, chatty: Callable[[str], Path]) -> None:
    model = chatty(TURNS)
    options = ("score", "--model", model, "--no-special-tokens", "--prompts", "-")
    given = ("--chat-template", "--chat-template-args", '{"tail": " then"}')
    found = run(*options, *given, stdin=b"day 3")
    expected = run(*options, stdin=b"[user] day 3 then")
    assert found.rows[0]["token_ids"] == expected.rows[0]["token_ids"]
    for wrong in ("[1]", "{", '{"tokenize": true}'):
        run(*options, *given[:2], wrong, stdin=b"x").refused("chat")
    run(*options, "--chat-template-args", "{}", stdin=b"x").refused("needs --chat-template")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ({"messages": CHAT}, "needs chat_template=True"),
        ({"messages": []}, "at least one"),
        ({"messages": [{"role": "user"}]}, "needs a content"),
        ({"messages": ["hello"]}, "must be a dict"),
        ({"messages": "hello"}, 'no "prompt"'),
        ({"prompt": 3}, "not a string"),
    ],
)
def test_messages_that_can_t_be_used_are_refused_with_their_line(
    run: Run, chatty: Callable[[str], Path], line: dict[str, Any], words: str
) -> None:
    options = ["score", "--model", chatty(TURNS), "--prompts", "-"]
    if "needs chat" not in words:
        options.append("--chat-template")
    stdin = b'{"prompt": "one"}\n' + json.dumps(line).encode()
    run(*options, stdin=stdin).refused("line 2", words)


def test_rows_of_completions_count_tokens_and_tell_of_the_boundary(
    score: Run, backend: HFBackend, tmp_path: Path
) -> None:
    pairs = [("The ship", " sails"), ("The shi", "p sails on"), ("One ", "two"), ("a", "b")]
    lines = [json.dumps({"prompt": p, "completion": c}) + "\n" for p, c in pairs]
    out = tmp_path / "rows.parquet"
    options = ("--op", "logprob_of", "--views", "base", "--prompts", "-")
    rows = score(*options, stdin="".join(lines).encode()).rows
    score(*options, "--out", out, stdin="".join(lines).encode())
    with backend.as_base() as base:
        expected = base.completion_logprob_batch(pairs)
    for found in (rows, pl.read_parquet(out).to_dicts()):
        assert [row["num_tokens"] for row in found] == [each.num_tokens for each in expected]
        flags = [each.spans_boundary for each in expected]
        assert [row["spans_boundary"] for row in found] == flags
        assert {True, False} == set(flags)


@pytest.mark.parametrize("add", [True, False])
def test_texts_begin_with_bos_or_not_as_asked(run: Run, tmp_path: Path, add: bool) -> None:
    from transformers import AutoTokenizer

    model = Path(shutil.copytree(ASSETS / "model", tmp_path / "model"))
    tokenizer: Any = AutoTokenizer.from_pretrained(model)
    tokenizer.add_bos_token = not add
    tokenizer.save_pretrained(model)
    options = ("score", "--model", model, "--op", "rolling_logprob", "--prompts", "-")
    ids = run(*options, stdin=b"one two").rows[0]["token_ids"]
    asked = run(*options, "--add-bos-token" if add else "--no-add-bos-token", stdin=b"one two")
    bos = [tokenizer.bos_token_id]
    assert asked.rows[0]["token_ids"] == (bos + ids if add else ids[1:])
    assert ids[:1] == ([] if add else bos) or add


def test_another_tokenizer_is_taken_by_its_folder(run: Run, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(ASSETS / "model")
    tokenizer.add_tokens(["one two"])
    tokenizer.save_pretrained(tmp_path / "other")
    options = ("score", "--model", ASSETS / "model", "--op", "rolling_logprob", "--prompts", "-")
    plain = run(*options, stdin=b"one two").rows[0]["token_ids"]
    taken = run(*options, "--tokenizer", tmp_path / "other", stdin=b"xone two")
    taken.refused("1024")
    assert run(*options, "--tokenizer", "base", stdin=b"one two").rows[0]["token_ids"] == plain
    run(*options, "--tokenizer", "adapter", stdin=b"x").refused('tokenizer="adapter"')
    run(*options, "--tokenizer", tmp_path / "no", stdin=b"x").refused("tokenizer")


def test_texts_over_the_context_are_scored_in_windows_where_asked(
    run: Run, score: Run, tmp_path: Path
) -> None:
    model = Path(shutil.copytree(ASSETS / "model", tmp_path / "model"))
    config = json.loads((model / "config.json").read_text("utf-8"))
    config["max_position_embeddings"] = 16
    (model / "config.json").write_text(json.dumps(config), "utf-8")
    text = "The ship sails on and on " * 12
    options = ("score", "--model", model, "--dtype", "float32", "--prompts", "-")
    rolling = ("--op", "rolling_logprob")
    run(*options, *rolling, stdin=text.encode()).refused("line 1", "--windows")
    run(*options, "--windows", stdin=text.encode()).refused("--windows is for rolling_logprob")
    [row] = run(*options, *rolling, "--windows", stdin=text.encode()).rows
    with HFBackend.load(model, dtype="float32", windows=True) as wide:
        expected = wide.rolling_logprob(text)
    assert row["op"] == "rolling_logprob"
    assert row["token_ids"] == expected.token_ids.tolist()
    assert row["total_logprob"] == pytest.approx(expected.total_logprob, abs=1e-3)


@pytest.mark.parametrize("prefix", ["2", "7"])
def test_a_prefix_token_stands_before_the_first(run: Run, backend: HFBackend, prefix: str) -> None:
    options = ("score", "--model", ASSETS / "model", "--no-special-tokens", "--prompts", "-")
    rolling = (*options, "--op", "rolling_logprob", "--dtype", "float32")
    plain = run(*rolling, stdin=b"one two").rows[0]
    found = run(*rolling, "--prefix-token", prefix, stdin=b"one two").rows[0]
    assert found["token_ids"] == [int(prefix), *plain["token_ids"]]
    assert len(found["logprobs"]) == len(plain["token_ids"])
    text = backend.tokenizer.convert_ids_to_tokens(2)
    named = run(*rolling, "--prefix-token", text, stdin=b"one two").rows[0]
    assert named["token_ids"][0] == 2
    run(*rolling, "--prefix-token", "two words", stdin=b"one").refused("prefix_token_id")
    run(*rolling, "--prefix-token", "99999", stdin=b"one").refused("99999")
