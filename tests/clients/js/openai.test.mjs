// openai for JavaScript.

import assert from "node:assert/strict";
import test from "node:test";

import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";

import { BASE, PROMPT, QUESTION, SCRIPTED, SCRIPTED_V1, V1, WEATHER } from "./server.mjs";
import { chat, complete, isWeather, running, waitFor } from "./server.mjs";

const client = new OpenAI({ baseURL: V1, apiKey: "none", maxRetries: 0 });
const messages = [{ role: "user", content: QUESTION }];
const tool = { type: "function", function: { name: "get_weather", parameters: WEATHER } };

test("chat, whole and streamed, of base and adapter", async () => {
  for (const model of [BASE, "pirate"]) {
    const asked = { model, messages, temperature: 0, max_tokens: 12 };
    const expected = await chat(model);
    const whole = await client.chat.completions.create(asked);
    assert.equal(whole.choices[0].message.content, expected);
    const options = { stream: true, stream_options: { include_usage: true } };
    const stream = await client.chat.completions.create({ ...asked, ...options });
    let text = "";
    let usage = null;
    for await (const chunk of stream) {
      text += chunk.choices[0]?.delta.content ?? "";
      usage = chunk.usage ?? usage;
    }
    assert.equal(text, expected);
    assert.ok(usage.completion_tokens > 0);
  }
});

test("the stream helper and batches of completions", async () => {
  const runner = client.chat.completions.stream({ model: BASE, messages, max_tokens: 12, temperature: 0 });
  assert.equal(await runner.finalContent(), await chat(BASE));
  const prompt = [PROMPT, PROMPT];
  const made = await client.completions.create({ model: "haiku", prompt, temperature: 0, max_tokens: 8 });
  const expected = await complete("haiku");
  assert.deepEqual(made.choices.map((choice) => choice.text), [expected, expected]);
});

test("an aborted stream ends its request", async () => {
  const stream = await client.chat.completions.create(
    { model: BASE, messages, stream: true, max_tokens: 2000, ignore_eos: true },
  );
  for await (const _ of stream) break;
  stream.controller.abort();
  await waitFor(async () => (await running()) === 0);
});

test("parse returns the object of the schema", async () => {
  const Verdict = z.object({ is_capital: z.boolean() });
  const made = await client.chat.completions.parse({
    model: BASE,
    messages,
    max_tokens: 40,
    response_format: zodResponseFormat(Verdict, "verdict"),
  });
  assert.equal(typeof made.choices[0].message.parsed.is_capital, "boolean");
});

test("a demanded call, whole and streamed", async () => {
  const asked = { model: BASE, messages, tools: [tool], tool_choice: "required", parallel_tool_calls: false, max_tokens: 100 };
  const whole = await client.chat.completions.create(asked);
  assert.ok(isWeather(JSON.parse(whole.choices[0].message.tool_calls[0].function.arguments)));
  const made = await client.chat.completions.stream(asked).finalChatCompletion();
  assert.equal(made.choices[0].finish_reason, "tool_calls");
  assert.ok(isWeather(JSON.parse(made.choices[0].message.tool_calls[0].function.arguments)));
});

test("runTools completes its loop", async () => {
  const calls = [];
  const scripted = new OpenAI({ baseURL: SCRIPTED_V1, apiKey: "none", maxRetries: 0 });
  const runner = scripted.chat.completions.runTools({
    model: SCRIPTED,
    messages,
    temperature: 0,
    max_tokens: 80,
    tools: [
      {
        type: "function",
        function: {
          name: "get_weather",
          description: "The weather in a city.",
          parameters: WEATHER,
          parse: JSON.parse,
          function: (values) => {
            calls.push(values);
            return "21 degrees";
          },
        },
      },
    ],
  });
  assert.match(await runner.finalContent(), /21 degrees/);
  assert.deepEqual(calls, [{ city: "Madrid", unit: "celsius" }]);
});

test("responses, whole and streamed", async () => {
  const asked = { model: "pirate", input: QUESTION, temperature: 0, max_output_tokens: 12 };
  const expected = await chat("pirate");
  assert.equal((await client.responses.create(asked)).output_text, expected);
  const stream = client.responses.stream(asked);
  assert.equal((await stream.finalResponse()).output_text, expected);
});

test("embeddings, in base64 as this client asks for them", async () => {
  const made = await client.embeddings.create({ model: BASE, input: ["a", "b"] });
  assert.equal(made.data.length, 2);
  assert.ok(made.data[0].embedding.length > 100);
});
