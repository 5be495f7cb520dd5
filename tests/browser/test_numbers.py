"""``decimal.js``: numbers are shown with their own digits and subtracted exactly."""

import json

import pytest_asyncio

from tests.browser.chromium import Page
from tests.browser.server import scripted

TEXTS = [
    "0",
    "7",
    "0.1",
    "9999.99",
    "10000",
    "97231.12",
    "61826.00000000",
    "61826.10000000",
    "1234567890.120",
    "0.00000637",
    "0.35270000",
    "66703.00000000",
    "-12345.5",
]


@pytest_asyncio.fixture
async def numbers(page: Page) -> Page:
    """A page in which `decimal` is the module."""
    async with scripted() as server:
        await page.go(server.url)
        await page.until("document.title === 'empty'")
        await page.evaluate("import('/decimal.js').then((m) => void (window.decimal = m))")
    return page


async def test_a_number_shown_has_the_text_it_came_with(numbers: Page) -> None:
    shown = await numbers.evaluate(
        f"""(() => {{
          const fresh = (text) => {{
            const node = document.createElement("span");
            decimal.showNumber(node, text);
            return node.textContent;
          }};
          const reused = document.createElement("span");
          const again = (text) => (decimal.showNumber(reused, text), reused.textContent);
          const texts = {json.dumps(TEXTS)};
          return [texts.map(fresh), texts.map(again), fresh(null)];
        }})()"""
    )
    assert shown == [TEXTS, TEXTS, "–"]


async def test_a_difference_is_exact_and_has_the_digits_of_the_finer_number(numbers: Page) -> None:
    cases = [
        ("97231.13", "97231.12", "0.01"),
        ("0.3", "0.1", "0.2"),
        ("0.00000638", "0.00000637", "0.00000001"),
        ("100", "99.50", "0.50"),
        ("99.5", "100", "-0.5"),
        ("5", "5", "0"),
        ("90071992547409931.1", "90071992547409930", "1.1"),
    ]
    pairs = json.dumps([case[:2] for case in cases])
    found = await numbers.evaluate(f"{pairs}.map(([a, b]) => decimal.subtract(a, b))")
    assert found == [case[2] for case in cases]
