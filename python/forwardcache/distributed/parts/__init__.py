"""A job whose workers write: parts named by their content, receipts, and at the end a manifest.

::

    OUT/_job.json                         what decides the rows
    OUT/_lock                             held by the driver that writes
    OUT/parts/ab/NAME-CHECK.parquet       the rows of one chunk
    OUT/receipts/RUN-NNNNNN.jsonl         which parts are whole, a few chunks a file
    OUT/_SUCCESS.json                     the manifest: which part has which lines

A part counts when its receipt is there. NAME is a digest of weights, settings and prompts, CHECK
one of the file's bytes: nothing is ever overwritten by other bytes, so a worker whose driver died
can do no harm, and equal chunks are computed once.

Reading order: ``folder``, ``remote`` and ``opening`` (where it all stands), ``lock`` (one driver at
a time), ``naming``, ``receipts``, ``manifest``, ``table`` (rows as Parquet), ``work`` (what a
worker does for one chunk), ``tally`` (what receipts come to), ``job`` (the driver), ``lines`` and
``merge`` (one file of all parts). Neither pyarrow nor fsspec is imported before it is used, and the
driver imports no torch.
"""
