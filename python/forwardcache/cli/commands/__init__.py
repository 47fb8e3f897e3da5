"""The commands: names, options and help of each group, one module a group.

A command's function takes what typer has read and calls the module of ``forwardcache.cli`` that
does the work, which is imported by then only: ``--help`` has to be quick.

Reading order: ``options`` (what several share), ``score`` with ``demo``, ``diff``, ``export``,
``verify``, ``merge``, ``report``, ``check``, ``trace``, ``store``.
"""
