"""A run whose values are all in the store loads nothing: what is known of a model without it.

A store's file has notes beside its values. One says under which keys a model's values stand, and
what else a run asks of the model; it holds for the contents of the folders, the process's
surroundings and the source of every module that were there when the model was loaded. Another says
how many tokens some prompts have. Where anything is different, or can't be told, the model is
loaded.

Reading order: ``contents`` (of folders), ``surroundings`` (versions, environment, machine),
``sources`` (of modules), ``note`` (what is kept), ``key`` (under what), ``heard`` (what was said
while loading), ``run`` (one run).
"""
