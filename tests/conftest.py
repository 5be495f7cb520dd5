"""What every test may use: the loop of production, hypothesis without clocks, shared captures."""

from asyncio import AbstractEventLoop
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import uvloop
from hypothesis import HealthCheck, settings

pytest_plugins = ("tests.fixtures_valkey",)

REPO = Path(__file__).resolve().parent.parent

# A busy machine is not a bug, so no deadline. Derandomised, because a change that has nothing to
# do with a property must not be stopped by it; `pytest --hypothesis-profile=search` looks further.
settings.register_profile(
    "pricefeed",
    deadline=None,
    derandomize=True,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "search",
    deadline=None,
    max_examples=5_000,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("pricefeed")


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], AbstractEventLoop]]:
    """Run coroutine tests on uvloop, as the server does.

    A folder whose tests must also pass on asyncio's own loop defines this hook in its conftest.py
    and returns both: the nearest one wins, and each test then runs once on each loop.
    """
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(scope="session")
def captures() -> Path:
    """The folder of recorded exchange sessions that may lie beside the checkout."""
    path = REPO.parent / "shared" / "captures"
    if not path.is_dir():
        pytest.skip("no ../shared/captures beside this checkout")
    return path
