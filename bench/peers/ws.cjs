// Child process: the `ws` package as its README shows a broadcast: a send per client and message.
"use strict";

const { WebSocketServer } = require("ws");
const { Bus, serving } = require("./child.cjs");

const subscribers = new Map();
const bus = new Bus((topic, json) => {
  for (const socket of subscribers.get(topic)) socket.send(json, { binary: false });
});

const server = new WebSocketServer({ host: "127.0.0.1", port: 0 });
server.on("listening", () => serving(server.address().port));
server.on("connection", (socket) => {
  const topics = [];
  socket.on("error", () => {}); // "close" follows
  socket.on("close", () => topics.forEach((topic) => subscribers.get(topic).delete(socket)));
  socket.on("message", (text) => {
    for (const topic of JSON.parse(text).topics) {
      bus.subscribe(topic);
      if (!subscribers.has(topic)) subscribers.set(topic, new Set());
      subscribers.get(topic).add(socket);
      topics.push(topic);
    }
    socket.send('{"type":"synced"}');
  });
});
