/** The watchlist: one row a quoted instrument, kept in order, filtered, chosen by key or pointer. */
import { byId, el, onFrame, setData, setText } from "./dom.js";
import { flash, showNumber } from "./decimal.js";
import { split } from "./feed.js";
import { span } from "./time.js";

/** Longer names are shown small, on two lines: some contracts differ only at the end. */
const LONG = 14;
/** What most people look for first; the rest follows by name. */
const FIRST = ["BTC", "ETH", "SOL", "XRP", "DOGE"];
/** Age at which a quote is marked, then greyed although the server calls it live, µs. */
const SLOW_US = 15e6;
const QUIET_US = 60e6;

/**
 * @typedef {{
 *   topic: string, exchange: string, symbol: string, order: string,
 *   node: HTMLElement, bid: HTMLElement, ask: HTMLElement, age: HTMLElement, dot: HTMLElement,
 *   event: import("./feed.js").FeedEvent|null, shown: import("./feed.js").FeedEvent|null,
 * }} Row
 */

export class Watchlist {
  #trust;
  #serverTime;
  #onChoose;
  #body = byId("rows");
  #filter = byId("filter");
  #count = byId("row-count");
  /** @type {Map<string, Row>} by topic */
  #rows = new Map();
  /** @type {Row[]} */
  #ordered = [];
  /** @type {Set<Row>} with a value not yet drawn */
  #dirty = new Set();
  #chosen = "";
  #askDraw = onFrame(() => this.#draw());
  #askArrange = onFrame(() => this.#arrange());

  /**
   * @param {import("./trust.js").Trust} trust
   * @param {() => number} serverTime µs
   * @param {(topic: string) => void} onChoose
   */
  constructor(trust, serverTime, onChoose) {
    this.#trust = trust;
    this.#serverTime = serverTime;
    this.#onChoose = onChoose;
    this.#filter.addEventListener("input", () => this.#arrange());
    this.#body.addEventListener("click", (/** @type {any} */ e) => this.#pick(e.target));
    this.#body.addEventListener("keydown", (/** @type {any} */ e) => this.#key(e));
    addEventListener("keydown", (e) => this.#globalKey(e));
  }

  /** Whether a topic has its row. @param {string} topic */
  has(topic) {
    return this.#rows.has(topic);
  }

  /** Make sure that a topic has its row. @param {string} topic @returns {Row} */
  add(topic) {
    let row = this.#rows.get(topic);
    if (!row) {
      row = makeRow(topic);
      this.#rows.set(topic, row);
      this.#ordered.splice(this.#place(row.order), 0, row);
      this.#askArrange();
    }
    return row;
  }

  /** @param {import("./feed.js").FeedEvent} event of kind quote */
  update(event) {
    const row = this.add(event.topic);
    row.event = event;
    this.#dirty.add(row);
    this.#askDraw();
  }

  /** Bring ages and states up to date; to be called about once a second and when trust changes. */
  refresh() {
    const now = this.#serverTime();
    for (const row of this.#ordered) this.#drawState(row, now);
  }

  /** The one of these topics to open where nobody chose: of the asset that stands first in the
   * list, the symbol that most exchanges have.
   * @param {string[]} topics at least one @returns {string} */
  first(topics) {
    const rows = topics.map((topic) => this.add(topic)).sort((a, b) => (a.order < b.order ? -1 : 1));
    const base = rows[0].symbol.split("-")[0];
    const candidates = rows.filter((row) => row.symbol.split("-")[0] === base);
    const having = (/** @type {Row} */ { symbol }) =>
      candidates.filter((row) => row.symbol === symbol).length;
    return candidates.reduce((best, row) => (having(row) > having(best) ? row : best)).topic;
  }

  /** Mark a topic as the chosen one. @param {string} topic */
  choose(topic) {
    const before = this.#rows.get(this.#chosen);
    if (before) select(before, false);
    this.#chosen = topic;
    this.#mark();
  }

  /** Filter by an exchange's name, or no longer if that is the filter. @param {string} text */
  toggleFilter(text) {
    this.#filter.value = this.#filter.value === text ? "" : text;
    this.#arrange();
  }

  get filter() {
    return this.#filter.value;
  }

  /** @param {string} order */
  #place(order) {
    let low = 0;
    let high = this.#ordered.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.#ordered[middle].order < order) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  /** Put rows where they belong and show those that the filter lets through. */
  #arrange() {
    const words = this.#filter.value.trim().toLowerCase().split(/\s+/);
    let shown = 0;
    let symbol = "";
    this.#ordered.forEach((row, i) => {
      if (this.#body.children[i] !== row.node) {
        this.#body.insertBefore(row.node, this.#body.children[i] ?? null);
      }
      const text = `${row.symbol} ${row.exchange}`.toLowerCase();
      row.node.hidden = !words.every((/** @type {string} */ word) => text.includes(word));
      if (row.node.hidden) return;
      shown++;
      // The same symbol on the next exchange: its name is said once, loudly.
      row.node.classList.toggle("again", row.symbol === symbol);
      symbol = row.symbol;
    });
    const all = this.#ordered.length;
    setText(this.#count, shown === all ? `${all}` : `${shown} of ${all}`);
    byId("no-rows").hidden = shown > 0;
    setText(byId("no-rows"), all ? "Nothing matches the filter." : "Waiting for the first quotes…");
    this.#mark();
    this.refresh();
  }

  #mark() {
    const row = this.#rows.get(this.#chosen);
    if (row) select(row, true);
    // One row can be reached with Tab, from there the arrows go.
    const reachable = row ?? this.#ordered[0];
    for (const { node } of this.#ordered) node.tabIndex = node === reachable?.node ? 0 : -1;
  }

  #draw() {
    const now = this.#serverTime();
    for (const row of this.#dirty) {
      const { event, shown } = row;
      if (!event) continue;
      showNumber(row.bid, event.bid);
      showNumber(row.ask, event.ask);
      row.shown = event;
      this.#drawState(row, now);
      if (row.node.dataset.state !== "live") continue; // what is not live must not light up
      flash(row.bid, shown?.bid, event.bid);
      flash(row.ask, shown?.ask, event.ask);
    }
    this.#dirty.clear();
  }

  /** @param {Row} row @param {number} now */
  #drawState(row, now) {
    const { state, reason } = this.#trust.of(row.topic);
    const age = row.event ? Math.max(0, now - row.event.recv) : null;
    const quiet = age !== null && age > QUIET_US;
    const shown = state !== "live" ? state : quiet ? "quiet" : row.event ? "live" : "empty";
    setData(row.node, "state", shown);
    setData(row.age, "level", age === null || age < SLOW_US ? "ok" : quiet ? "red" : "amber");
    const text = age === null ? "–" : span(age);
    setText(row.age, shown === "live" || shown === "empty" ? text : `${shown} ${text}`);
    const title = reason ? `${state}: ${reason}` : shown;
    if (row.dot.title !== title) row.dot.title = title;
  }

  /** @param {Element} target */
  #pick(target) {
    const node = /** @type {HTMLElement|null} */ (target.closest("[data-row]"));
    if (node?.dataset.row) this.#onChoose(node.dataset.row);
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    const visible = this.#ordered.filter((row) => !row.node.hidden);
    const at = visible.findIndex((row) => row.node === document.activeElement);
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: visible.length - 1 }[event.key];
    if (event.key === "Enter" || event.key === " ") {
      this.#pick(/** @type {Element} */ (event.target));
    } else if (to !== undefined) {
      const row = visible[Math.min(Math.max(to, 0), visible.length - 1)];
      row?.node.focus();
      if (row) this.#onChoose(row.topic);
    } else {
      return;
    }
    event.preventDefault();
  }

  /** `/` goes to the filter, Escape clears it. @param {KeyboardEvent} event */
  #globalKey(event) {
    const typing = document.activeElement === this.#filter;
    if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey) {
      this.#filter.focus();
      event.preventDefault();
    } else if (event.key === "Escape" && typing) {
      this.#filter.value = "";
      this.#filter.dispatchEvent(new Event("input"));
      this.#filter.blur();
    }
  }
}

/** @param {Row} row @param {boolean} chosen */
function select(row, chosen) {
  row.node.setAttribute("aria-selected", String(chosen));
}

/** @param {string} topic @returns {Row} */
function makeRow(topic) {
  const [, exchange, symbol] = split(topic);
  const node = el("div", "row");
  node.dataset.row = topic;
  node.dataset.state = "empty";
  node.setAttribute("role", "row");
  node.setAttribute("aria-selected", "false");
  const name = el("span", symbol.length > LONG ? "symbol spelled" : "symbol", symbol);
  name.title = symbol;
  const dot = el("i", "dot");
  name.prepend(dot);
  const [bid, ask] = ["bid", "ask"].map((field) => {
    const cell = el("span", "price", "–");
    cell.dataset.topic = topic;
    cell.dataset.field = field;
    return cell;
  });
  const age = el("span", "age");
  const cells = [name, el("span", "exchange", exchange), bid, ask, age];
  for (const cell of cells) cell.setAttribute("role", "gridcell");
  node.append(...cells);
  const order = sortKey(exchange, symbol);
  return { topic, exchange, symbol, order, node, bid, ask, age, dot, event: null, shown: null };
}

/** @param {string} exchange @param {string} symbol */
function sortKey(exchange, symbol) {
  const rank = FIRST.indexOf(symbol.split("-")[0]);
  return `${rank < 0 ? FIRST.length : rank} ${symbol} ${exchange}`;
}
