"""Text to tokens, and which of them are scored.

A prompt and its completion are tokenized together, since that is what a model sees in its training;
the two tokenized apart and joined is another text to it wherever a merge crosses the boundary. A
token that spans the boundary counts as completion.
"""

from __future__ import annotations

import json
import reprlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from operator import index
from typing import Any, Literal

from forwardcache.errors import (
    ContextLengthError,
    EmptyCompletionError,
    EmptyPromptError,
    ForwardCacheError,
    InvalidInputError,
)
from forwardcache.hf.batch.row import Encoded
from forwardcache.hf.spec import tagged
from forwardcache.hf.text.ahead import TextsAhead, groups
from forwardcache.hf.text.boundary import cut
from forwardcache.hf.text.chat import (
    ChatTemplate,
    RenderedPrompt,
    framed,
    refuse_messages,
    template_arguments,
)
from forwardcache.hf.text.item import blamed_on_item
from forwardcache.hf.text.tokens import TokenReader, shown
from forwardcache.operation import with_prompt_framed

_ONLY_STR = frozenset([str])

Form = Literal["prompt", "text", "windows", "pair", "tokens"]


@dataclass(frozen=True, slots=True)
class EncodingOptions:
    """How text becomes tokens.

    Attributes:
        add_special_tokens: Whether the tokenizer adds its special tokens (BOS) to plain text.
        chat_template: False for plain text; True to put a prompt into the tokenizer's own chat
            template as the user's turn; a string for that template. Texts to be scored as a whole
            (``rolling_logprob``) stay plain.
        chat_template_args: What the template is given in addition to the turns, as canonical JSON;
            empty for nothing.
        prefix_token_id: What comes before a first token where there is no BOS token; None for
            nothing.
        windows: Whether texts longer than the context are scored in windows; in the operation's
            name, not in the key.
    """

    add_special_tokens: bool = True
    chat_template: bool | str = False
    chat_template_args: str = ""
    prefix_token_id: int | None = None
    windows: bool = False

    @property
    def key(self) -> bytes:
        """These options, exactly."""
        template = self.chat_template
        kind = b"str" if isinstance(template, str) else str(bool(template)).encode()
        text = template.encode("utf-8", "surrogatepass") if isinstance(template, str) else b""
        fields = [str(bool(self.add_special_tokens)).encode(), kind, text]
        if template:
            # With a template, items are keyed by the text that it wrote.
            fields.append(b"rendered:" + self.chat_template_args.encode())
        if self.prefix_token_id is not None:
            fields.append(b"prefix:%d" % self.prefix_token_id)
        return tagged(fields)


def encoding_options(
    tokenizer: Any,
    add_special_tokens: bool,
    chat_template: bool | str,
    arguments: Mapping[str, Any] | None,
    *,
    prefix_token_id: int | str | None = None,
    windows: bool = False,
) -> EncodingOptions:
    """Options as a caller gives them.

    Raises:
        InvalidInputError: the template is of another type, there are arguments for none, or the
            prefix is not one token.
    """
    if not isinstance(chat_template, bool | str):
        kind = type(chat_template).__name__
        raise InvalidInputError(f"chat_template must be True, False or a template, got {kind}")
    if arguments and not chat_template:
        raise InvalidInputError("chat_template_args need chat_template=True")
    given = template_arguments(arguments, tokenizer) if chat_template else ""
    prefix = prefix_id(tokenizer, prefix_token_id)
    return EncodingOptions(add_special_tokens, chat_template, given, prefix, bool(windows))


def prefix_id(tokenizer: Any, prefix: int | str | None) -> int | None:
    """The id of the token that comes before a first one, given as an id or as its text.

    Raises:
        InvalidInputError: it is neither, or the text is not one token.
    """
    if isinstance(prefix, str):
        ids = tokenizer(prefix, add_special_tokens=False).input_ids
        if len(ids) != 1:
            raise InvalidInputError(f"prefix_token_id must be one token; {prefix!r} is {len(ids)}")
        return int(ids[0])
    if isinstance(prefix, bool) or (prefix is not None and not isinstance(prefix, int)):
        raise InvalidInputError(f"prefix_token_id must be an id or a text, got {prefix!r}")
    return prefix


class Encoder:
    """Encodes, and remembers what it encoded: each view of a prompt needs the same tokens.

    Not safe for several threads at once: a fast tokenizer keeps settings between its calls.

    Args:
        tokenizer: The tokenizer.
        options: How text becomes tokens.
        max_positions: The model's context length in tokens; None if it has no fixed one.
        vocab_size: Number of logits of a position, as a bound on the ids that can be scored; None
            for no bound.
        embedding_rows: Likewise of the ids that the model can read.
        warned: What was warned of already; grows. None to begin anew.
    """

    # Tokens kept, as a bound on memory: about 10 MB of Python integers in tuples, and many times
    # what is scored together. To read a text again costs a thirtieth of scoring it.
    _MAX_TOKENS = 2**18

    def __init__(
        self,
        tokenizer: Any,
        options: EncodingOptions,
        max_positions: int | None,
        vocab_size: int | None = None,
        *,
        embedding_rows: int | None = None,
        warned: set[str] | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._embedding_rows = embedding_rows
        self._options = options
        self.max_positions = max_positions
        self._template = _template_of(tokenizer, options)
        self._known: OrderedDict[tuple[Form, Any], Encoded] = OrderedDict()
        self._known_tokens = 0
        self._ahead = TextsAhead(tokenizer)
        self._reader = TokenReader(tokenizer, self._ahead, set() if warned is None else warned)

    def read_ahead(self, form: Form, items: Iterable[Any]) -> None:
        """Has the tokenizer read items together, which is quicker, for the ``encode`` of each.

        Args:
            form: What the items are.
            items: Of any type; ``encode`` tells what is wrong with one.
        """
        # With a template, writing the text takes the time, and would be done twice.
        if form == "tokens" or (form not in ("text", "windows") and self._template is not None):
            return
        keys = (_checked(form, item) for item in items if self.takes(form, item))
        new = (key for key in keys if (form, key) not in self._known)
        self._ahead.read(
            (key if isinstance(key, str) else "".join(key) for key in new),
            add_special_tokens=self._options.add_special_tokens,
            offsets=form == "pair",
        )

    def encode_each(
        self, form: Form, items: Sequence[Any]
    ) -> Iterator[Encoded | ForwardCacheError]:
        """The tokens of each item, or the error that it would get."""
        for indices in groups(len(items)):
            group = [items[index] for index in indices]
            self.read_ahead(form, group)
            yield from (framed(item, partial(self.encode, form)) for item in group)

    def encode(self, form: Form, item: Any) -> Encoded:
        """The tokens of ``item``.

        Args:
            form: What ``item`` is: a prompt whose next token is asked for, a text to score as a
                whole, a pair of prompt and completion, or such a pair in tokens.
            item: A str, a tuple of two for a pair, or two lists of token ids for one in tokens.

        Raises:
            InvalidInputError: ``item`` is of another type, has a token id outside the vocabulary,
                or is nothing that the tokenizer can read; the message has the tokenizer's words.
            EmptyPromptError: no token comes before the first scored one.
            EmptyCompletionError: the completion adds no token.
            ContextLengthError: more tokens than the model has positions for.
        """
        return self.encode_framed(form, self.framed(form, item))

    def known(self, form: Form, item: Any) -> Encoded | None:
        """What ``encode_framed`` gave for ``item``, if that is remembered.

        Raises:
            InvalidInputError: ``item`` is of another type.
        """
        key = item if type(item) is str and form != "pair" else _checked(form, item)
        return self._known.get((form, key))

    def encode_framed(self, form: Form, item: Any) -> Encoded:
        """As ``encode``, for an item whose prompt stands in the template already."""
        key = (form, _checked(form, item))
        encoded = self._known.get(key)
        if encoded is None:
            with blamed_on_item(f"can't turn the {form} {shown(item)} into tokens"):
                encoded = self._remember(key, self._new(form, key[1]))
        return encoded

    def check(self) -> None:
        """Refuses options that can't be used with this tokenizer and model.

        Raises:
            InvalidInputError: the chat template isn't there, doesn't parse, or loses what it is
                given; the model has no row for the prefix token.
        """
        if self._template is not None:
            self._template.check()
        prefix = self._options.prefix_token_id
        self._check_ids(() if prefix is None else (prefix,), self._embedding_rows, "read")

    def framed(self, form: Form, item: Any) -> Any:
        """``item`` with its prompt as the chat template writes it now; without one as it is.

        Raises:
            InvalidInputError: the prompt can't be put into the template, or is a list of messages
                and there is none.
        """
        return with_prompt_framed(form, item, self.frame)

    def leaves_as_they_are(self, items: Sequence[Any]) -> bool:
        """Whether ``framed`` gives these very items: plain texts without a template."""
        return self._template is None and _ONLY_STR.issuperset(map(type, items))

    def frame(self, prompt: Any) -> Any:
        """A prompt as the chat template writes it now; see ``framed``."""
        if self._template is None:
            return refuse_messages(prompt)
        return self._template.render(prompt)

    @staticmethod
    def takes(form: Form, item: Any) -> bool:
        """Whether ``item`` is of the type that ``form`` says; ``encode`` tells what is wrong."""
        try:
            _checked(form, item)
        except InvalidInputError:
            return False
        return True

    def _remember(self, key: tuple[Form, Any], encoded: Encoded) -> Encoded:
        self._known[key] = encoded
        self._known_tokens += len(encoded.token_ids)
        while self._known_tokens > self._MAX_TOKENS:
            _, oldest = self._known.popitem(last=False)
            self._known_tokens -= len(oldest.token_ids)
        return encoded

    def _new(self, form: Form, item: Any) -> Encoded:
        forms: dict[Form, Callable[[Any], Encoded]] = {
            "prompt": self._prompt,
            "text": self._text,
            "windows": self._text,
            "pair": self._pair,
            "tokens": self._given,
        }
        encoded = forms[form](item)
        positions = len(encoded.fed)
        limit = None if form == "windows" else self.max_positions
        if limit is not None and positions > limit:
            hint = "; windows=True (--windows) scores it in pieces" if form == "text" else ""
            raise ContextLengthError(
                f"{positions} tokens are more than the model's context length of {limit}{hint}"
            )
        self._check_ids(encoded.fed, self._embedding_rows, "read")
        self._check_ids(encoded.scored, self._vocab_size, "scored")
        return encoded

    def _check_ids(self, ids: tuple[int, ...], rows: int | None, use: str) -> None:
        """Refuses ids that the model has no row for: its tokenizer may have more tokens."""
        strange = [token for token in ids if token < 0 or (rows is not None and token >= rows)]
        if strange:
            allowed = "not be negative" if rows is None else f"be from 0 to {rows - 1}"
            raise InvalidInputError(
                f"token ids that are {use} must {allowed}, got {strange[0]}"
                f"{self._word(strange[0])}: the model has no row for it"
            )

    def _word(self, token: int) -> str:
        """The token of an id, where the tokenizer tells."""
        with suppress(InvalidInputError), blamed_on_item("can't name a token"):
            return f" ({self._tokenizer.convert_ids_to_tokens(token)!r})"
        return ""

    def _prompt(self, prompt: str) -> Encoded:
        ids = self._reader.read(prompt, self._special).ids
        ids = ids or self._bos_before("an empty prompt has no token")
        return Encoded(ids, len(ids))

    def _text(self, text: str) -> Encoded:
        # Nothing precedes the first token, so it has no log-probability; a prefix makes it second.
        ids = self._reader.read(text, self._options.add_special_tokens).ids
        prefix = self._options.prefix_token_id
        if prefix is not None and ids and ids[0] != self._tokenizer.bos_token_id:
            ids = (prefix, *ids)
        return Encoded(ids, min(1, len(ids)))

    def _pair(self, pair: tuple[str, str]) -> Encoded:
        prompt, completion = pair
        if not completion:
            raise EmptyCompletionError("the completion is empty; there is no token to score")
        text = prompt + completion
        joint = self._reader.read(text, self._special)
        ids = joint.ids
        first, spans = cut(self._reader, joint, prompt, text, self._special)
        if first >= len(ids):
            raise EmptyCompletionError(f"the completion {completion!r} adds no token to the prompt")
        if first == 0:
            ids = self._bos_before("no token stands before the completion") + ids
            first = 1
        return Encoded(ids, first, spans)

    def _given(self, pair: tuple[tuple[int, ...], tuple[int, ...]]) -> Encoded:
        context, continuation = pair
        if not continuation:
            raise EmptyCompletionError("the continuation has no token to score")
        if not context:
            raise EmptyPromptError("no token stands before the continuation")
        return Encoded(context + continuation, len(context))

    @property
    def _special(self) -> bool:
        # A chat template writes its own special tokens into the text.
        return self._options.add_special_tokens and not self._options.chat_template

    def _bos_before(self, reason: str) -> tuple[int, ...]:
        prefix, bos = self._options.prefix_token_id, self._tokenizer.bos_token_id
        if prefix is None and bos is None:
            raise EmptyPromptError(
                f"{reason}, and the tokenizer has no BOS token to begin with; prefix_token_id "
                "names another"
            )
        return (int(bos if prefix is None else prefix),)


def _template_of(tokenizer: Any, options: EncodingOptions) -> ChatTemplate | None:
    template, arguments = options.chat_template, options.chat_template_args
    if not template:
        return None
    given = template if isinstance(template, str) else None
    return ChatTemplate(tokenizer, given, json.loads(arguments) if arguments else {})


def _checked(form: Form, item: Any) -> Any:
    """``item`` as texts or tokens."""
    if form == "tokens":
        return _checked_tokens(item)
    if form != "pair":
        text = _text_of(item)
        if not isinstance(text, str):
            raise InvalidInputError(f"a {form} must be a str, got {type(item).__name__}")
        return text
    try:
        prompt, completion = item
    except (TypeError, ValueError):
        raise InvalidInputError(f"expected a pair of prompt and completion, got {item!r}") from None
    prompt = _text_of(prompt)
    if isinstance(item, str) or not (isinstance(prompt, str) and isinstance(completion, str)):
        raise InvalidInputError(f"prompt and completion must be str, got {item!r}")
    return prompt, completion


def _text_of(prompt: Any) -> Any:
    return prompt.text if isinstance(prompt, RenderedPrompt) else prompt


def _checked_tokens(item: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    try:
        context, continuation = (tuple(map(index, ids)) for ids in item)
    except (TypeError, ValueError):
        raise InvalidInputError(
            f"expected a pair of lists of token ids, got {reprlib.repr(item)}"
        ) from None
    return context, continuation
