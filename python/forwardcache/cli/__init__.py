"""The command line, a room per file.

Reading order: ``app`` (commands and options), ``score`` and ``demo`` (what they do), ``prompts``
and ``views`` (what goes in), ``job`` (the scoring loop), ``compare`` (KL), ``rows``, ``output``
and ``parquet`` (what comes out), ``summary`` (tables), ``exits`` (errors to exit codes). Nothing
here is imported by the library; torch and numpy are imported only once a command runs.
"""
