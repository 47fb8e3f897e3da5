"""Engines that keep what they have computed of a text's beginning, and give it to a wrong one."""

from __future__ import annotations

from itertools import takewhile
from typing import Any

import torch

from tests.conformance.adapter.table import caught_as
from tests.conformance.adapter.toy import BASE, Arithmetic, Ids, Sound


class ByPrefix(Sound):
    """Keeps what tokens were run with, by the text up to them."""

    def __init__(self, arithmetic: Arithmetic) -> None:
        super().__init__(arithmetic)
        self.kept: dict[Any, torch.Tensor] = {}

    def key(self, ids: Ids, adapter: str | None) -> Any:
        """What a beginning is known by."""
        return ids

    def logprobs(self, token_ids: list[int], *, adapter: str | None = None) -> Any:
        ids = tuple(token_ids)
        content = BASE if adapter is None else self.adapters[adapter]
        rows = self.rows(ids, content).clone()
        for end in range(1, len(ids)):
            key = self.key(ids[:end], adapter)
            rows[end - 1] = self.kept.setdefault(key, rows[end - 1])
        return self.given(ids, rows)


@caught_as("DependsOnPrefix")
class PrefixOfAnotherAdapter(ByPrefix):
    """By tokens alone, whatever the adapter is."""


@caught_as("DependsOnPrefix")
class PrefixOfAnotherContent(ByPrefix):
    """By tokens and name, whatever was loaded under it since."""

    def key(self, ids: Ids, adapter: str | None) -> Any:
        return adapter, ids


@caught_as("DependsOnPrefix")
class PrefixBlocks(ByPrefix):
    """In blocks of 16 tokens, as engines do."""

    def key(self, ids: Ids, adapter: str | None) -> Any:
        return ids if len(ids) % 16 == 0 else (adapter, ids)


@caught_as("DependsOnPrefix")
class PrefixLongBlocks(ByPrefix):
    """In blocks of 32, which a short text doesn't fill."""

    def key(self, ids: Ids, adapter: str | None) -> Any:
        return ids if len(ids) % 32 == 0 else (adapter, ids)


class ForgetsPrefixes(ByPrefix):
    """Keeps nothing over a load or an unload, so that no reload shows what is wrong."""

    def load_adapter(self, name: str, path: str) -> None:
        self.kept.clear()
        super().load_adapter(name, path)

    def unload_adapter(self, name: str) -> None:
        self.kept.clear()
        super().unload_adapter(name)


@caught_as("DependsOnPrefix", only_by="prefixes")
class PrefixOfAnotherAdapterUntilALoad(ForgetsPrefixes):
    """By tokens alone between two adapters; the base has prefixes of its own."""

    def key(self, ids: Ids, adapter: str | None) -> Any:
        return adapter is None, ids


@caught_as("DependsOnPrefix", only_by="prefixes")
class PrefixLongBlocksUntilALoad(ForgetsPrefixes):
    """In blocks of 32 by tokens alone."""

    def key(self, ids: Ids, adapter: str | None) -> Any:
        return ids if len(ids) % 32 == 0 else (adapter, ids)


class PrefixOfOneKind(ForgetsPrefixes):
    """Keeps what one kind of request has computed, and gives it to the other kind alone."""

    of_base = True

    def logprobs(self, token_ids: list[int], *, adapter: str | None = None) -> Any:
        ids = tuple(token_ids)
        content = BASE if adapter is None else self.adapters[adapter]
        rows = self.rows(ids, content).clone()
        for end in range(1, len(ids)):
            if (adapter is None) is self.of_base:
                self.kept[ids[:end]] = rows[end - 1]
            else:
                rows[end - 1] = self.kept.get(ids[:end], rows[end - 1])
        return self.given(ids, rows)


@caught_as("DependsOnPrefix", only_by="prefixes")
class AdapterAfterTheBasesPrefix(PrefixOfOneKind):
    """What the base has computed is taken for every adapter."""


@caught_as("DependsOnPrefix", only_by="prefixes")
class BaseAfterAnAdaptersPrefix(PrefixOfOneKind):
    """What an adapter has computed is taken for the base."""

    of_base = False


@caught_as("DependsOnPrefix", only_by="prefixes")
class ShortPrefixes(ForgetsPrefixes):
    """By tokens alone for the first four, as a template's first words are."""

    def key(self, ids: Ids, adapter: str | None) -> Any:
        return ids if len(ids) <= 4 else (adapter, ids)


class ByLength(ForgetsPrefixes):
    """By tokens alone, but only texts of equal length share, or only those of another."""

    equal = True

    def __init__(self, arithmetic: Arithmetic) -> None:
        super().__init__(arithmetic)
        self.lengths: dict[Ids, int] = {}

    def logprobs(self, token_ids: list[int], *, adapter: str | None = None) -> Any:
        ids = tuple(token_ids)
        content = BASE if adapter is None else self.adapters[adapter]
        rows = self.rows(ids, content).clone()
        for end in range(1, len(ids)):
            if ids[:end] not in self.kept:
                self.kept[ids[:end]], self.lengths[ids[:end]] = rows[end - 1], len(ids)
            if (self.lengths[ids[:end]] == len(ids)) is self.equal:
                rows[end - 1] = self.kept[ids[:end]]
        return self.given(ids, rows)


@caught_as("DependsOnPrefix", only_by="prefixes")
class PrefixOfATextOfEqualLength(ByLength):
    pass


@caught_as("DependsOnPrefix", only_by="prefixes")
class PrefixOfATextOfAnotherLength(ByLength):
    equal = False


class TooLong(Sound):
    """Of the text before with the longest common beginning, with the same adapter, it takes more
    than they have in common.
    """

    def __init__(self, arithmetic: Arithmetic) -> None:
        super().__init__(arithmetic)
        self.seen: dict[str | None, list[tuple[Ids, torch.Tensor]]] = {}

    def load_adapter(self, name: str, path: str) -> None:
        self.seen.clear()
        super().load_adapter(name, path)

    def taken(self, common: int) -> int:
        """How many rows are taken where so many tokens are the same."""
        return common

    def logprobs(self, token_ids: list[int], *, adapter: str | None = None) -> Any:
        ids = tuple(token_ids)
        content = BASE if adapter is None else self.adapters[adapter]
        rows = self.rows(ids, content).clone()
        seen = self.seen.setdefault(adapter, [])
        for before, its in seen:
            common = sum(
                1 for _ in takewhile(lambda two: two[0] == two[1], zip(ids, before, strict=False))
            )
            if common > 1:
                end = min(self.taken(common), len(rows), len(its))
                rows[common:end] = its[common:end]
        seen.append((ids, rows))
        return self.given(ids, rows)


@caught_as("DependsOnPrefix", only_by="prefixes")
class PrefixOneTokenTooLong(TooLong):
    """The first token that differs is taken for the same."""

    def taken(self, common: int) -> int:
        return common + 1


@caught_as("DependsOnPrefix", only_by="prefixes")
class PrefixUpToTheBlocksEnd(TooLong):
    """A block that is the same at its beginning is taken as a whole."""

    def taken(self, common: int) -> int:
        return -(-common // 16) * 16


class KeptByName(ByPrefix):
    """In blocks of 32, by name: whole reloads of shorter texts show nothing."""

    over_unload = True

    def key(self, ids: Ids, adapter: str | None) -> Any:
        return adapter if len(ids) % 32 == 0 else object(), ids

    def load_adapter(self, name: str, path: str) -> None:
        if self.over_unload and name in self.adapters:
            self.forget(name)
        super().load_adapter(name, path)

    def unload_adapter(self, name: str) -> None:
        if not self.over_unload:
            self.forget(name)
        super().unload_adapter(name)

    def forget(self, name: str) -> None:
        """Drop what was kept under a name."""
        self.kept = {key: row for key, row in self.kept.items() if key[0] != name}


@caught_as("DependsOnPrefix", only_by="prefixes")
class PrefixKeptOverAnUnload(KeptByName):
    """Emptied where a name in use gets another adapter, not where one is unloaded."""


@caught_as("DependsOnPrefix", only_by="prefixes")
class PrefixKeptOverAReload(KeptByName):
    """Emptied where an adapter is unloaded, not where another takes its name."""

    over_unload = False
