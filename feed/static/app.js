/** The dashboard: what comes from the server goes to the panels that show it. */
import { Chart } from "./chart.js";
import { decimals } from "./decimal.js";
import { Depth } from "./depth.js";
import { byId, onFrame, setData, setText } from "./dom.js";
import { Feed, split } from "./feed.js";
import { Headline } from "./headline.js";
import { Health } from "./health.js";
import { PriceLog } from "./pricelog.js";
import { listExchanges, listTopics } from "./catalogue.js";
import { Notices, showExchanges } from "./notices.js";
import { Tape } from "./tape.js";
import { Trust } from "./trust.js";
import { Watchlist } from "./watchlist.js";

const WATCHED = "quote.*.*";
const CATALOGUE_EVERY_MS = 30_000;
const CATALOGUE_RETRY_MS = 3_000;
const CATALOGUE_SOON_MS = 200;
const CHART_EVERY_MS = 250;
/** As in layout.css. */
const PHONE = matchMedia("(max-width: 760px)");

const feed = new Feed(new URL("v1/ws", document.baseURI));
const trust = new Trust();
const prices = new PriceLog();
const notices = new Notices(feed);
const health = new Health(feed);
const headline = new Headline();
const chart = new Chart(prices);
const tape = new Tape();
const depth = new Depth();
const watchlist = new Watchlist(trust, () => feed.serverTime(), pick);

/** The chosen symbol, "binance.BTC-USDT", and its topics; empty until there is one. */
let chosen = "";
let tradeTopic = "";
let depthTopic = "";
/** @type {import("./catalogue.js").Exchange[]} */
let exchanges = [];
let catalogueTimer = 0;
const askTrust = onFrame(showTrust);
/** Of the chosen symbol's topics, those that the server did not know. */
const refused = new Set();

feed.on("event", (/** @type {any} */ event, /** @type {any} */ snapshot) => {
  if (snapshot) trust.topic(event.topic, snapshot.health);
  if (event.type === "quote") onQuote(event);
  else if (event.topic === tradeTopic) onTrade(event);
  else if (event.topic === depthTopic) depth.update(event);
  else if (event.type === "status") onStatus(event);
});

feed.on("gap", (/** @type {any} */ gap) => {
  if (gap.topic === tradeTopic) tape.gap(gap);
});

feed.on("topic", (/** @type {any} */ answer) => {
  const { topic, ok, health } = answer;
  if (ok) {
    trust.topic(topic, health);
    refused.delete(topic);
    if (topic === tradeTopic) tape.say("No trade yet.");
    if (topic === depthTopic) depth.say("No depth yet.");
  } else if (topic === tradeTopic || topic === depthTopic) {
    refused.add(topic);
    if (topic === tradeTopic) tape.say("Trades of this symbol are not carried.");
    else depth.say("Depth of this symbol is not carried.");
  }
});

feed.on("state", (/** @type {any} */ { state }) => {
  if (trust.connected && state !== "open") prices.cut(feed.serverTime() / 1e6);
  trust.connected = state === "open";
  if (state === "open") readCatalogueIn(0);
  showTrust();
});

feed.on("bus", (/** @type {any} */ { bus }) => {
  if (bus === "stale") prices.cut(feed.serverTime() / 1e6);
  trust.bus = bus;
  showTrust();
});

/** @param {import("./feed.js").FeedEvent} quote */
function onQuote(quote) {
  // A newcomer: perhaps of an exchange that we know nothing of yet, not even its banner.
  if (!watchlist.has(quote.topic)) readCatalogueIn(CATALOGUE_SOON_MS);
  watchlist.update(quote);
  const key = quote.topic.slice("quote.".length);
  const { bid, ask } = quote;
  if (bid !== null && ask !== null) {
    prices.push(key, quote.recv / 1e6, (Number(bid) + Number(ask)) / 2);
  }
  if (key !== chosen) return;
  headline.quote(quote);
  chart.precision(decimals(bid ?? ask ?? "0") + 1);
}

/** @param {import("./feed.js").FeedEvent} trade */
function onTrade(trade) {
  tape.add(trade);
  if (!trade.backfill) headline.trade(trade);
}

/** @param {import("./feed.js").FeedEvent} event of kind status */
function onStatus(event) {
  trust.status(event);
  askTrust(); // a whole exchange may change at once, symbol by symbol
}

/** Show the symbol of a quote topic, and have its link in the address.
 * @param {string} topic */
function choose(topic) {
  const key = topic.slice("quote.".length);
  if (key === chosen) return;
  if (chosen) feed.unsubscribe([tradeTopic, depthTopic]);
  refused.clear();
  chosen = key;
  tradeTopic = `trade.${key}`;
  depthTopic = `depth.${key}`;
  watchlist.choose(topic);
  headline.show(topic);
  chart.show(key);
  tape.clear("Waiting for trades…");
  depth.clear("Waiting for depth…");
  const quote = feed.value(topic);
  if (quote) onQuote(quote);
  feed.subscribe([tradeTopic]);
  feed.subscribe([depthTopic], { max_hz: 5 });
  // Replaced, not pushed: walking the list with the arrow keys is not a way back.
  if (location.hash !== `#${key}`) history.replaceState(null, "", `#${key}`);
  showTrust();
  drawChart();
}

/** Choose by hand: where the panels stand below the list, go there.
 * @param {string} topic */
function pick(topic) {
  choose(topic);
  if (PHONE.matches) byId("detail").scrollIntoView({ behavior: "smooth" });
}

function chooseFromHash() {
  const key = decodeURIComponent(location.hash.slice(1));
  const [, exchange, symbol] = split(`quote.${key}`);
  if (exchange && symbol && exchange !== "*" && symbol !== "*") choose(`quote.${key}`);
}

/** Where nobody chose: a symbol that has trades to show, the one on most exchanges.
 * @param {string[]} quoted */
async function chooseSomething(quoted) {
  const traded = new Set(await listTopics("trade.*.*"));
  const rich = quoted.filter((topic) => traded.has(topic.replace("quote", "trade")));
  if (!chosen && quoted.length) choose(watchlist.first(rich.length ? rich : quoted));
}

/** Say everywhere what may be believed. */
function showTrust() {
  watchlist.refresh();
  showExchanges(exchanges, trust, watchlist.filter, (name) => {
    watchlist.toggleFilter(name);
    showTrust();
  });
  if (!chosen) return;
  headline.state(trust.of(`quote.${chosen}`));
  showPanelTrust("trades", trust.of(tradeTopic));
  showPanelTrust("depth", trust.of(depthTopic));
}

/** @param {string} panel @param {import("./trust.js").Verdict} verdict */
function showPanelTrust(panel, { state }) {
  setData(byId(`${panel}-panel`), "state", state);
  setText(byId(`${panel}-state`), state === "live" ? "" : state);
}

/** Read what there is. The events alone would do; this fills the list before they come, in order,
 * and knows the source of each exchange. */
async function readCatalogue() {
  try {
    const [topics, listed] = await Promise.all([listTopics(WATCHED), listExchanges()]);
    notices.banner(listed.banner);
    exchanges = listed.exchanges;
    for (const { exchange, state } of exchanges) {
      if (state) trust.exchange(exchange, { state, reason: null, since: null });
    }
    for (const topic of topics) watchlist.add(topic);
    if (!chosen) await chooseSomething(topics);
    if (refused.size) feed.subscribe([...refused]);
    showTrust();
    return topics.length > 0;
  } catch (error) {
    // The connection's own state says on the page that the server is away.
    if (feed.state === "open") console.warn(String(error));
    return false;
  }
}

/** Read the catalogue then, and again and again from there on.
 * @param {number} ms */
function readCatalogueIn(ms) {
  clearTimeout(catalogueTimer);
  catalogueTimer = setTimeout(async () => {
    catalogueTimer = 0;
    const found = await readCatalogue();
    // Unless somebody asked for an earlier one in the meantime.
    if (!catalogueTimer) readCatalogueIn(found ? CATALOGUE_EVERY_MS : CATALOGUE_RETRY_MS);
  }, ms);
}

function drawChart() {
  const quote = chosen && feed.value(`quote.${chosen}`);
  const live = Boolean(quote) && trust.of(`quote.${chosen}`).state === "live";
  chart.tick(feed.serverTime() / 1e6, live);
}

addEventListener("hashchange", chooseFromHash);
addEventListener("online", () => {
  if (feed.state === "waiting") feed.open();
});
byId("filter").addEventListener("input", showTrust);
setInterval(drawChart, CHART_EVERY_MS);
setInterval(() => {
  notices.refresh();
  health.refresh();
  watchlist.refresh();
}, 1000);

chooseFromHash();
feed.subscribe([WATCHED], { max_hz: 4 });
feed.open();
readCatalogueIn(0);
