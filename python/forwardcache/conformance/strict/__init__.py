"""What profile ``"strict"`` adds: rules that a server relies on and the seed does not look at.

Every check opens its own streams, so that each can be run alone. Where an engine can't be judged
by a rule, the check is skipped and says why.

Reading order: ``ask`` (streams as the checks get them) and ``prompts``, then the checks: ``counts``
(what one stream says of its numbers), ``stops``, ``together`` (several streams) and ``leftovers``.
"""
