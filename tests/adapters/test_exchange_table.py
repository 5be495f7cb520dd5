from __future__ import annotations

from datetime import date

import pytest

from tests.adapters.exchange_table import PAGE, carries, ignored, page, undated
from tests.adapters.tapes import CAPTURES


def test_the_page_says_what_the_adapters_say() -> None:
    text = PAGE.read_text()
    assert carries() in text, "make docs"
    assert ignored() in text, "make docs"


def test_the_page_says_what_the_adapters_were_tested_on() -> None:
    if not CAPTURES.exists():
        pytest.skip("no recordings beside the repository")
    assert undated(page(date(2026, 1, 1))) == undated(PAGE.read_text()), "make docs"
