/**
 * The browser client of protocol v1: one file, no dependencies, no build step. Also runs wherever
 * a `WebSocket` is (Node 22, Deno, Bun). Copy it, or import it from a running server:
 *
 *     import { Feed } from "https://feed.example/feed.js";
 *
 *     const feed = new Feed("wss://feed.example/v1/ws");
 *     feed.on("event", (event) => console.log(event.topic, event.price));
 *     feed.on("gap", (gap) => console.warn(gap.topic, gap.cause, gap.lost));
 *     feed.on("state", ({ state }) => console.log(state));
 *     feed.subscribe(["trade.*.BTC-USDT"]);
 *     feed.subscribe(["quote.*.*"], { max_hz: 4 });
 *     feed.open();
 *
 * What it promises:
 * - Subscriptions outlive connections: they are asked for again after every reconnect.
 * - It reconnects by itself with full jitter, after the server's `retry_after_ms` if given, and
 *   stops for good at the close codes that mean "change something first" (state `stopped`).
 * - A server that is silent for three heartbeats is taken for lost.
 * - Of an event topic (trade, book, liquidation) every entry comes once and in order, also over
 *   reconnects (it resumes where it was), or a `gap` says what is missing: the server's own, or one
 *   made here (`cause` `reconnect` for what passed while there was no connection and was not
 *   resumed, `unexplained` for a jump nobody explained; `seq` null).
 * - The newest event of every state topic is kept: `feed.value(topic)`.
 *
 * Prices and sizes are decimal text, times are microseconds since the epoch (below 2^53).
 *
 * Listeners, `feed.on(name, listener)`, which returns a function that takes it away again:
 * - `event` (event, snapshot): every event; `snapshot` is its frame (`age_ms`, `health`) where the
 *   event came as a current value, else null.
 * - `gap` (gap): see above; `lost` is null where unknowable.
 * - `topic` (answer): what the server answered for a topic: `{topic, ok, health, code, message}`.
 * - `state` ({state, code, reason, retry_ms}): `connecting`, `open`, `waiting`, `stopped`, `closed`.
 * - `bus` ({bus, since}): the server's own link, `live` or `stale`; while stale, every price may be
 *   old, although this connection is open.
 * - `welcome`, `heartbeat`, `error` (frame): as the server sent them.
 * - `pong` ({rtt_ms}): the answer to `feed.ping()`.
 *
 * @typedef {{type: string, topic: string, seq: number|null, ts: number|null, recv: number,
 *   pub: number, [field: string]: any}} FeedEvent
 * @typedef {{type: "gap", topic: string, seq: number|null, cause: string, lost: number|null,
 *   from?: number|null, to?: number|null}} Gap
 * @typedef {{mode?: "all"|"latest", max_hz?: number, snapshot?: boolean, status?: boolean}} Options
 * @typedef {"closed"|"connecting"|"open"|"waiting"|"stopped"} State
 */

const EVENT_KINDS = new Set(["trade", "book", "liquidation"]);
const BACKOFF_BASE_MS = 500;
const BACKOFF_CAP_MS = 15_000;
const MISSED_HEARTBEATS = 3;
/** Until the welcome says. */
const HEARTBEAT_S = 5;
/** Keeps a subscribe command far below the server's bound for one message. */
const TOPICS_PER_COMMAND = 500;
/** Likewise; what a pattern matches beyond it is not resumed, and its absence told as a gap. */
const POSITIONS_PER_COMMAND = 3000;
/** A publisher's restart moves a topic on by the µs that passed: a jump that is no count. */
const COUNTABLE = 100_000;

/** Whether a close code means that trying again is pointless until something is changed.
 * @param {number} code */
export function isFinal(code) {
  return (code >= 4500 && code <= 4999) || code === 1002 || code === 1007 || code === 1009;
}

/** Whether a topic or pattern covers an exact topic.
 * @param {string} pattern @param {string} topic */
export function covers(pattern, topic) {
  if (pattern === topic) return true;
  const [kind, exchange, symbol] = split(topic);
  const [wantedKind, wantedExchange, wantedSymbol] = split(pattern);
  return (
    wantedKind === kind &&
    (wantedSymbol === "*" || wantedSymbol === symbol) &&
    (wantedExchange === exchange || (wantedExchange === "*" && exchange !== "composite"))
  );
}

/** `[kind, exchange, symbol]` of a topic: it is split at its first two dots.
 * @param {string} topic @returns {[string, string, string]} */
export function split(topic) {
  const first = topic.indexOf(".");
  const second = topic.indexOf(".", first + 1);
  return [topic.slice(0, first), topic.slice(first + 1, second), topic.slice(second + 1)];
}

export class Feed {
  /** @type {State} */
  state = "closed";
  /** The server's link to its bus: "live", "stale", or "unknown" before the first welcome. */
  bus = "unknown";
  /** Counted since the page was opened; `lost` sums the gaps whose loss is known. */
  stats = { frames: 0, events: 0, gaps: 0, lost: 0, connects: 0 };

  #url;
  #WebSocket;
  #random;
  /** @type {WebSocket|null} */
  #socket = null;
  /** @type {Map<string, Set<Function>>} */
  #listeners = new Map();
  /** @type {Map<string, Options>} what is asked for, in order */
  #wanted = new Map();
  /** @type {Map<string, FeedEvent>} newest event of each state topic */
  #values = new Map();
  /** @type {Map<string, number>} newest position of each event topic */
  #positions = new Map();
  /** Event topics not yet heard of since the reconnect: a jump there was our absence. */
  #resuming = new Set();
  /** @type {Map<number, string[]>} unsubscribe commands not yet answered */
  #leaving = new Map();
  /** @type {Map<number, number>} pings not yet answered: id -> when sent, ms */
  #pings = new Map();
  #commandId = 0;
  #attempt = 0;
  #missed = 0;
  /** @type {number|null} */
  #retryAfterMs = null;
  /** @type {any} */
  #retryTimer = null;
  /** @type {any} */
  #watchdog = null;
  /** @type {number[]} recent differences between the server's clock and ours, µs */
  #offsets = [];

  /**
   * @param {string|URL} url of the server's `/v1/ws`; `ws(s)://` or `http(s)://`
   * @param {{batch?: boolean, WebSocket?: typeof WebSocket, random?: () => number}} [options]
   *   `batch` (true): let the server put several events into one frame; the others are for tests
   */
  constructor(url, options = {}) {
    const target = new URL(url);
    target.protocol = target.protocol.replace("http", "ws");
    if (options.batch ?? true) target.searchParams.set("batch", "1");
    this.#url = target.href;
    this.#WebSocket = options.WebSocket ?? WebSocket;
    this.#random = options.random ?? Math.random;
  }

  /** @param {string} name @param {Function} listener @returns {() => void} takes it away again */
  on(name, listener) {
    let set = this.#listeners.get(name);
    if (!set) this.#listeners.set(name, (set = new Set()));
    set.add(listener);
    return () => set.delete(listener);
  }

  /** Connect, and stay connected until `close()`. Harmless when it already is; when it waits
   * for its next attempt, the attempt is made now. */
  open() {
    if (this.#socket) return;
    clearTimeout(this.#retryTimer);
    this.#connect();
  }

  /** Disconnect and stay so; subscriptions are remembered for the next `open()`. */
  close() {
    clearTimeout(this.#retryTimer);
    this.#drop(1000);
    this.#become("closed");
  }

  /** Ask for topics or patterns; asking again changes only the options given.
   * @param {string[]} topics @param {Options} [options] */
  subscribe(topics, options = {}) {
    for (const topic of topics) {
      this.#wanted.set(topic, { ...this.#wanted.get(topic), ...options });
    }
    if (this.state === "open") this.#sendSubscribe(topics, options);
  }

  /** Give up topics or patterns, named as they were subscribed.
   * @param {string[]} topics */
  unsubscribe(topics) {
    const known = topics.filter((topic) => this.#wanted.delete(topic));
    if (this.state === "open" && known.length) {
      this.#leaving.set(this.#send({ op: "unsubscribe", topics: known }), known);
    } else {
      this.#forgetUncovered(known);
    }
  }

  /** Measure the round trip; the answer is the event `pong`. */
  ping() {
    if (this.state === "open") this.#pings.set(this.#send({ op: "ping" }), performance.now());
  }

  /** The newest event of a state topic. @param {string} topic @returns {FeedEvent|undefined} */
  value(topic) {
    return this.#values.get(topic);
  }

  /** The server's clock, µs since the epoch; ours until it has told us its own. */
  serverTime() {
    // What delays a frame makes the server's clock look early: the largest difference is truest.
    const offset = this.#offsets.length ? Math.max(...this.#offsets) : 0;
    return Date.now() * 1000 + offset;
  }

  // -- the connection

  #connect() {
    this.#retryAfterMs = null;
    this.#become("connecting");
    const socket = new this.#WebSocket(this.#url, ["feed.v1.json"]);
    this.#socket = socket;
    this.#watch(HEARTBEAT_S); // a server that accepts and stays silent is lost too
    // A socket that was dropped may still report: only the present one is listened to.
    socket.onmessage = ({ data }) => {
      if (socket === this.#socket) this.#receive(data);
    };
    socket.onclose = ({ code, reason }) => {
      if (socket === this.#socket) this.#lost(code, reason);
    };
  }

  /** Let go of the socket, if any, without waiting for its closing handshake.
   * @param {number} code */
  #drop(code) {
    const socket = this.#socket;
    this.#socket = null;
    clearInterval(this.#watchdog);
    this.#pings.clear();
    for (const topics of this.#leaving.values()) this.#forgetUncovered(topics);
    this.#leaving.clear();
    socket?.close(code);
  }

  /** @param {number} code @param {string} reason */
  #lost(code, reason) {
    this.#drop(1000);
    if (isFinal(code)) return this.#become("stopped", { code, reason });
    const ceiling = Math.min(BACKOFF_CAP_MS, BACKOFF_BASE_MS * 2 ** this.#attempt++);
    const retry_ms = Math.round((this.#retryAfterMs ?? 0) + this.#random() * ceiling);
    this.#retryTimer = setTimeout(() => this.#connect(), retry_ms);
    this.#become("waiting", { code, reason, retry_ms });
  }

  /** Counts beats rather than time, so that a laptop's sleep is not taken for the server's silence.
   * @param {number} heartbeatS */
  #watch(heartbeatS) {
    clearInterval(this.#watchdog);
    this.#missed = 0;
    this.#watchdog = setInterval(() => {
      // Any frame is a sign of life: on a slow line the heartbeat may be stuck behind events.
      if (++this.#missed > MISSED_HEARTBEATS) this.#lost(1006, "no heartbeat");
    }, heartbeatS * 1000);
  }

  /** @param {State} state @param {object} [facts] */
  #become(state, facts = {}) {
    this.state = state;
    this.#emit("state", { state, code: null, reason: "", retry_ms: null, ...facts });
  }

  /** @param {object} command @returns {number} its id */
  #send(command) {
    const id = ++this.#commandId;
    this.#socket?.send(JSON.stringify({ ...command, id }));
    return id;
  }

  /** @param {string[]} topics @param {Options} options */
  #sendSubscribe(topics, options) {
    for (let i = 0; i < topics.length; i += TOPICS_PER_COMMAND) {
      const some = topics.slice(i, i + TOPICS_PER_COMMAND);
      const since = this.#positionsOf(some);
      this.#send({ op: "subscribe", topics: some, ...(since && { since }), ...options });
    }
  }

  /** Where we were in what these strings cover, of topics not heard of since the reconnect.
   * @param {string[]} topics @returns {{[topic: string]: number}|null} */
  #positionsOf(topics) {
    /** @type {[string, number][]} */
    const found = [];
    for (const topic of this.#resuming) {
      const position = this.#positions.get(topic);
      if (position && topics.some((pattern) => covers(pattern, topic))) {
        found.push([topic, position]);
      }
    }
    return found.length ? Object.fromEntries(found.slice(0, POSITIONS_PER_COMMAND)) : null;
  }

  /** Ask again for everything, with as few commands as the options allow. */
  #subscribeAll() {
    /** @type {Map<string, string[]>} */
    const byOptions = new Map();
    for (const [topic, options] of this.#wanted) {
      const key = JSON.stringify(options);
      byOptions.set(key, [...(byOptions.get(key) ?? []), topic]);
    }
    for (const [options, topics] of byOptions) this.#sendSubscribe(topics, JSON.parse(options));
  }

  // -- what the server says

  /** @param {string} data */
  #receive(data) {
    this.#missed = 0;
    this.stats.frames++;
    const message = JSON.parse(data);
    if (Array.isArray(message)) for (const item of message) this.#handle(item);
    else this.#handle(message);
  }

  /** @param {any} frame */
  #handle(frame) {
    switch (frame.type) {
      case "welcome":
        this.stats.connects++;
        this.#resuming = new Set(this.#positions.keys());
        this.#setClock(frame.time);
        this.#watch(frame.heartbeat_s);
        this.#setBus(frame.bus, frame.time);
        this.#become("open");
        this.#subscribeAll();
        return this.#emit("welcome", frame);
      case "heartbeat":
        // A connection that lives to its first heartbeat is a good one, not a welcome and a slap.
        this.#attempt = 0;
        this.#setClock(frame.time);
        return this.#emit("heartbeat", frame);
      case "health":
        return this.#setBus(frame.bus, frame.since);
      case "closing":
        this.#retryAfterMs = frame.retry_after_ms ?? null;
        return;
      case "error":
        return this.#emit("error", frame);
      case "pong":
        return this.#pong(frame);
      case "subscribed":
        for (const result of frame.results) this.#answered(result);
        return;
      case "unsubscribed":
        this.#forgetUncovered(this.#leaving.get(frame.id) ?? []);
        this.#leaving.delete(frame.id);
        return;
      case "gap":
        return this.#gap(frame);
      case "snapshot":
        return this.#snapshot(frame);
      default:
        // Types to come are ignored; an event is called like its topic.
        if (frame.topic?.startsWith(frame.type)) this.#event(frame);
    }
  }

  /** @param {FeedEvent} event */
  #event(event) {
    if (!this.#advance(event.topic, event.seq, event.seq)) return;
    this.#deliver(event, null);
  }

  /** @param {any} frame */
  #snapshot(frame) {
    const { topic, seq, event } = frame;
    if (isEventTopic(topic)) this.#positions.set(topic, seq);
    this.#resuming.delete(topic);
    if (event) this.#deliver(event, frame);
  }

  /** @param {FeedEvent} event @param {object|null} snapshot */
  #deliver(event, snapshot) {
    this.stats.events++;
    if (!isEventTopic(event.topic)) this.#values.set(event.topic, event);
    this.#emit("event", event, snapshot);
  }

  /** @param {Gap} gap */
  #gap(gap) {
    if (gap.seq === null) {
      // Of the connection: it stands in the place of from..to.
      if (isEventTopic(gap.topic) && gap.to != null) this.#advance(gap.topic, gap.from, gap.to);
    } else {
      const first = gap.cause === "publisher_restart" ? (gap.from ?? gap.seq) : gap.seq;
      if (!this.#advance(gap.topic, first, gap.seq)) return;
    }
    this.#report(gap);
  }

  /** @param {any} result of a subscribe command */
  #answered(result) {
    if (result.ok) {
      if (!result.topics) this.#resumed(result.topic, result.seq, result.recovered);
      for (const [topic, seq, recovered] of result.topics ?? []) {
        this.#resumed(topic, seq, recovered);
        this.#emit("topic", { topic, ok: true, health: null, code: null, message: "" });
      }
    }
    this.#emit("topic", { health: null, code: null, message: "", ...result });
  }

  /** First word of a topic since the reconnect. What was missed comes now (`recovered`), or the
   * server's gap says that it does not; where it did not resume at all, the gap is ours to make.
   * @param {string} topic @param {number} seq @param {boolean|null} [recovered] */
  #resumed(topic, seq, recovered) {
    if (!this.#resuming.has(topic)) return;
    if (recovered === false) this.#positions.delete(topic);
    if (recovered == null && seq) this.#advance(topic, seq + 1, seq);
  }

  /**
   * Move an event topic on to position `last`; what lies between it and `first` is missing.
   * @param {string} topic
   * @param {number|null|undefined} first
   * @param {number|null} last
   * @returns {boolean} false if this was there before
   */
  #advance(topic, first, last) {
    if (!isEventTopic(topic) || last === null) return true;
    const position = this.#positions.get(topic);
    const resuming = this.#resuming.delete(topic);
    if (position !== undefined) {
      if (first != null && first > position + 1) {
        const lost = first - position - 1;
        this.#report({
          type: "gap",
          topic,
          seq: null,
          cause: resuming ? "reconnect" : "unexplained",
          lost: lost < COUNTABLE ? lost : null,
          from: position + 1,
          to: first - 1,
        });
      }
      if (last <= position) return false;
    }
    this.#positions.set(topic, last);
    return true;
  }

  /** @param {Gap} gap */
  #report(gap) {
    this.stats.gaps++;
    this.stats.lost += gap.lost ?? 0;
    this.#emit("gap", gap);
  }

  /** @param {any} frame */
  #pong(frame) {
    const sent = this.#pings.get(frame.id);
    if (sent === undefined) return;
    this.#pings.delete(frame.id);
    this.#setClock(frame.time);
    this.#emit("pong", { rtt_ms: performance.now() - sent });
  }

  /** @param {string} bus @param {number} since */
  #setBus(bus, since) {
    this.bus = bus;
    this.#emit("bus", { bus, since });
  }

  /** @param {number} time the server's, µs */
  #setClock(time) {
    this.#offsets.push(time - Date.now() * 1000);
    if (this.#offsets.length > 8) this.#offsets.shift();
  }

  /** Forget what was known of topics that left with these strings.
   * @param {string[]} left */
  #forgetUncovered(left) {
    if (!left.length) return;
    const kept = [...this.#wanted.keys()].filter((pattern) => !left.includes(pattern));
    for (const known of [this.#positions, this.#values]) {
      for (const topic of known.keys()) {
        if (left.some((p) => covers(p, topic)) && !kept.some((p) => covers(p, topic))) {
          known.delete(topic);
        }
      }
    }
  }

  /** @param {string} name @param {...any} facts */
  #emit(name, ...facts) {
    for (const listener of this.#listeners.get(name) ?? []) {
      try {
        listener(...facts);
      } catch (error) {
        // One listener's mistake must not cost the others, or the rest of a batch, their events.
        queueMicrotask(() => {
          throw error;
        });
      }
    }
  }
}

/** @param {string} topic */
function isEventTopic(topic) {
  return EVENT_KINDS.has(topic.slice(0, topic.indexOf(".")));
}
