"""Texts that make trouble."""

from hypothesis import strategies as st

# Different prompts whose SHA-1 begin with the same 12 hex digits.
COLLIDING = [
    ("prompt 1 5059353", "prompt 1 8981609"),
    ("prompt 1 342526", "prompt 1 6844592"),
]

ANY_TEXT = st.text(st.characters(categories=None))  # lone surrogates included

NASTY = [
    "",
    'quote " backslash \\ slash /',
    "\b\t\n\f\r",
    "".join(map(chr, range(0x20))),
    "\x7f\x80\x9f\xa0\xad",
    "é日本語\u2028\u2029\ufeff\uffff",
    "\U0001f600\U0010ffff",
    "\ud800 lone \udfff",
    "\ude00\ud83d",
    "\\u0041",
]
