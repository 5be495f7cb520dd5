// tardis-dev as a peer of the ingest bench: the frames of a file through its mappers and its book.
//
//   node tardis.mjs plain|encoded FRAMES EXCHANGE PASSES
//
// The snapshot comes as a message of `…@depthSnapshot`, which is how its own live feed hands it on.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const require = createRequire(`${process.env.PEERS}/`);
const tardis = require("tardis-dev");

const [mode, path, exchange, passes] = process.argv.slice(2);
const lines = readFileSync(path, "utf8").split("\n").filter(Boolean);

function pass() {
  const now = new Date();
  const mappers = [
    tardis.normalizeTrades(exchange, now),
    tardis.normalizeBookTickers(exchange, now),
    tardis.normalizeBookChanges(exchange, now),
  ];
  const book = tardis.computeBookSnapshots({ depth: 20, interval: 100 })();
  let events = 0, snapshots = 0, bytes = 0;
  const emit = mode === "encoded"
    ? (event) => { events += 1; bytes += JSON.stringify(event).length; }
    : () => { events += 1; };
  const started = process.cpuUsage();
  for (const line of lines) {
    const message = JSON.parse(line);
    const received = new Date();
    for (const mapper of mappers) {
      if (!mapper.canHandle(message)) continue;
      for (const event of mapper.map(message, received)) {
        emit(event);
        if (event.type !== "book_change") continue;
        if (event.isSnapshot) snapshots += 1;
        for (const top of book.compute(event)) emit(top);
      }
    }
  }
  const { user, system } = process.cpuUsage(started);
  return { frames: lines.length, events, snapshots, bytes, seconds: (user + system) / 1e6 };
}

console.log(JSON.stringify(Array.from({ length: Number(passes) }, pass)));
