/** The health of the way from the server to this page, in one strip. */
import { byId, setData, setText } from "./dom.js";
import { gapText } from "./tape.js";
import { delay, span } from "./time.js";

const PING_EVERY_MS = 5000;

const STATES = {
  open: "connected",
  connecting: "connecting",
  waiting: "reconnecting",
  stopped: "refused",
  closed: "disconnected",
};

export class Health {
  #feed;
  #beat = 0;
  #last = { events: 0, at: performance.now() };

  /** @param {import("./feed.js").Feed} feed */
  constructor(feed) {
    this.#feed = feed;
    feed.on("state", () => this.#state());
    feed.on("bus", (/** @type {any} */ { bus }) => show("bus", bus, bus === "live" ? "ok" : "bad"));
    feed.on("heartbeat", (/** @type {any} */ beat) => this.#heartbeat(beat));
    feed.on("gap", (/** @type {any} */ gap) => this.#gap(gap));
    feed.on("pong", (/** @type {any} */ { rtt_ms }) =>
      show("rtt", delay(rtt_ms), rtt_ms > 1000 ? "warn" : "ok"),
    );
    setInterval(() => feed.ping(), PING_EVERY_MS);
    this.#state();
  }

  /** Bring what changes by itself up to date; to be called once a second. */
  refresh() {
    const now = performance.now();
    const { events } = this.#feed.stats;
    const rate = ((events - this.#last.events) * 1000) / (now - this.#last.at);
    this.#last = { events, at: now };
    show("rate", `${Math.round(rate)}/s`, "ok");
    if (this.#beat) {
      const silent = now - this.#beat;
      const level = silent > 12_000 ? "bad" : silent > 6_000 ? "warn" : "ok";
      show("heartbeat", `${span(silent * 1000)} ago`, level);
    }
  }

  #state() {
    const { state } = this.#feed;
    show("connection", STATES[state], state === "open" ? "ok" : "bad");
    if (state === "open") return this.#feed.ping();
    for (const name of ["lag", "queued", "rtt", "bus"]) show(name, "–", "none");
  }

  /** @param {{lag_us: number, queued: number}} beat */
  #heartbeat({ lag_us, queued }) {
    this.#beat = performance.now();
    show("lag", delay(lag_us / 1000), lag_us > 1e6 ? "bad" : lag_us > 1e5 ? "warn" : "ok");
    show("queued", String(queued), queued > 1000 ? "warn" : "ok");
  }

  /** @param {import("./feed.js").Gap} gap */
  #gap(gap) {
    const { gaps, lost } = this.#feed.stats;
    show("gaps", lost ? `${gaps} (${lost} lost)` : String(gaps), "warn");
    byId("health-gaps").title = `last: ${gap.topic}, ${gapText(gap)}`;
  }
}

/** @param {string} name @param {string} text @param {"ok"|"warn"|"bad"|"none"} level */
function show(name, text, level) {
  const node = byId(`health-${name}`);
  setText(node, text);
  setData(node, "level", level);
}
