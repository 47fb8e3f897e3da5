"""A server as something that scores token ids, with adapters that come and go.

Adapters are loaded by the endpoints that servers have for it:

| server | loads | a request names the adapter in |
|---|---|---|
| vLLM with ``VLLM_ALLOW_RUNTIME_LORA_UPDATING=True`` | ``/v1/load_lora_adapter`` | ``model`` |
| SGLang with ``--enable-lora`` | ``/load_lora_adapter`` | ``lora_path`` |
| any other | itself, before; the name is given here | ``model`` |
"""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import Any, Literal

from forwardcache.conformance.http.answer import Logprobs, MalformedAnswerError
from forwardcache.conformance.http.client import CompletionClient, RequestFailedError

__all__ = ["HttpSubject"]

_PREFIXES: dict[Literal["model", "lora_path"], str] = {"model": "/v1", "lora_path": ""}
"""By the field that names an adapter: what stands before the endpoints of such a server."""

_NO_SUCH_ENDPOINT = (404, 405, 501)


class HttpSubject:
    """Scores token ids by a server's echo.

    Args:
        client: Asks the server; its model is the base.

    Raises:
        RequestFailedError: the server did not answer, or said no.
        MalformedAnswerError: an answer lacks what was asked for.
    """

    def __init__(self, client: CompletionClient) -> None:
        self._client = client
        self._field: Literal["model", "lora_path"] = "model"
        self._max_tokens = 0

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def load_adapter(self, name: str, path: str | PathLike[str]) -> None:
        """Have the server load an adapter.

        Args:
            name: The name that requests use.
            path: The adapter's folder, as the server's machine sees it.

        Raises:
            RequestFailedError: the server has no endpoint for it (start it with the adapter, then
                leave this out), or did not load it.
        """
        sent = {"lora_name": name, "lora_path": str(path)}
        for field, prefix in _PREFIXES.items():
            if self._changed(f"{prefix}/load_lora_adapter", sent):
                self._field = field
                return
        raise RequestFailedError(
            404,
            f"{self._client.url} loads no adapters while it runs: start the server with {name!r} "
            "(vLLM also needs VLLM_ALLOW_RUNTIME_LORA_UPDATING=True, SGLang --enable-lora)",
        )

    def unload_adapter(self, name: str) -> None:
        """Have the server drop an adapter.

        Args:
            name: Its name.

        Raises:
            RequestFailedError: the server has no endpoint for it, or did not drop it.
        """
        path = f"{_PREFIXES[self._field]}/unload_lora_adapter"
        if not self._changed(path, {"lora_name": name}):
            raise RequestFailedError(404, f"{self._client.url} has no endpoint {path}")

    def logprobs(self, token_ids: Sequence[int], *, adapter: str | None = None) -> list[float]:
        """Log-probabilities of ``token_ids[1:]``, each after all before it, in nats.

        Args:
            token_ids: The tokens, as the model's tokenizer numbers them; at least two.
            adapter: Name of a loaded adapter; None for the base.

        Raises:
            RequestFailedError: the server did not answer, or said no.
            MalformedAnswerError: the echo is not one of these tokens.
        """
        ids = [int(each) for each in token_ids]
        echoed = self._echo(ids, {} if adapter is None else {self._field: adapter})
        given = echoed.token_logprobs[: len(ids)]
        # One token may follow where the server refuses to generate none.
        if not len(ids) <= len(echoed.token_logprobs) <= len(ids) + self._max_tokens:
            counts = f"{len(ids)} token ids gave {len(echoed.token_logprobs)} log-probabilities"
            raise MalformedAnswerError(f"{counts}; an echo has one for each of them")
        values = [value for value in given[1:] if value is not None]
        if given[0] is not None or len(values) != len(ids) - 1:
            raise MalformedAnswerError("an echo has null for its first token, and for no other")
        return values

    def _echo(self, ids: list[int], named: dict[str, Any]) -> Logprobs:
        # One candidate a token: SGLang takes 0 for no log-probabilities at all.
        asked: dict[str, Any] = {"echo": True, "logprobs": 1, "temperature": 0.0, **named}
        try:
            answer = self._client.complete(ids, max_tokens=self._max_tokens, **asked)
        except RequestFailedError as error:
            if self._max_tokens or error.status is None:
                raise
            answer = self._client.complete(ids, max_tokens=1, **asked)
            self._max_tokens = 1
        logprobs = answer.only().logprobs
        if logprobs is None:
            raise MalformedAnswerError("the server gave no log-probabilities")
        return logprobs

    def _changed(self, path: str, sent: dict[str, str]) -> bool:
        """Whether the server did it; False where it has no such endpoint."""
        try:
            response = self._client.post(path, sent)
        except RequestFailedError as error:
            # vLLM also says 404 for a folder without an adapter, but then in its own words.
            if error.status in _NO_SUCH_ENDPOINT and "adapter" not in error.why.lower():
                return False
            raise
        # vLLM answers in words, SGLang with an object that may say no.
        if response.headers.get("content-type", "").startswith("application/json"):
            answer = response.json()
            if isinstance(answer, dict) and answer.get("success") is False:
                raise RequestFailedError(response.status_code, str(answer.get("error_message")))
        return True
