"""Claims: a tensor counts for the storage that it keeps, a sparse one for what it is made of."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from forwardcache.instrumentation import ForwardCache

MEGABYTES = 4_000_000


def large() -> Tensor:
    return torch.zeros(MEGABYTES // 4)


def counted(value: object) -> int:
    cache = ForwardCache(None, max_bytes=10**12)
    cache.put(("a",), value)
    return cache.nbytes


def nested(layout: torch.layout) -> Tensor:
    return torch.nested.nested_tensor([large(), torch.zeros(3)], layout=layout)


def sparse() -> Tensor:
    indices = torch.arange(MEGABYTES // 12)[None]
    return torch.sparse_coo_tensor(indices, torch.ones(indices.shape[1]), (MEGABYTES,))


def compressed(layout: torch.layout) -> Tensor:
    # Twice as wide as its indices show: they are a view of rows and columns.
    dense: Any = torch.ones(1, MEGABYTES // 20)
    sparse: Tensor = dense.to_sparse(layout=layout, **in_blocks(layout))
    return sparse


def in_blocks(layout: torch.layout) -> dict[str, tuple[int, int]]:
    return {"blocksize": (1, 1)} if layout in (torch.sparse_bsr, torch.sparse_bsc) else {}


KEPT: dict[str, Callable[[], object]] = {
    "whole": large,
    "slice": lambda: large()[:8],
    "column": lambda: large().reshape(1000, -1).T[0],
    "parameter": lambda: [nn.Parameter(large())[:3].detach()],
    "in a dict of lists": lambda: {"a": [large()[:1], 1]},
    "pieces of one storage": lambda: large().split(10_000),
    "as an array": lambda: large().numpy()[:3],
    "complex": lambda: torch.view_as_complex(large().reshape(-1, 2))[:2],
    "module": lambda: nn.Linear(1000, 1000),
    "sparse": sparse,
    "sparse, in a tuple": lambda: (sparse(), 1),
    "ragged": lambda: nested(torch.jagged),
    "nested": lambda: nested(torch.strided),
}


@pytest.mark.filterwarnings("ignore:.*prototype stage", "ignore:Sparse invariant checks")
@pytest.mark.parametrize("make", KEPT.values(), ids=KEPT.keys())
def test_a_tensor_counts_for_all_that_it_keeps(make: Callable[[], object]) -> None:
    assert MEGABYTES <= counted(make()) <= MEGABYTES * 1.1


@pytest.mark.filterwarnings("ignore:Sparse .* tensor support is in beta")
@pytest.mark.parametrize("name", ["sparse_csr", "sparse_csc", "sparse_bsr", "sparse_bsc"])
def test_a_compressed_tensor_counts_for_indices_and_values(name: str) -> None:
    made = compressed(getattr(torch, name))
    assert MEGABYTES * 0.5 <= counted(made) <= MEGABYTES * 2


def test_an_expanded_tensor_counts_for_what_it_repeats() -> None:
    assert counted(torch.zeros(1).expand(10_000_000)) < 2_000
