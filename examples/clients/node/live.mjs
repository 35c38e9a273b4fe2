// Prints a line's events and the events that were missed: node live.mjs ADDRESS [TOPIC...]
import { Subscriber } from "zeromq";
import { parse } from "./exact.mjs";

const [address, ...named] = process.argv.slice(2);
const topics = named.length ? named : [""];
const lastSeqs = new Map(); // the last number, by count and topic; each journal and each boot has a count
const since = new Map(); // by count: the last number before this client connected; such events are not missed
let joined = false;

// Reports the events of each topic that were sent, by the counts, but not received.
function reportMissed(count, counted, before = 0) {
  if (!since.has(count)) since.set(count, joined ? 0 : Math.max(before, ...Object.values(counted)));
  for (const [topic, seq] of Object.entries(counted)) {
    const key = `${count} ${topic}`;
    const known = lastSeqs.get(key) ?? since.get(count);
    if (seq > known && topics.some((prefix) => topic.startsWith(prefix))) {
      console.log(`missed events of ${topic} after ${known} up to ${seq}`);
    }
    lastSeqs.set(key, Math.max(seq, known));
  }
}

const line = new Subscriber({ receiveTimeout: 3000, linger: 0 });
line.subscribe(...new Set([...topics, "status"]));
line.connect(address); // reconnects by itself
for (;;) {
  let parts;
  try {
    parts = await line.receive();
  } catch (error) {
    if (error.code !== "EAGAIN") throw error;
    console.log("silence: nothing is inspected");
    continue;
  }
  const topic = parts[0].toString();
  const event = parse(parts[1]);
  if (event.schema_version !== 2) throw new Error(`this client reads schema version 2; the line sends ${event.schema_version}`);
  if (event.counts) {
    reportMissed(event.boot_id, event.counts.unjournalled);
    reportMissed(event.counts.journal_id, event.counts.journalled);
  }
  if (event.seq !== undefined) {
    const count = event.journal_id ?? event.boot_id;
    reportMissed(count, { [topic]: event.previous_seq }, event.seq - 1);
    lastSeqs.set(`${count} ${topic}`, event.seq);
    console.log(event.seq, topic, event.times?.captured_at_ns ?? "");
  }
  joined ||= Boolean(event.counts);
}
