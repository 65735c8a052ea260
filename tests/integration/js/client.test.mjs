// The openai package, unchanged, against the server at QWEN_URL: each test does what an application would.
import assert from "node:assert/strict";
import { test } from "node:test";
import OpenAI from "openai";

const url = process.env.QWEN_URL;
const model = "qwen-news-classifier";
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0, timeout: 60_000 });
const messages = [{ role: "user", content: "请分类这条新闻：央行宣布降息25个基点" }];
const answer = "这条新闻属于【财经】类别。";
const call = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "北京"}}\n</tool_call>';
const tools = [
  {
    type: "function",
    function: {
      name: "get_weather",
      parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
    },
  },
];

async function running() {
  const metrics = await (await fetch(`${url}/api/v1/metrics`)).json();
  return metrics.requests.running;
}

async function until(condition, milliseconds, what) {
  const deadline = Date.now() + milliseconds;
  while (!(await condition())) {
    assert.ok(Date.now() < deadline, `not within ${milliseconds} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

test("chat", async () => {
  const chat = await client.chat.completions.create({ model, messages, temperature: 0, user: "u" });
  assert.equal(chat.choices[0].message.content, answer);
  assert.equal(chat.choices[0].finish_reason, "stop");
  assert.equal(chat.usage.total_tokens, chat.usage.prompt_tokens + chat.usage.completion_tokens);
  assert.ok(chat._request_id);
});

test("several answers with logprobs", async () => {
  const chat = await client.chat.completions.create({
    ...{ model, messages, n: 2, temperature: 0.5, seed: 1, max_completion_tokens: 3 },
    ...{ logprobs: true, top_logprobs: 2 },
  });
  assert.deepEqual(chat.choices.map((choice) => choice.index), [0, 1]);
  for (const choice of chat.choices) {
    assert.equal(choice.logprobs.content.length, 3);
    assert.equal(choice.logprobs.content[0].top_logprobs.length, 2);
  }
});

test("completions", async () => {
  const prompt = "请分类：苹果发布新款iPhone\n类别：";
  const completion = await client.completions.create({ model, prompt: [prompt, prompt], temperature: 0 });
  assert.deepEqual(completion.choices.map((choice) => choice.text), ["科技", "科技"]);
});

test("a stream with usage", async () => {
  const stream = await client.chat.completions.create({
    ...{ model, messages, temperature: 0, stream: true, stream_options: { include_usage: true } },
  });
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  assert.equal(chunks.map((chunk) => chunk.choices[0]?.delta?.content ?? "").join(""), answer);
  const last = chunks.at(-1);
  assert.deepEqual(last.choices, []);
  assert.equal(last.usage.total_tokens, last.usage.prompt_tokens + last.usage.completion_tokens);
});

test("the stream helper", async () => {
  const runner = client.chat.completions.stream({ model, messages, temperature: 0 });
  let text = "";
  runner.on("content", (delta) => (text += delta));
  assert.equal((await runner.finalChatCompletion()).choices[0].message.content, answer);
  assert.equal(text, answer);
});

test("tools", async () => {
  const asked = { model, messages, tools, tool_choice: "auto", max_tokens: 200, structured_outputs: { choice: [call] } };
  const chat = await client.chat.completions.create(asked);
  assert.equal(chat.choices[0].finish_reason, "tool_calls");
  const [made] = chat.choices[0].message.tool_calls;
  assert.equal(made.function.name, "get_weather");
  assert.deepEqual(JSON.parse(made.function.arguments), { city: "北京" });

  const streamed = await client.chat.completions.stream(asked).finalChatCompletion();
  assert.equal(streamed.choices[0].finish_reason, "tool_calls");
  assert.deepEqual(JSON.parse(streamed.choices[0].message.tool_calls[0].function.arguments), { city: "北京" });

  const result = { role: "tool", tool_call_id: made.id, content: "晴" };
  const history = [...messages, chat.choices[0].message, result];
  const after = await client.chat.completions.create({ model, messages: history, tools, max_tokens: 8 });
  assert.equal(after.choices[0].message.role, "assistant");
});

test("models", async () => {
  const ids = [];
  for await (const each of client.models.list()) ids.push(each.id);
  assert.deepEqual(ids, [model]);
  assert.equal((await client.models.retrieve(model)).id, model);
});

test("json_schema", async () => {
  const schema = { type: "string", enum: ["财经", "体育"] };
  const chat = await client.chat.completions.create({
    ...{ model, messages, temperature: 0 },
    response_format: { type: "json_schema", json_schema: { name: "category", strict: true, schema } },
  });
  assert.ok(schema.enum.includes(JSON.parse(chat.choices[0].message.content)));
});

test("errors", async () => {
  await assert.rejects(client.chat.completions.create({ model: "other", messages }), (error) => {
    assert.ok(error instanceof OpenAI.NotFoundError);
    assert.equal(error.code, "model_not_found");
    return true;
  });
  await assert.rejects(client.chat.completions.create({ model, messages, max_tokens: 100_000 }), (error) => {
    assert.ok(error instanceof OpenAI.BadRequestError);
    assert.equal(error.param, "max_tokens");
    assert.match(error.message, /512/);
    return true;
  });
});

test("an abort frees the slot", async () => {
  const controller = new AbortController();
  const long = { model, prompt: "请分类：", max_tokens: 512, ignore_eos: true, stream: true };
  const stream = await client.completions.create(long, { signal: controller.signal });
  for await (const _ of stream) {
    assert.equal(await running(), 1);
    controller.abort();
  }
  await until(async () => (await running()) === 0, 5_000, "no request is running");

  const waiting = client.completions.create({ ...long, stream: false }, { signal: AbortSignal.timeout(100) });
  await assert.rejects(waiting, OpenAI.APIUserAbortError);
  await until(async () => (await running()) === 0, 5_000, "no request is running");
});
