"""State machines whose steps are counted as operations in step with a model."""

from hypothesis.stateful import RuleBasedStateMachine, invariant

from tests import proof


class CountedMachine(RuleBasedStateMachine):
    """Counts each of its rules that ran and after which all invariants were asked."""

    _began = 0

    @invariant()
    def count(self) -> None:
        # The first time is before the first rule.
        proof.done["operations"] += self._began
        self._began = 1
