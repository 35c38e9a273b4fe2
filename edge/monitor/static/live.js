// The connection to the server: it opens again by itself, pairs pictures with their pixels, and acknowledges them.

const RETRY_MS = 1000;
/** The server sends the line's state each second; a connection that is silent for longer is lost. */
const SILENT_MS = 2500;
/** If messages come so late, e.g. through a slow network, what they say is not current any more. */
const LATE_MS = 5000;
/** The clocks of two PCs drift apart by less than this share. */
const DRIFT = 1e-4;

export class Live {
  #handlers;
  #socket = null;
  #heardAt = performance.now();
  #incomplete = null;
  /** The server's clock minus that of this page, by the message that came fastest; when that was estimated. */
  #ahead = -Infinity;
  #aheadAt = 0;
  #delay = 0;

  /**
   * @param handlers one function per type of message; `picture` also gets its blobs, and is awaited. Messages with
   * `sent_ms` get `sentAt`, the same time by the clock of this page.
   */
  constructor(handlers) {
    this.#handlers = handlers;
    this.#open();
  }

  /** Seconds for which nothing current came, or 0 while the connection works. */
  get lostFor() {
    const silent = performance.now() - this.#heardAt;
    const isLost = silent > SILENT_MS || (silent > 1000 && this.#socket.readyState !== WebSocket.OPEN);
    return isLost || this.#delay > LATE_MS ? (silent + this.#delay) / 1000 : 0;
  }

  #open() {
    const scheme = location.protocol === "https:" ? "wss:" : "ws:";
    const socket = new WebSocket(`${scheme}//${location.host}/live`);
    this.#socket = socket;
    this.#incomplete = null;
    this.#ahead = -Infinity;
    socket.onmessage = ({ data }) => {
      this.#heardAt = performance.now();
      if (typeof data === "string") this.#take(JSON.parse(data));
      else this.#takePixels(data);
    };
    socket.onclose = () => setTimeout(() => this.#retry(), RETRY_MS);
  }

  async #retry() {
    const answer = await fetch("/api/state").catch(() => null);
    if (answer?.status === 401) location.reload(); // the login has expired
    else if (answer) this.#open();
    else setTimeout(() => this.#retry(), RETRY_MS);
  }

  /** Note by how much a message came later than the fastest one. */
  #measure(message) {
    const now = performance.now();
    const ahead = message.sent_ms - now;
    this.#ahead = Math.max(this.#ahead - DRIFT * (now - this.#aheadAt), ahead);
    this.#aheadAt = now;
    this.#delay = this.#ahead - ahead;
    message.sentAt = now - this.#delay;
  }

  #take(message) {
    if (message.sent_ms !== undefined) this.#measure(message);
    if (message.type === "picture") this.#incomplete = { message, blobs: [] };
    else this.#handlers[message.type]?.(message);
  }

  async #takePixels(blob) {
    const { message, blobs } = this.#incomplete;
    blobs.push(blob);
    if (blobs.length < (message.heatmap ? 2 : 1)) return;
    const socket = this.#socket;
    try {
      await this.#handlers.picture(message, ...blobs);
    } finally {
      // The server sends this camera's next picture only now, so that a slow viewer gets fewer, and never old ones.
      if (socket.readyState === WebSocket.OPEN) {
        socket.send(JSON.stringify({ type: "ack", camera: message.camera, id: message.id }));
      }
    }
  }
}

/** The server cannot be reached; the page shows this already where it shows the connection. */
export class Unreachable extends Error {}

addEventListener("unhandledrejection", (event) => event.reason instanceof Unreachable && event.preventDefault());

async function get(path, options) {
  return fetch(path, options).catch(() => {
    throw new Unreachable("the server cannot be reached");
  });
}

/** Get JSON from the server; an answer that is an error becomes an Error with the server's sentence. */
export async function getJson(path, options) {
  const answer = await get(path, options);
  const body = await answer.json();
  if (!answer.ok) throw new Error(body.error ?? `the server answered ${answer.status}`);
  return body;
}

/** Send JSON to the server, and get its answer; errors as of `getJson`. */
export async function postJson(path, value) {
  return getJson(path, {
    method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(value),
  });
}

export async function getBlob(path) {
  const answer = await get(path);
  if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
  return answer.blob();
}
