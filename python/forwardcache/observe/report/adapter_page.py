"""The page of ``forwardcache check adapter``: one file, nothing loaded, every text escaped."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from forwardcache.extras import extra_named

with extra_named("a report's page"):
    from markupsafe import Markup
    from matplotlib.axes import Axes

    from forwardcache.observe.report.page import rendered
    from forwardcache.observe.report.plots import INK, LINE, VIEW_COLOURS, svg

__all__ = ["adapter_page"]


def adapter_page(said: Mapping[str, Any], verdict: str) -> str:
    """HTML of what ``forwardcache check adapter`` found, expected against given by token.

    Args:
        said: What ``--format json`` prints: the subject, and the report as a dict.
        verdict: What it comes to, in a line.
    """
    failures = [failure for check in said["checks"] for failure in check["failures"]]
    return rendered(
        "adapter.html.jinja",
        title="forwardcache check adapter",
        said=said,
        verdict=verdict,
        checks=[_check_row(check) for check in said["checks"]],
        failures=[_failure(failure, number) for number, failure in enumerate(failures)],
        passed=[_passed(check) for check in said["checks"] if check["evidence"]],
    )


def _check_row(check: Mapping[str, Any]) -> dict[str, Any]:
    names = ", ".join(failure["name"] for failure in check["failures"])
    return {
        "check": check["check"],
        "outcome": check["outcome"].replace("_", " "),
        "found": ": ".join(filter(None, (names, check["reason"]))),
        "seconds": check["seconds"],
    }


def _failure(failure: Mapping[str, Any], number: int) -> dict[str, Any]:
    """What the template shows of one: words, a row a token, and the rows as a plot."""
    evidence = failure["evidence"] or {}
    rows = [_token_row(at, each) for at, each in enumerate(evidence.get("tokens", ()), 1)]
    words = ("planted", "expected", "came")
    return {
        "check": failure["check"],
        "name": failure["name"],
        "sentence": failure["message"].partition("; planted: ")[0],
        "said": [(word, evidence[word]) for word in words if word in evidence],
        "floor": evidence.get("floor_nats"),
        "rows": rows,
        "plot": _plot(rows, number) if rows else "",
    }


def _passed(check: Mapping[str, Any]) -> dict[str, Any]:
    """What the template shows of a check without failures."""
    evidence = check["evidence"]
    return {
        "line": f"{check['check']}: {evidence['planted']}; {evidence['came']}",
        "rows": [_token_row(at, each) for at, each in enumerate(evidence["tokens"], 1)],
    }


def _token_row(at: int, token: Mapping[str, Any]) -> dict[str, Any]:
    expected, given = token["expected"], token["given"]
    # A value that is no number in JSON comes as text.
    off = abs(given - expected) if isinstance(given, float) else given
    return {
        "at": at,
        "token_id": token["token"],
        "expected_nats": expected,
        "given_nats": given,
        "base_nats": token["base"],
        "off_nats": off,
    }


def _plot(rows: Sequence[Mapping[str, Any]], number: int) -> Markup:
    """Log-probability by place in the text: expected, given, and the base's."""
    places = [row["at"] for row in rows]

    def values(name: str) -> list[float]:
        return [row[name] if isinstance(row[name], float) else math.nan for row in rows]

    def draw(axes: Axes) -> None:
        axes.plot(places, values("base_nats"), color=INK, linewidth=1, linestyle=":", label="base")
        axes.plot(places, values("expected_nats"), color=LINE, linewidth=2.5, label="expected")
        axes.plot(
            places, values("given_nats"), color=VIEW_COLOURS[1], linewidth=1.2, marker="o",
            markersize=4, label="given",
        )  # fmt: skip
        axes.set(xlabel="tokens before", ylabel="log-probability, nats")
        axes.legend(frameon=False, fontsize=9, loc="best")

    return svg(f"tokens{number}", "Expected against given by token", draw)
