/** The price chart of the chosen symbol, on uPlot. Here, and only here, prices become floats. */
import vendored from "./vendor/uplot/uPlot.esm.js";
import { byId, setData, setText } from "./dom.js";
import { clock } from "./time.js";

/** @type {any} its types are not vendored */
const uPlot = vendored;

/** The shortest stretch of time drawn, s: a chart of one second would only show noise. */
const SHORTEST_S = 30;

export class Chart {
  #prices;
  #holder = byId("chart");
  #readout = byId("chart-readout");
  #change = byId("change");
  /** @type {any} the uPlot, remade when the colours change */
  #plot = null;
  #key = "";
  #places = 2;
  #windowS = 300;
  #axisWidth = 60;

  /** @param {import("./pricelog.js").PriceLog} prices */
  constructor(prices) {
    this.#prices = prices;
    this.#make();
    new ResizeObserver(() => this.#plot.setSize(this.#size())).observe(this.#holder);
    matchMedia("(prefers-color-scheme: light)").addEventListener("change", () => this.#make());
    for (const button of document.querySelectorAll("[data-window]")) {
      button.addEventListener("click", () => this.#setWindow(/** @type {any} */ (button)));
    }
  }

  /** @param {string} key of the series shown from now on */
  show(key) {
    this.#key = key;
    this.#axisWidth = 60;
    this.#readout.textContent = "";
  }

  /** @param {number} places digits after the point of the mid price */
  precision(places) {
    this.#places = places;
  }

  /** Draw up to `now`; to be called a few times a second.
   * @param {number} now s since the epoch @param {boolean} live whether the last value still holds */
  tick(now, live) {
    const { times, values } = this.#prices.since(this.#key, now - this.#windowS);
    const last = values.at(-1);
    if (live && last != null && now > times[times.length - 1]) {
      times.push(now);
      values.push(last);
    }
    byId("chart-note").hidden = values.some((value) => value !== null);
    const start = Math.max(now - this.#windowS, Math.min(times[0] ?? now, now - SHORTEST_S));
    this.#plot.batch(() => {
      this.#plot.setData([times, values], false);
      this.#plot.setScale("x", { min: start, max: now });
    });
    this.#showChange(values);
  }

  /** @param {(number|null)[]} values */
  #showChange(values) {
    const known = /** @type {number[]} */ (values.filter((value) => value !== null));
    const share = known.length > 1 ? (known[known.length - 1] / known[0] - 1) * 100 : 0;
    const rounded = share.toFixed(3);
    const direction = Number(rounded) > 0 ? "up" : Number(rounded) < 0 ? "down" : "even";
    setText(this.#change, `${direction === "up" ? "+" : ""}${Number(rounded) ? rounded : "0.000"} %`);
    setData(this.#change, "direction", direction);
  }

  /** @param {HTMLButtonElement} pressed */
  #setWindow(pressed) {
    this.#windowS = Number(pressed.dataset.window);
    for (const button of document.querySelectorAll("[data-window]")) {
      button.setAttribute("aria-pressed", String(button === pressed));
    }
  }

  #size() {
    return { width: this.#holder.clientWidth, height: this.#holder.clientHeight };
  }

  #make() {
    const data = this.#plot?.data ?? [[], []];
    this.#plot?.destroy();
    this.#plot = new uPlot({ ...this.#size(), ...this.#options() }, data, this.#holder);
  }

  #options() {
    const style = getComputedStyle(document.documentElement);
    const colour = (/** @type {string} */ name) => style.getPropertyValue(name).trim();
    const axis = {
      stroke: colour("--dim"),
      font: `11px ${style.fontFamily}`,
      grid: { stroke: colour("--grid"), width: 1 },
      ticks: { show: false },
    };
    return {
      legend: { show: false },
      padding: [12, 0, 0, 8],
      cursor: { y: false, drag: { x: false, y: false }, points: { size: 7, width: 2 } },
      scales: { x: { time: true }, y: { range: paddedRange } },
      axes: [
        { ...axis, space: 70, size: 26, values: timeLabels },
        { ...axis, side: 1, space: 36, gap: 8, size: this.#widen, values: this.#priceLabels },
      ],
      series: [
        {},
        {
          stroke: colour("--line"),
          width: 2, // even: half a stroke of an odd one shows at the edge of a gap
          fill: (/** @type {any} */ plot) => gradient(plot, colour("--line-fill")),
          paths: uPlot.paths.stepped({ align: 1 }),
          points: { show: false },
        },
      ],
      hooks: { setCursor: [this.#read], draw: [drawLast(colour("--line"))] },
    };
  }

  /** @param {any} _plot @param {number[]} splits */
  #priceLabels = (_plot, splits) => {
    const step = splits.length > 1 ? splits[1] - splits[0] : 1;
    const places = Math.min(12, Math.max(0, Math.ceil(-Math.log10(step) - 1e-9)));
    return splits.map((value) => value.toFixed(places));
  };

  /** The axis grows with its labels but does not shrink: a chart must not twitch.
   * @param {any} _plot @param {string[]|null} labels */
  #widen = (_plot, labels) => {
    const longest = Math.max(0, ...(labels ?? []).map((label) => label.length));
    this.#axisWidth = Math.max(this.#axisWidth, longest * 7 + 20);
    return this.#axisWidth;
  };

  /** @param {any} plot */
  #read = (plot) => {
    const [times, values] = plot.data;
    const value = plot.cursor.idx == null ? null : values[plot.cursor.idx];
    const text = value == null ? "" : `${clock(times[plot.cursor.idx] * 1e6)}  ${value.toFixed(this.#places)}`;
    setText(this.#readout, text);
  };
}

/** No label where the edge would cut it.
 * @param {any} plot @param {number[]} splits s */
function timeLabels(plot, splits) {
  const seconds = splits.length > 1 && splits[1] - splits[0] < 60;
  return splits.map((at) => {
    return plot.valToPos(at, "x") < 24 ? "" : clock(at * 1e6).slice(0, seconds ? 8 : 5);
  });
}

/** Room above and below, and never so narrow that a flat line looks wild.
 * @param {any} _plot @param {number|null} min @param {number|null} max @returns {[number, number]} */
function paddedRange(_plot, min, max) {
  if (min == null || max == null) return [0, 1];
  const margin = Math.max((max - min) * 0.15, Math.abs(max) * 0.00002);
  return [min - margin, max + margin];
}

/** @param {any} plot @param {string} colour */
function gradient(plot, colour) {
  const { top, height } = plot.bbox;
  const fill = plot.ctx.createLinearGradient(0, top, 0, top + height);
  fill.addColorStop(0, colour);
  fill.addColorStop(1, "transparent");
  return fill;
}

/** A dashed line at the newest value. @param {string} colour */
function drawLast(colour) {
  return (/** @type {any} */ plot) => {
    const value = plot.data[1].at(-1);
    if (value == null) return;
    const { ctx, bbox } = plot;
    const y = Math.round(plot.valToPos(value, "y", true)) + 0.5;
    ctx.save();
    ctx.strokeStyle = colour;
    ctx.globalAlpha = 0.6;
    ctx.setLineDash([2, 4]);
    ctx.beginPath();
    ctx.moveTo(bbox.left, y);
    ctx.lineTo(bbox.left + bbox.width, y);
    ctx.stroke();
    ctx.restore();
  };
}
