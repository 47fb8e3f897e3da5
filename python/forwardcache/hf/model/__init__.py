"""What is loaded, whether it is still the same, and which view it is in. Knows no scoring.

Reading order: ``reading`` (errors of files), ``load``, ``adapter_folder`` with ``overwritten``
(what it loads over the base model), ``adapters`` (several, by name) with ``adapter_choice``
(which), ``adapters_of_folders``, ``adapter_files``, ``overlay`` (putting one on and off),
``adapters_on_model`` and ``adapter_content`` (what one holds), ``adapter_parts`` (what is an
adapter's) with ``peft_kinds`` (PEFT's classes, where it is there), ``products`` (what B times A
comes to), ``adapter`` (which views are exact), ``draws``
(noise from a seed) with ``matched`` (of the adapter's norm) and ``null_noise`` (what a null view
puts in place), ``switch`` (putting the model into a view) and ``norms`` (how much that adds),
``identity`` with ``watch`` (over what ``flat`` finds), ``look`` (the same in microseconds) with
``tags`` (numbers of dictionaries) and ``kinds`` (what objects in settings are made of),
``versions`` with ``layout`` (where torch keeps them) and ``optimizer_steps``, ``body``
(all but the head), ``slots`` (where tensors lie), ``tokenizer_watch``, ``settings``, ``code`` and
``checksum`` (what the model is), ``lock`` (whose turn it is).
"""
