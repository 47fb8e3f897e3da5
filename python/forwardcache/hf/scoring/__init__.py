"""One scoring call, from items to values that are kept.

Reading order: ``loaded`` and ``admissions`` (the model), ``scorer``, ``terms`` and ``call``,
``hits`` (the short way where everything is cached), ``task`` and ``windows`` (one item; what is
asked is in ``forwardcache.operations``), ``batched_forwards`` (batches within memory), ``joint``
and ``joint_probe`` (views that share a forward), ``body_space``, ``states_call`` and
``kept_states`` (hidden states that are kept, and values from them), ``slices``, ``value_store`` and
``selfcheck`` (values that were kept), ``comparison``, ``final_states``, ``heads``, ``rerun`` and
``beside_base`` (views beside a reference, or beside themselves), ``provenance``, ``noise``,
``preflight`` and ``rehearsal`` (what a computation was, and what one would be).
"""
