"""What a short run leaves to a long one."""

from collections import defaultdict

import pytest

# Of a table of more cases than this ``make test`` runs every so many-th case; ``make test-all`` runs all of them.
LARGE, STRIDE = 30, 6


@pytest.hookimpl(tryfirst=True)  # before those marked slow are left out
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    tables: dict[tuple[str, str], list[pytest.Item]] = defaultdict(list)
    for item in items:
        if isinstance(item, pytest.Function):
            tables[str(item.path), item.originalname].append(item)
    for cases in tables.values():
        if len(cases) > LARGE:
            for place, case in enumerate(cases):
                if place % STRIDE:
                    case.add_marker(pytest.mark.slow)
