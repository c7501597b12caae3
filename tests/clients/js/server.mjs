// What the tests of the JavaScript clients share: the server, and plain answers of it.

export const URL = process.env.SERVER_URL;
export const V1 = `${URL}/v1`;
export const BASE = process.env.SERVER_BASE;
export const SCRIPTED_V1 = `${process.env.SCRIPTED_URL}/v1`;
export const SCRIPTED = process.env.SCRIPTED_BASE;
export const QUESTION = "What is the capital of Spain?";
export const PROMPT = "Once upon a time";

export const WEATHER = {
  type: "object",
  properties: {
    city: { type: "string", enum: ["Madrid", "Lisbon", "Oslo"] },
    unit: { type: "string", enum: ["celsius", "fahrenheit"] },
  },
  required: ["city", "unit"],
  additionalProperties: false,
};

export function isWeather(value) {
  const fields = WEATHER.properties;
  return (
    Object.keys(value).sort().join() === "city,unit" &&
    fields.city.enum.includes(value.city) &&
    fields.unit.enum.includes(value.unit)
  );
}

async function post(path, body) {
  const response = await fetch(URL + path, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ temperature: 0, ...body }),
  });
  if (!response.ok) throw new Error(await response.text());
  return response.json();
}

// The greedy answer as a plain request gets it.
export async function chat(model, maxTokens = 12) {
  const messages = [{ role: "user", content: QUESTION }];
  const answer = await post("/v1/chat/completions", { model, messages, max_tokens: maxTokens });
  return answer.choices[0].message.content;
}

export async function complete(model, maxTokens = 8) {
  const answer = await post("/v1/completions", { model, prompt: PROMPT, max_tokens: maxTokens });
  return answer.choices[0].text;
}

// Requests in the batch.
export async function running() {
  const text = await (await fetch(`${URL}/metrics`)).text();
  const lines = text.split("\n").filter((line) => line.startsWith("vllm:num_requests_running"));
  return lines.reduce((sum, line) => sum + Number(line.split(" ").at(-1)), 0);
}

export async function waitFor(look, seconds = 20) {
  const deadline = Date.now() + seconds * 1000;
  while (!(await look())) {
    if (Date.now() > deadline) throw new Error(`not within ${seconds} s`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}
