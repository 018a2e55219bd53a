// The life of an account with the SDKs for Node; ../management_calls.py says what is asked and what is seen.
import { text } from "node:stream/consumers";
import { CognitiveServicesManagementClient } from "@azure/arm-cognitiveservices";
import { ClientSecretCredential, getBearerTokenProvider } from "@azure/identity";
import { AzureOpenAI } from "openai";

const location = "japaneast";
const account = (properties = {}) => ({ location, kind: "OpenAI", sku: { name: "S0" }, properties });
const deployment = (capacity, name = "gpt-4o") => ({
  sku: { name: "GlobalStandard", capacity },
  properties: { model: { format: "OpenAI", name, version: "2024-11-20" } },
});

async function all(list) {
  const items = [];
  for await (const item of list) items.push(item);
  return items;
}

async function called(endpoint, who) {
  const client = new AzureOpenAI({ endpoint, apiVersion: "2024-10-21", ...who });
  const messages = [{ role: "user", content: "Well?" }];
  return (await client.chat.completions.create({ model: "chat", messages })).choices[0].message.content;
}

async function failed(polled) {
  try {
    await polled;
  } catch (error) {
    return [error.statusCode, error.code, error.details?.error?.message ?? error.message];
  }
  return [];
}

const plan = JSON.parse(await text(process.stdin));
const { url, tenant, group, name } = plan;
const credential = new ClientSecretCredential(tenant, plan.client_id, plan.secret, {
  authorityHost: url,
  disableInstanceDiscovery: tenant !== "adfs",
});
const client = (subscription) =>
  new CognitiveServicesManagementClient(credential, subscription, {
    endpoint: url,
    credentialScopes: [`${url}/.default`],
  });
const sdk = client(plan.subscription);
const barred = client(plan.barred);
const deploy = (...what) => sdk.deployments.beginCreateOrUpdateAndWait(group, name, ...what);

const seen = {};
const made = await sdk.accounts.beginCreateAndWait(group, name, account());
seen.created = made.properties.provisioningState;
const before = await sdk.accounts.listKeys(group, name);
seen["key2 stays"] = before.key2 === (await sdk.accounts.regenerateKey(group, name, "Key1")).key2;
seen.deployed = (await deploy("chat", deployment(10))).properties.provisioningState;
seen.scaled = (await deploy("chat", deployment(20))).sku.capacity;
seen.deployments = (await all(sdk.deployments.list(group, name))).map((each) => each.name);
seen.models = [...new Set((await all(sdk.models.list(location))).map((each) => each.model.name))].sort();
const usages = await all(sdk.usages.list(location));
seen.usage = usages.find((each) => each.name.value === "OpenAI.GlobalStandard.gpt-4o").currentValue;
const { endpoint } = made.properties;
seen["with key"] = await called(endpoint, { apiKey: (await sdk.accounts.listKeys(group, name)).key1 });
const azureADTokenProvider = getBearerTokenProvider(credential, "https://cognitiveservices.azure.com/.default");
seen["with token"] = await called(endpoint, { azureADTokenProvider });
seen["no such model"] = (await failed(deploy("no", deployment(1, "no-such-model")))).slice(0, 2);
const other = `${name}-barred`;
await barred.accounts.beginCreateAndWait(group, other, account());
seen.barred = await failed(barred.deployments.beginCreateOrUpdateAndWait(group, other, "chat", deployment(1)));
await sdk.deployments.beginDeleteAndWait(group, name, "chat");
seen.left = (await all(sdk.deployments.list(group, name))).map((each) => each.name);
await sdk.accounts.beginDeleteAndWait(group, name);
seen.deleted = (await all(sdk.deletedAccounts.list())).map((each) => each.name);
seen.recovered = (await sdk.accounts.beginCreateAndWait(group, name, account({ restore: true }))).name === name;
await sdk.accounts.beginDeleteAndWait(group, name);
await sdk.deletedAccounts.beginPurgeAndWait(location, group, name);
seen.purged = (await all(sdk.deletedAccounts.list())).map((each) => each.name);
console.log(JSON.stringify(seen));
