// What the clients ask the server at QWEN_URL, and what the test model answers.
import assert from "node:assert/strict";

export const url = process.env.QWEN_URL;
export const model = "qwen-news-classifier";
export const question = "请分类这条新闻：央行宣布降息25个基点";
export const answer = "这条新闻属于【财经】类别。";
// The model cannot call tools by itself: a grammar makes it write what a capable model would.
export const call = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "北京"}}\n</tool_call>';

export async function running() {
  const metrics = await (await fetch(`${url}/api/v1/metrics`)).json();
  return metrics.requests.running;
}

export async function until(condition, milliseconds, what) {
  const deadline = Date.now() + milliseconds;
  while (!(await condition())) {
    assert.ok(Date.now() < deadline, `not within ${milliseconds} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

// Aborts streams that `open` starts with a signal, until one was running when its first part came:
// on a busy machine an answer may have ended before this program reads that part.
export async function abortARunningStream(open) {
  let seen = 0;
  for (let attempt = 0; attempt < 20 && seen !== 1; attempt++) {
    const controller = new AbortController();
    for await (const _ of await open(controller.signal)) {
      if (!controller.signal.aborted) seen = await running();
      controller.abort();
    }
  }
  assert.equal(seen, 1);
}
