// What every peer in JavaScript shares: the bench at the other end of the pipes, and the bus.
"use strict";

const net = require("node:net");

const HEADER_BYTES = 16; // epoch and position, before the JSON
const CHANNEL = /^feed:c:\{(.*)\}$/;

/** What the bench has handed over. */
const settings = JSON.parse(process.argv[2]);

/** Tell the bench where to connect to; end when it lets go. */
function serving(port) {
  process.stdout.write(`${JSON.stringify({ port })}\n`);
  process.stdin.on("end", () => process.exit(0)).resume();
}

/**
 * Reads topics from the bus: no more of RESP than pushes need, so that no client library is
 * measured along with the server.
 */
class Bus {
  /** @param {(topic: string, json: Buffer) => void} publish Given each entry, without its header. */
  constructor(publish) {
    this.publish = publish;
    this.topics = new Set();
    this.rest = Buffer.alloc(0);
    this.socket = net.connect(settings.bus.replace(/^unix:\/\//, ""));
    this.socket.on("data", (data) => this.read(data));
    this.socket.on("error", (error) => console.error(`the bus: ${error.message}`));
  }

  subscribe(topic) {
    if (this.topics.has(topic)) return;
    this.topics.add(topic);
    const channel = `feed:c:{${topic}}`;
    this.socket.write(`*2\r\n$9\r\nSUBSCRIBE\r\n$${channel.length}\r\n${channel}\r\n`);
  }

  read(data) {
    const all = this.rest.length ? Buffer.concat([this.rest, data]) : data;
    let at = 0;
    for (let reply; (reply = replyAt(all, at)); at = reply.end) {
      const [kind, channel, payload] = reply.parts;
      if (kind.latin1Slice() !== "message") continue;
      this.publish(CHANNEL.exec(channel.latin1Slice())[1], payload.subarray(HEADER_BYTES));
    }
    this.rest = all.subarray(at);
  }
}

/** Return the array of strings and numbers at an offset; null while it is not all there. */
function replyAt(data, start) {
  let [n, at] = numberAt(data, start);
  const parts = [];
  for (; n > 0 && at > 0; n--) {
    const isText = data[at] === 0x24; // $
    let size;
    [size, at] = numberAt(data, at);
    if (at === 0 || !isText) continue;
    if (at + size + 2 > data.length) return null;
    parts.push(data.subarray(at, at + size));
    at += size + 2;
  }
  return at > 0 ? { parts, end: at } : null;
}

/** Return the number behind a type byte, and the offset after its line; 0 if that is not there. */
function numberAt(data, at) {
  let n = 0;
  for (let i = at + 1; i + 1 < data.length; i++) {
    if (data[i] === 0x0d) return [n, i + 2];
    n = n * 10 + data[i] - 0x30;
  }
  return [0, 0];
}

module.exports = { Bus, serving, settings };
