"""What scores say: how far each view is from base, by prompt, by strength and by token."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from forwardcache.errors import InvalidInputError
from forwardcache.observe.report.rows import Figures
from forwardcache.operation import Figure
from forwardcache.operations import of_prompts, operation

if TYPE_CHECKING:
    from forwardcache.statistics import ValueFigures

_SCHEMA: dict[str, Any] = {
    "id": pl.String, "line": pl.Int64, "view": pl.String, "op": pl.String,
    "token_ids": pl.List(pl.Int64), "logprobs": pl.List(pl.Float64), "vocab_size": pl.Int64,
}  # fmt: skip
_SCALED = re.compile(r"scaled_(-?\d+(?:\.\d+)?(?:e[+-]?\d+)?)(?::.*)?\Z")
_MATCHED = re.compile(r"null_\d+_matched(?::.*)?\Z")
_MOST_PROMPTS = 200
_MOVED_PROMPTS = 20
_MOVED_TOKENS = 5
_PLOTTED = 2000
_SOUND = "Is the adapter sound in this dtype?"


def score_figures(path: Path, texts: Sequence[tuple[int, str]] | None = None) -> Figures:
    """What the rows of ``score`` in ``path`` (JSON lines or parquet) come to.

    Args:
        path: The file; only the columns that are needed are read.
        texts: Line, from 1, and text of prompts, which the prompts are shown with. Rows hold none:
            without it equal prompts aren't known, and there is no interval.

    Returns:
        JSON values only; all distances in nats. ``views``: by view what ``score`` says of it too.
        ``sweep``: the mean by factor on the adapter, base being 0 and ft 1. ``null_band``: least
        and largest mean of the null views, None without one. ``prompts``: each view's distance for
        the prompts that ft moved most. ``sorted_nats``: the distances of every prompt, ascending,
        thinned to a drawable number. ``moved``: the tokens whose probability changed most from base
        to ft. Of several adapters the first is meant in each of these.

    Raises:
        InvalidInputError: the file holds no rows of ``score``.
        OSError: it can't be read.
    """
    try:
        rows = _scanned(path)
        distances = _distances(rows, path)
        return _figures(rows, distances, dict(texts) if texts is not None else None)
    except pl.exceptions.PolarsError as error:
        reason = str(error).partition("\n")[0]
        raise InvalidInputError(f"{path} holds no rows of score: {reason}") from error


def with_token_texts(figures: Figures, token_text: Callable[[int], str | None]) -> Figures:
    """The figures with the text of each token that moved behind its id.

    Args:
        figures: What ``score_figures`` gave.
        token_text: Tells a token's text.
    """
    return {**figures, "moved": [_with_token(row, token_text) for row in figures["moved"]]}


def _with_token(row: Figures, token_text: Callable[[int], str | None]) -> Figures:
    head = {name: row[name] for name in ("id", "line", "token_id")}
    return {**head, "token": token_text(row["token_id"]), **row}


def _scanned(path: Path) -> pl.LazyFrame:
    with path.open("rb"):
        pass
    schema = {**_SCHEMA, **dict.fromkeys(_figure_fields(), pl.Float64)}
    if path.suffix.lower() != ".parquet":
        rows = pl.scan_ndjson(path, schema=schema)
    else:
        rows = pl.scan_parquet(path)
        there = rows.collect_schema().names()
        rows = rows.select(
            *(
                (pl.col(name) if name in there else pl.lit(None)).cast(kind).alias(name)
                for name, kind in schema.items()
            )
        )
    # Rows of earlier versions have the line alone, from 0, under another name.
    line_of_old = pl.col("id").cast(pl.Int64, strict=False) + 1
    # Those called a bound by the name of the divergence itself.
    is_part = pl.col("token_ids").list.len() < pl.col("vocab_size")
    is_bound = pl.col("kl_lower_bound").is_not_null() | (pl.col("line").is_null() & is_part)
    return rows.with_columns(line=pl.coalesce("line", line_of_old), is_bound=is_bound)


def _figure_fields() -> list[str]:
    """The fields that hold a figure of any operation."""
    fields = (field for name in of_prompts() for field in operation(name).figure.nats)
    return list(dict.fromkeys(fields))


def _distances(rows: pl.LazyFrame, path: Path) -> pl.DataFrame:
    """Line, id, view, op and distance from base of each row; base's own is null."""
    nats = pl.coalesce(*_figure_fields()).fill_nan(None)
    names = ("line", "id", "view", "op")
    found = rows.select(*names, "is_bound", nats=nats).collect()
    if found.is_empty() or found.select(names).null_count().sum_horizontal().item():
        raise InvalidInputError(f"{path} holds no rows of score, or others among them")
    if (ops := found["op"].unique().sort().to_list())[1:]:
        raise InvalidInputError(f"{path} holds rows of more than one op: {', '.join(ops)}")
    return found


def _figures(rows: pl.LazyFrame, distances: pl.DataFrame, texts: dict[int, str] | None) -> Figures:
    order = distances["view"].unique(maintain_order=True).to_list()
    compared = distances.filter(pl.col("view") != "base") if "base" in order else distances.clear()
    op = operation(distances["op"][0])
    values = _values(compared, order, texts, signed=op.figure.is_signed)
    figures: Figures = {
        "op": op.name,
        "measure": _measure(op.figure, is_bound=bool(compared["is_bound"].any())),
        "prompt_count": distances["line"].n_unique(),
        "views": [_view(view, one) for view, one in values.items()],
    }
    figures["null_band"] = _null_band(figures["views"])
    figures["sweep"] = _sweep(figures["views"])
    figures["prompts"] = _prompts(compared, texts)
    figures["sorted_nats"] = {
        name: _thinned(values.drop_nulls().sort())
        for (name,), values in (
            (key, group["nats"]) for key, group in compared.group_by("view", maintain_order=True)
        )
    }
    most_moved = {row["line"]: row["id"] for row in figures["prompts"][:_MOVED_PROMPTS]}
    tuned = _first(list(values)) or "ft"
    figures["moved"] = _moved(rows, most_moved, tuned) if op.names_tokens else []
    return {"verdict": _verdict(figures, values), **figures}


def _measure(figure: Figure, *, is_bound: bool) -> str:
    return f"{figure.title}, lower bound, nats" if is_bound else f"{figure.title}, nats"


def _values(
    compared: pl.DataFrame, order: list[str], texts: dict[int, str] | None, *, signed: bool
) -> dict[str, ValueFigures]:
    """By view what ``score`` says of it too; an interval only where equal prompts are known."""
    from forwardcache.statistics import Values, value_figures

    groups = {view: group for (view,), group in compared.group_by("view", maintain_order=True)}
    views = sorted(groups, key=order.index)
    found = value_figures(
        [Values(groups[view]["nats"], _names(groups[view]["line"], texts)) for view in views],
        is_signed=signed,
    )
    return dict(zip(views, found, strict=True))


def _names(lines: pl.Series, texts: dict[int, str] | None) -> list[str | int] | None:
    """What each prompt counts as; one that the file of prompts lacks is its own."""
    return None if texts is None else [texts.get(line, line) for line in lines]


def _view(view: str, figures: ValueFigures) -> Figures:
    from forwardcache.statistics.spread import finite

    spread, signed = figures.spread, figures.signed
    ends = spread.interval.as_json() or [None, None]
    sizes = {} if signed is None else {
        "mean_abs_nats": signed.mean_abs, "better_rate": signed.better, "worse_rate": signed.worse
    }  # fmt: skip
    nats = {
        "mean_nats": spread.mean,
        "low_nats": ends[0],
        "high_nats": ends[1],
        **{f"{name}_nats": getattr(spread, name) for name in ("median", "p90", "p99", "max")},
    }
    return {
        "view": view,
        "prompts": figures.prompts,
        "not_finite": figures.not_finite,
        **{name: finite(value) for name, value in {**nats, **sizes}.items()},
    }


def _null_band(views: list[Figures]) -> Figures | None:
    first = _first([row["view"] for row in views])
    means = [
        row["mean_nats"]
        for row in views
        if row["view"].startswith("null_")
        and _adapter(row["view"]) == _adapter(first)
        and row["mean_nats"] is not None
    ]
    return {"least_nats": min(means), "most_nats": max(means)} if means else None


def _sweep(views: list[Figures]) -> list[Figures]:
    """The means by factor; base is 0 from itself. Nothing without a scaled view.

    Of several adapters, of the first.
    """
    first = _first([row["view"] for row in views])
    points = [
        {"view": row["view"], "factor": factor, "mean_nats": row["mean_nats"]}
        for row in views
        if _adapter(row["view"]) == _adapter(first) and (factor := _factor(row["view"])) is not None
    ]
    if not any(_SCALED.match(point["view"]) for point in points):
        return []
    points.append({"view": "base", "factor": 0.0, "mean_nats": 0.0})
    return sorted(points, key=lambda point: point["factor"])


def _first(views: Sequence[str]) -> str | None:
    """The first view of a whole adapter, else the first of all."""
    whole = next((view for view in views if _kind(view) == "ft"), None)
    return whole if whole is not None or not views else views[0]


def _kind(view: str) -> str:
    """A view's id without the name of its adapter."""
    return view.partition(":")[0]


def _adapter(view: str | None) -> str:
    """The name of a view's adapter; empty where it has none."""
    return "" if view is None else view.partition(":")[2]


def _factor(view: str) -> float | None:
    if _kind(view) == "ft":
        return 1.0
    found = _SCALED.match(view)
    return float(found[1]) if found else None


def _prompts(compared: pl.DataFrame, texts: dict[int, str] | None) -> list[Figures]:
    """Distances by prompt and view, those that the first of ft and the views moved most first."""
    if compared.is_empty():
        return []
    views = compared["view"].unique(maintain_order=True).to_list()
    first = _first(views) or views[0]
    index = ("line", "id")
    wide = compared.pivot("view", index=index, values="nats", aggregate_function="first")
    size = pl.col(first).abs()
    most = wide.sort(size, "line", descending=[True, False], nulls_last=True).head(_MOST_PROMPTS)
    # The text stands before the views, which may be many: behind them it would be out of sight.
    return [
        {
            "id": _given(row["id"]),
            "line": row["line"],
            **({} if texts is None else {"prompt": texts.get(row["line"])}),
            **{f"{view}_nats": row[view] for view in views},
        }
        for row in most.iter_rows(named=True)
    ]


def _given(id_: str) -> str | int:
    """An id as it was given, as far as its text tells."""
    digits = id_.removeprefix("-")
    is_number = digits.isascii() and digits.isdigit() and digits == (digits.lstrip("0") or "0")
    return int(id_) if is_number and len(digits) < 19 else id_


def _thinned(values: pl.Series) -> list[float]:
    step = -(-len(values) // _PLOTTED) or 1
    # The largest stays.
    return values.reverse().gather_every(step).reverse().to_list()


def _moved(rows: pl.LazyFrame, ids: dict[int, str | int], tuned: str) -> list[Figures]:
    """Tokens whose probability moved most from base to ft, or its like, a few a prompt.

    A token that only one of the two names has a probability below all that the other names; what it
    moved is counted from there, at least, and its own log-probability is unknown.
    """
    wanted = rows.filter(pl.col("line").is_in(list(ids)), pl.col("view").is_in(["base", tuned]))
    wanted = wanted.with_columns(view=pl.col("view").replace({tuned: "ft"}))
    listed = wanted.select("line", "view", "token_ids", "logprobs").collect()
    least = listed.with_columns(floor=pl.col("logprobs").list.min())
    long = listed.explode("token_ids", "logprobs").drop_nulls()
    sides = [
        long.filter(view=view).select(
            "line", token_id="token_ids", **{f"{view}_logprob": "logprobs"}
        )
        for view in ("base", "ft")
    ]
    floors = [
        least.filter(view=view).select("line", **{f"{view}_floor": "floor"})
        for view in ("base", "ft")
    ]
    both = sides[0].join(sides[1], on=("line", "token_id"), how="full", coalesce=True)
    for floor in floors:
        both = both.join(floor, on="line")
    chance = {
        view: pl.coalesce(f"{view}_logprob", f"{view}_floor").exp() for view in ("base", "ft")
    }
    moved = both.with_columns(probability_change=chance["ft"] - chance["base"])
    size = pl.col("probability_change").abs()
    most = moved.sort(size, "token_id", descending=[True, False], nulls_last=True)
    few = most.group_by("line", maintain_order=True).head(_MOVED_TOKENS)
    order_of = {one: at for at, one in enumerate(ids)}
    kept = few.select("line", "token_id", "base_logprob", "ft_logprob", "probability_change")
    found = sorted(kept.iter_rows(named=True), key=lambda row: order_of[row["line"]])
    return [{"id": ids[row["line"]], **row} for row in found]


def _verdict(figures: Figures, values: dict[str, ValueFigures]) -> str:
    """How far each adapter is, and where that stands among random changes of its norm."""
    whole = [view for view in values if _kind(view) == "ft"]
    if not whole:
        return (
            f"{_prompt_count(figures['prompt_count'])}; no distance between base and ft is in them."
        )
    return " ".join(_verdict_on(view, values) for view in whole)


def _verdict_on(view: str, values: dict[str, ValueFigures]) -> str:
    """As ``score`` says it."""
    from forwardcache.statistics.sentences import IS_MORE, OTHER_NORM, among_random_changes
    from forwardcache.statistics.values import place_among

    tuned = values[view]
    if not tuned.prompts:
        count = _prompt_count(tuned.not_finite)
        return f"{view} is at no finite distance from base: NaN or infinity at {count}. {_SOUND}"
    averaged = "averaged" if tuned.signed is None else "absolute differences averaged"
    left_out = (
        ""
        if not tuned.not_finite
        else (f" ({tuned.not_finite:,} more had NaN or infinity: {_SOUND.lower()})")
    )
    prompts = f"{_prompt_count(tuned.prompts)}{left_out}"
    said = f"{view} is {tuned.size:.3g} nats from base, {averaged} over {prompts}"
    own = [each for each in values if _adapter(each) == _adapter(view)]
    nulls = [each for each in own if each.startswith("null_")]
    if not nulls:
        return f"{said}; no null view says what random adapters do."
    matched = [values[each] for each in nulls if _MATCHED.match(each)]
    place = place_among(tuned, matched)
    among = "" if place is None else f" {IS_MORE} {among_random_changes(view, place)}"
    return f"{said}.{among}" + ("" if len(matched) == len(nulls) else f" {OTHER_NORM}")


def _prompt_count(count: int) -> str:
    return "1 prompt" if count == 1 else f"{count:,} prompts"
