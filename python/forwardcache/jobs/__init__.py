"""A scoring job as data: prompts and views in, rows and what they come to out.

Knows no terminal and no exit code: ``cli`` shows what is here, ``distributed`` spreads it. Raises
the errors of ``forwardcache.errors`` alone.

Reading order: ``options`` (what was asked for), ``adapters`` (their names) with ``checkpoints``,
``other_models``, ``prompt_line``, ``prompt_source`` and ``prompts``, ``views`` and ``skips`` (what
goes in) with ``kinds`` (of files), ``session`` (a loaded model) with ``hits`` and ``imports``,
``recall`` (a model that isn't loaded, since the store has all of it), ``planning`` and ``job`` (the
scoring loop), ``rows`` with ``digits``, ``results`` with ``outfile``, ``whole_file``, ``durable``,
``columns`` and ``parquet`` (files of rows), ``resume`` and ``fingerprint`` (whether a job can go
on), ``differences`` and ``summary`` (what the rows come to), ``metadata``, ``meta_file`` and
``facts`` (which run it was, written and read), ``reasons`` (why something failed, in words);
``diff`` holds views against a reference at every position of texts, ``export`` writes what trainers
read, ``verify`` scores rows of a table again.
"""
