"""A server of ``/v1/completions`` over an ``HFBackend``: right, with hooks for what may fail.

``Right`` answers as vLLM does. A faulty server overrides one hook (``faults``), a near miss too
(``near_misses``). ``Direct`` carries requests of httpx to a server without a connection;
``asgi`` is the same server for uvicorn.
"""

from __future__ import annotations

import json
import math
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import cache, partial
from typing import Any, Protocol

import httpx
import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM

from forwardcache.hf import HFBackend
from tests.hf import tiny

NAME = "tiny"
CONTEXT = 300
_SIGNS = ["\n", *map(chr, range(32, 127))]
VOCAB = 2 + len(_SIGNS)

Body = dict[str, Any]
Rows = NDArray[np.float64]


def tokenizer(*, bos: bool = True) -> Any:
    """A token a character of ASCII, so that a text's parts have the tokens of the whole."""
    vocabulary = {"<s>": 0, "</s>": 1, **{sign: 2 + at for at, sign in enumerate(_SIGNS)}}
    inner = Tokenizer(models.BPE(vocabulary, []))
    inner.add_special_tokens(["<s>", "</s>"])
    inner.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    inner.decoder = decoders.Fuse()
    if not bos:
        return tiny.around(inner, eos_token="</s>")
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    return tiny.around(inner, bos_token="<s>", eos_token="</s>")


def model() -> Any:
    """Random but the same every time; its next tokens depend on many before them."""
    torch.manual_seed(5)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        bos_token_id=0,
        eos_token_id=1,
    )
    return tiny.sharpened(LlamaForCausalLM(config), 6.0).eval()


class Oracle:
    """Log-probabilities of a backend's base, each sequence computed once."""

    def __init__(self, backend: HFBackend) -> None:
        self.backend = backend
        self._known: dict[tuple[int, ...], Rows] = {}
        self._ids: dict[str, list[int]] = {}

    def ids(self, text: str) -> list[int]:
        if text not in self._ids:
            self._ids[text] = list(self.backend.tokenizer(text)["input_ids"])
        return [*self._ids[text]]

    def text(self, ids: Sequence[int]) -> str:
        return "".join(map(self.token, ids))

    @staticmethod
    @cache
    def token(token_id: int) -> str:
        return "<s>" if token_id == 0 else "</s>" if token_id == 1 else _SIGNS[token_id - 2]

    def rows(self, ids: Sequence[int]) -> Rows:
        """[tokens, vocab]: after each token."""
        key = tuple(ids)
        if key not in self._known:
            logits = tiny.logprobs_after(self.backend.model, key).double()
            # The end of the text is never the most likely: completions have their full length.
            logits[:, :2] = -20.0
            self._known[key] = logits.log_softmax(-1).numpy()
        return self._known[key]

    def reference(self, text: str) -> list[float]:
        """What the kit compares with: log-probabilities of the tokens after the first."""
        ids = self.ids(text)
        rows = self.rows(ids)
        return [float(rows[at - 1, token]) for at, token in enumerate(ids) if at]


class Refused(Exception):
    """The server says no."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class Right:
    """Answers as vLLM does; every method is a hook.

    Attributes:
        is_the_model: Whether its values are those of the oracle.
    """

    is_the_model = True

    def __init__(self, oracle: Oracle) -> None:
        self.oracle = oracle
        self.loaded: dict[str, str] = {}
        self.asked: list[Body] = []

    # What is asked.

    def respond(self, body: Body) -> Body:
        """The whole answer."""
        self.asked.append(body)
        prompts = self.prompts(body["prompt"])
        answers = [self.completed(ids, body, len(prompts)) for ids in prompts]
        choices = [self.choice(index, *each, body) for index, each in enumerate(answers)]
        counts = [(len(ids), len(generated)) for ids, generated in answers]
        usage = self.usage(sum(one for one, _ in counts), sum(other for _, other in counts))
        return {"object": "text_completion", "choices": self.ordered(choices), "usage": usage}

    def prompts(self, prompt: Any) -> list[list[int]]:
        if isinstance(prompt, str):
            return [self.oracle.ids(prompt)]
        if all(isinstance(each, int) for each in prompt):
            return [list(prompt)]
        return [ids for each in prompt for ids in self.prompts(each)]

    def completed(self, ids: list[int], body: Body, batch: int) -> tuple[list[int], list[int]]:
        """Ids of the prompt and of what follows."""
        self.batch = batch
        ids = self.kept(ids)
        count = self.count(int(body.get("max_tokens", 16)), bool(body.get("echo")))
        generated: list[int] = []
        for step in range(count):
            row = self.rows([*ids, *generated])[-1]
            generated.append(self.next_token(row, body, step))
        return ids, generated

    def kept(self, ids: list[int]) -> list[int]:
        if len(ids) > CONTEXT - 16:
            raise Refused(400, f"the prompt has {len(ids)} tokens, the context {CONTEXT}")
        return ids

    def count(self, asked: int, echo: bool) -> int:
        return asked

    def next_token(self, row: Rows, body: Body, step: int) -> int:
        temperature = body.get("temperature", 1.0)
        if temperature == 0:
            return int(row.argmax())
        noise = np.random.default_rng([body.get("seed", 0), step]).gumbel(size=VOCAB)
        return int((row / temperature + noise).argmax())

    # What is computed.

    def rows(self, ids: Sequence[int]) -> Rows:
        """After each token."""
        return self.oracle.rows(ids)

    def places(self, ids: list[int], prompt: int, body: Body) -> list[Rows | None]:
        """At each token's place: what was likely there."""
        return [None, *self.rows(ids)[:-1]]

    # What is told.

    def choice(self, index: int, ids: list[int], generated: list[int], body: Body) -> Body:
        echo = bool(body.get("echo"))
        shown = [*ids, *generated] if echo else generated
        told: Body = {
            "index": index,
            "text": self.text(ids, generated, echo, body),
            "finish_reason": "length",
            "logprobs": None,
        }
        if body.get("logprobs") is not None:
            places = self.places([*ids, *generated], len(ids), body)
            skipped = 0 if echo else len(ids)
            told["logprobs"] = self.logprobs(shown, places[skipped:], body["logprobs"], echo)
        if body.get("prompt_logprobs"):
            places = self.places(ids, len(ids), body)
            told["prompt_logprobs"] = self.prompt_logprobs(ids, places, body["prompt_logprobs"])
        return told

    def text(self, ids: list[int], generated: list[int], echo: bool, body: Body) -> str:
        prompt = body["prompt"] if isinstance(body["prompt"], str) else self.oracle.text(ids[1:])
        return (prompt if echo else "") + self.oracle.text(generated)

    def logprobs(
        self, ids: list[int], places: list[Rows | None], k: int, echo: bool
    ) -> Body | None:
        values = self.values(ids, places, echo)
        tokens = [self.token(token) for token in ids]
        offsets = [len("".join(tokens[:at])) for at in range(len(tokens))]
        return {
            "tokens": tokens,
            "token_logprobs": values,
            "top_logprobs": [
                None if row is None else self.candidates(row, token, k)
                for token, row in zip(ids, self.candidate_places(places), strict=True)
            ],
            "text_offset": offsets,
        }

    def values(self, ids: list[int], places: list[Rows | None], echo: bool) -> list[float | None]:
        """Each token's own."""
        return [
            None if row is None else float(row[token])
            for token, row in zip(ids, places, strict=True)
        ]

    def candidate_places(self, places: list[Rows | None]) -> list[Rows | None]:
        return places

    def candidates(self, row: Rows, token: int, k: int) -> Any:
        chosen = self.chosen(row, k)
        # The token itself is told too, and first.
        return self.told({each: float(row[each]) for each in dict.fromkeys([token, *chosen])})

    def chosen(self, row: Rows, k: int) -> list[int]:
        return [int(each) for each in np.argsort(-row, kind="stable")[:k]]

    def told(self, values: dict[int, float]) -> Any:
        return {self.token(each): value for each, value in values.items()}

    def token(self, token: int) -> str:
        return self.oracle.token(token)

    def usage(self, prompt: int, completion: int) -> Body | None:
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
        }

    def ordered(self, choices: list[Body]) -> list[Body]:
        return choices

    def prompt_logprobs(self, ids: list[int], places: list[Rows | None], k: int) -> Any:
        return [self.ranked(row, token, k) for token, row in zip(ids, places, strict=True)]

    def ranked(self, row: Rows | None, token: int, k: int) -> Body | None:
        if row is None:
            return None
        ranks = {int(each): at for at, each in enumerate(np.argsort(-row, kind="stable"), 1)}
        shown = dict.fromkeys([token, *self.chosen(row, k)])
        return {
            str(each): {
                "logprob": float(row[each]),
                "rank": ranks[each],
                "decoded_token": self.oracle.token(each),
            }
            for each in shown
        }

    def streamed(self, body: Body) -> Iterator[Body]:
        """A chunk a token, then the usage."""
        choice = self.respond(body)["choices"][0]
        given = choice["logprobs"]
        for at, sign in enumerate(choice["text"]):
            part = given and {name: each[at : at + 1] for name, each in given.items()}
            yield {"choices": [{"index": 0, "text": sign, "logprobs": part}]}
        yield {"choices": [], "usage": self.usage(1, len(choice["text"]))}

    def adapters(self, path: str, body: Body) -> tuple[int, Any]:
        """What the endpoints for adapters say; this server has none."""
        return 404, {"detail": "Not Found"}

    # How it is reached.

    def handle(self, path: str, body: Body) -> tuple[int, str, str]:
        """Status, kind and content of the answer."""
        if not path.endswith("/v1/completions"):
            status, said = self.adapters(path, body)
            return _as_text(status, said)
        try:
            if body.get("model") != NAME and body.get("model") not in self.loaded:
                raise Refused(404, f"The model `{body.get('model')}` does not exist.")
            if body.get("stream"):
                events = [f"data: {json.dumps(each)}\n\n" for each in self.streamed(body)]
                return 200, "text/event-stream", "".join([*events, "data: [DONE]\n\n"])
            return _as_text(200, self.respond(body))
        except Refused as refused:
            return _as_text(refused.status, {"error": {"message": str(refused)}})


def _as_text(status: int, said: Any) -> tuple[int, str, str]:
    if isinstance(said, str):
        return status, "text/plain", said
    return status, "application/json", json.dumps(said)


class Direct(httpx.BaseTransport):
    """Carries requests to a server in this process."""

    def __init__(self, server: Right) -> None:
        self.server = server

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.read())
        status, kind, content = self.server.handle(request.url.path, body)
        return httpx.Response(status, headers={"content-type": kind}, text=content)


class Handles(Protocol):
    """Answers requests."""

    def handle(self, path: str, body: Body) -> tuple[int, str, str]:
        """Status, kind and content of the answer."""


def asgi(server: Handles) -> Callable[..., Awaitable[None]]:
    """The server for uvicorn."""
    return partial(_serve, server)


async def _serve(server: Handles, scope: Any, receive: Any, send: Any) -> None:
    assert scope["type"] == "http"
    sent, more = b"", True
    while more:
        message = await receive()
        sent, more = sent + message["body"], message.get("more_body", False)
    status, kind, content = server.handle(scope["path"], json.loads(sent))
    headers = [(b"content-type", kind.encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content.encode()})


def renormalised(row: Rows) -> Rows:
    """``row`` as log-probabilities that sum to 1."""
    largest = float(row.max())
    shares: Rows = row - math.log(float(np.exp(row - largest).sum())) - largest
    return shares
