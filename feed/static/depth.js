/** The depth ladder of the chosen symbol: asks above, bids below, bars as deep as what is summed. */
import { byId, el, onFrame, setText } from "./dom.js";
import { showNumber, subtract } from "./decimal.js";

const LEVELS = 20;

/** @typedef {{node: HTMLElement, price: HTMLElement, size: HTMLElement, bar: HTMLElement}} Rung */

export class Depth {
  #note = byId("depth-note");
  #spread = byId("depth-spread");
  /** @type {Rung[]} best first */
  #asks = makeSide(byId("asks"), "ask");
  /** @type {Rung[]} best first */
  #bids = makeSide(byId("bids"), "bid");
  /** @type {import("./feed.js").FeedEvent|null} */
  #event = null;
  #empty = "";
  #askDraw = onFrame(() => this.#draw());

  /** Start anew. @param {string} text shown until the first depth */
  clear(text) {
    this.#event = null;
    this.say(text);
  }

  /** @param {string} text shown while there is no depth */
  say(text) {
    this.#empty = text;
    this.#askDraw();
  }

  /** @param {import("./feed.js").FeedEvent} event of kind depth */
  update(event) {
    this.#event = event;
    this.#askDraw();
  }

  #draw() {
    const bids = this.#event?.bids ?? [];
    const asks = this.#event?.asks ?? [];
    const deepest = Math.max(total(bids), total(asks));
    drawSide(this.#asks, asks, deepest);
    drawSide(this.#bids, bids, deepest);
    const [spread, share] = spreadTexts(bids[0]?.[0], asks[0]?.[0]);
    setText(this.#spread, share ? `${spread} · ${share}` : spread);
    this.#note.hidden = this.#event !== null;
    setText(this.#note, this.#empty);
  }
}

/** `["0.01", "0.02 bp"]`: exact in the quote currency, and as a part of the price.
 * @param {string|null|undefined} bid @param {string|null|undefined} ask
 * @returns {[string, string]} */
export function spreadTexts(bid, ask) {
  if (bid == null || ask == null) return ["–", ""];
  const share = ((Number(ask) - Number(bid)) / Number(bid)) * 1e4;
  const places = Math.abs(share) < 0.1 ? 4 : Math.abs(share) < 10 ? 2 : 0;
  return [subtract(ask, bid), `${share.toFixed(places)} bp`];
}

/** @param {[string, string][]} levels */
function total(levels) {
  return levels.reduce((sum, [, size]) => sum + Number(size), 0);
}

/** @param {Rung[]} rungs @param {[string, string][]} levels @param {number} deepest */
function drawSide(rungs, levels, deepest) {
  let sum = 0;
  rungs.forEach((rung, i) => {
    const [price, size] = levels[i] ?? ["", ""];
    sum += Number(size);
    showNumber(rung.price, price);
    showNumber(rung.size, size);
    rung.bar.style.transform = `scaleX(${price && deepest ? (sum / deepest).toFixed(4) : 0})`;
  });
}

/** @param {HTMLElement} parent @param {string} side @returns {Rung[]} */
function makeSide(parent, side) {
  const rungs = Array.from({ length: LEVELS }, () => {
    const node = el("div", `rung ${side}`);
    const [bar, price, size] = [el("i", "fill"), el("span", "price"), el("span", "size")];
    node.append(bar, price, size);
    return { node, price, size, bar };
  });
  // Worst to best, downwards, for asks: the best prices meet at the spread.
  const nodes = rungs.map((rung) => rung.node);
  parent.append(...(side === "ask" ? nodes.reverse() : nodes));
  return rungs;
}
