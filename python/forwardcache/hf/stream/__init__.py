"""From prompts to new text: the streaming engine and plain generation.

Reading order: ``decode``, ``alone``: rows; ``way``: which of them a model's streams are;
``sample``, ``folder_settings``, ``generate``; ``request``, ``group``, ``engine``.
"""
