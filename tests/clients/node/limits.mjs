// Calls at once past a limit, by a client as it comes; ../limit_calls.py does the same.
import { text } from "node:stream/consumers";
import OpenAI from "openai";

const { root, key, calls } = JSON.parse(await text(process.stdin));
const client = new OpenAI({ baseURL: `${root}/v1`, apiKey: key });

async function outcome() {
  try {
    const messages = [{ role: "user", content: "hello" }];
    const answer = await client.chat.completions.create({ model: "gpt-4o", messages, max_tokens: 1 });
    return answer.choices[0].finish_reason !== undefined;
  } catch (error) {
    return String(error);
  }
}
console.log(JSON.stringify(await Promise.all(Array.from({ length: calls }, outcome))));
