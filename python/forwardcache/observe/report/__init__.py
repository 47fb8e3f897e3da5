"""A report on traces: ``figures`` (the numbers), ``plots`` (two pictures), ``page`` (HTML)."""

from forwardcache.observe.report.figures import report_figures
from forwardcache.observe.report.page import report_page

__all__ = ["report_figures", "report_page"]
