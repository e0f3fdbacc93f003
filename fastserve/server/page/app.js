// The page: one feed fills one world, and each part draws what it needs of it.

import { Board } from "./board.js";
import { Burst } from "./burst.js";
import { Chat } from "./chat.js";
import { byId, say } from "./shared/dom.js";
import { Feed } from "./feed.js";
import { Meters } from "./meters.js";
import { Prefixes } from "./prefixes.js";
import { Slots } from "./slots.js";
import { World } from "./world.js";

const world = new World();
const chat = new Chat(world);
const board = new Board(byId("board"), world, (job) => chat.mine(job));
const slots = new Slots(byId("slots"), world);
const meters = new Meters(world);
const prefixes = new Prefixes(world);
new Burst(world);

function take(message) {
  world.apply(message);
  if (message.type === "snapshot") {
    meters.introduce();
    byId("most").max = String(world.about.settings.max_model_len);
    byId("burst").disabled = false;
  }
  const { alive, error } = world.stats;
  byId("alarm").hidden = alive;
  say(byId("alarm"), alive ? "" : `The engine has stopped: ${error ?? "it was closed"}`);
  if (document.hidden) return;
  board.draw(message.type !== "snapshot");
  byId("idle").hidden = world.jobs.size + world.ended.length > 0;
  meters.draw();
  prefixes.draw();
  slots.wake();
  chat.follow();
}

function show(state, words) {
  byId("link").dataset.state = state;
  say(byId("link").lastElementChild, words);
}

new Feed(take, show);
