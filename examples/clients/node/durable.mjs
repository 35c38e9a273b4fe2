// Prints every event of a line in order, over restarts of the line: node durable.mjs ADDRESS NAME [TOPIC...] >> FILE
import { randomUUID } from "node:crypto";
import { Dealer } from "zeromq";
import { parse } from "./exact.mjs";

const [address, name, ...topics] = process.argv.slice(2);
const identity = { schema_version: 2, name };
const follow = { type: "follow", client: randomUUID(), topics: topics.length ? topics : [""], ...identity };
const PASSING = ["not_following", "other_journal", "unavailable", "busy"]; // temporary: follow again after the silence
const stored = new Map(); // the last event of each journal; repeated events are skipped

for (;;) {
  // A new connection after each three heartbeats of silence.
  const line = new Dealer({ receiveTimeout: 3000, linger: 0 });
  line.connect(address);
  await line.send(JSON.stringify(follow));
  try {
    for (;;) await handle(line, await line.receive());
  } catch (error) {
    if (error.code !== "EAGAIN") throw error;
  }
  line.close();
}

async function handle(line, [first, ...events]) {
  const reply = parse(first);
  if (reply.schema_version !== 2 || (reply.type === "refused" && !PASSING.includes(reply.reason))) {
    console.error(`${first}`);
    process.exit(1);
  }
  if (reply.type === "refused") return;
  if (reply.lost_through || reply.former) console.error(`LOST ${first}`);
  for (let place = 0; place < events.length; place += 2) {
    const header = events[place]; // events[place + 1] is its heatmap, or an empty frame
    const { journal_id, seq } = parse(header);
    if (seq <= (stored.get(journal_id) ?? 0)) continue;
    process.stdout.write(`${header}\n`);
    stored.set(journal_id, seq);
  }
  const done = reply.type === "following" ? reply.acked_seq : reply.through_seq;
  await line.send(JSON.stringify({ type: "ack", journal_id: reply.journal_id, seq: done, ...identity }));
}
