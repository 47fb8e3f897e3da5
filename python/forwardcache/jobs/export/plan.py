"""Which tokens are asked about: those of texts for a teacher, those of pairs for a reference."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from forwardcache.errors import ForwardCacheError, InvalidInputError
from forwardcache.jobs.export.preference import Item, lacking, tokens_of
from forwardcache.jobs.job import Job
from forwardcache.jobs.planning import with_lengths
from forwardcache.jobs.prompts import InputWords, Prompt, PromptSet
from forwardcache.jobs.session import Session
from forwardcache.jobs.skips import OnError
from forwardcache.jobs.views import View

if TYPE_CHECKING:
    from forwardcache.hf.batch.row import Encoded
    from forwardcache.jobs.export.options import ReferenceOptions, TeacherOptions

PAIRS = InputWords("--prompts", "row", ("prompt",), takes_messages=False)
TOP_K = "top_k_at_each_position"
CONTINUATION = "continuation_logprob"

# Texts whose tokens are Python's numbers at once: those are nine times as large.
_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked of the model for one row.

    Attributes:
        tokens: int32[n] each, one for a text, two for a pair: there may be millions of them.
        read: Of each, how many tokens are read before the first that is scored.
        completion: Position of the first token of the completion in a text; 0 where all is one.
        cut: Completions of a pair that were cut.
        is_merged: Whether a token of a pair spans the end of its prompt.
    """

    tokens: tuple[NDArray[np.int32], ...]
    read: tuple[int, ...]
    completion: int = 0
    cut: int = 0
    is_merged: bool = False

    @classmethod
    def of(cls, *items: Item, **others: Any) -> Asked:
        """What is asked of these items."""
        tokens = tuple(np.array((*read, *scored), dtype=np.int32) for read, scored in items)
        return cls(tokens, tuple(len(read) for read, _ in items), **others)

    @property
    def items(self) -> list[Item]:
        """The tokens that are read and those that are scored, of each."""
        pairs = zip(self.tokens, self.read, strict=True)
        return [(tuple(ids[:at].tolist()), tuple(ids[at:].tolist())) for ids, at in pairs]

    @property
    def length(self) -> int:
        """Tokens that the model reads."""
        return sum(len(ids) - 1 for ids in self.tokens)


@dataclass(frozen=True, slots=True)
class ExportPlan:
    """What is exported.

    Attributes:
        job: The texts or rows, their lengths and the view.
        asked: What is asked of the model for each of them.
    """

    job: Job
    asked: Sequence[Asked]

    @property
    def view(self) -> View:
        """The view that is exported."""
        [view] = self.job.views
        return view


def teacher_plan(
    session: Session, source: PromptSet, view: View, options: TeacherOptions
) -> ExportPlan:
    """A plan whose texts can all be scored.

    Raises:
        InvalidInputError: a text can't be, its line is named, and it isn't to be skipped; or none
            can.
    """
    backend = session.backend
    end = _end_id(backend.tokenizer) if options.append_eos else None

    def asked(prompts: Sequence[Prompt]) -> list[Asked | ForwardCacheError]:
        return [
            each
            if isinstance(each, ForwardCacheError)
            else _text_asked(each, end, is_whole=prompt.completion is None)
            for prompt, each in zip(prompts, _encoded(backend, prompts), strict=True)
        ]

    return _plan(session, source, asked, Job(source, (), TOP_K, (view,), options.top_k,
                 options.top_k, options.on_error))  # fmt: skip


def reference_plan(
    session: Session, source: PromptSet, view: View, options: ReferenceOptions
) -> ExportPlan:
    """A plan whose rows can all be scored.

    Raises:
        InvalidInputError: as in ``teacher_plan``.
    """
    arguments = options.chat_template_args or {}
    tokenizer = session.backend.tokenizer

    def asked(prompts: Sequence[Prompt]) -> list[Asked | ForwardCacheError]:
        rows = map(fields_of, prompts)
        return [_pair_asked(tokenizer, row, arguments, options.max_length) for row in rows]

    return _plan(session, source, asked, Job(source, (), CONTINUATION, (view,), 0, 0,
                 options.on_error))  # fmt: skip


def comparable(source: PromptSet, *, on_error: OnError) -> PromptSet:
    """The rows that are a prompt with two completions, before a model is loaded.

    Raises:
        InvalidInputError: one isn't and isn't to be skipped, or none is.
    """
    return _without(source, [lacking(fields_of(prompt)) for prompt in source.prompts], on_error)


def exportable(source: PromptSet, *, has_template: bool, on_error: OnError) -> PromptSet:
    """The texts that are whole, or a prompt with a completion.

    Args:
        source: The texts as they were read.
        has_template: Whether prompts go through the chat template.
        on_error: Whether others are skipped.

    Raises:
        InvalidInputError: one is neither and isn't to be skipped, or none is left.
    """
    reasons = []
    for prompt in source.prompts:
        is_prompt = prompt.messages is not None or has_template
        what = "a list of messages" if prompt.messages is not None else "a prompt"
        reasons.append(
            f'{what} without a "completion", which is what a student learns behind a chat template'
            if is_prompt and prompt.completion is None
            else None
        )
    return _without(source, reasons, on_error)


def fields_of(prompt: Prompt) -> dict[str, Any]:
    """The fields of a row of the input, ``prompt`` first."""
    own = {} if prompt.completion is None else {"completion": prompt.completion}
    return {"prompt": prompt.asked, **own, **prompt.carried}


def _without(source: PromptSet, reasons: Sequence[str | None], on_error: OnError) -> PromptSet:
    bad = {at: reason for at, reason in enumerate(reasons) if reason is not None}
    if bad and on_error == "fail":
        first = min(bad)
        source.refuse(source.prompts[first], bad[first])
    return source.without(bad) if bad else source


def _encoded(backend: Any, prompts: Sequence[Prompt]) -> list[Encoded | ForwardCacheError]:
    """The tokens of each text, with its completion where it has one, or its error."""
    pairs = [at for at, prompt in enumerate(prompts) if prompt.completion is not None]
    whole = [at for at, prompt in enumerate(prompts) if prompt.completion is None]
    items = [(prompts[at].asked, prompts[at].completion) for at in pairs]
    found = dict(zip(pairs, backend.encoded(items, form="pair"), strict=True))
    # Their length is looked at with all others'.
    texts = [prompts[at].asked for at in whole]
    found.update(zip(whole, backend.encoded(texts, form="windows"), strict=True))
    return [found[at] for at in range(len(prompts))]


def _text_asked(encoded: Encoded, end: int | None, *, is_whole: bool) -> Asked | InvalidInputError:
    ids = encoded.token_ids if end is None else (*encoded.token_ids, end)
    if len(ids) < 2:
        count = "1 token" if ids else "no token"
        return InvalidInputError(f"the text has {count}: nothing in it is predicted")
    return Asked.of((ids[:1], ids[1:]), completion=0 if is_whole else encoded.first_scored)


def _pair_asked(
    tokenizer: Any, fields: Mapping[str, Any], arguments: Mapping[str, Any], max_length: int
) -> Asked | ForwardCacheError:
    try:
        found = tokens_of(tokenizer, fields, arguments, max_length=max_length)
    except ForwardCacheError as error:
        return error
    return Asked.of(found.chosen, found.rejected, cut=found.cut, is_merged=found.is_merged)


def _plan(
    session: Session,
    source: PromptSet,
    ask: Callable[[Sequence[Prompt]], list[Asked | ForwardCacheError]],
    job: Job,
) -> ExportPlan:
    """A plan of what the model can read.

    Args:
        session: The loaded model.
        source: The texts or pairs.
        ask: Gives what is asked for some of them.
        job: What is known of the job so far.
    """
    asked: list[Asked] = []
    lengths: list[int | str | Exception] = []
    for begin in range(0, len(source.prompts), _AT_ONCE):
        found = ask(source.prompts[begin : begin + _AT_ONCE])
        checked = _checked(session.backend, found, job.op)
        lengths += checked
        pairs = zip(found, checked, strict=True)
        asked += [
            each for each, length in pairs if isinstance(length, int) and isinstance(each, Asked)
        ]
    source, kept = with_lengths(source, lengths, job.on_error)
    return ExportPlan(replace(job, source=source, lengths=kept), asked)


def _checked(
    backend: Any, found: Sequence[Asked | ForwardCacheError], op: str
) -> list[int | Exception]:
    """How many tokens the model reads for each, or why it can't."""
    items = [item for each in found if isinstance(each, Asked) for item in each.items]
    answers = iter(backend.token_lengths(items, op=op))
    checked: list[int | Exception] = []
    for each in found:
        if isinstance(each, ForwardCacheError):
            checked.append(each)
            continue
        errors = [one for one in islice(answers, len(each.tokens)) if isinstance(one, Exception)]
        checked.append(errors[0] if errors else each.length)
    return checked


def _end_id(tokenizer: Any) -> int:
    if tokenizer.eos_token_id is None:
        raise InvalidInputError("--append-eos: the tokenizer has no EOS token")
    return int(tokenizer.eos_token_id)
