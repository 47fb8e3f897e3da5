"""Claims: the client gives up in time, tries again what was only busy, and never tells the key; an
answer that is not of a completion's form is refused; a server scores ids, with adapters.
"""

import json
import logging
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from forwardcache.conformance.http import (
    Answer,
    CompletionClient,
    HttpSubject,
    MalformedAnswerError,
    RequestFailedError,
)
from forwardcache.conformance.http.answer import logprob_from
from forwardcache.errors import InvalidInputError
from tests.conformance.server.app import NAME, Body, Direct, Oracle, Refused, Right, Rows
from tests.conformance.server.conftest import Serve

KEY = "sk-of-nobody"
EMPTY: dict[str, Any] = {"tokens": [], "token_logprobs": []}
GOOD = {"choices": [{"text": "x"}]}
Handle = Callable[[httpx.Request], httpx.Response]


def client(handle: Handle, **options: Any) -> CompletionClient:
    return CompletionClient("http://server", NAME, transport=httpx.MockTransport(handle), **options)


def in_turn(*answers: Any) -> tuple[list[httpx.Request], Handle]:
    """Requests as they come, and a server that answers them in turn; an exception is raised."""
    seen: list[httpx.Request] = []

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        answer = answers[len(seen) - 1]
        if isinstance(answer, Exception):
            raise answer
        return httpx.Response(answer, json=GOOD if answer == 200 else {"detail": f"{answer}"})

    return seen, handle


@pytest.mark.parametrize("end", ["", "/", "/v1", "/v1/", "/v1/completions"])
def test_an_address_may_go_on_to_the_endpoint(end: str) -> None:
    assert CompletionClient(f"http://h:1{end}", NAME).url == "http://h:1"


@pytest.mark.parametrize("url", ["", "h:1", "ftp://h", "http://", "http://u:p@h"])
def test_what_is_no_address_of_a_server_is_refused(url: str) -> None:
    with pytest.raises(InvalidInputError):
        CompletionClient(url, NAME)


@pytest.mark.parametrize("busy", [503, 429, httpx.ConnectError("no"), httpx.ReadError("gone")])
def test_a_busy_server_is_asked_again(busy: Any) -> None:
    seen, handle = in_turn(busy, busy, 200)
    assert client(handle).complete("a", max_tokens=1).only().text == "x"
    assert len(seen) == 3


@pytest.mark.parametrize(
    ("answers", "status", "words"),
    [
        ((503, 503, 503), 503, "HTTP 503: 503"),
        ((400,), 400, "HTTP 400: 400"),
        ((500,), 500, "HTTP 500"),
        ((httpx.ReadTimeout("late"),), None, "ReadTimeout: late"),
    ],
)
def test_a_refusal_and_a_time_out_are_told_at_once(
    answers: Any, status: int | None, words: str
) -> None:
    seen, handle = in_turn(*answers)
    with pytest.raises(RequestFailedError, match=words) as raised:
        client(handle).complete("a")
    assert raised.value.status == status
    assert len(seen) == len(answers)


def test_a_server_that_says_nothing_is_given_up(oracle: Oracle, serve: Serve) -> None:
    class Silent(Right):
        def handle(self, path: str, body: Body) -> Any:
            raise SystemExit  # The connection closes without an answer.

    with (
        CompletionClient(serve(Silent(oracle)), NAME, retries=0, timeout=0.5) as asks,
        pytest.raises(RequestFailedError),
    ):
        asks.complete("a")


def test_the_key_goes_into_one_header_and_is_told_nowhere(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("FORWARDCACHE_API_KEY", KEY)
    seen: list[httpx.Request] = []

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(401, json={"error": {"message": f"wrong key {KEY}"}})

    with caplog.at_level(logging.DEBUG), pytest.raises(RequestFailedError) as raised:
        client(handle).complete("a")
    assert seen[0].headers["authorization"] == f"Bearer {KEY}"
    assert str(raised.value) == "HTTP 401: wrong key [key]"
    assert KEY not in caplog.text + repr(raised.value) + repr(client(handle))


def test_no_key_is_sent_where_none_is_set_or_another_name_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    seen, handle = in_turn(200, 200)
    client(handle).complete("a")
    client(handle, api_key_variable="OPENAI_API_KEY").complete("a")
    assert [each.headers.get("authorization") for each in seen] == [None, f"Bearer {KEY}"]


def test_fields_that_are_none_are_left_out() -> None:
    seen, handle = in_turn(200)
    client(handle).complete([1, 2], max_tokens=0, logprobs=None, echo=True)
    sent = {"model": NAME, "prompt": [1, 2], "max_tokens": 0, "echo": True}
    assert json.loads(seen[0].content) == sent


@pytest.mark.parametrize(
    "sent",
    [
        [],
        {"choices": None},
        {"choices": [{"index": 0}]},
        {"choices": [{"text": "a", "index": "0"}]},
        {"choices": [{"text": "a", "logprobs": [1]}]},
        {"choices": [{"text": "a", "logprobs": {"tokens": ["a"]}}]},
        {"choices": [{"text": "a", "logprobs": {"content": [{}]}}]},
        {"choices": [{"text": "a", "logprobs": {**EMPTY, "token_logprobs": [True]}}]},
        {"choices": [{"text": "a", "logprobs": {**EMPTY, "top_logprobs": [3]}}]},
    ],
)
def test_what_is_no_completion_is_refused(sent: Any) -> None:
    with pytest.raises(MalformedAnswerError):
        Answer.read(sent)
    with pytest.raises(MalformedAnswerError):
        client(lambda request: httpx.Response(200, json=sent)).complete("a").only()


def test_an_answer_that_is_no_json_is_refused() -> None:
    page = httpx.Response(200, text="<html>")
    with pytest.raises(MalformedAnswerError, match="no JSON: <html>"):
        client(lambda request: page).complete("a")
    with pytest.raises(MalformedAnswerError, match="a chunk is no JSON: <html>"):
        client(lambda request: httpx.Response(200, text="data: <html>\n\n")).stream("a")


@pytest.mark.parametrize("sent", [float("-inf"), "-inf", "-Infinity", -9999.0, -10000])
def test_minus_infinity_has_many_spellings(sent: Any) -> None:
    assert logprob_from(sent) == float("-inf")


class LoadsAdapters(Right):
    """An adapter shifts the logits of each token by its own number."""

    prefix = "/v1"
    field = "model"

    def adapters(self, path: str, body: Body) -> tuple[int, Any]:
        name = body["lora_name"]
        if path == f"{self.prefix}/load_lora_adapter":
            if body["lora_path"] == "nowhere":
                return 404, {"error": {"message": "The lora adapter has no folder nowhere"}}
            self.loaded[name] = body["lora_path"]
            return 200, f"Success: LoRA adapter '{name}' added successfully."
        if path == f"{self.prefix}/unload_lora_adapter" and name in self.loaded:
            del self.loaded[name]
            return 200, f"Success: LoRA adapter '{name}' removed successfully."
        return super().adapters(path, body)

    def rows(self, ids: Any) -> Rows:
        rows = super().rows(ids)
        return rows * 0.5 if self.asked[-1].get(self.field) in self.loaded else rows


class LoadsAdaptersAsSglang(LoadsAdapters):
    prefix = ""
    field = "lora_path"

    def adapters(self, path: str, body: Body) -> tuple[int, Any]:
        status, said = super().adapters(path, body)
        if body["lora_path" if "lora_path" in body else "lora_name"] == "nowhere":
            return 200, {"success": False, "error_message": "no folder nowhere"}
        return status, {"success": True} if status == 200 else said


IDS = (0, 40, 41, 50, 60, 44)


@pytest.mark.parametrize("kind", [LoadsAdapters, LoadsAdaptersAsSglang])
def test_a_subject_scores_ids_with_and_without_an_adapter(
    kind: type[Right], oracle: Oracle, serve: Serve
) -> None:
    rows = oracle.rows(IDS)
    exact = [float(rows[at, token]) for at, token in enumerate(IDS[1:])]
    subject = HttpSubject(CompletionClient(serve(kind(oracle)), NAME))
    assert subject.logprobs(IDS) == pytest.approx(exact)
    subject.load_adapter("mine", "/adapters/mine")
    adapted = subject.logprobs(IDS, adapter="mine")
    assert adapted == pytest.approx([value / 2 for value in exact])
    assert subject.logprobs(IDS) == pytest.approx(exact)
    subject.unload_adapter("mine")
    with pytest.raises(RequestFailedError):
        subject.unload_adapter("mine")
    with pytest.raises(RequestFailedError, match="no folder nowhere"):
        subject.load_adapter("other", "nowhere")
    subject.close()


def subject_of(kind: type[Right], oracle: Oracle) -> HttpSubject:
    return HttpSubject(CompletionClient("http://server", NAME, transport=Direct(kind(oracle))))


def test_a_server_without_endpoints_for_adapters_asks_for_a_start_with_them(
    oracle: Oracle,
) -> None:
    with pytest.raises(RequestFailedError, match="start the server with 'mine'"):
        subject_of(Right, oracle).load_adapter("mine", "/adapters/mine")


class WantsOneToken(Right):
    def count(self, asked: int, echo: bool) -> int:
        if not asked:
            raise Refused(422, "max_tokens must be positive")
        return asked


class AddsBos(Right):
    def prompts(self, prompt: Any) -> list[list[int]]:
        return [[0, *ids] for ids in super().prompts(prompt)]


class LeavesFirstIn(Right):
    def values(self, ids: list[int], places: Any, echo: bool) -> list[float | None]:
        return [0.0, *super().values(ids, places, echo)[1:]]


class Speechless(Right):
    def logprobs(self, *args: Any) -> Body | None:
        return None


def test_a_subject_asks_for_a_token_where_none_is_refused(oracle: Oracle) -> None:
    right, wants = subject_of(Right, oracle), subject_of(WantsOneToken, oracle)
    for _ in range(2):
        assert wants.logprobs(IDS) == right.logprobs(IDS)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (AddsBos, "6 token ids gave 7 log-probabilities"),
        (LeavesFirstIn, "null for its first token"),
        (Speechless, "gave no log-probabilities"),
    ],
)
def test_an_echo_that_is_not_of_the_ids_is_refused(
    kind: type[Right], words: str, oracle: Oracle
) -> None:
    with pytest.raises(MalformedAnswerError, match=words):
        subject_of(kind, oracle).logprobs(IDS)
