"""What is loaded, whether it is still the same, and which view it is in. Knows no scoring.

Reading order: ``reading`` (errors of files), ``load``, ``adapter_folder`` with ``overwritten``
(what it loads over the base model), ``adapter``, ``switch`` (putting the model into a view) and
``norms`` (how much that adds), ``identity`` with ``watch``, ``code`` and ``checksum`` (what the
model is), ``lock`` (whose turn it is).
"""
