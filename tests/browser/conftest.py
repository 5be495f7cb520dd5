"""A Chromium for the tests of this folder, or the reason why they are skipped."""

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from tests.browser.chromium import Page, find_chromium, open_page, start_chromium


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "page" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def chromium() -> Iterator[str]:
    """The DevTools address of a headless Chromium."""
    path = find_chromium()
    if path is None:
        pytest.skip("no chromium on the PATH")
    with start_chromium(path) as debugger:
        yield debugger


@pytest_asyncio.fixture
async def page(chromium: str) -> AsyncIterator[Page]:
    """A page of its own profile, 1280 by 800."""
    async with open_page(chromium) as page:
        yield page
