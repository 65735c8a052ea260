// One chat by a JavaScript client with its own retries. Prints the outcome as JSON.
// node refusals.mjs CLIENT KEY [SPENDING]: first sends so many requests that generate nothing.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText } from "ai";
import OpenAI from "openai";
import { model, question, url } from "./common.mjs";

const [, , client, apiKey, spending = "0"] = process.argv;
const baseURL = `${url}/v1`;
const calls = {
  openai: async () => {
    const messages = [{ role: "user", content: question }];
    const chat = await new OpenAI({ baseURL, apiKey }).chat.completions.create({ model, messages, temperature: 0 });
    return chat.choices[0].message.content;
  },
  "ai-sdk": async () => {
    const qwen = createOpenAICompatible({ name: "qwen", baseURL, apiKey });
    return (await generateText({ model: qwen(model), prompt: question, temperature: 0 })).text;
  },
};
const headers = { Authorization: `Bearer ${apiKey}`, "Content-Type": "application/json" };
const spend = () => fetch(`${baseURL}/chat/completions`, { method: "POST", headers, body: "{}" });
const spent = await Promise.all(Array.from({ length: Number(spending) }, spend));
const limited = spent.some((answer) => answer.status === 429);
const begun = performance.now();
let outcome;
try {
  outcome = { text: await calls[client]() };
} catch (error) {
  outcome = { error: error.name, kind: error.constructor.name, status: error.status ?? error.statusCode };
}
console.log(JSON.stringify({ ...outcome, limited, seconds: (performance.now() - begun) / 1000 }));
