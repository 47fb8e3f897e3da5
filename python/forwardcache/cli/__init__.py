"""The command line: names, options, help, what is shown, exit codes.

Reading order: ``app`` and ``commands`` (names, options, help) with ``repeats``; ``score`` (with
``score_parts`` and ``score_summary``) and ``demo`` with ``checks``, ``dry_run``, ``timing`` and
``progress``, and ``tables`` (how a comparison is shown); ``diff`` with ``diff_checks`` and
``diff_other_checks``, ``diff_estimate``, ``diff_progress`` and ``diff_table`` (with ``diff_cells``,
``diff_chain`` and ``diff_sweep``); ``store``, ``report``, and ``trace`` with ``trace_merge``,
``trace_export`` and ``trace_watch``, which read what ``trace_paths`` finds; for all of them
``extras``, ``interrupts``, ``endings`` and ``exits`` (errors to exit codes). ``export`` writes what
trainers read, ``verify`` checks somebody's rows, ``merge`` makes one file of parts, ``exact`` gives
what a server's are compared with, ``kit_files`` writes what the conformance kits found.
Nothing here is imported by the library; torch and numpy are imported only once a command runs.
"""
