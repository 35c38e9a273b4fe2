// The connection to the server: it opens again by itself, pairs pictures with their pixels, and acknowledges them.

const RETRY_MS = 1000;
/** The server sends the line's state each second; a connection that is silent for longer is lost. */
const SILENT_MS = 2500;

export class Live {
  #handlers;
  #socket = null;
  #heardAt = performance.now();
  #incomplete = null;

  /** @param handlers one function per type of message; `picture` also gets its blobs, and is awaited. */
  constructor(handlers) {
    this.#handlers = handlers;
    this.#open();
  }

  /** Seconds for which nothing came, or 0 while the connection works. */
  get lostFor() {
    const silent = performance.now() - this.#heardAt;
    const isLost = silent > SILENT_MS || (silent > 1000 && this.#socket.readyState !== WebSocket.OPEN);
    return isLost ? silent / 1000 : 0;
  }

  #open() {
    const scheme = location.protocol === "https:" ? "wss:" : "ws:";
    const socket = new WebSocket(`${scheme}//${location.host}/live`);
    this.#socket = socket;
    this.#incomplete = null;
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

  #take(message) {
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

export function exceptUnreachable(error) {
  if (!(error instanceof Unreachable)) throw error;
}

async function get(path) {
  return fetch(path).catch(() => {
    throw new Unreachable("the server cannot be reached");
  });
}

/** Get JSON from the server; an answer that is an error becomes an Error with the server's sentence. */
export async function getJson(path) {
  const answer = await get(path);
  const body = await answer.json();
  if (!answer.ok) throw new Error(body.error ?? `the server answered ${answer.status}`);
  return body;
}

export async function getBlob(path) {
  const answer = await get(path);
  if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
  return answer.blob();
}
