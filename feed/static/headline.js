/** The headline of the chosen symbol: its name, last price, best quote, and whether it is live. */
import { byId, onFrame, setData, setText } from "./dom.js";
import { showNumber } from "./decimal.js";
import { split } from "./feed.js";
import { spreadTexts } from "./depth.js";

export class Headline {
  #last = byId("last");
  #topic = "";
  /** @type {import("./feed.js").FeedEvent|null} */
  #trade = null;
  /** @type {import("./feed.js").FeedEvent|null} */
  #quote = null;
  #askDraw = onFrame(() => this.#draw());

  /** Start anew. @param {string} topic of kind quote */
  show(topic) {
    this.#topic = topic;
    this.#trade = null;
    this.#quote = null;
    this.#askDraw();
  }

  /** @param {import("./feed.js").FeedEvent} trade */
  trade(trade) {
    this.#trade = trade;
    this.#askDraw();
  }

  /** @param {import("./feed.js").FeedEvent} quote */
  quote(quote) {
    this.#quote = quote;
    this.#askDraw();
  }

  /** @param {import("./trust.js").Verdict} verdict */
  state({ state, reason }) {
    setData(byId("detail"), "state", state);
    const text = reason ? `${state}: ${reason.replaceAll("_", " ")}` : state;
    setText(byId("chosen-state"), state === "live" ? "" : text);
  }

  #draw() {
    const [, exchange, symbol] = split(this.#topic);
    const quote = this.#quote;
    setText(byId("chosen-symbol"), symbol);
    setText(byId("chosen-exchange"), exchange);
    showNumber(this.#last, this.#trade?.price);
    setData(this.#last, "side", this.#trade?.side ?? "");
    showNumber(byId("best-bid"), quote?.bid);
    showNumber(byId("best-ask"), quote?.ask);
    showNumber(byId("best-bid-size"), quote?.bid_size ?? "");
    showNumber(byId("best-ask-size"), quote?.ask_size ?? "");
    const [spread, share] = spreadTexts(quote?.bid, quote?.ask);
    showNumber(byId("spread"), spread);
    setText(byId("spread-share"), share);
    const shown = this.#trade?.price ?? quote?.bid ?? "";
    document.title = `${shown && `${shown} `}${symbol} ${exchange} – pricefeed`;
  }
}
