"""A model's head on kept hidden states. Knows neither cache nor text.

Reading order: ``replay`` (whether a head may be run on kept states, once a structure), ``runner``
(what an operation runs on in place of the model).
"""
