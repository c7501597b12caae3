// @langchain/openai.

import assert from "node:assert/strict";
import test from "node:test";

import { HumanMessage, ToolMessage } from "@langchain/core/messages";
import { tool } from "@langchain/core/tools";
import { ChatOpenAI, OpenAI, OpenAIEmbeddings } from "@langchain/openai";
import { z } from "zod";

import { BASE, PROMPT, QUESTION, SCRIPTED, SCRIPTED_V1, V1 } from "./server.mjs";
import { chat, complete } from "./server.mjs";

const settings = { apiKey: "none", configuration: { baseURL: V1 }, temperature: 0, maxRetries: 0 };
const get_weather = tool(() => "21 degrees", {
  name: "get_weather",
  description: "The weather in a city.",
  schema: z.object({ city: z.enum(["Madrid", "Oslo"]), unit: z.enum(["celsius"]) }),
});

test("invoke and stream of base and adapter", async () => {
  for (const model of [BASE, "pirate"]) {
    const client = new ChatOpenAI({ ...settings, model, maxTokens: 12 });
    const expected = await chat(model);
    assert.equal((await client.invoke(QUESTION)).content, expected);
    let text = "";
    for await (const chunk of await client.stream(QUESTION)) text += chunk.content;
    assert.equal(text, expected);
  }
});

test("completions", async () => {
  const client = new OpenAI({ ...settings, model: BASE, maxTokens: 8 });
  assert.equal(await client.invoke(PROMPT), await complete(BASE));
});

test("structured output by schema and by function", async () => {
  const client = new ChatOpenAI({ ...settings, model: BASE, maxTokens: 60 });
  const schema = z.object({ is_capital: z.boolean() });
  for (const method of ["jsonSchema", "functionCalling"]) {
    const made = await client.withStructuredOutput(schema, { method, name: "verdict" }).invoke(QUESTION);
    assert.equal(typeof made.is_capital, "boolean");
  }
});

test("a loop of call, result and answer", async () => {
  const client = new ChatOpenAI({
    ...settings,
    model: SCRIPTED,
    maxTokens: 80,
    configuration: { baseURL: SCRIPTED_V1 },
  });
  const bound = client.bindTools([get_weather]);
  const asked = new HumanMessage(QUESTION);
  const called = await bound.invoke([asked]);
  const [call] = called.tool_calls;
  assert.deepEqual(call.args, { city: "Madrid", unit: "celsius" });
  const result = new ToolMessage({ content: await get_weather.invoke(call.args), tool_call_id: call.id });
  assert.match((await bound.invoke([asked, called, result])).content, /21 degrees/);
});

test("embeddings", async () => {
  const client = new OpenAIEmbeddings({ ...settings, model: BASE });
  assert.equal((await client.embedDocuments(["a", "b"])).length, 2);
});
