/** Times as people read them. All inputs are microseconds since the epoch, or their differences. */

/** As short as it can be: "<1s", "7s", "3m", "2h". @param {number} us */
export function span(us) {
  const s = us / 1e6;
  if (s < 1) return "<1s";
  if (s < 100) return `${Math.floor(s)}s`;
  if (s < 6000) return `${Math.floor(s / 60)}m`;
  return `${Math.floor(s / 3600)}h`;
}

/** "14:03:27.042", UTC. @param {number} us */
export function clockMs(us) {
  return new Date(us / 1000).toISOString().slice(11, 23);
}

/** "14:03:27", UTC. @param {number} us */
export function clock(us) {
  return clockMs(us).slice(0, 8);
}

/** "0.4 ms", "12 ms", "1.3 s". @param {number} ms */
export function delay(ms) {
  if (ms >= 1000) return `${(ms / 1000).toFixed(1)} s`;
  return `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`;
}
