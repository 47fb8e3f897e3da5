"""Engines that each get one thing wrong, and what the kit has to call it."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from typing import Any

import torch

from tests.conformance.adapter.table import caught_as
from tests.conformance.adapter.toy import BASE, Arithmetic, Content, Delta, Ids, Sound


class Misread(Sound):
    """Takes another adapter from the files than there is."""

    def read(self, path: str) -> Content:
        content = super().read(path)
        changed = content.changed(type(self).__name__, lambda n, d: self.change(content, n, d))
        return self.again(changed)

    def change(self, content: Content, name: str, delta: Delta) -> Delta | None:
        """What is made of one module's delta; None leaves it out."""
        return delta

    def again(self, content: Content) -> Content:
        """What is made of the whole."""
        return content


class WithoutModules(Misread):
    """Leaves modules out."""

    modules = ""

    def change(self, content: Content, name: str, delta: Delta) -> Delta | None:
        return None if self.modules in name else delta


@caught_as("AdapterIgnored")
class Ignored(WithoutModules):
    """All of it."""


@caught_as("PartIgnored")
class HeadIgnored(WithoutModules):
    modules = "lm_head"


@caught_as("PartIgnored")
class EmbeddingIgnored(WithoutModules):
    modules = "embed_tokens"


@caught_as("PartIgnored")
class KeysIgnored(WithoutModules):
    modules = "k_proj"


@caught_as("PartIgnored")
class GateIgnored(WithoutModules):
    modules = "gate_proj"


@caught_as("PartIgnored")
class DownIgnored(WithoutModules):
    modules = "down_proj"


@caught_as("PartIgnored")
class FirstLayerSkipped(WithoutModules):
    modules = ".0."


@caught_as("PartIgnored")
class LastLayerSkipped(WithoutModules):
    modules = ".1."


@caught_as("PartIgnored")
class BiasDropped(Misread):
    def change(self, content: Content, name: str, delta: Delta) -> Delta:
        return replace(delta, bias=None)


class Scaled(Misread):
    """Every delta times a number."""

    factor = 1.0

    def change(self, content: Content, name: str, delta: Delta) -> Delta:
        return replace(delta, scale=delta.scale * self.factor)


@caught_as("WrongScale")
class Halved(Scaled):
    factor = 0.5


@caught_as("WrongScale")
class Doubled(Scaled):
    factor = 2.0


@caught_as("WrongScale")
class AThird(Scaled):
    factor = 1 / 3


@caught_as("WrongScale")
class SixTenths(Scaled):
    """Far from every factor that is tried first."""

    factor = 0.6


@caught_as("WrongScale")
class Subtracted(Scaled):
    factor = -1.0


@caught_as("WrongScale")
class AlphaForAlphaOverRank(Misread):
    def change(self, content: Content, name: str, delta: Delta) -> Delta:
        return replace(delta, scale=delta.scale * delta.rank)


@caught_as("WrongScale")
class RsLoraAsPlain(Misread):
    def change(self, content: Content, name: str, delta: Delta) -> Delta:
        plain = content.config["lora_alpha"] / delta.rank
        return replace(delta, scale=plain) if content.config["use_rslora"] else delta


@caught_as("WrongScale")
class RankPatternIgnored(Misread):
    def change(self, content: Content, name: str, delta: Delta) -> Delta:
        if not content.config["rank_pattern"]:
            return delta
        return replace(delta, scale=content.config["lora_alpha"] / content.config["r"])


@caught_as("WrongScale")
class AlphaPatternIgnored(Misread):
    def change(self, content: Content, name: str, delta: Delta) -> Delta:
        if not content.config["alpha_pattern"]:
            return delta
        return replace(delta, scale=content.config["lora_alpha"] / content.config["r"])


@caught_as("WrongValues")
class TransposedA(Misread):
    def change(self, content: Content, name: str, delta: Delta) -> Delta:
        return replace(delta, a=delta.a.T.reshape(delta.a.shape).contiguous())


@caught_as("WrongValues")
class BOfAnotherLayer(Misread):
    def again(self, content: Content) -> Content:
        turned = {".0.": ".1.", ".1.": ".0."}
        deltas = {}
        for name, delta in content.deltas.items():
            other = next((name.replace(a, b) for a, b in turned.items() if a in name), name)
            deltas[name] = replace(delta, b=content.deltas.get(other, delta).b)
        return replace(content, deltas=deltas)


@caught_as("WrongValues")
class QAndVSwapped(Misread):
    def again(self, content: Content) -> Content:
        turned = {"q_proj": "v_proj", "v_proj": "q_proj"}
        deltas = {}
        for name, delta in content.deltas.items():
            leaf = name.rsplit(".", 1)[-1]
            deltas[name.replace(leaf, turned.get(leaf, leaf))] = delta
        return replace(content, deltas=deltas)


@caught_as("WrongValues")
class Overflowing(Sound):
    """Half precision in between, where a larger number is infinity."""

    def rows(self, ids: Ids, content: Content) -> torch.Tensor:
        rows = super().rows(ids, content)
        return rows if content is BASE else rows + (rows * 1e5).half() * 0


@caught_as("StaleAfterReload")
class StaleAfterReload(Sound):
    """A name that is in use keeps its weights."""

    def load_adapter(self, name: str, path: str) -> None:
        if name not in self.adapters:
            super().load_adapter(name, path)


@caught_as("StaleAfterReload")
class StaleAfterUnload(Sound):
    """Weights are kept by name, also of what was unloaded."""

    def __init__(self, arithmetic: Arithmetic) -> None:
        super().__init__(arithmetic)
        self.kept: dict[str, Content] = {}

    def load_adapter(self, name: str, path: str) -> None:
        self.adapters[name] = self.kept.setdefault(name, self.read(path))


@caught_as("BaseChanged")
class BasePollutedAfterUnload(Sound):
    """Merging and taking out again leaves something behind."""

    def __init__(self, arithmetic: Arithmetic) -> None:
        super().__init__(arithmetic)
        self.left: Content = BASE

    def unload_adapter(self, name: str) -> None:
        content = self.adapters[name]
        self.left = content.changed("left", lambda _, d: replace(d, scale=d.scale * 0.3))
        super().unload_adapter(name)

    def rows(self, ids: Ids, content: Content) -> torch.Tensor:
        return super().rows(ids, self.left if content is BASE else content)


@caught_as("BaseChanged")
class BasePollutedWithNoneLoaded(BasePollutedAfterUnload):
    """What is left behind is seen only while no adapter is there."""

    def rows(self, ids: Ids, content: Content) -> torch.Tensor:
        seen = content is BASE and not self.adapters
        return Sound.rows(self, ids, self.left if seen else content)


@caught_as("BaseChanged")
class BaseTakesTheLoaded(Sound):
    """Whoever asks for the base gets the adapter that is loaded."""

    def rows(self, ids: Ids, content: Content) -> torch.Tensor:
        loaded = [*self.adapters.values(), BASE]
        return super().rows(ids, loaded[0] if content is BASE else content)


@caught_as("AdaptersMixed")
class FirstForAll(Sound):
    """The first adapter that was ever loaded, for all of them."""

    def __init__(self, arithmetic: Arithmetic) -> None:
        super().__init__(arithmetic)
        self.first: Content | None = None

    def rows(self, ids: Ids, content: Content) -> torch.Tensor:
        if content is not BASE:
            self.first = self.first or content
        return super().rows(ids, self.first or BASE if content is not BASE else BASE)


@caught_as("AdaptersMixed")
class LastLoadedForAll(Sound):
    """Of several that are loaded, the newest for all of them."""

    def logprobs(self, token_ids: list[int], *, adapter: str | None = None) -> Any:
        return super().logprobs(token_ids, adapter=adapter and list(self.adapters)[-1])


@caught_as("AdaptersMixed", only_by="two_adapters")
class SecondIsTheBase(Sound):
    """Has room for one adapter beside the base, which answers for all others."""

    def rows(self, ids: Ids, content: Content) -> torch.Tensor:
        first = next(iter(self.adapters.values()), BASE)
        return super().rows(ids, BASE if content is not first else content)


@caught_as("AdaptersMixed")
class MixedUnderConcurrency(Sound):
    """One adapter is active at a time, and whoever comes next changes it."""

    active: str | None = None

    async def logprobs(self, token_ids: list[int], *, adapter: str | None = None) -> Any:
        self.active = adapter
        await asyncio.sleep(0)
        return super().logprobs(token_ids, adapter=self.active)


@caught_as("AdaptersMixed", only_by="two_adapters")
class BaseAloneBesideTwo(Sound):
    """A request that is alone goes another way, which doesn't switch to the base beside two."""

    waiting, active = 0, BASE

    async def logprobs(self, token_ids: list[int], *, adapter: str | None = None) -> Any:
        self.waiting += 1
        await asyncio.sleep(0)
        is_alone = self.waiting == 1
        await asyncio.sleep(0)
        self.waiting -= 1
        if adapter is not None:
            self.active = self.adapters[adapter]
        ids, is_base = tuple(token_ids), adapter is None
        stays = is_base and is_alone and len(self.adapters) > 1
        content = self.active if stays or not is_base else BASE
        return self.given(ids, self.rows(ids, content))


@caught_as("DependsOnBatch")
class PaddedWrongly(Sound):
    """In a batch all but the longest text lose their first token."""

    def __init__(self, arithmetic: Arithmetic) -> None:
        super().__init__(arithmetic)
        self.waiting: list[int] = []

    async def logprobs(self, token_ids: list[int], *, adapter: str | None = None) -> Any:
        self.waiting.append(len(token_ids))
        await asyncio.sleep(0)
        if len(token_ids) < max(self.waiting):
            token_ids = [token_ids[1], *token_ids[1:]]
        given = super().logprobs(token_ids, adapter=adapter)
        await asyncio.sleep(0)
        self.waiting.clear()
        return given


@caught_as("DependsOnBatch")
class EverySecondIsWrong(Sound):
    """Two buffers, of which one isn't cleared."""

    asked = 0

    def rows(self, ids: Ids, content: Content) -> torch.Tensor:
        self.asked += content is not BASE
        right = super().rows(ids, content)
        return right if self.asked % 2 or content is BASE else right * 1.3


class AtSomeTokens(Sound):
    """The adapter counts at some positions only."""

    def positions(self, length: int) -> range:
        """At which."""
        return range(length)

    def rows(self, ids: Ids, content: Content) -> torch.Tensor:
        at = None if content is BASE else self.positions(len(ids))
        return self.arithmetic.rows(ids, content, at)


@caught_as("PartIgnored")
class OnlyPrefillAdapted(AtSomeTokens):
    def positions(self, length: int) -> range:
        return range(min(8, length))


@caught_as("PartIgnored")
class OnlyDecodeAdapted(AtSomeTokens):
    def positions(self, length: int) -> range:
        return range(min(8, length), length)


@caught_as("PartIgnored")
class OnlyTheFirstTokenAdapted(AtSomeTokens):
    def positions(self, length: int) -> range:
        return range(1)


@caught_as("NotTeacherForced")
class ShiftedByOne(Sound):
    def given(self, ids: Ids, rows: torch.Tensor) -> Any:
        values = super().given(ids, rows)
        return [*values[1:], values[-1]]


@caught_as("NotTeacherForced")
class ShiftedTheOtherWay(Sound):
    def given(self, ids: Ids, rows: torch.Tensor) -> Any:
        values = super().given(ids, rows)
        return [0.0, *values[:-1]]


@caught_as("NotTeacherForced")
class OfTheLikeliestToken(Sound):
    def given(self, ids: Ids, rows: torch.Tensor) -> Any:
        return rows.max(1).values.tolist()


@caught_as("NotTeacherForced")
class OfASampledToken(Sound):
    def given(self, ids: Ids, rows: torch.Tensor) -> Any:
        dice = torch.Generator().manual_seed(sum(ids))
        drawn = torch.multinomial(rows.exp(), 1, generator=dice)
        return rows.gather(1, drawn)[:, 0].tolist()


@caught_as("WrongValues")
class RenormalisedOverTopK(Sound):
    def given(self, ids: Ids, rows: torch.Tensor) -> Any:
        mass = rows.topk(5).values.logsumexp(1, keepdim=True)
        return super().given(ids, rows - mass)


@caught_as("WrongValues")
class TemperatureApplied(Sound):
    def given(self, ids: Ids, rows: torch.Tensor) -> Any:
        return super().given(ids, (rows / 0.7).log_softmax(1))


@caught_as("WrongValues")
class ForgetsTheBeginning(Sound):
    """Sees the last tokens only: the first values are right, and no sampled ones follow."""

    window = 14

    def rows(self, ids: Ids, content: Content) -> torch.Tensor:
        rows = super().rows(ids, content).clone()
        for end in range(self.window, len(ids) - 1):
            rows[end] = super().rows(ids[end + 1 - self.window : end + 2], content)[-1]
        return rows


@caught_as("SubjectFailed")
class OneValueTooMany(Sound):
    def given(self, ids: Ids, rows: torch.Tensor) -> Any:
        return [0.0, *super().given(ids, rows)]


@caught_as("SubjectFailed")
class HeadRefused(Sound):
    def load_adapter(self, name: str, path: str) -> None:
        super().load_adapter(name, path)
        if any("lm_head" in each for each in self.adapters[name].deltas):
            raise ValueError("lm_head is not supported")


@caught_as("SubjectFailed")
class NoSuchMethod(Sound):
    unload_adapter = None  # type: ignore[assignment]


@caught_as("SubjectFailed")
class DeadUnderConcurrency(Sound):
    """Answers one at a time, and no second one that comes meanwhile."""

    def __init__(self, arithmetic: Arithmetic) -> None:
        super().__init__(arithmetic)
        self.busy = threading.Lock()

    async def logprobs(self, token_ids: list[int], *, adapter: str | None = None) -> Any:
        if not self.busy.acquire(blocking=False):
            raise RuntimeError("busy")
        await asyncio.sleep(0)
        self.busy.release()
        return super().logprobs(token_ids, adapter=adapter)
