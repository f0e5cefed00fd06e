// One answer, from the request to its last token: what arrives is written into the message, waiting and failing too.

import { request } from "./conversation.js";
import { Failure, stream } from "./api.js";

const TRIES = { busy: 5, unavailable: 5, loading: 200 }; // how often what passes by itself is tried again
const PAUSE = 3; // seconds, where the server names none

/**
 * Fills `message`; `changed(message)` is called whenever there is more of it. Ends when the answer is whole, has
 * failed, or was stopped through `signal`; never throws.
 *
 * `state`: waiting, streaming, then done, stopped or failed. `stats`: times in ms since the request, tokens as the
 * server counted them, else as they came (`counted` is false then).
 */
export async function answer(conversation, message, signal, changed) {
  for (let tries = 1; ; tries++) {
    Object.assign(message, { state: "waiting", error: null, retryAt: null, model: conversation.model });
    changed(message);
    try {
      await attempt(conversation, message, signal, changed);
      message.state = "done";
      return changed(message);
    } catch (error) {
      if (signal.aborted) {
        message.state = "stopped";
        return changed(message);
      }
      const failure = error instanceof Failure ? error : new Failure("answer", { detail: String(error) });
      message.error = { kind: failure.kind, detail: failure.detail };
      if (message.state === "streaming" || !(tries < TRIES[failure.kind])) {
        message.state = "failed";
        return changed(message);
      }
      message.retryAt = Date.now() + (failure.after ?? PAUSE) * 1000;
      changed(message);
      await countdown(message, signal, changed);
      if (signal.aborted) {
        Object.assign(message, { state: "stopped", error: null, retryAt: null });
        return changed(message);
      }
    }
  }
}

async function attempt(conversation, message, signal, changed) {
  const begun = performance.now();
  const stats = { first: null, thought: null, last: null, pieces: 0, tokens: null, prompt: null };
  Object.assign(message, { content: "", reasoning: "", finish: null, stats });
  for await (const event of stream(request(conversation, message), signal)) {
    if (event.about) Object.assign(message, event.about);
    if (event.usage) {
      stats.tokens = event.usage.completion_tokens ?? null;
      stats.prompt = event.usage.prompt_tokens ?? null;
    }
    const choice = event.choices?.[0];
    if (!choice) continue;
    if (choice.finish_reason) message.finish = choice.finish_reason;
    const reasoning = choice.delta?.reasoning_content ?? choice.delta?.reasoning ?? "";
    const content = choice.delta?.content ?? "";
    if (!reasoning && !content) continue;
    const now = performance.now() - begun;
    stats.first ??= now;
    stats.last = now;
    stats.pieces += 1;
    if (content && message.reasoning) stats.thought ??= now - stats.first;
    message.reasoning += reasoning;
    message.content += content;
    if (content && !stats.thought && message.content.startsWith("<think>") && message.content.includes("</think>")) {
      stats.thought = now - stats.first;
    }
    message.state = "streaming";
    changed(message);
  }
}

/** Waits until `retryAt`, which "Try now" sets to now; the seconds left are shown once a second. */
async function countdown(message, signal, changed) {
  while (!signal.aborted && message.retryAt > Date.now()) {
    await new Promise((resolve) => setTimeout(resolve, Math.min(250, message.retryAt - Date.now())));
    changed(message);
  }
}

/** Tokens per second after the first one; null when there is too little to tell. */
export function rate(stats) {
  const tokens = stats.tokens ?? stats.pieces;
  const time = stats.last - stats.first;
  return tokens > 1 && time > 0 ? ((tokens - 1) * 1000) / time : null;
}
