// Where conversations are kept: IndexedDB of this browser, or only memory where there is none.

import { kept } from "./language.js";

const NAME = "deployer";
const PLACE = "conversations";
const others = "BroadcastChannel" in globalThis ? new BroadcastChannel("deployer.conversations") : null;

function done(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

/** The store: `all`, `put`, `remove`, `lasting` (whether it outlives the page), `onchange` (by another tab). */
export async function openStore() {
  let database = null;
  try {
    const opening = indexedDB.open(NAME, 1);
    opening.onupgradeneeded = () => opening.result.createObjectStore(PLACE, { keyPath: "id" });
    database = await done(opening);
  } catch {
    // switched off by the browser
  }
  const store = {
    lasting: database !== null,
    onchange: () => {},
    async all() {
      return database ? done(database.transaction(PLACE).objectStore(PLACE).getAll()) : [];
    },
    async put(conversation) {
      if (database) await done(database.transaction(PLACE, "readwrite").objectStore(PLACE).put(conversation));
      others?.postMessage(conversation.id);
    },
    async remove(id) {
      if (database) await done(database.transaction(PLACE, "readwrite").objectStore(PLACE).delete(id));
      others?.postMessage(id);
    },
    async get(id) {
      return database ? done(database.transaction(PLACE).objectStore(PLACE).get(id)) : undefined;
    },
  };
  if (others) others.onmessage = (event) => store.onchange(event.data);
  return store;
}

/** What a new conversation starts with. */
export const defaults = {
  get() {
    try {
      return { ...EMPTY, ...JSON.parse(kept.get("settings") ?? "{}") };
    } catch {
      return { ...EMPTY };
    }
  },
  set(settings) {
    kept.set("settings", JSON.stringify(settings));
  },
};

const EMPTY = { system: "", temperature: null, maxTokens: null };
