"""Requests to a server: where they go, how long they may take, when they are tried again.

The key is read from an environment variable, goes into one header, and is cut out of everything
that is said about a request.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any

import httpx
from tenacity import (
    Retrying,
    retry_if_exception_type,
    retry_if_result,
    stop_after_attempt,
    wait_exponential,
)

from forwardcache.conformance.http.answer import Answer, MalformedAnswerError
from forwardcache.errors import InvalidInputError

__all__ = ["KEY_VARIABLE", "CompletionClient", "Prompt", "RequestFailedError"]

Prompt = str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]]

KEY_VARIABLE = "FORWARDCACHE_API_KEY"
"""Where the key is looked for. Not ``OPENAI_API_KEY``: that one would go to any URL."""

_BUSY = (429, 502, 503, 504)
_SHOWN = 300
# A time-out of the answer is not among them: the server is still at work on the first request.
_PASSING = (httpx.ConnectError, httpx.ReadError, httpx.RemoteProtocolError, httpx.ConnectTimeout)


class RequestFailedError(Exception):
    """A request had no good answer.

    Attributes:
        status: The HTTP status; None if no answer came.
        why: What the server said, or what went wrong.
    """

    def __init__(self, status: int | None, why: str) -> None:
        parts = [f"HTTP {status}"] if status else []
        super().__init__(": ".join([*parts, why] if why else parts))
        self.status = status
        self.why = why


class CompletionClient:
    """Asks one model of one server.

    Args:
        url: The server's address, with or without ``/v1``.
        model: Name of the model, as the server knows it.
        api_key_variable: Environment variable with the key; one that isn't set sends none.
        timeout: Seconds without a byte after which a request has failed.
        retries: How often a request that the server was too busy for, or that broke off, is sent
            again.
        transport: What carries the requests; None for a connection.

    Raises:
        InvalidInputError: the address is none of a server, or has a password in it.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        api_key_variable: str = KEY_VARIABLE,
        timeout: float = 60.0,
        retries: int = 2,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.url = root_of(url)
        self.model = model
        self._key = os.environ.get(api_key_variable, "")
        self._retries = retries
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        self._http = httpx.Client(headers=headers, timeout=timeout, transport=transport)

    def __enter__(self) -> CompletionClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def complete(self, prompt: Prompt, **fields: Any) -> Answer:
        """What the server completes.

        Args:
            prompt: Text or token ids, or a list of either.
            **fields: Fields of the request, as ``max_tokens``; those that are None are left out.

        Raises:
            RequestFailedError: there was no answer, or one that says no.
            MalformedAnswerError: the answer is not of a completion's form.
        """
        response = self.post("/v1/completions", self._body(prompt, fields))
        try:
            sent = response.json()
        except ValueError as error:
            raise MalformedAnswerError(f"no JSON: {self._shown(response.text)}") from error
        return Answer.read(sent)

    def stream(self, prompt: Prompt, **fields: Any) -> list[Answer]:
        """What the server completes, chunk by chunk, after the stream has ended.

        Args:
            prompt: As in ``complete``.
            **fields: As in ``complete``.

        Raises:
            RequestFailedError: there was no answer, or one that says no.
            MalformedAnswerError: a chunk is not of a completion's form.
        """
        body = self._body(prompt, {**fields, "stream": True})
        response = self.post("/v1/completions", body)
        return [Answer.read(self._chunk(data)) for data in _events(response.text)]

    def post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        """The answer to ``body``, sent as JSON.

        Args:
            path: Path below the server's root.
            body: The request.

        Raises:
            RequestFailedError: there was no answer, or one that says no.
        """
        try:
            response = self._retrying()(self._http.post, f"{self.url}{path}", json=body)
        except httpx.HTTPError as error:
            kind = type(error).__name__
            raise RequestFailedError(None, self._shown(f"{kind}: {error}")) from error
        if response.is_success:
            return response
        raise RequestFailedError(response.status_code, self._shown(_said(response)))

    def _retrying(self) -> Retrying:
        again = retry_if_exception_type(_PASSING) | retry_if_result(_is_busy)
        return Retrying(
            retry=again,
            stop=stop_after_attempt(1 + self._retries),
            wait=wait_exponential(multiplier=0.1, max=5.0),
            retry_error_callback=_last,
        )

    def _body(self, prompt: Prompt, fields: dict[str, Any]) -> dict[str, Any]:
        asked = {name: value for name, value in fields.items() if value is not None}
        return {"model": self.model, "prompt": prompt, **asked}

    def _chunk(self, data: str) -> Any:
        try:
            return json.loads(data)
        except ValueError as error:
            raise MalformedAnswerError(f"a chunk is no JSON: {self._shown(data)}") from error

    def _shown(self, text: str) -> str:
        """``text`` in one line, shortened, without the key."""
        hidden = text.replace(self._key, "[key]") if self._key else text
        return " ".join(hidden.split())[:_SHOWN]


def root_of(url: str) -> str:
    """The server's root in ``url``, whose path may go on to ``/v1`` or ``/v1/completions``.

    Args:
        url: Address of a server.

    Raises:
        InvalidInputError: it is no http address, or has a password in it.
    """
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, TypeError) as error:
        raise InvalidInputError(f"{url!r} is no address of a server: {error}") from error
    if parsed.userinfo:
        raise InvalidInputError(
            f"the address of {parsed.host} has a user name in it; "
            "a key is read from an environment variable"
        )
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise InvalidInputError(f"{url!r} is no address of a server: http://host:port is one")
    root = str(parsed.copy_with(query=None, fragment=None)).rstrip("/")
    for end in ("/completions", "/v1"):
        root = root.removesuffix(end)
    return root


def _is_busy(response: httpx.Response) -> bool:
    return response.status_code in _BUSY


def _last(state: Any) -> Any:
    """What the last of several attempts gave: its answer, or what it raised."""
    return state.outcome.result()


def _events(text: str) -> Iterator[str]:
    """The data of the server-sent events in ``text``, but for the one that ends the stream."""
    for line in text.splitlines():
        data = line.removeprefix("data:").strip()
        if line.startswith("data:") and data != "[DONE]":
            yield data


def _said(response: httpx.Response) -> str:
    """The words of an error: OpenAI's field, FastAPI's, or the body as it is."""
    try:
        sent = response.json()
    except ValueError:
        return response.text
    if isinstance(sent, dict):
        error = sent.get("error", sent.get("detail", sent.get("message", sent)))
        return str(error.get("message", error) if isinstance(error, dict) else error)
    return response.text
