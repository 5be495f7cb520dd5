/** The mid price of every topic over the last minutes, in memory, for the chart. */

/** A point at most this often (s), so many points a topic: a quarter of an hour. */
const STEP_S = 0.5;
const POINTS = 1800;

/** @typedef {{times: number[], values: (number|null)[]}} Series times in s since the epoch */

export class PriceLog {
  /** @type {Map<string, Series>} */
  #series = new Map();

  /** Note a value; within the same half second the newer one replaces the older.
   * @param {string} key @param {number} time s @param {number|null} value null: a break */
  push(key, time, value) {
    let series = this.#series.get(key);
    if (!series) this.#series.set(key, (series = { times: [], values: [] }));
    const { times, values } = series;
    const last = times.length - 1;
    if (last >= 0 && time <= times[last]) {
      values[last] = value; // another machine's clock may step back; the chart's must not
    } else if (last >= 1 && values[last] !== null && time - times[last - 1] < STEP_S) {
      times[last] = time;
      values[last] = value;
    } else {
      times.push(time);
      values.push(value);
    }
    if (times.length > POINTS * 1.25) {
      times.splice(0, times.length - POINTS);
      values.splice(0, values.length - POINTS);
    }
  }

  /** Break every line: what comes next does not continue what was.
   * @param {number} time s */
  cut(time) {
    for (const key of this.#series.keys()) this.push(key, time, null);
  }

  /** What is known since `since`, and the point before it, where the line comes from.
   * @param {string} key @param {number} since s @returns {Series} copies */
  since(key, since) {
    const series = this.#series.get(key);
    if (!series) return { times: [], values: [] };
    let low = 0;
    let high = series.times.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (series.times[middle] < since) low = middle + 1;
      else high = middle;
    }
    const from = Math.max(0, low - 1);
    return { times: series.times.slice(from), values: series.values.slice(from) };
  }
}
