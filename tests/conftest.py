"""What a short run leaves to a long one."""

from collections import defaultdict

import pytest

# Of a table of more cases than this ``make test`` runs every so many-th case; ``make test-all`` runs all of them.
# Tables are products of short lists: a stride that has no factor with their lengths meets each entry of each list.
LARGE, STRIDE = 30, 7


@pytest.hookimpl(tryfirst=True)  # before those marked slow are left out
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    tables: dict[tuple[str, str], list[pytest.Item]] = defaultdict(list)
    for item in items:
        if isinstance(item, pytest.Function):
            tables[str(item.path), item.originalname].append(item)
    for cases in tables.values():
        mark = cases[0].get_closest_marker("sampled")
        stride = mark.args[0] if mark else STRIDE if len(cases) > LARGE else 1
        for place, case in enumerate(cases):
            if place % stride:
                case.add_marker(pytest.mark.slow)
