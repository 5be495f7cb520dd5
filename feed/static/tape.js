/** The trade tape of the chosen symbol: newest first, each gap a row of its own. */
import { byId, el, onFrame, setText } from "./dom.js";
import { showNumber } from "./decimal.js";
import { clockMs } from "./time.js";

/** Rows kept, and so the most that one frame has to draw. */
const ROWS = 80;

const CAUSES = {
  upstream_disconnect: "exchange connection lost",
  upstream_sequence: "exchange skipped",
  publisher_restart: "publisher restarted",
  bus_loss: "bus loss",
  slow_consumer: "this page was too slow",
  reconnect: "this page was disconnected",
  unexplained: "unexplained jump",
};

export class Tape {
  #body = byId("trades");
  #note = byId("trades-note");
  /** @type {HTMLElement[]} rows not yet drawn, oldest first */
  #waiting = [];
  #empty = "";
  #askDraw = onFrame(() => this.#draw());

  /** Start anew. @param {string} text shown until the first trade */
  clear(text) {
    this.#waiting = [];
    this.#body.replaceChildren();
    this.say(text);
  }

  /** @param {string} text shown while there are no trades */
  say(text) {
    this.#empty = text;
    this.#askDraw();
  }

  /** @param {import("./feed.js").FeedEvent} trade */
  add(trade) {
    const row = el("div", "trade");
    row.dataset.side = trade.side ?? "";
    row.title = trade.id === null ? "no trade id" : `id ${trade.id}`;
    const price = el("span", "price");
    showNumber(price, trade.price);
    const time = el("span", "time", clockMs(trade.ts ?? trade.recv));
    if (trade.backfill) {
      row.classList.add("late");
      row.title += ", fetched after a lost connection";
    }
    const size = el("span", "size");
    showNumber(size, trade.size);
    row.append(time, price, size);
    this.#push(row);
  }

  /** @param {import("./feed.js").Gap} gap */
  gap(gap) {
    this.#push(el("div", "gap", gapText(gap)));
  }

  /** @param {HTMLElement} row */
  #push(row) {
    this.#waiting.push(row);
    if (this.#waiting.length > ROWS) this.#waiting.shift();
    this.#askDraw();
  }

  #draw() {
    this.#body.prepend(...this.#waiting.reverse());
    this.#waiting = [];
    while (this.#body.childElementCount > ROWS) this.#body.lastElementChild.remove();
    this.#note.hidden = this.#body.childElementCount > 0;
    setText(this.#note, this.#empty);
  }
}

/** @param {import("./feed.js").Gap} gap */
export function gapText(gap) {
  const lost = gap.lost === null ? "unknown number" : String(gap.lost);
  const cause = /** @type {Record<string, string>} */ (CAUSES)[gap.cause] ?? gap.cause;
  return `gap: ${lost} lost, ${cause}`;
}
