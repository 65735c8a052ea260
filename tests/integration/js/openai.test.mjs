// The openai package, unchanged, against the server at QWEN_URL: each test does what an application would.
import assert from "node:assert/strict";
import { test } from "node:test";
import OpenAI from "openai";
import { zodFunction, zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";
import { abortARunningStream, answer, call, model, question, running, until, url } from "./common.mjs";

const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0, timeout: 60_000 });
const messages = [{ role: "user", content: question }];
const tools = [
  {
    type: "function",
    function: {
      name: "get_weather",
      parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
    },
  },
];

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
  const long = { model, prompt: "请分类：", max_tokens: 512, ignore_eos: true, stream: true };
  await abortARunningStream((signal) => client.completions.create(long, { signal }));
  await until(async () => (await running()) === 0, 5_000, "no request is running");

  const waiting = client.completions.create({ ...long, stream: false }, { signal: AbortSignal.timeout(100) });
  await assert.rejects(waiting, OpenAI.APIUserAbortError);
  await until(async () => (await running()) === 0, 5_000, "no request is running");
});

// The server's fields that the SDK does not know are passed on as they are.
const forced = (text) => ({ structured_outputs: { choice: [text] } });
const noBlanks = JSON.parse(process.env.QWEN_NO_BLANKS);

test("parsed answers and streams", async () => {
  const format = zodResponseFormat(z.object({ category: z.enum(["财经", "体育"]) }), "label");
  const asked = { model, messages, temperature: 0, logit_bias: noBlanks, response_format: format };
  const whole = await client.chat.completions.parse(asked);
  const { parsed } = whole.choices[0].message;
  assert.ok(["财经", "体育"].includes(parsed.category));
  const streamed = await client.chat.completions.stream(asked).finalChatCompletion();
  assert.deepEqual(streamed.choices[0].message.parsed, parsed);
});

test("parsed calls", async () => {
  // The tool is strict: vLLM's grammar of its arguments takes the place of any other.
  const parsing = [zodFunction({ name: "get_weather", parameters: z.object({ city: z.enum(["北京", "上海"]) }) })];
  const asked = {
    ...{ model, messages, tools: parsing, tool_choice: "required", parallel_tool_calls: false },
    ...{ temperature: 0, max_tokens: 200, logit_bias: noBlanks },
  };
  const runner = client.chat.completions.stream(asked);
  let pieces = "";
  runner.on("tool_calls.function.arguments.delta", (event) => (pieces += event.arguments_delta));
  const streamed = await runner.finalChatCompletion();
  const whole = await client.chat.completions.parse(asked);
  for (const chat of [whole, streamed]) {
    const { parsed_arguments } = chat.choices[0].message.tool_calls[0].function;
    assert.ok(["北京", "上海"].includes(parsed_arguments.city));
    assert.deepEqual(JSON.parse(pieces), parsed_arguments);
  }
});

test("a runner of tools", async () => {
  // The grammar depends on the turn, and the runner sends the same fields in each.
  const byTurn = (address, init) => {
    const body = JSON.parse(init.body);
    const text = body.messages.some((message) => message.role === "tool") ? "北京今天晴。" : call;
    return fetch(address, { ...init, body: JSON.stringify({ ...body, ...forced(text) }) });
  };
  const turning = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0, fetch: byTurn });
  const asked = [];
  const weather = async ({ city }) => `${asked.push(city)}：晴`;
  const { parameters } = tools[0].function;
  const running = [{ type: "function", function: { name: "get_weather", parameters, parse: JSON.parse, function: weather } }];
  for (const stream of [false, true]) {
    const runner = turning.chat.completions.runTools({ model, messages, tools: running, max_tokens: 200, stream });
    assert.equal(await runner.finalContent(), "北京今天晴。");
  }
  assert.deepEqual(asked, ["北京", "北京"]);
});

test("responses", async () => {
  const asked = { model, input: question, temperature: 0 };
  const whole = await client.responses.create(asked);
  assert.equal(whole.output_text, answer);
  const stream = client.responses.stream(asked);
  let text = "";
  stream.on("response.output_text.delta", (event) => (text += event.delta));
  const streamed = await stream.finalResponse();
  assert.equal(text, answer);
  assert.equal(streamed.output_text, answer);
  assert.deepEqual(streamed.usage, whole.usage);

  const { name, parameters } = tools[0].function;
  const calling = { ...asked, tools: [{ type: "function", name, parameters }], max_output_tokens: 200, ...forced(call) };
  const called = await client.responses.stream(calling).finalResponse();
  assert.deepEqual(called.output.map((item) => item.type), ["function_call"]);
  assert.deepEqual(JSON.parse(called.output[0].arguments), { city: "北京" });
});
