"""From text to tokens: templates, tokenizers, the boundary of a completion. Knows no model.

Reading order: ``encode``, ``chat``, ``tokens`` and ``boundary``, ``ahead`` (many texts in one
call), ``item`` (an error is one item's), ``tokenizer_choice`` and ``tokenizer_file`` (which
tokenizer).
"""
