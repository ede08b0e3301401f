import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def networks() -> ModuleType:
    """Small networks and costs, of the file beside this one."""
    specification = importlib.util.spec_from_file_location("networks", Path(__file__).with_name("networks.py"))
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module
