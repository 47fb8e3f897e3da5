"""The faults of ``make mutants``, which is too long for every run, can still be put in."""

from tools.mutants import FAULTS, ROOT


def test_each_fault_has_one_place() -> None:
    places = {
        fault.name: (ROOT / "rust" / "cache" / fault.file).read_text().count(fault.text)
        for fault in FAULTS
    }
    assert len(places) == len(FAULTS)
    assert {name: count for name, count in places.items() if count != 1} == {}
