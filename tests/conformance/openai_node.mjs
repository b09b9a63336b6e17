// The official openai-node client against a running server: one line a check, status 1 where one fails.
//
// In: BASE_URL of the server, and OPENAI_NODE, a folder where npm has installed `openai` and `zod`.
// Out: "ok <check>" or "not ok <check>: <why>" lines. `make conformance` runs it.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { join } from "node:path";

const require = createRequire(join(process.env.OPENAI_NODE, "from-here.js"));
const { OpenAI, toFile } = require("openai");
const { zodFunction, zodResponseFormat, zodTextFormat } = require("openai/helpers/zod");
const { z } = require("zod");

const options = { baseURL: `${process.env.BASE_URL}/v1`, apiKey: "none", maxRetries: 0, timeout: 60_000 };
const client = new OpenAI(options);
const model = "nano";
const sum = [{ role: "user", content: "What is 17 + 25?" }];
const weather = [{ role: "user", content: "What is the weather in Rome for 3 days?" }];
const Weather = z.object({ city: z.enum(["Paris", "Rome"]), days: z.int() });
const Total = z.object({ total: z.int(), even: z.boolean() });
const tool = zodFunction({ name: "get_weather", description: "Get the weather.", parameters: Weather });
const rome = { city: "Rome", days: 3 };

const checks = {
  async "a chat"() {
    const reply = await client.chat.completions.create({ model, messages: sum, temperature: 0 });
    assert.equal(reply.choices[0].message.content, "42");
    assert.ok(reply.choices[0].message.reasoning_content);
    assert.equal(reply.usage.total_tokens, reply.usage.prompt_tokens + reply.usage.completion_tokens);
  },

  async "a chat's stream"() {
    const stream = client.chat.completions.stream({
      model, messages: sum, temperature: 0, stream_options: { include_usage: true },
    });
    let text = "";
    for await (const chunk of stream) text += chunk.choices[0]?.delta.content ?? "";
    assert.equal(text, "42");
    assert.equal((await stream.finalChatCompletion()).choices[0].finish_reason, "stop");
    assert.ok((await stream.totalUsage()).total_tokens > 0);
  },

  async "a tool's call and its result"() {
    const asked = { model, tools: [tool], temperature: 0 };
    const reply = await client.chat.completions.create({ ...asked, messages: weather, tool_choice: "required" });
    const { message, finish_reason } = reply.choices[0];
    assert.equal(finish_reason, "tool_calls");
    const [call] = message.tool_calls;
    assert.deepEqual([call.function.name, JSON.parse(call.function.arguments)], ["get_weather", rome]);
    const turns = [...weather, message, { role: "tool", tool_call_id: call.id, content: "21 degrees" }];
    assert.ok((await client.chat.completions.create({ ...asked, messages: turns })).choices[0].message.content);
  },

  async "a tool's call in a stream"() {
    const stream = client.chat.completions.stream({
      model, messages: weather, tools: [tool], tool_choice: "required", temperature: 0,
    });
    let pieces = "";
    stream.on("tool_calls.function.arguments.delta", (event) => (pieces += event.arguments_delta));
    const [call] = (await stream.finalChatCompletion()).choices[0].message.tool_calls;
    assert.deepEqual([JSON.parse(pieces), JSON.parse(call.function.arguments)], [rome, rome]);
  },

  async "the tool runner"() {
    const seen = [];
    const run = client.chat.completions.runTools({
      model, messages: weather, temperature: 0,
      tools: [zodTool((given) => (seen.push(given), "21 degrees"))],
    });
    assert.ok(await run.finalContent());
    assert.deepEqual(seen, [rome]);
  },

  async "parse with a schema"() {
    const response_format = zodResponseFormat(Total, "total");
    const asked = { model, messages: sum, response_format, temperature: 0, max_tokens: 300 };
    const reply = await client.chat.completions.parse(asked);
    assert.ok(Total.parse(reply.choices[0].message.parsed));
  },

  async "plain completions"() {
    const asked = { model, prompt: "1 + 1 =", max_tokens: 8, temperature: 0 };
    const whole = await client.completions.create(asked);
    let text = "";
    for await (const piece of await client.completions.create({ ...asked, stream: true })) text += piece.choices[0]?.text ?? "";
    assert.equal(text, whole.choices[0].text);
    const echo = await client.completions.create({ ...asked, max_tokens: 0, echo: true, logprobs: 1 });
    assert.equal(echo.choices[0].logprobs.tokens.join(""), "1 + 1 =");
  },

  async "models"() {
    const found = [];
    for await (const each of client.models.list()) found.push(each.id);
    assert.deepEqual(found, [model]);
    assert.equal((await client.models.retrieve(model)).id, model);
  },

  async "the classes of errors"() {
    const ask = (fields) => client.chat.completions.create({ model, messages: sum, ...fields });
    await refused(ask({ model: "gpt-4o" }), OpenAI.NotFoundError, { status: 404, code: "model_not_found", param: "model" });
    await refused(ask({ temperature: -1 }), OpenAI.BadRequestError, { status: 400, param: "temperature" });
    const long = [{ role: "user", content: "1 ".repeat(9000) }];
    await refused(ask({ messages: long }), OpenAI.BadRequestError, { code: "context_length_exceeded" });
    const slow = { model, prompt: "1", max_tokens: 4000, temperature: 1 };
    await refused(client.completions.create(slow, { timeout: 10 }), OpenAI.APIConnectionTimeoutError, {});
    const nobody = new OpenAI({ ...options, baseURL: "http://127.0.0.1:9/v1" });
    await refused(nobody.models.list(), OpenAI.APIConnectionError, {});
  },

  async "leaving a stream"() {
    const stream = await client.completions.create({ model, prompt: "1", max_tokens: 4000, stream: true });
    for await (const _ of stream) break;
    assert.ok(stream.controller.signal.aborted);
    const reply = await client.chat.completions.create({ model, messages: sum, temperature: 0 });
    assert.equal(reply.choices[0].message.content, "42");
  },

  async "many at once"() {
    const asked = { model, messages: sum, temperature: 0 };
    const replies = await Promise.all(Array.from({ length: 8 }, () => client.chat.completions.create(asked)));
    for (const reply of replies) assert.equal(reply.choices[0].message.content, "42");
  },

  async "a response and the next one"() {
    const first = await client.responses.create({ model, input: "What is 17 + 25?", temperature: 0 });
    assert.deepEqual([first.output_text, first.status], ["42", "completed"]);
    const input = "What is 42 + 1?";
    const next = await client.responses.create({ model, input, previous_response_id: first.id, temperature: 0 });
    assert.equal(next.previous_response_id, first.id);
    assert.equal((await client.responses.retrieve(first.id)).output_text, "42");
    const items = [];
    for await (const item of client.responses.inputItems.list(first.id)) items.push(item.type);
    assert.deepEqual(items, ["message"]);
    await client.responses.delete(first.id);
    await refused(client.responses.retrieve(first.id), OpenAI.NotFoundError, { status: 404 });
  },

  async "a response's stream"() {
    const stream = client.responses.stream({ model, input: "What is 17 + 25?", temperature: 0 });
    const kinds = [];
    let text = "";
    for await (const event of stream) {
      kinds.push(event.type);
      if (event.type === "response.output_text.delta") text += event.delta;
    }
    assert.deepEqual([kinds[0], kinds.at(-1)], ["response.created", "response.completed"]);
    assert.ok(kinds.includes("response.output_text.delta"));
    assert.equal(text, "42");
    assert.equal((await stream.finalResponse()).status, "completed");
  },

  async "a response's tools and schema"() {
    const { name, description, parameters } = tool.function;
    const tools = [{ type: "function", name, description, parameters, strict: true }];
    const asked = { model, temperature: 0, max_output_tokens: 300 };
    const reply = await client.responses.create({ ...asked, input: weather, tools, tool_choice: "required" });
    const call = reply.output.find((item) => item.type === "function_call");
    assert.deepEqual([call.name, JSON.parse(call.arguments)], ["get_weather", rome]);
    const text = { format: zodTextFormat(Total, "total") };
    const parsed = await client.responses.parse({ ...asked, input: sum, text });
    assert.ok(Total.parse(parsed.output_parsed));
  },

  async "files and a batch"() {
    const line = (id, content) => JSON.stringify({
      custom_id: id, method: "POST", url: "/v1/chat/completions",
      body: { model, messages: [{ role: "user", content }], temperature: 0 },
    });
    const lines = [line("a", "What is 17 + 25?"), line("b", "What is 20 + 30?")].join("\n") + "\n";
    const file = await client.files.create({ file: await toFile(Buffer.from(lines), "in.jsonl"), purpose: "batch" });
    assert.equal(await (await client.files.content(file.id)).text(), lines);
    const asked = { input_file_id: file.id, endpoint: "/v1/chat/completions", completion_window: "24h" };
    let batch = await client.batches.create(asked);
    for (let tries = 0; !["completed", "failed"].includes(batch.status) && tries < 300; tries++) {
      await new Promise((wake) => setTimeout(wake, 100));
      batch = await client.batches.retrieve(batch.id);
    }
    assert.deepEqual([batch.status, batch.request_counts], ["completed", { total: 2, completed: 2, failed: 0 }]);
    const told = (await (await client.files.content(batch.output_file_id)).text()).trim().split("\n").map(JSON.parse);
    const texts = told.map((each) => [each.custom_id, each.response.body.choices[0].message.content]).sort();
    assert.deepEqual(texts, [["a", "42"], ["b", "50"]]);
    assert.ok((await client.files.delete(file.id)).deleted);
  },
};

function zodTool(run) {
  const { name, description, parameters } = tool.function;
  return { type: "function", function: { name, description, parameters, parse: JSON.parse, function: run } };
}

async function refused(promise, kind, fields) {
  const error = await promise.then(() => assert.fail("it was not refused"), (error) => error);
  assert.ok(error instanceof kind, `${error.constructor.name}: ${error.message}`);
  for (const [name, value] of Object.entries(fields)) assert.equal(error[name], value);
}

let failures = 0;
for (const [name, check] of Object.entries(checks)) {
  try {
    await check();
    console.log(`ok ${name}`);
  } catch (error) {
    failures += 1;
    console.log(`not ok ${name}: ${error.stack}`);
  }
}
process.exit(failures ? 1 : 0);
