/**
 * Whether what is shown may be believed: what the server says of exchanges and symbols, and what we
 * know of the way here. Anything that is not plainly live has a word for it.
 *
 * @typedef {{state: string, reason: string|null, since: number|null}} Verdict
 */
import { split } from "./feed.js";

export class Trust {
  /** False while there is no connection to the server. */
  connected = false;
  /** The server's link to its bus. */
  bus = "unknown";
  /** @type {Map<string, Verdict>} by exchange */
  #exchanges = new Map();
  /** @type {Map<string, Verdict>} by topic */
  #topics = new Map();

  /** Take in a `status` event. @param {import("./feed.js").FeedEvent} event
   * @returns {{exchange: string, symbol: string}} whom it is about */
  status(event) {
    const [, exchange, symbol] = split(event.topic);
    const { reason, since } = event;
    if (symbol === "ALL") {
      this.exchange(exchange, { state: event.state, reason, since });
    } else {
      for (const [kind, state] of Object.entries(event.kinds)) {
        this.#topics.set(`${kind}.${exchange}.${symbol}`, { state, reason, since });
      }
    }
    return { exchange, symbol };
  }

  /** Take in the health that came with a snapshot or an answer.
   * @param {string} topic @param {string|null|undefined} state */
  topic(topic, state) {
    if (state && this.#topics.get(topic)?.state !== state) {
      this.#topics.set(topic, { state, reason: null, since: null });
    }
  }

  /** Take in the state of an exchange; one without a reason does not replace the same with one.
   * @param {string} name @param {Verdict} verdict */
  exchange(name, verdict) {
    if (verdict.reason || this.#exchanges.get(name)?.state !== verdict.state) {
      this.#exchanges.set(name, verdict);
    }
  }

  /** What holds for an exchange: the way here first, then its own state.
   * @param {string} name @returns {Verdict} */
  ofExchange(name) {
    if (!this.connected) return { state: "offline", reason: "no connection", since: null };
    if (this.bus === "stale") return { state: "stale", reason: "bus lost", since: null };
    return this.#exchanges.get(name) ?? { state: "live", reason: null, since: null };
  }

  /** The worst that holds for a topic: the way here first, then its exchange, then itself.
   * @param {string} topic @returns {Verdict} */
  of(topic) {
    const exchange = this.ofExchange(split(topic)[1]);
    if (exchange.state !== "live") return exchange;
    return this.#topics.get(topic) ?? exchange;
  }
}
