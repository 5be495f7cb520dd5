// Child process: uWebSockets with its own topics. It joins what one turn of its loop publishes.
"use strict";

const uWS = require("uwebsockets");
const { Bus, serving } = require("./child.cjs");

const MAX_WAITING_BYTES = 1 << 20; // a client; as much as ours

const app = uWS.App();
const bus = new Bus((topic, json) => app.publish(topic, json));

app.ws("/*", {
  idleTimeout: 0, // no pings: every byte is counted
  maxBackpressure: MAX_WAITING_BYTES,
  maxPayloadLength: 1 << 20,
  message: (socket, text) => {
    for (const topic of JSON.parse(Buffer.from(text).toString()).topics) {
      bus.subscribe(topic);
      socket.subscribe(topic);
    }
    socket.send('{"type":"synced"}');
  },
});

app.listen("127.0.0.1", 0, (listening) => serving(uWS.us_socket_local_port(listening)));
