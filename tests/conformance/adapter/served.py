"""An OpenAI-style server over an engine of these tests: vLLM's endpoints, or SGLang's."""

from __future__ import annotations

import json
from typing import Any

BASE_NAME = "base"

Answer = tuple[int, str, str]


class Served:
    """``/v1/completions`` with echo, and endpoints that load adapters and drop them.

    Args:
        engine: What scores token ids, with adapters.
        like_sglang: Whether requests name an adapter in ``lora_path``, and endpoints are at the
            root.
    """

    def __init__(self, engine: Any, *, like_sglang: bool = False) -> None:
        self.engine = engine
        self.loaded: set[str] = set()
        self.like_sglang = like_sglang

    def handle(self, path: str, body: dict[str, Any]) -> Answer:
        """Status, kind and content of the answer."""
        try:
            return self._handled(path, body)
        except Exception as error:
            return _as_json(500, {"error": {"message": f"{type(error).__name__}: {error}"}})

    def _handled(self, path: str, body: dict[str, Any]) -> Answer:
        prefix = "" if self.like_sglang else "/v1"
        if path == f"{prefix}/load_lora_adapter":
            self.engine.load_adapter(body["lora_name"], body["lora_path"])
            self.loaded.add(body["lora_name"])
            return self._done()
        if path == f"{prefix}/unload_lora_adapter":
            self.engine.unload_adapter(body["lora_name"])
            self.loaded.remove(body["lora_name"])
            return self._done()
        if path != "/v1/completions":
            return _as_json(404, {"detail": "Not Found"})
        return self._completed(body)

    def _done(self) -> Answer:
        return _as_json(200, {"success": True}) if self.like_sglang else (200, "text/plain", "done")

    def _completed(self, body: dict[str, Any]) -> Answer:
        name = body.get("lora_path") if self.like_sglang else body["model"]
        if name not in {None, BASE_NAME, *self.loaded}:
            return _as_json(404, {"error": {"message": f"The model `{name}` does not exist."}})
        ids = body["prompt"]
        values = self.engine.logprobs(ids, adapter=name if name in self.loaded else None)
        told = {
            "tokens": [f"<{each}>" for each in ids],
            "token_logprobs": [None, *values],
            "top_logprobs": None,
            "text_offset": [],
        }
        choice = {"index": 0, "text": "", "finish_reason": "length", "logprobs": told}
        usage = {"prompt_tokens": len(ids), "completion_tokens": 0, "total_tokens": len(ids)}
        return _as_json(200, {"choices": [choice], "usage": usage})


def _as_json(status: int, said: Any) -> Answer:
    return status, "application/json", json.dumps(said)
