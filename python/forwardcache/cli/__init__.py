"""The command line, a room per file.

Reading order: ``app`` and ``commands`` (names, options, help) with ``repeats``, ``score`` and
``demo`` (what they do) with ``checks``, ``dry_run``, ``loading`` and ``running``, ``prompts``,
``skips`` and ``views`` (what goes in), ``job`` (the scoring loop) with ``hits`` and ``progress``,
``compare`` (KL), ``rows`` and ``digits``, ``output``, ``outfile``, ``whole_file``, ``durable``,
``columns`` and ``parquet`` (what comes out), ``meta`` (which run it was), ``fingerprint`` (whether
one can go on), ``differences`` with ``intervals`` (what the rows come to) and ``summary`` (how that
is shown). Then ``store``, ``report``, and ``trace`` with ``trace_merge``, ``trace_export`` and
``trace_watch``; for all of them ``kinds`` (of files), ``extras``, ``interrupts`` and ``exits``
(errors to exit codes). Nothing here is imported by the library; torch and numpy are imported only
once a command runs.
"""
