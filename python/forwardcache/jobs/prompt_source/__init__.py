"""Prompts as a stream: read with bounded memory, and again from any place.

Reading order: ``source`` (lines, where they stand, what a source is), ``line_file`` (files of
lines), ``table_file`` (of rows) with ``cells`` (rows as lines), ``spool`` (what can be read only
once), ``folder`` (which files are prompts), ``opening`` (which source a name means), ``plan``
(which prompts are scored together, what each chunk is called) with ``chunk_table``.
"""

from forwardcache.jobs.prompt_source.opening import check_source as check_source
from forwardcache.jobs.prompt_source.opening import open_source as open_source
from forwardcache.jobs.prompt_source.source import BEGIN as BEGIN
from forwardcache.jobs.prompt_source.source import Block as Block
from forwardcache.jobs.prompt_source.source import Line as Line
from forwardcache.jobs.prompt_source.source import Offset as Offset
from forwardcache.jobs.prompt_source.source import PromptSource as PromptSource
