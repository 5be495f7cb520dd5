"""Instruments named by their symbols alone, as tapes without a listing need it."""

from __future__ import annotations

from collections import defaultdict

import pytest

from adapters.naming import QUOTES, last_friday, pair_of
from adapters.registry import REGISTRY
from adapters.text import step

#: Native symbols of random recordings of 2021 to 2026 -> what they are called.
NAMED = {
    "binance": (
        "BUSDTRY=BUSD-TRY SWRVBUSD=SWRV-BUSD NKNUSDT=NKN-USDT ADAEUR=ADA-EUR LUNAEUR=LUNA-EUR "
        "EURAEUR=EUR-AEUR BTCAEUR=BTC-AEUR AEURUSDT=AEUR-USDT EURUSDT=EUR-USDT DOTTUSD=DOT-TUSD "
        "BTCTUSD=BTC-TUSD TUSDBTUSD=TUSDB-TUSD BTTTRX=BTT-TRX BNBIDRT=BNB-IDRT BTCBIDR=BTC-BIDR "
        "BTCUAH=BTC-UAH BTCNGN=BTC-NGN BNBDAI=BNB-DAI BTCPAX=BTC-PAX USDCUSDP=USDC-USDP "
        "BTCFDUSD=BTC-FDUSD FDUSDUSDT=FDUSD-USDT XRPRLUSD=XRP-RLUSD BTCUSD1=BTC-USD1 BTCU=BTC-U "
        "BTCUPUSDT=BTCUP-USDT 1INCHBTC=1INCH-BTC 1000SATSUSDT=1000SATS-USDT BTCVAI=BTC-VAI "
        "PERLBNB=PERL-BNB USTBUSD=UST-BUSD BTCUST=BTC-UST WBTCBTC=WBTC-BTC BETHETH=BETH-ETH "
        "PAXGUSDT=PAXG-USDT DOGEBRL=DOGE-BRL SHIBDOGE=SHIB-DOGE BTCBKRW=BTC-BKRW BTCBVND=BTC-BVND"
    ),
    "binance-us": (
        "BNBUSD=BNB-USD BNBBUSD=BNB-BUSD BATUSD=BAT-USD DOTUSD=DOT-USD USDTUSD=USDT-USD "
        "BUSDUSD=BUSD-USD SHIBUSD=SHIB-USD BTCUSD=BTC-USD BTCBUSD=BTC-BUSD OMGBUSD=OMG-BUSD "
        "TUSDUSD=TUSD-USD BTCTUSD=BTC-TUSD ZRXUSDT=ZRX-USDT USDCUSD=USDC-USD ADABTC=ADA-BTC"
    ),
    "binance-usdm": (
        "BTCUSDT_210625=BTC-USDT-20210625 BTCBUSD_210129=BTC-BUSD-20210129 ETHBTC=ETH-BTC-PERP "
        "1000SHIBUSDT=1000SHIB-USDT-PERP DOGEBUSD=DOGE-BUSD-PERP BTCUSDC=BTC-USDC-PERP"
    ),
    "binance-coinm": (
        "BTCUSD_PERP=BTC-USD:BTC-PERP ETHUSD_210625=ETH-USD:ETH-20210625 "
        "EGLDUSD_PERP=EGLD-USD:EGLD-PERP"
    ),
    "bitfinex": (
        "tTESTBTC:TESTUSD=TESTBTC-TESTUSD tBTCF0:USTF0=BTC-USDT-PERP tBTCUSD=BTC-USD "
        "tTESTBTCF0:TESTUSDTF0=TESTBTC-TESTUSDT-PERP tDOGE:USD=DOGE-USD tXAUT:UST=XAUT-USDT "
        "tETH2X:ETH=ETH2X-ETH tBTCCNHT=None tCNHT:CNH=CNHT-CNH tBTCEUT=BTC-EURT tIOTGBP=IOTA-GBP"
    ),
    "bitget": "BTCUSDT=BTC-USDT BGBUSDC=BGB-USDC BTCEUR=BTC-EUR BTCUSDE=BTC-USDE",
    "bitget-futures": (
        "BTCUSDT=BTC-USDT-PERP BTCUSD=BTC-USD:BTC-PERP BTCUSDZ24=BTC-USD:BTC-20241227 "
        "BTCPERP=BTC-USDC-PERP"
    ),
    "bitstamp": "btcusd=BTC-USD xlmeur=XLM-EUR ltcbtc=LTC-BTC usdtusd=USDT-USD eurusd=EUR-USD",
    "bithumb": "KRW-BTC=BTC-KRW BTC-ETH=ETH-BTC",
    "bybit": "BTCUSDT=BTC-USDT BTCMNT=BTC-MNT SOLUSDE=SOL-USDE BTC3LUSDT=BTC3L-USDT",
    "bybit-inverse": (
        "ETHUSDU21=ETH-USD:ETH-20210924 BTCUSDM22=BTC-USD:BTC-20220624 "
        "BTCUSDG26=BTC-USD:BTC-20260227 XRPUSD=XRP-USD:XRP-PERP"
    ),
    "bybit-linear": (
        "1000BONKPERP=1000BONK-USDC-PERP BTC-25DEC26=BTC-USDC-20261225 "
        "BTCUSDT-25DEC26=BTC-USDT-20261225 10000SATSUSDT=10000SATS-USDT-PERP"
    ),
    "coinbase": "ETC-GBP=ETC-GBP CRV-EUR=CRV-EUR 1INCH-USD=1INCH-USD",
    "coinbase-advanced": "SKL-GBP=SKL-GBP 00-USD=00-USD",
    "crypto-com": (
        "GRT_CRO=GRT-CRO RGT_USDC=RGT-USDC BTCUSD-PERP=BTC-USD-PERP 1INCH_USDT=1INCH-USDT "
        "BTCUSD-261225=BTC-USD-20261225"
    ),
    "deribit": (
        "BTC-PERPETUAL=BTC-USD:BTC-PERP ETH_USDC-PERPETUAL=ETH-USDC-PERP BTC_USDC=BTC-USDC "
        "BTC-5JUN20-9250-C=BTC-USD:BTC-20200605-9250-C "
        "XRP_USDC-30AUG24-0d5-P=XRP-USDC-20240830-0.5-P BTC-FS-25JUN21_PERP=None"
    ),
    "dydx": "1INCH-USD=1INCH-USDC-PERP",
    "gateio": "BTC3L_USDT=BTC3L-USDT QTUM3S_USDT=QTUM3S-USDT HAI_ETH=HAI-ETH 10SET_USDT=10SET-USDT",
    "gateio-futures": "1INCH_USDT=1INCH-USDT-PERP",
    "gemini": (
        "BTCUSD=BTC-USD PAXGUSD=PAXG-USD USDGUSD=USDG-USD MOODENGUSD=MOODENG-USD "
        "BTCGUSD=BTC-GUSD ETHGUSD=ETH-GUSD BTCRLUSD=BTC-RLUSD RLUSDUSD=RLUSD-USD BATUSD=BAT-USD "
        "GUSDSGD=GUSD-SGD ZECLTC=ZEC-LTC EFILFIL=EFIL-FIL SOLGUSDPERP=SOL-GUSD-PERP "
        "BTCUSDCPERP=BTC-USDC-PERP LTCBCH=LTC-BCH"
    ),
    "htx": (
        "btc3lusdt=BTC3L-USDT yfihusd=YFI-HUSD eosht=EOS-HT htusdt=HT-USDT trxbtc=TRX-BTC "
        "htxusdt=HTX-USDT 1inchusdt=1INCH-USDT jsttrx=JST-TRX btcusdd=BTC-USDD"
    ),
    "htx-coin-swap": "SHIB-USD=SHIB-USD:SHIB-PERP",
    "htx-linear-swap": "BTC-USDT=BTC-USDT-PERP BTC-USDT-220225=BTC-USDT-20220225",
    "hyperliquid": "kPEPE=KPEPE-USDC-PERP PURR/USDC=PURR-USDC @107=None",
    "kraken": "XBT/EUR=XBT-EUR DOGE/USD=DOGE-USD",
    "kraken-futures": (
        "FI_XBTUSD_210924=BTC-USD:BTC-20210924 PI_XBTUSD=BTC-USD:BTC-PERP PF_XBTUSD=BTC-USD-PERP "
        "FV_XRPXBT_210730=XRP-BTC-20210730 PV_XRPXBT=XRP-BTC-PERP FF_XBTUSD_261225=BTC-USD-20261225"
    ),
    "kucoin": "BTC3L-USDT=BTC3L-USDT KCS-ETH=KCS-ETH NANO-KCS=NANO-KCS LUNA-UST=LUNA-UST",
    "kucoin-futures": "XBTUSDTM=BTC-USDT-PERP XBTMU21=BTC-USD:BTC-20210924",
    "mexc": "BTCUSDT=BTC-USDT BTC3LUSDT=BTC3L-USDT BTCUSDE=BTC-USDE",
    "okx": (
        "BTC-DAI=BTC-DAI FUN-OKB=FUN-OKB BTC-USD-SWAP=BTC-USD:BTC-PERP "
        "TRX-USDT-210924=TRX-USDT-20210924 BTC-USD-210924-42000-P=BTC-USD:BTC-20210924-42000-P"
    ),
    "upbit": (
        "BTC-BASIC=BASIC-BTC KRW-DAWN=DAWN-KRW USDT-TRX=TRX-USDT IDR-BTC=BTC-IDR SGD-XRP=XRP-SGD"
    ),
}


@pytest.mark.parametrize("exchange", REGISTRY)
def test_symbols_of_random_recordings_are_named(exchange: str) -> None:
    cls = REGISTRY[exchange].load_adapter()
    pairs = dict(one.rsplit("=", 1) for one in NAMED[exchange].split())
    named = {native: cls.instrument(native) for native in pairs}
    assert {native: one.symbol if one else "None" for native, one in named.items()} == pairs
    assert all(one is None or one.native == native for native, one in named.items())


def test_a_quote_is_never_taken_for_the_end_of_a_base() -> None:
    ambiguous = ("AEUR", "USD")  # 1INCHUSD; decided by what exchanges have
    natives = defaultdict(set)
    for base in ("BTC", "ETH", "SOL", "DOGE", "PEPE", "1INCH", "BTC3L", "USDC", "USDT", "XAUT"):
        for quote in QUOTES:
            if base != quote and quote not in ambiguous:
                natives[f"{base}{quote}"].add((base, quote))
    read = {native: pair_of(native) for native in natives}
    assert {native: {pair} for native, pair in read.items()} == natives


def test_what_ends_in_no_quote_is_no_pair() -> None:
    assert [pair_of(native) for native in ("", "BTC", "USDT", "BTCXYZ")] == [None] * 4


@pytest.mark.parametrize(
    ("year", "month", "day"),
    [(2021, 9, 1632470400), (2021, 2, 1614326400), (2024, 12, 1735286400), (2026, 5, 1780041600)],
)
def test_a_contract_of_a_month_is_delivered_on_its_last_friday(
    year: int, month: int, day: int
) -> None:
    assert last_friday(year, month) == day * 1_000_000


@pytest.mark.parametrize(
    ("decimals", "least"),
    [(2, "0.01"), (1, "0.1"), (0, "1"), (-3, "1000"), (None, None), (41, None), (-(10**9), None)],
)
def test_a_step_is_the_least_of_so_many_places(decimals: int | None, least: str | None) -> None:
    assert step(decimals) == least
