"""The checks by name, in the order in which they run, and what each rests on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from forwardcache.conformance.server import answers, company, counts, values
from forwardcache.conformance.server.session import Findings, Session

__all__ = ["CHECKS", "Check"]


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        name: Its name, as in reports and test ids.
        find: Yields the failures that it finds in a server.
        needs: Checks after whose failure this one would say the same again.
        of_values: Whether it is about log-probabilities: a server of which none of these could be
            judged is no pass.
    """

    name: str
    find: Callable[[Session], Findings]
    needs: tuple[str, ...] = ("answers",)
    of_values: bool = True


_FORM = ("answers", "lengths", "echo_text", "probabilities", "repeatable")
_NUMBERS = (*_FORM, "top_k", "renormalised", "mass")
_MEANING = (*_NUMBERS, "temperature", "alignment", "sampled")

CHECKS = (
    Check("answers", answers.answers, needs=(), of_values=False),
    Check("lengths", answers.lengths),
    Check("first_token", answers.first_token, ("answers", "lengths")),
    Check("echo_text", answers.echo_text, ("answers", "lengths")),
    Check("probabilities", answers.probabilities, ("answers", "lengths")),
    Check("repeatable", values.repeatable, ("answers", "lengths", "probabilities")),
    Check("top_k", answers.top_k, _FORM),
    Check("renormalised", values.renormalised, (*_FORM, "top_k")),
    Check("mass", answers.mass, (*_FORM, "renormalised")),
    Check("temperature", values.temperature, _NUMBERS),
    Check("alignment", values.alignment, (*_NUMBERS, "temperature")),
    Check("sampled", values.sampled, (*_NUMBERS, "temperature", "alignment")),
    Check("sums", values.sums, _MEANING),
    Check("batch", company.batch, _NUMBERS),
    Check("prefixes", company.prefixes, _NUMBERS),
    Check("concurrency", company.concurrency, _NUMBERS),
    Check("max_tokens", counts.max_tokens, of_values=False),
    Check("usage", counts.usage, ("answers", "lengths", "max_tokens"), of_values=False),
    Check("long_prompts", counts.long_prompts, ("answers", "echo_text"), of_values=False),
    Check("prompt_logprobs", counts.prompt_logprobs, _MEANING),
    Check("stream", counts.stream, _NUMBERS),
    Check("exact", values.exact, (*_MEANING, "sums")),
)
