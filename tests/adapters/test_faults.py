"""What the product does when an exchange is broken: real runner, real sockets, real tapes.

Which exchange proves what: Binance and Bybit number their book updates, Kraken sends a checksum of
the best ten levels, Coinbase's level 2 has neither. A changed digit only Kraken's checksum shows.
Trades are numbered without holes on Binance, Coinbase and Kraken, not on Bybit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from adapters import connection, registry, silence
from adapters.base import Adapter, Output, Stream, TapeLine
from adapters.exchanges.coinbase.venue import CoinbaseVenue
from adapters.faults import is_book
from adapters.replay import FakeExchange
from feed.models import Book, Depth, Gap, SymbolStatus, Trade
from tests.adapters import broken
from tests.adapters.broken import check_uncrossed, play, recording, shown, truths
from tests.adapters.kit import eventually

#: Exchange -> its book's channel, symbol there and ours, and when in the tape it is hit: on Kraken
#: by frames of the best ten.
BOOKS = {
    "binance": ("depth", "BTCUSDT", "BTC-USDT", 40),
    "binance-usdm": ("depth", "BTCUSDT", "BTC-USDT-PERP", 60),
    "kraken": ("book", "XRP/USD", "XRP-USD", 40),
    "bybit": ("orderbook", "BTCUSDT", "BTC-USDT", 3),
    "bybit-linear": ("orderbook", "ETHUSDT", "ETH-USDT-PERP", 3),
}
#: Exchanges with trades on their tapes, and topics of them.
TRADES = {
    "binance": ("trade", "trade.binance.BTC-USDT"),
    "binance-usdm": ("trade", "trade.binance-usdm.BTC-USDT-PERP"),
    "coinbase": ("matches", "trade.coinbase.SKL-USD"),
}
EVERYONE = ("binance", "binance-usdm", "coinbase", "kraken", "bybit", "bybit-linear")


def check_book(outcome: broken.Outcome, name: str, levels: int = 20) -> None:
    """Check that what was shown was true at some time, and is in the end."""
    _, native, symbol, _ = BOOKS[name]
    true = truths(name, native, levels)
    seen = shown(outcome, f"book.{name}.{symbol}", levels)
    assert set(seen) <= set(true), "a book that never was"
    assert seen[-1] == true[-1], "not what the exchange has in the end"
    if levels == 20:
        depths = {(tuple(d.bids), tuple(d.asks)) for d in outcome.of(Depth)}
        assert depths and depths <= set(true)
    check_uncrossed(outcome)


@pytest.mark.parametrize("name", [*BOOKS, "coinbase"])
def test_the_fake_tells_who_comes_late_the_book_that_the_tape_has_then(name: str) -> None:
    native = BOOKS[name][1] if name in BOOKS else "SKL-USD"
    played = recording(name)
    (stream,) = [one for one in played.streams if is_book(one) and one.native == native]
    standing = played.venue.standing(stream, played.bodies)
    assert standing is not None
    told = []
    for frame in played.frames[:1_500]:
        if frame.stream == stream:
            standing.take(frame.body)
            body = standing.told()
            assert body is not None
            told.append(broken.top(broken.read_whole(name, body), 20))
    true = truths(name, native, 20)
    # Binance's recorded book is newer than the first updates.
    assert list(dict.fromkeys(told)) == list(dict.fromkeys(true))[: len(dict.fromkeys(told))]
    assert len(told) > 10


def test_heartbeats_are_the_exchanges_own() -> None:
    sample = '{"type":"heartbeat","product_id":"BTC-USD","sequence":1,"last_trade_id":2,"time":"t"}'
    venue = CoinbaseVenue()
    venue.scan(TapeLine(dir="in", raw=sample))
    asked = [Stream("heartbeat", "BTC-USD"), Stream("heartbeat", "ETH-USD")]
    assert venue.beats(asked) == (sample,)
    assert recording("kraken").venue.beats([]) == ('{"channel":"heartbeat"}',)
    assert recording("binance").venue.beats([]) == (), "pings of the protocol"


@pytest.mark.parametrize("name", BOOKS)
async def test_without_faults_nothing_is_amiss(name: str) -> None:
    outcome = await play(name)
    assert outcome.of(Gap) == []
    check_book(outcome, name)


@pytest.mark.parametrize("fault", ["drop", "reorder"])
@pytest.mark.parametrize("name", BOOKS)
async def test_a_hole_in_a_book_is_said_and_then_comes_a_fresh_snapshot(
    name: str, fault: str
) -> None:
    channel, _, symbol, after = BOOKS[name]
    outcome = await play(name, f"{fault}:1:channel={channel}:after={after}:times=1")
    topic = f"book.{name}.{symbol}"
    healths = outcome.healths(topic)
    assert "invalid" in healths and healths[-1] == "live"
    assert healths.count("live") == healths.count("invalid") + 1
    told = outcome.topic(topic)
    gaps = [at for at, event in enumerate(told) if isinstance(event, Gap)]
    assert len(gaps) == healths.count("invalid")
    for at in gaps:
        assert told[at].cause == "upstream_sequence"
        assert told[at + 1].snapshot, "after the gap the whole book"
        # Who reads only health knows before: it is said in front of the gap.
        before = outcome.events[: outcome.events.index(told[at])]
        status = [event for event in before if isinstance(event, SymbolStatus)][-1]
        assert status.kinds["book"] == "invalid"
    assert outcome.counters.reconnects == 0, "the connection is kept"
    check_book(outcome, name)


async def test_many_holes_never_make_a_wrong_book() -> None:
    outcome = await play("binance", "drop:0.05:channel=depth:after=20", "reorder:0.05:times=3")
    assert outcome.healths("book.binance.BTC-USDT").count("invalid") > 3
    seen = shown(outcome, "book.binance.BTC-USDT", 20)
    assert set(seen) <= set(truths("binance", "BTCUSDT", 20))
    check_uncrossed(outcome)


@pytest.mark.parametrize("share", ["0.02", "0.2"])
async def test_krakens_checksum_catches_a_changed_digit_of_the_best_ten(share: str) -> None:
    outcome = await play("kraken", f"corrupt:{share}:channel=book:after=20")
    assert "invalid" in outcome.healths("book.kraken.XRP-USD")
    true = set(truths("kraken", "XRP/USD", 10))
    # Deeper levels are in no proof of Kraken's.
    assert set(shown(outcome, "book.kraken.XRP-USD", 10)) <= true
    assert {(tuple(d.bids[:10]), tuple(d.asks[:10])) for d in outcome.of(Depth)} <= true
    check_uncrossed(outcome)


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("binance", "corrupt:0.3:channel=depth"),
        ("binance-usdm", "corrupt:0.3:channel=depth"),
        ("bybit", "corrupt:0.3:channel=orderbook"),
        ("bybit-linear", "corrupt:0.3:channel=orderbook"),
        ("coinbase", "corrupt:0.02:channel=level2"),
        ("coinbase", "drop:0.02:channel=level2"),
        ("coinbase", "reorder:0.1:channel=level2"),
    ],
)
async def test_where_the_exchange_proves_nothing_a_book_at_least_never_crosses(
    name: str, fault: str
) -> None:
    outcome = await play(name, f"{fault}:after=10")
    assert outcome.of(Book)
    check_uncrossed(outcome)


@pytest.mark.parametrize("name", TRADES)
async def test_lost_trades_leave_a_gap_that_counts_them(name: str) -> None:
    channel, topic = TRADES[name]
    outcome = await play(name, f"drop:0.2:channel={channel}:after=2")
    ids = [int(number) for number in outcome.trade_ids(topic)]
    lost = outcome.lost(topic, "upstream_sequence")
    assert lost and None not in lost
    skipped = _no_trades(name)
    span = ids[-1] - ids[0] + 1
    assert span == len(ids) + sum(number or 0 for number in lost) + skipped


def _no_trades(name: str) -> int:
    """Return how many numbered entries of the tape are no trades; a price of 0 says so."""
    return sum(b'"p":"0"' in f.body or b'"X":"NA"' in f.body for f in recording(name).frames)


@pytest.mark.parametrize(
    "name",
    [
        *TRADES,
        "bybit-linear",
    ],
)
async def test_no_trade_comes_twice_where_frames_do(name: str) -> None:
    outcome = await play(name, "duplicate:0.5")
    (topic,) = {TRADES[name][1]} if name in TRADES else outcome.topics(Trade)
    ids = outcome.trade_ids(topic)
    assert len(ids) > 2 and len(ids) == len(set(ids))
    assert outcome.lost(topic, "upstream_sequence") == []


@pytest.mark.parametrize("name", BOOKS)
async def test_frames_that_come_twice_make_no_wrong_book(name: str) -> None:
    outcome = await play(name, f"duplicate:0.3:channel={BOOKS[name][0]}:times=4")
    check_book(outcome, name)


@pytest.mark.parametrize("name", BOOKS)
async def test_a_late_exchange_is_only_late(name: str) -> None:
    outcome = await play(name, "delay:30ms@0.01:times=20")
    assert outcome.of(Gap) == []
    check_book(outcome, name)


def check_replaced(outcome: broken.Outcome, connections: int = 1) -> None:
    """Check that after one lost connection all goes on, and that the loss was said."""
    assert len(outcome.handshakes) == connections + 1
    assert outcome.counters.reconnects == 1
    gaps = outcome.of(Gap)
    assert gaps and {gap.cause for gap in gaps} == {"upstream_disconnect"}
    check_uncrossed(outcome)
    for topic in outcome.topics(Book):
        gap = [at for at, e in enumerate(outcome.topic(topic)) if isinstance(e, Gap)]
        if gap:
            assert outcome.topic(topic)[gap[-1] + 1].snapshot


@pytest.mark.parametrize("after", [6, 20])
@pytest.mark.parametrize("name", EVERYONE)
async def test_a_connection_that_breaks_is_replaced_and_its_books_begin_anew(
    name: str, after: int
) -> None:
    outcome = await play(name, f"close:after={after}:times=1")
    check_replaced(outcome)
    if name in BOOKS:
        check_book(outcome, name)


@pytest.mark.parametrize("name", EVERYONE)
async def test_an_announced_end_is_answered_by_a_new_connection(name: str) -> None:
    outcome = await play(name, "shutdown:after=20:times=1")
    check_replaced(outcome)
    if name in BOOKS:
        check_book(outcome, name)


@pytest.mark.parametrize("name", EVERYONE)
async def test_a_half_open_connection_is_stale_and_replaced(name: str) -> None:
    outcome = await play(name, "half-open:after=20:times=1", silent_after_s=0.75)
    check_replaced(outcome)
    _check_stale(outcome)


@pytest.mark.parametrize("name", ["binance", "binance-usdm", "coinbase"])
async def test_pings_are_no_data(name: str) -> None:
    async with asyncio.timeout(10):
        outcome = await play(name, "heartbeats:after=20:times=1", silent_after_s=1.25)
    check_replaced(outcome)
    _check_stale(outcome)


@pytest.mark.parametrize("name", ["kraken", "bybit", "bybit-linear"])
async def test_where_heartbeats_are_all_that_comes_the_books_are_stale_and_asked_for_again(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Messages of the exchange are a sign of its life, for a quiet pair is no fault.
    monkeypatch.setattr(connection, "TICK_S", 0.02)
    monkeypatch.setattr(silence, "FACTOR", 0.0)
    adapter = registry.entry(name).load_adapter()
    resync, again = adapter.resync, set[Stream]()

    def noted(self: Adapter, streams: Sequence[Stream], recv: int) -> Sequence[Output]:
        again.update(streams)
        return resync(self, streams, recv)

    monkeypatch.setattr(adapter, "resync", noted)
    _, native, symbol, after = BOOKS[name]
    played = recording(name)
    books = {one for one in played.streams if is_book(one) and one.native == native}
    async with FakeExchange({name: played}, speed=broken.TAPES[name][2]) as fake:
        fake.break_(f"heartbeats:after={after}:times=1")
        async with broken.running(
            name,
            fake,
            is_tape=False,
            silent_after_s=2.5,  # Kraken's heartbeats are a second apart
            symbol_silent_after_s=0.3,
            ping_every_s=0.1 if name.startswith("bybit") else None,
        ) as sink:
            await eventually(lambda: books <= again)
            told = [
                status
                for status in sink.of(SymbolStatus)
                if status.topic == f"status.{name}.{symbol}"
            ]
            assert told[-1].kinds["book"] == "stale" and told[-1].reason == "silent"
            assert len(fake.handshakes) == 1, "the connection is kept"


def _check_stale(outcome: broken.Outcome) -> None:
    stale = broken.stale(outcome.of(SymbolStatus))
    assert stale and {status.reason for status in stale} == {"silent"}
    for topic in {status.topic for status in stale}:
        # A kind of which the rest of the tape has nothing stays stale.
        assert outcome.topic(topic)[-1].kinds["book"] == "live"


async def test_a_refusing_exchange_is_not_asked_more_often_than_it_allows() -> None:
    outcome = await play("kraken", "refuse:times=5", connects=2, connects_window_s=1.0)
    asked = outcome.handshakes
    assert len(asked) == 6
    # A loaded machine may be late with the first of two, by far less than this.
    assert all(third - first > 0.7 for first, third in zip(asked, asked[2:], strict=False))
    assert outcome.of(Gap) == []
    check_book(outcome, "kraken")


@pytest.mark.parametrize("status", [429, 418, 503])
async def test_retry_after_is_honoured_by_connects(status: int) -> None:
    outcome = await play("kraken", f"rate-limit:{status}:retry-after=1:times=2:on=ws")
    asked = outcome.handshakes
    assert len(asked) == 3
    assert min(asked[1] - asked[0], asked[2] - asked[1]) >= 1.0
    check_book(outcome, "kraken")


async def test_retry_after_is_honoured_by_fetches_and_the_book_comes_late() -> None:
    began = asyncio.get_running_loop().time()
    outcome = await play("binance", "rate-limit:429:retry-after=1:times=1:on=rest")
    assert outcome.counters.failed_fetches == 1
    first = next(event for event in outcome.events if isinstance(event, Book))
    assert first.recv - outcome.events[0].recv > 1_000_000 * broken.TAPES["binance"][2] * 0.9
    assert asyncio.get_running_loop().time() > began + 1.0
    assert outcome.of(Gap) == []
    check_book(outcome, "binance")


async def test_an_exchange_that_closes_at_once_is_tried_until_it_stays() -> None:
    outcome = await play("kraken", "close:accept:times=3")
    assert len(outcome.handshakes) == 4
    assert outcome.of(Gap) == [], "nothing was fed before"
    check_book(outcome, "kraken")


@pytest.mark.parametrize("code", [1008, 1011, 1013])
async def test_a_close_with_a_reason_is_a_loss_like_any_other(code: int) -> None:
    outcome = await play("kraken", f"close:after=30:code={code}:times=1")
    check_replaced(outcome)
    check_book(outcome, "kraken")


@pytest.mark.parametrize("name", TRADES)
async def test_trades_told_again_after_a_reconnect_come_once(name: str) -> None:
    _, topic = TRADES[name]
    after = 1_000 if name == "coinbase" else 200
    outcome = await play(name, f"close:after={after}:times=1", "replay-old:400", is_tape=False)
    ids = outcome.trade_ids(topic)
    assert len(ids) == len(set(ids))


async def test_an_exchange_is_broken_and_healed_while_it_runs() -> None:
    async with FakeExchange({"kraken": recording("kraken")}, speed=20.0) as fake:
        async with broken.running("kraken", fake, silent_after_s=0.75) as sink:
            await eventually(lambda: len(sink.of(Book)) > 20)
            fake.break_("half-open")
            await eventually(lambda: bool(broken.stale(sink.of(SymbolStatus))))
            fake.heal()
            said = len(sink.of(Book))
            await eventually(lambda: len(sink.of(Book)) > said + 20)
    assert sink.of(SymbolStatus)[-1].kinds["book"] == "live"


async def test_one_silent_symbol_does_not_touch_the_others() -> None:
    outcome = await play("coinbase", "skip-symbol:SKL-USD:after=200")
    whole = await play("coinbase")
    assert outcome.of(Gap) == []
    for topic in whole.topics(Book) | whole.topics(Trade):
        same = [event_text(e) for e in whole.topic(topic)] == [
            event_text(e) for e in outcome.topic(topic)
        ]
        assert same == (not topic.endswith(".SKL-USD")), topic


def event_text(event: Book | Trade) -> str:
    return f"{event.bids} {event.asks}" if isinstance(event, Book) else f"{event.id} {event.price}"
