// The AI SDK with its providers openai-compatible and openai.

import assert from "node:assert/strict";
import test from "node:test";

import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { embed, generateObject, generateText, stepCountIs, streamObject, streamText, tool } from "ai";
import { z } from "zod";

import { BASE, PROMPT, QUESTION, SCRIPTED, SCRIPTED_V1, V1 } from "./server.mjs";
import { chat, complete } from "./server.mjs";

const shared = { baseURL: V1, apiKey: "none" };
const compatible = createOpenAICompatible({
  name: "loraconsole",
  ...shared,
  includeUsage: true,
  supportsStructuredOutputs: true,
});
const openai = createOpenAI(shared);
const limits = { temperature: 0, maxOutputTokens: 12, maxRetries: 0 };
const schema = z.object({ is_capital: z.boolean() });

for (const [name, make] of [
  ["openai-compatible", (model) => compatible(model)],
  ["openai, chat", (model) => openai.chat(model)],
  ["openai, its default: responses", (model) => openai(model)],
]) {
  test(`${name}: text and stream`, async () => {
    for (const id of [BASE, "pirate"]) {
      const expected = await chat(id);
      const made = await generateText({ model: make(id), prompt: QUESTION, ...limits });
      assert.equal(made.text, expected);
      assert.ok(made.usage.outputTokens > 0);
      const stream = streamText({ model: make(id), prompt: QUESTION, ...limits });
      assert.equal(await stream.text, expected);
    }
  });

  test(`${name}: an object of a schema, whole and streamed`, async () => {
    const asked = { model: make(BASE), schema, prompt: QUESTION, maxOutputTokens: 40, maxRetries: 0 };
    const made = await generateObject(asked);
    assert.equal(typeof made.object.is_capital, "boolean");
    const stream = streamObject(asked);
    for await (const _ of stream.partialObjectStream);
    assert.equal(typeof (await stream.object).is_capital, "boolean");
  });
}

for (const [name, make] of [
  ["openai-compatible", createOpenAICompatible({ name: "s", baseURL: SCRIPTED_V1, apiKey: "none" })],
  ["openai, chat", createOpenAI({ baseURL: SCRIPTED_V1, apiKey: "none" }).chat],
  ["openai, responses", createOpenAI({ baseURL: SCRIPTED_V1, apiKey: "none" })],
]) {
  test(`${name}: a tool loop`, async () => {
    const calls = [];
    const get_weather = tool({
      description: "The weather in a city.",
      inputSchema: z.object({ city: z.enum(["Madrid", "Oslo"]), unit: z.enum(["celsius"]) }),
      execute: async (values) => {
        calls.push(values);
        return "21 degrees";
      },
    });
    const made = await generateText({
      model: make(SCRIPTED),
      prompt: QUESTION,
      tools: { get_weather },
      stopWhen: stepCountIs(3),
      temperature: 0,
      maxOutputTokens: 80,
      maxRetries: 0,
    });
    assert.deepEqual(calls, [{ city: "Madrid", unit: "celsius" }]);
    assert.match(made.text, /21 degrees/);
  });
}

test("completions and embeddings", async () => {
  const expected = await complete(BASE, 12);
  for (const model of [compatible.completionModel(BASE), openai.completion(BASE)]) {
    assert.equal((await generateText({ model, prompt: PROMPT, ...limits })).text.length > 0, true);
  }
  assert.ok(expected.length > 0);
  for (const model of [compatible.textEmbeddingModel(BASE), openai.embedding(BASE)]) {
    assert.ok((await embed({ model, value: "a", maxRetries: 0 })).embedding.length > 100);
  }
});
