"""What a run kept with its rows, read again; nothing of it is believed beyond its being JSON."""

from __future__ import annotations

import json
from pathlib import Path

from forwardcache.errors import InvalidInputError
from forwardcache.jobs.metadata import PARQUET_KEY, Facts, meta_of
from forwardcache.jobs.reasons import first_line

_PARQUET = ".parquet"
_TOKENIZER = "tokenizer.json"


def read_facts(rows: Path) -> Facts | None:
    """The facts of a file of rows: those in a table itself, else those in ``OUT.meta.json``.

    Args:
        rows: JSON lines or a Parquet table.

    Returns:
        A JSON object; None where no run left one.

    Raises:
        InvalidInputError: what is there is no JSON object of a run, or the table is none.
        OSError: it can't be read.
    """
    where = str(rows)
    text: str | bytes | None = _in_table(rows)
    if text is None:
        try:
            text, where = meta_of(rows).read_bytes(), str(meta_of(rows))
        except FileNotFoundError:
            return None
    try:
        facts = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(
            f"the facts in {where} are not JSON: {first_line(error)}"
        ) from error
    versions = facts.get("versions") if isinstance(facts, dict) else None
    if not isinstance(facts, dict) or not isinstance(versions, dict):
        raise InvalidInputError(f"the facts in {where} are no JSON object that a run wrote")
    return facts


def tokenizer_folder(facts: Facts) -> Path | None:
    """The folder whose tokenizer made the tokens of a run, as far as it is here.

    Args:
        facts: Those of the run.

    Returns:
        A folder with a ``tokenizer.json``; None where the facts name none, or it is gone.
    """
    options = facts.get("options")
    asked = options.get("tokenizer") if isinstance(options, dict) else None
    # An adapter's own is what a model with it reads with, unless another was asked for.
    names = {None: ["adapter", "model"], "base": ["model"], "adapter": ["adapter"]}
    wanted = names.get(asked, ["tokenizer"]) if isinstance(asked, str | None) else []
    tried = [_folder_in(facts, name) for name in wanted]
    return next((each for each in tried if each and (each / _TOKENIZER).is_file()), None)


def _folder_in(facts: Facts, name: str) -> Path | None:
    one = facts.get(name)
    if name == "adapter" and one is None and isinstance(named := facts.get("adapters"), list):
        # Their tokenizers read alike, where they have any.
        folders = [each.get("folder") for each in named if isinstance(each, dict)]
        there = (str(each) for each in folders if (Path(str(each)) / _TOKENIZER).is_file())
        one = {"folder": next(there, None)}
    folder = one.get("folder") if isinstance(one, dict) else None
    return Path(folder) if isinstance(folder, str) else None


def _in_table(rows: Path) -> str | None:
    if rows.suffix.lower() != _PARQUET:
        return None
    import polars as pl

    try:
        with rows.open("rb"):
            return pl.read_parquet_metadata(rows).get(PARQUET_KEY)
    except pl.exceptions.PolarsError as error:
        raise InvalidInputError(f"{rows} is no Parquet table: {first_line(error)}") from error
