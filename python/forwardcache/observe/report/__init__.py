"""A report: numbers (``figures``, ``compare``, ``scores``), ``plots`` of them, ``page`` (HTML)."""

from forwardcache.observe.report.compare import compare_figures
from forwardcache.observe.report.figures import report_figures
from forwardcache.observe.report.page import compare_page, report_page
from forwardcache.observe.report.scores import score_figures

__all__ = ["compare_figures", "compare_page", "report_figures", "report_page", "score_figures"]
