// Questions to the service. Whatever goes wrong becomes a Trouble: one line for a person, with the repair in it.

const PATIENCE = 15_000; // milliseconds until we say that nobody answers
const KEY = "ride-duration-key"; // kept until the tab is closed

export class Trouble extends Error {
  constructor(message, { status = 0, code = "", field = null, after = 0 } = {}) {
    super(message);
    Object.assign(this, { status, code, field, after });
  }
  get passes() { // may heal without anybody changing the question
    return this.status === 0 || this.status === 429 || this.status >= 500;
  }
}

export const useKey = (key) => sessionStorage.setItem(KEY, key.trim());

function trouble(answer, body) {
  const said = body?.error ?? {};
  if (answer.status === 401) return new Trouble("this service needs a key: write yours here, or ask whoever runs it for one", { status: 401, code: said.code });
  const message = typeof said.message === "string" ? said.message : `the service answered ${answer.status}: try again in a moment`;
  const after = Number(answer.headers.get("Retry-After")) || 0; // seconds
  return new Trouble(message, { status: answer.status, code: said.code, field: said.field, after });
}

export async function ask(path, body, signal) {
  const patience = new AbortController();
  const clock = setTimeout(() => patience.abort(), PATIENCE);
  signal?.addEventListener("abort", () => patience.abort());
  const headers = { Accept: "application/json" };
  const key = sessionStorage.getItem(KEY);
  if (key) headers.Authorization = `Bearer ${key}`;
  if (body) headers["Content-Type"] = "application/json";
  try {
    const answer = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal: patience.signal });
    const found = await answer.json().catch(() => null);
    if (!answer.ok) throw trouble(answer, found);
    if (found === null) throw new Trouble("the service sent something that is no JSON: is this the right address?", { status: 502 });
    return found;
  } catch (error) {
    if (error instanceof Trouble || signal?.aborted) throw error;
    throw new Trouble("the service does not answer: check that it runs and that you are connected");
  } finally {
    clearTimeout(clock);
  }
}
