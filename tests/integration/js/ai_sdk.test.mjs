// The AI SDK, which opencode and many web applications use, against the server at QWEN_URL.
import assert from "node:assert/strict";
import { test } from "node:test";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, Output, generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";
import { abortARunningStream, answer, call, model as name, question, until, url, running } from "./common.mjs";

const qwen = createOpenAICompatible({
  ...{ name: "qwen", baseURL: `${url}/v1`, apiKey: "none", includeUsage: true },
  supportsStructuredOutputs: true,
});
const model = qwen(name);
const asked = { model, prompt: question, temperature: 0, maxRetries: 0 };
// Fields of this name are passed on as they are.
const forced = (text) => ({ providerOptions: { qwen: { structured_outputs: { choice: [text] } } } });
const tools = {
  get_weather: tool({
    description: "The weather in a city",
    inputSchema: z.object({ city: z.string() }),
    execute: async ({ city }) => `${city}：晴`,
  }),
};
// The model cannot call tools by itself: a grammar makes it call in the first step and answer in the second.
const steps = {
  ...{ ...asked, tools, maxOutputTokens: 200, stopWhen: stepCountIs(3) },
  prepareStep: ({ stepNumber }) => forced(stepNumber === 0 ? call : "北京今天晴。"),
};

test("text, streamed and not", async () => {
  const whole = await generateText(asked);
  assert.equal(whole.text, answer);
  assert.equal(whole.finishReason, "stop");
  const stream = streamText(asked);
  const pieces = [];
  for await (const piece of stream.textStream) pieces.push(piece);
  assert.equal(pieces.join(""), answer);
  assert.equal(await stream.finishReason, "stop");
  const usage = await stream.usage;
  assert.ok(usage.outputTokens > 0);
  for (const count of ["inputTokens", "outputTokens", "totalTokens"]) assert.equal(usage[count], whole.usage[count]);
});

test("a tool in two steps, streamed and not", async () => {
  const whole = await generateText(steps);
  const stream = streamText(steps);
  await stream.consumeStream();
  for (const made of [whole.steps, await stream.steps]) {
    assert.equal(made.length, 2);
    assert.equal(made[0].finishReason, "tool-calls");
    assert.deepEqual(made[0].toolCalls.map((each) => [each.toolName, each.input]), [["get_weather", { city: "北京" }]]);
    assert.deepEqual(made[0].toolResults.map((each) => each.output), ["北京：晴"]);
    assert.equal(made[1].text, "北京今天晴。");
  }
});

test("an object after a schema, streamed and not", async () => {
  const output = Output.choice({ options: ["财经", "体育"] });
  // Without a bias against blanks, this model fills its JSON with them.
  const limited = { ...asked, output, providerOptions: { qwen: { logit_bias: JSON.parse(process.env.QWEN_NO_BLANKS) } } };
  const whole = await generateText(limited);
  assert.ok(["财经", "体育"].includes(whole.output));
  assert.equal(await streamText(limited).output, whole.output);
});

test("a thought has a part of its own", async () => {
  const thinking = { ...asked, providerOptions: { qwen: { chat_template_kwargs: { enable_thinking: true } } } };
  const whole = await generateText(thinking);
  assert.ok(whole.reasoningText);
  const stream = streamText(thinking);
  assert.equal(await stream.reasoningText, whole.reasoningText);
  assert.equal(await stream.text, whole.text);
});

test("completions", async () => {
  const prompt = "请分类：苹果发布新款iPhone\n类别：";
  const completion = { model: qwen.completionModel(name), temperature: 0, maxRetries: 0, prompt };
  const fetched = await generateText(completion);
  assert.equal(await streamText(completion).text, fetched.text);
  assert.ok(fetched.usage.outputTokens > 0);
});

test("errors", async () => {
  await assert.rejects(generateText({ ...asked, model: qwen("other") }), (error) => {
    assert.ok(APICallError.isInstance(error));
    assert.equal(error.statusCode, 404);
    assert.match(error.message, /other/);
    return true;
  });
  await assert.rejects(generateText({ ...asked, maxOutputTokens: 100_000 }), (error) => {
    assert.equal(error.statusCode, 400);
    assert.equal(error.data.error.param, "max_tokens");
    assert.match(error.message, /512/);
    return true;
  });
});

test("an abort frees the slot", async () => {
  const long = { ...asked, maxOutputTokens: 512, providerOptions: { qwen: { ignore_eos: true } } };
  await abortARunningStream((signal) => streamText({ ...long, abortSignal: signal }).textStream);
  await until(async () => (await running()) === 0, 5_000, "no request is running");
});
