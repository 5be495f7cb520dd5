"""How a dYdX book is kept from crossing. Pure.

There is no one book: each block's proposer has its own, and the indexer tells of orders as they
reach it, so a level may long be gone when its end is told. Its prices cross by design. Of two
crossed levels the one that was told later is right (source: docs.dydx.exchange, guides, how to
uncross the orderbook): the other is taken out before anything is shown, until it is told again.
"""

from __future__ import annotations

from collections.abc import Sequence

from adapters.book import Book
from feed.models import Level


def uncrossed(
    book: Book, bids: Sequence[Level], asks: Sequence[Level]
) -> tuple[list[Level], list[Level]]:
    """Return changes after which a book that is not crossed still is not.

    Of two crossed levels at least one is of these changes, because the book was not crossed before:
    the other is deleted. Where both are, the larger one stays, as if they had traded; its size is
    left as sent.
    """
    bids, asks = list(bids), list(asks)
    while True:
        bid = max((one for one in bids if float(one[1])), key=_price, default=None)
        ask = min((one for one in asks if float(one[1])), key=_price, default=None)
        if bid is None or ask is None or _price(bid) < _price(ask):
            break
        if float(bid[1]) > float(ask[1]):
            asks[asks.index(ask)] = (ask[0], "0")
        else:
            bids[bids.index(bid)] = (bid[0], "0")
    best_bid, best_ask = book.best()
    if bid is not None and best_ask is not None and _price(bid) >= _price(best_ask):
        told = {_price(one) for one in asks}
        for level in book.window()[1]:
            if _price(level) > _price(bid):
                break
            if _price(level) not in told:
                asks.append((level[0], "0"))
    if ask is not None and best_bid is not None and _price(ask) <= _price(best_bid):
        told = {_price(one) for one in bids}
        for level in book.window()[0]:
            if _price(level) < _price(ask):
                break
            if _price(level) not in told:
                bids.append((level[0], "0"))
    return bids, asks


def _price(level: Level) -> float:
    return float(level[0])
