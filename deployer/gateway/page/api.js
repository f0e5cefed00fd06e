// The server: requests with the key, what went wrong as a `Failure`, and the events of a stream.

const NAME = "deployer.key";

/** The key, in sessionStorage: until the tab is closed. Other tabs of this page are asked for theirs once. */
export const key = {
  get() {
    try {
      return sessionStorage.getItem(NAME);
    } catch {
      return held;
    }
  },
  set(value) {
    held = value;
    try {
      if (value) sessionStorage.setItem(NAME, value);
      else sessionStorage.removeItem(NAME);
    } catch {
      // a browser that keeps nothing: until the page is left
    }
  },
  forget() {
    key.set(null);
    tabs?.postMessage({ forget: true });
  },
  /** The key that another open tab has, or null after a moment. */
  fromOtherTab: () =>
    new Promise((resolve) => {
      if (!tabs) return resolve(null);
      received = resolve;
      tabs.postMessage({ want: true });
      setTimeout(() => resolve(null), 150);
    }),
};

let held = null;
let received = null;
const tabs = "BroadcastChannel" in globalThis ? new BroadcastChannel("deployer.key") : null;
if (tabs) {
  tabs.onmessage = ({ data }) => {
    if (data.want && key.get()) tabs.postMessage({ key: key.get() });
    else if (data.key) received?.(data.key);
    else if (data.forget) key.set(null);
  };
}

/** `kind` names what happened (`error.<kind>` are its words), `detail` is what the server said, `after` in seconds. */
export class Failure extends Error {
  constructor(kind, { detail = "", after = null } = {}) {
    super(kind);
    Object.assign(this, { kind, detail, after });
  }
}

const KINDS = { 403: "forbidden", 404: "missing", 413: "large", 429: "busy", 502: "engine", 503: "loading", 504: "engine" };

let askForKey = async () => null;
let asking = null;

/** `ask(refused)` gives a key or null; it is called when the server wants one, once for all that wait. */
export function onKeyWanted(ask) {
  askForKey = ask;
}

/** Once more after a moment: a network that changes breaks off requests. */
async function reach(path, options, again = true) {
  try {
    return await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    if (!again) throw new Failure("network");
  }
  await new Promise((resolve) => setTimeout(resolve, 400));
  options.signal?.throwIfAborted();
  return reach(path, options, false);
}

async function call(path, options) {
  for (let refused = false; ; refused = true) {
    const given = key.get();
    const headers = { ...options.headers, ...(given ? { Authorization: `Bearer ${given}` } : {}) };
    const answer = await reach(path, { ...options, headers, credentials: "omit", cache: "no-store" });
    if (answer.status !== 401) return answer;
    if (key.get() !== given) continue; // another request has asked meanwhile
    asking ??= (refused || given ? Promise.resolve(null) : key.fromOtherTab())
      .then((found) => found ?? askForKey(Boolean(given)))
      .finally(() => (asking = null));
    const found = await asking;
    if (!found) throw new Failure("key");
    key.set(found);
    options.signal?.throwIfAborted();
  }
}

// what the gateway calls by a name of its own
const CODES = {
  context_length_exceeded: "context",
  exceed_context_size_error: "context",
  content_filter: "filter",
  remote_unreachable: "unavailable",
  safety_unavailable: "unavailable",
};

async function failureOf(answer) {
  const said = await answer.json().catch(() => null);
  const error = said?.error;
  const detail = typeof error === "string" ? error : (error?.message ?? "");
  const after = waitOf(answer.headers.get("retry-after"));
  const kind = CODES[error?.code] ?? CODES[error?.type] ?? KINDS[answer.status] ?? (answer.status < 500 ? "request" : "server");
  return new Failure(kind, { detail, after });
}

/** Retry-After: seconds, or a date. */
function waitOf(text) {
  if (!text) return null;
  const wait = /^\d+$/.test(text.trim()) ? Number(text) : (Date.parse(text) - Date.now()) / 1000;
  return Number.isFinite(wait) ? Math.max(1, Math.ceil(wait)) : null;
}

export async function get(path) {
  const answer = await call(path, {});
  if (!answer.ok) throw await failureOf(answer);
  return answer.json().catch(() => {
    throw new Failure("answer");
  });
}

/** The names of the models that one can chat with. Throws `Failure` where the server has others alone. */
export async function models() {
  const listed = (await get("v1/models")).data ?? [];
  const chatting = listed.filter((one) => one.paths?.includes("/v1/chat/completions") ?? true);
  if (listed.length && !chatting.length) throw new Failure("embeds");
  return chatting.map((one) => one.id);
}

/**
 * Asks for an answer and gives its events as they come, after `{about}`: what the gateway says of it. Ends with the
 * stream. Throws `Failure` or an AbortError.
 */
export async function* stream(body, signal) {
  const headers = { "Content-Type": "application/json" };
  const answer = await call("v1/chat/completions", { method: "POST", headers, body: JSON.stringify(body), signal });
  if (!answer.ok) throw await failureOf(answer);
  const remote = answer.headers.get("x-deployer-remote")?.split(";")[0] ?? null;
  const dropped = Number(answer.headers.get("x-deployer-dropped-messages") ?? 0);
  yield { about: { remote, dropped } };
  let ended = false;
  for await (const data of events(answer.body)) {
    if (data === "[DONE]") {
      ended = true; // and on to the end of the bytes: hanging up before it looks to the server like going away
      continue;
    }
    let event;
    try {
      event = JSON.parse(data);
    } catch {
      throw new Failure("answer", { detail: data.slice(0, 200) });
    }
    if (event.error) {
      throw new Failure("server", { detail: typeof event.error === "string" ? event.error : (event.error.message ?? "") });
    }
    yield event;
  }
  if (!ended) throw new Failure("lost");
}

/** The data of server-sent events, however the bytes are cut. */
async function* events(body) {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  let data = [];
  try {
    for (;;) {
      let piece;
      try {
        piece = await reader.read();
      } catch (error) {
        if (error.name === "AbortError") throw error;
        throw new Failure("lost");
      }
      rest += piece.done ? `${decoder.decode()}\n\n` : decoder.decode(piece.value, { stream: true });
      const lines = rest.split(/\r\n|\n|\r(?!$)/);
      rest = lines.pop();
      for (const line of lines) {
        if (line.startsWith("data:")) data.push(line.slice(line[5] === " " ? 6 : 5));
        else if (line === "" && data.length) {
          yield data.join("\n");
          data = [];
        }
      }
      if (piece.done) return;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
