/** What the whole page must say: where prices come from, and when they are not to be believed. */
import { byId, el, setData, setText } from "./dom.js";
import { clock } from "./time.js";

export class Notices {
  #feed;
  #link = byId("link");
  #alarm = byId("alarm");
  #retryAt = 0;
  /** @type {any} of the last change of the connection */
  #change = { state: "closed", code: null, reason: "", retry_ms: null };

  /** @param {import("./feed.js").Feed} feed */
  constructor(feed) {
    this.#feed = feed;
    byId("retry").addEventListener("click", () => feed.open());
    feed.on("state", (/** @type {any} */ change) => {
      this.#change = change;
      this.#retryAt = performance.now() + (change.retry_ms ?? 0);
      this.refresh();
    });
    feed.on("bus", () => this.refresh());
  }

  /** @param {string} text empty for none */
  banner(text) {
    byId("banner").hidden = !text;
    setText(byId("banner"), text);
  }

  /** Bring clock and countdown up to date; to be called once a second. */
  refresh() {
    setText(byId("clock"), `${clock(this.#feed.serverTime())} UTC`);
    const [level, word, sentence] = this.#verdict();
    setData(document.body, "link", level);
    setText(this.#link, word);
    this.#alarm.hidden = !sentence;
    setText(byId("alarm-text"), sentence);
    setText(byId("alarm-retry"), this.#retryText());
    byId("retry").hidden = !["waiting", "stopped"].includes(this.#feed.state);
  }

  /** @returns {[level: string, word: string, sentence: string]} */
  #verdict() {
    const { code, reason } = this.#change;
    const frozen = "Prices on this page are frozen.";
    switch (this.#feed.state) {
      case "open":
        if (this.#feed.bus !== "stale") return ["live", "Live", ""];
        return ["stale", "Bus stale", "The server has lost its bus: every price may be old."];
      case "waiting":
        return ["down", "Reconnecting", `No connection to the server. ${frozen}`];
      case "stopped":
        return [
          "down",
          "Refused",
          `The server refused this page (${code}${reason && `, ${reason}`}). ${frozen}`,
        ];
      case "connecting":
        // Said aloud only when it is not the first time: a page that opens has nothing to freeze.
        return this.#feed.stats.connects
          ? ["down", "Reconnecting", `No connection to the server. ${frozen}`]
          : ["connecting", "Connecting", ""];
      default:
        return ["down", "Disconnected", `Not connected. ${frozen}`];
    }
  }

  /** Apart from the sentence, so that a screen reader need not hear every second of it. */
  #retryText() {
    const left = Math.ceil((this.#retryAt - performance.now()) / 1000);
    if (this.#feed.state === "waiting" && left > 0) return `Next attempt in ${left} s.`;
    return ["waiting", "connecting"].includes(this.#feed.state) ? "Trying now." : "";
  }
}

/** The exchanges, each with its state; pressing one filters the watchlist by it.
 * @param {import("./catalogue.js").Exchange[]} exchanges
 * @param {import("./trust.js").Trust} trust
 * @param {string} filter
 * @param {(name: string) => void} onPress */
export function showExchanges(exchanges, trust, filter, onPress) {
  const holder = byId("exchanges");
  for (const { exchange, source, topics } of exchanges) {
    let chip = holder.querySelector(`[data-exchange="${CSS.escape(exchange)}"]`);
    if (!chip) {
      chip = el("button", "chip");
      chip.dataset.exchange = exchange;
      chip.append(el("i", "dot"), el("span", "", exchange), el("span", "chip-state"));
      chip.addEventListener("click", () => onPress(exchange));
      holder.append(chip);
    }
    const { state, reason } = trust.ofExchange(exchange);
    setData(chip, "state", state);
    chip.setAttribute("aria-pressed", String(filter === exchange));
    chip.title = `${exchange}: ${state}${reason ? `, ${reason}` : ""}; ${source}; ${topics} topics`;
    setText(chip.querySelector(".chip-state"), state === "live" ? "" : state);
  }
}
