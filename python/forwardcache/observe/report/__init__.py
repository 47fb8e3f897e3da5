"""A report: what happened, what changed, how far views are apart.

Reading order: numbers (``rows``; of traces ``events`` and ``session_curves``, ``trace_parts``,
``workers``, ``figures``, ``compare``; ``scores`` with the texts of ``tokens``), which run they are
of (``facts``), ``plots`` of them, ``page`` (HTML); the page of ``diff``: its tables
(``diff_tables``), texts (``diff_moved``) and plots (``diff_plots``, ``diff_sweep_plots``), and
``diff_page`` itself; ``adapter_page``, of a conformance kit. Numbers of traces need polars; those
of scores the extra ``report``, as do ``page`` and ``plots``, which nothing here imports.
"""

from forwardcache.extras import extra_named

with extra_named("forwardcache.observe.report"):
    from forwardcache.observe.report.compare import compare_figures
    from forwardcache.observe.report.figures import report_figures, workers_figures
    from forwardcache.observe.report.scores import score_figures

__all__ = ["compare_figures", "report_figures", "score_figures", "workers_figures"]
