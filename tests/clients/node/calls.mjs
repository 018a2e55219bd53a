// Makes the calls of a plan with the SDK for Node; ../openai_calls.py says what a plan is, and names the scenarios.
import { readFileSync } from "node:fs";
import { text } from "node:stream/consumers";
import OpenAI, { AzureOpenAI } from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";

const messages = [{ role: "user", content: "What is a receipt?" }];
const parameters = {
  type: "object",
  properties: {
    city: { type: "string", minLength: 1 },
    unit: { type: "string", enum: ["celsius", "fahrenheit"] },
  },
  required: ["city", "unit"],
  additionalProperties: false,
};
const withTools = { tools: [{ type: "function", function: { name: "weather", parameters } }], tool_choice: "required" };
const Verdict = z.object({ permitted: z.boolean(), channel: z.enum(["direct", "cloud"]), rules: z.array(z.string()) });

const create = (client, model, more = {}) => client.chat.completions.create({ model, messages, ...more });

async function streamed(client, model, more = {}) {
  const seen = { text: "", finish: [], usage: [] };
  try {
    for await (const chunk of await create(client, model, { stream: true, ...more })) {
      for (const choice of chunk.choices) {
        seen.text += choice.delta.content ?? "";
        if (choice.finish_reason) seen.finish.push(choice.finish_reason);
      }
      const { usage } = chunk;
      if (usage) seen.usage.push([usage.prompt_tokens, usage.completion_tokens, chunk.choices.length]);
    }
  } catch (error) {
    if (!(error instanceof OpenAI.APIError)) throw error;
    Object.assign(seen, described(error));
  }
  return seen;
}

const scenarios = {
  async chat(client, model) {
    const answer = await create(client, model);
    return {
      text: answer.choices[0].message.content,
      finish: answer.choices[0].finish_reason,
      usage: [answer.usage.prompt_tokens, answer.usage.completion_tokens],
      request_id: Boolean(answer._request_id),
    };
  },
  async told(client, model) {
    return (await create(client, model, { temperature: 0 })).choices[0].message.content.split(".")[0];
  },
  async raw(client, model) {
    const { data, response } = await create(client, model).withResponse();
    const requestId = response.headers.get("x-request-id");
    const guid = response.headers.get("apim-request-id");
    const forms = { [`req_${guid.replaceAll("-", "")}`]: "openai", [guid]: "azure" };
    return {
      request_id: forms[requestId] ?? null,
      same: data._request_id === requestId,
      region: response.headers.get("x-ms-region"),
      content_type: response.headers.get("content-type"),
    };
  },
  streamed,
  streamed_usage: (client, model) => streamed(client, model, { stream_options: { include_usage: true } }),
  async stream_told(client, model) {
    const seen = await streamed(client, model, { temperature: 0, stream_options: { include_usage: true } });
    return { ...seen, text: seen.text.split(".")[0], usage: seen.usage.length };
  },
  async stream_helper(client, model) {
    let deltas = "";
    const stream = client.chat.completions.stream({ model, messages });
    stream.on("content.delta", (event) => (deltas += event.delta));
    const { choices } = await stream.finalChatCompletion();
    return { deltas, text: choices[0].message.content, finish: choices[0].finish_reason };
  },
  async tools(client, model) {
    const choice = (await create(client, model, withTools)).choices[0];
    const called = choice.message.tool_calls[0].function;
    return { name: called.name, arguments: JSON.parse(called.arguments), finish: choice.finish_reason };
  },
  async tools_streamed(client, model) {
    const seen = { name: "", arguments: "", finish: "" };
    for await (const chunk of await create(client, model, { stream: true, ...withTools })) {
      for (const choice of chunk.choices) {
        seen.finish = choice.finish_reason ?? seen.finish;
        for (const call of choice.delta.tool_calls ?? []) {
          seen.name += call.function.name ?? "";
          seen.arguments += call.function.arguments ?? "";
        }
      }
    }
    return { ...seen, arguments: JSON.parse(seen.arguments) };
  },
  async schema(client, model) {
    const json_schema = { name: "weather", strict: true, schema: parameters };
    const answer = await create(client, model, { response_format: { type: "json_schema", json_schema } });
    return JSON.parse(answer.choices[0].message.content);
  },
  async parsed(client, model) {
    const response_format = zodResponseFormat(Verdict, "verdict");
    const answer = await client.chat.completions.parse({ model, messages, response_format });
    return answer.choices[0].message.parsed;
  },
  async completions(client, model) {
    const answer = await client.completions.create({ model, prompt: "An entrepot is" });
    return { text: answer.choices[0].text, finish: answer.choices[0].finish_reason };
  },
  async completions_streamed(client, model) {
    const seen = { text: "", finish: "", usage: 0 };
    for await (const chunk of await client.completions.create({ model, prompt: "A port", stream: true })) {
      seen.usage += chunk.usage ? 1 : 0;
      for (const choice of chunk.choices) {
        seen.text += choice.text;
        seen.finish = choice.finish_reason ?? seen.finish;
      }
    }
    return seen;
  },
  async embeddings(client, model) {
    const input = ["a port", "a rule"];
    const packed = await client.embeddings.create({ model, input });
    const plain = await client.embeddings.create({ model, input, encoding_format: "float" });
    const vectors = packed.data.map((row) => row.embedding);
    return {
      sizes: vectors.map((vector) => vector.length),
      same: vectors.every((row, i) => row.every((x, j) => Math.abs(x - plain.data[i].embedding[j]) < 1e-5)),
      lengths: vectors.map((vector) => Math.round(Math.hypot(...vector) * 1000) / 1000),
      counted: packed.usage.prompt_tokens > 0,
    };
  },
  async models(client) {
    return (await client.models.list()).data.map((each) => each.id).sort();
  },
  async retrieve(client, model) {
    return (await client.models.retrieve(model)).id;
  },
  ambiguous: (client, model) => create(client, model, { Model: "another" }),
  keyless(client, model) {
    return client.chat.completions.create({ model, messages }, { headers: { Authorization: null, "api-key": null } });
  },
  elsewhere: (client, model) => client.moderations.create({ input: "x", model }),
};

function described(error) {
  const seen = {
    raised: error.constructor.name,
    code: error.code ?? null,
    message: error.error?.message ?? null,
    inner: error.error?.innererror ?? null,
  };
  if (error.status !== undefined) {
    seen.status = error.status;
    seen.request_id = Boolean(error.requestID);
    for (const name of ["x-should-retry", "retry-after"]) seen[name] = error.headers.get(name);
  }
  return seen;
}

function opened(client, { key, retries }, root) {
  const options = { apiKey: key, maxRetries: retries };
  const at = `${root}/accounts/kanto`;
  const azure = { ...options, endpoint: root, apiVersion: "2024-10-21" };
  switch (client) {
    case "azure":
      return new AzureOpenAI(azure);
    case "azure-account":
      return new AzureOpenAI({ ...azure, endpoint: at, apiVersion: "2025-04-01-preview" });
    case "azure-deployment":
      return new AzureOpenAI({ ...azure, deployment: "gpt-4o" });
    case "openai":
      return new OpenAI({ ...options, baseURL: `${root}/v1` });
    case "openai-account":
      return new OpenAI({ ...options, baseURL: `${at}/v1` });
    case "v1":
      return new OpenAI({ ...options, baseURL: `${root}/openai/v1/` });
    case "v1-account":
      return new OpenAI({ ...options, baseURL: `${at}/openai/v1/` });
  }
}

async function requestsSeen(metrics) {
  const exposition = await (await fetch(metrics)).text();
  const seen = {};
  for (const [, status, count] of exposition.matchAll(/^entrepot_calls_total\{.*status="(\d+)".*\} (\d+)/gm)) {
    seen[status] = (seen[status] ?? 0) + Number(count);
  }
  return seen;
}

async function make(plan) {
  const made = [];
  let before = await requestsSeen(plan.metrics);
  for (const asked of plan.cases) {
    const results = {};
    for (const name of asked.clients) {
      const client = opened(name, asked, plan.root);
      results[name] = await scenarios[asked.scenario](client, asked.model).catch((error) =>
        error instanceof OpenAI.APIError ? described(error) : String(error.stack),
      );
    }
    const after = await requestsSeen(plan.metrics);
    const requests = {};
    for (const [status, count] of Object.entries(after)) {
      if (count !== (before[status] ?? 0)) requests[status] = count - (before[status] ?? 0);
    }
    made.push({ results, requests });
    before = after;
  }
  return made;
}

const plan = JSON.parse(await text(process.stdin));
const { version } = JSON.parse(readFileSync(new URL("node_modules/openai/package.json", import.meta.url)));
console.log(JSON.stringify({ version, results: { node: await make(plan) } }));
