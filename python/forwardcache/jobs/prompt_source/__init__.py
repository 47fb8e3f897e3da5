"""Prompts as a stream: read with bounded memory, and again from any place.

Reading order: ``source`` (lines, where they stand, what a source is), ``line_file`` (files of
lines), ``spool`` (what can be read only once), ``opening`` (which source a name means), ``plan``
(which prompts are scored together, what each chunk is called) with ``chunk_table``.
"""

from forwardcache.jobs.prompt_source.opening import check_source, open_source
from forwardcache.jobs.prompt_source.source import BEGIN, Block, Line, Offset, PromptSource

__all__ = ["BEGIN", "Block", "Line", "Offset", "PromptSource", "check_source", "open_source"]
