"""Asks an OpenAI-style server over HTTP: what the kits know of ``/v1/completions``.

Reading order: ``answer`` (what a server sends, as values), ``client`` (requests, time-outs, retries
and the key), ``subject`` (a server as something that scores token ids, with adapters). It knows no
check. Imports httpx and tenacity, which the extra ``server`` brings; neither torch nor numpy.
"""

from forwardcache.extras import extra_named

with extra_named("forwardcache.conformance.http"):
    from forwardcache.conformance.http.answer import (
        Answer,
        Choice,
        Logprobs,
        MalformedAnswerError,
        Usage,
    )
    from forwardcache.conformance.http.client import CompletionClient, RequestFailedError
    from forwardcache.conformance.http.subject import HttpSubject

__all__ = [
    "Answer",
    "Choice",
    "CompletionClient",
    "HttpSubject",
    "Logprobs",
    "MalformedAnswerError",
    "RequestFailedError",
    "Usage",
]
