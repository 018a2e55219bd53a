// Calls at an account's endpoint as Azure names it; ../endpoint_calls.py says what is asked and answered.
import { text } from "node:stream/consumers";
import OpenAI, { AzureOpenAI } from "openai";
import { VERSION as version } from "openai/version";

const messages = [{ role: "user", content: "What is a receipt?" }];
const apiVersion = "2024-10-21";

async function got(client) {
  try {
    const answer = await client.chat.completions.create({ model: "gpt-4o", messages });
    const listed = [];
    for await (const model of client.models.list()) listed.push(model.id);
    return [answer.choices[0].message.content, listed];
  } catch (error) {
    if (!(error instanceof OpenAI.APIError)) throw error;
    return [error.status, error.code];
  }
}

const { endpoint, key, token } = JSON.parse(await text(process.stdin));
const withToken = (value) => async () => value;
const clients = {
  "azure, key": new AzureOpenAI({ endpoint, apiKey: key, apiVersion }),
  "azure, deployment": new AzureOpenAI({ endpoint, deployment: "gpt-4o", apiKey: key, apiVersion }),
  "azure, token": new AzureOpenAI({ endpoint, azureADTokenProvider: withToken(token), apiVersion }),
  "azure, token provider": new AzureOpenAI({ endpoint, azureADTokenProvider: withToken(token), apiVersion }),
  "azure, bad token": new AzureOpenAI({ endpoint, azureADTokenProvider: withToken(`${token}x`), apiVersion }),
  "v1, key": new OpenAI({ baseURL: `${endpoint}openai/v1/`, apiKey: key }),
  "v1, token": new OpenAI({ baseURL: `${endpoint}openai/v1/`, apiKey: token }),
  "openai, key": new OpenAI({ baseURL: `${endpoint}/v1`, apiKey: key }),
};
const results = {};
for (const [name, client] of Object.entries(clients)) results[name] = await got(client);
console.log(JSON.stringify({ version, results }));
