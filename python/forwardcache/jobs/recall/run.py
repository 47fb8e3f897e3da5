"""One run: answered from the store alone if its model is known; else it learns what that is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forwardcache.hf.stored import Known, StoredBackend, Tokens, options_of, places_of
from forwardcache.jobs.imports import OWN_PROCESS
from forwardcache.jobs.options import ModelOptions, ScoreOptions, tokenizer_folder
from forwardcache.jobs.prompts import PromptSet
from forwardcache.jobs.recall.contents import Contents, contents_of
from forwardcache.jobs.recall.heard import Heard, say_again
from forwardcache.jobs.recall.key import key_of_model
from forwardcache.jobs.recall.note import (
    Note,
    key_of,
    packed_tokens,
    unpacked,
    unpacked_tokens,
)
from forwardcache.jobs.recall.sources import imported_sources, is_fresh
from forwardcache.jobs.recall.surroundings import DEVICES, surroundings
from forwardcache.jobs.session import (
    Session,
    instruments,
    load,
    load_backend,
    open_checked,
    open_trace,
)
from forwardcache.jobs.views import View
from forwardcache.operations import operation
from forwardcache.store.notes import keep_note, read_note, takes_notes

if TYPE_CHECKING:
    from forwardcache.jobs.job import Job
    from forwardcache.store import Store


@dataclass(frozen=True, slots=True)
class StoredSession(Session):
    """A session whose model isn't loaded.

    Attributes:
        facts: What is known of the model.
    """

    facts: Mapping[str, Any] | None = None

    def _fact(self, name: str) -> Any:
        return None if self.facts is None else self.facts[name]

    @property
    def vocab_size(self) -> int:
        """As of ``Session``."""
        return int(self._fact("vocab_size"))

    @property
    def itemsize(self) -> int:
        """As of ``Session``."""
        return int(self._fact("itemsize"))

    def template_digest(self) -> str | None:
        """None: with a template the model's tokenizer is loaded."""
        return None

    def arithmetic(self) -> dict[str, Any]:
        """As of ``Session``."""
        return dict(self._fact("arithmetic"))


class Recall:
    """What one run finds in its store of the model, and leaves there.

    Args:
        options: What was asked for.
        source: The prompts.
        views: In the order of a prompt's rows.
    """

    def __init__(self, options: ScoreOptions, source: PromptSet, views: Sequence[View]) -> None:
        self._options, self._loading = options, options.loading
        self._op = operation(options.op).of(windows=options.loading.windows)
        self._items = list(source.items(options.op))
        self._views = views
        self._heard = Heard()
        self._store: Store | None = None
        self._said = None if options.ray or not _may_be_known(self._loading) else surroundings()
        self._folders = _folders_of(self._loading)
        self._before: Future[Contents | None] | None = None
        self._note: Note | None = None
        self._floors: dict[str, dict[str, Any]] = {}

    def session(self) -> Session:
        """The model's session: without the model, if all that is asked of it is known.

        Raises:
            ForwardCacheError: as of ``load``.
            OSError: likewise.
        """
        where = self._loading.store
        self._store = store = None if where is None else open_checked(where)
        if store is None or not self._is_eligible():
            return load(self._loading, store)
        with ThreadPoolExecutor(1) as pool:
            self._before = before = pool.submit(contents_of, self._folders)
            if (session := self._recalled(store, before)) is not None:
                return session
            with self._heard.listening():
                # Whatever the files hold when they are loaded, they held it before and after.
                return load(self._loading, store, ready=before.result)

    def floor(self, op: str, measure: Callable[[], dict[str, Any]], **asked: Any) -> dict[str, Any]:
        """How far base is from itself: as an earlier run measured it, or measured now.

        Args:
            op: The scoring operation.
            measure: Measures it; gives the fields of a ``NoiseFloor``.
            **asked: What else it depends on but model and prompts, JSON values.
        """
        key = key_of("floor", op, asked, self._items).hex()
        known = {} if self._note is None else self._note.floors
        if key not in known:
            self._floors[key] = measure()
        return known.get(key) or self._floors[key]

    def keep(self, session: Session, job: Job, norms: Mapping[str, float | None]) -> None:
        """Notes what was learnt of a model that was loaded, for later runs.

        Args:
            session: The model's.
            job: What was scored.
            norms: By the view's name: the norm of what it adds to the weights, where asked.
        """
        store, said = self._store, self._said
        before = self._contents()
        is_whole = len(job.source.prompts) == len(self._items)
        if store is None or said is None or before is None or not is_whole:
            return
        if self._note is not None:
            self._keep_floors(store, self._note)
        if self._note is not None or self._heard.was_warned:
            return
        specs = {view.name: _spec_of(view, session) for view in self._views}
        places = places_of(session.backend, list(specs.values()))
        sources, tokens = imported_sources(), self._tokens_of(session, job)
        # The files are read once more, whether or not they look the same.
        after = contents_of(self._folders, anew=True)
        if places is None or sources is None or tokens is None or after != before:
            return
        note = Note(
            contents=before.digest,
            surroundings=said,
            sources=sources,
            options=options_of(session.backend),
            places=places,
            norms={specs[name]: norm for name, norm in norms.items()},
            floors=self._floors,
            facts=_facts_of(session),
            said=self._heard.messages,
        )
        self._write(store, note, tokens)

    def _is_eligible(self) -> bool:
        return self._said is not None and self._store is not None and takes_notes(self._store)

    def _recalled(self, store: Store, before: Future[Contents | None]) -> Session | None:
        """The session without the model; None if something of it isn't known."""
        note = unpacked(read_note(store, self._key()))
        if note is None or note.surroundings != self._said or not note.sources.hold():
            return None
        contents = before.result()
        if contents is None or contents.digest != note.contents:
            return None
        content = read_note(store, self._key_of_tokens(note.contents))
        tokens = unpacked_tokens(content, self._items)
        return None if tokens is None else self._without_model(note, tokens, store)

    def _without_model(self, note: Note, tokens: dict[Any, Tokens], store: Store) -> Session | None:
        instrumentation, recorder = instruments(self._loading)
        known = Known(note.options, self._loading.windows, note.places, tokens, note.norms)
        backend = StoredBackend(
            known, recorder, store, partial(load_backend, self._loading, recorder, store)
        )
        if any(view.of(backend).spec not in note.places for view in self._views):  # type: ignore[attr-defined]
            return None
        self._note = note
        say_again(note.said)
        open_trace(self._loading, instrumentation)
        return StoredSession(backend, recorder, instrumentation, store, note.facts)

    def _keep_floors(self, store: Store, note: Note) -> None:
        """Adds what was measured with a model that was loaded for it to its note."""
        if not self._floors or not note.sources.hold():
            return
        if contents_of(self._folders, anew=True) == self._contents():
            note.floors.update(self._floors)
            keep_note(store, self._key(), note.packed())

    def _contents(self) -> Contents | None:
        return None if self._before is None else self._before.result()

    def _write(self, store: Store, note: Note, tokens: list[Tokens]) -> None:
        earlier = unpacked(read_note(store, self._key()))
        if earlier is not None and _is_of_the_same(earlier, note):
            note.places.update({**earlier.places, **note.places})
            note.norms.update({**earlier.norms, **note.norms})
            note.floors.update({**earlier.floors, **note.floors})
        keep_note(store, self._key_of_tokens(note.contents), packed_tokens(tokens))
        keep_note(store, self._key(), note.packed())

    def _tokens_of(self, session: Session, job: Job) -> list[Tokens] | None:
        if self._op.form != "pair":
            return [Tokens(length) for length in job.lengths]
        found = session.backend.encoded(self._items, form="pair")
        if any(isinstance(each, Exception) for each in found):
            return None
        return [Tokens(len(each.fed), len(each.scored), each.spans_boundary) for each in found]

    def _key(self) -> bytes:
        return key_of_model(self._options, self._folders)

    def _key_of_tokens(self, contents: str) -> bytes:
        return key_of("tokens", self._key().hex(), contents, self._op.form, self._items)


def _facts_of(session: Session) -> dict[str, Any]:
    """What of a model ``StoredSession`` tells."""
    return {
        "vocab_size": session.vocab_size,
        "itemsize": session.itemsize,
        "arithmetic": session.arithmetic(),
    }


def _is_of_the_same(earlier: Note, note: Note) -> bool:
    names = "contents", "surroundings", "options", "facts"
    is_same = all(getattr(earlier, name) == getattr(note, name) for name in names)
    return is_same and earlier.sources.hold()


def _may_be_known(options: ModelOptions) -> bool:
    """Whether a run with these options may be answered without the model.

    A template may print the day; hidden states take the model's head; a check takes its forwards.
    """
    is_plain = not options.chat_template and options.keep == "values" and not options.verify
    kind = options.device.partition(":")[0]
    is_here = not options.allow_download and all(map(Path.is_dir, _folders_of(options)))
    return (
        OWN_PROCESS.get()
        and options.store is not None
        and is_plain
        and is_here
        and kind in DEVICES
        and is_fresh()
    )


def _folders_of(options: ModelOptions) -> list[Path]:
    """The folders that are read, each by its whole path."""
    named = [options.model, *(each.folder for each in options.adapters)]
    if (tokenizer := tokenizer_folder(options.tokenizer)) is not None:
        named.append(tokenizer)
    return [Path(name).absolute() for name in named]


def _spec_of(view: View, session: Session) -> Any:
    with view.of(session.backend) as entered:
        return entered.spec


__all__ = ["Recall", "StoredSession"]
