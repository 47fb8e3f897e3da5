"""``prompt_hash``: the name of a prompt in the trace, 12 hex digits of its SHA-1."""

import hashlib
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forwardcache import instrumentation
from tests.instrumentation.texts import ANY_TEXT, COLLIDING


def expected(text: str) -> str:
    return hashlib.sha1(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]


@given(ANY_TEXT)
def test_any_text_gives_the_digits_of_its_sha1(text: str) -> None:
    assert instrumentation.prompt_hash(text) == expected(text)


@given(st.lists(ANY_TEXT, max_size=4).map(tuple))
def test_a_tuple_is_hashed_with_its_fields_joined_by_nul(fields: tuple[str, ...]) -> None:
    assert instrumentation.prompt_hash(fields) == expected("\0".join(fields))


@pytest.mark.parametrize("size", [0, 1, 55, 56, 63, 64, 65, 4096, 1_000_003])
def test_every_length_is_hashed_whole(api: ModuleType, size: int) -> None:
    assert api.prompt_hash("x" * size) == expected("x" * size)


@pytest.mark.parametrize("text", ["", "abc", "é", "日本語", "\U0001f600", "a\0b", "\ud800x"])
def test_every_width_of_character_is_hashed_as_utf8(api: ModuleType, text: str) -> None:
    assert api.prompt_hash(text) == expected(text)
    assert api._prompt_hash(text) == expected(text)


@pytest.mark.parametrize("pair", COLLIDING)
def test_the_known_pairs_share_their_hash(api: ModuleType, pair: tuple[str, str]) -> None:
    assert api.prompt_hash(pair[0]) == api.prompt_hash(pair[1])


@pytest.mark.parametrize("prompt", [None, 1, b"abc", ("a", 1)])
def test_what_is_no_text_has_no_hash(api: ModuleType, prompt: object) -> None:
    with pytest.raises(TypeError):
        api.prompt_hash(prompt)
