// Shows openapi.json: every operation with its parameters, body and responses, and every schema.

function element(name, text, ...children) {
  const made = document.createElement(name);
  if (text) made.textContent = text;
  made.append(...children);
  return made;
}

function link(name) {
  const made = element("a", name);
  made.href = `#schema-${name}`;
  return made;
}

// What a schema allows, in a few words; schemas with names are links.
function words(schema) {
  if (schema.$ref) return [link(schema.$ref.split("/").pop())];
  for (const [key, word] of [["anyOf", " or "], ["allOf", " and "]]) {
    if (schema[key]) return schema[key].flatMap((each, i) => (i ? [word, ...words(each)] : words(each)));
  }
  if (schema.const !== undefined) return [JSON.stringify(schema.const)];
  if (schema.enum) return [schema.enum.map((each) => JSON.stringify(each)).join(", ")];
  const type = [schema.type ?? "anything"].flat().join(" or ");
  const bounds = Object.entries({
    minimum: "at least", maximum: "at most", minItems: "items at least", maxItems: "items at most",
    minLength: "characters at least", maxLength: "characters at most", pattern: "matches",
  }).filter(([key]) => schema[key] !== undefined).map(([key, word]) => `, ${word} ${schema[key]}`);
  const items = schema.items ? [" of ", ...words(schema.items)] : [];
  return [type, ...items, ...bounds];
}

function fields(schema) {
  const rows = Object.entries(schema.properties ?? {}).map(([name, each]) => {
    const needed = schema.required?.includes(name) ? " (required)" : "";
    const preset = each.default === undefined ? "" : ` Default: ${JSON.stringify(each.default)}.`;
    const about = `${each.description ?? ""}${preset}`;
    return element("tr", "", element("td", "", element("code", name), needed), element("td", "", ...words(each)), element("td", about));
  });
  const head = ["Field", "Value", ""].map((title) => element("th", title));
  return rows.length ? [element("table", "", element("thead", "", element("tr", "", ...head)), element("tbody", "", ...rows))] : [];
}

function whole(schema) {
  const parts = schema.allOf ?? schema.anyOf;
  const inner = parts ? [element("p", "", ...words(schema))] : [];
  const unnamed = (parts ?? []).filter((part) => !part.$ref).flatMap(fields);
  return [...(schema.description ? [element("p", schema.description)] : []), ...inner, ...unnamed, ...fields(schema)];
}

function content(title, bodies) {
  return Object.entries(bodies ?? {}).flatMap(([type, { schema }]) => {
    if (!schema) return [element("p", "", `${title}: `, element("code", type))];
    const line = element("p", "", `${title}: `, element("code", type), " ", ...words(schema));
    return [line, ...fields(schema)];
  });
}

function operation(api, path, method, told, shared) {
  const resolve = (response) => response.$ref ? api.components.responses[response.$ref.split("/").pop()] : response;
  const parameters = [...(shared ?? []), ...(told.parameters ?? [])].map((parameter) =>
    element("p", "", "Parameter ", element("code", parameter.name), ` (${parameter.in}): `, ...words(parameter.schema)));
  const responses = Object.entries(told.responses).flatMap(([status, response]) => {
    const found = resolve(response);
    return [element("p", `${status}: ${found.description}`), ...content("Body", found.content)];
  });
  const summary = element("summary", "", element("span", method.toUpperCase()), element("code", path), ` ${told.summary}`);
  summary.firstChild.className = "method";
  const made = element("details", "", summary, ...parameters, ...content("Body", told.requestBody?.content), ...responses);
  made.id = told.operationId;
  return made;
}

function show(api) {
  document.getElementById("about").textContent = api.info.description;
  document.querySelector("h1").textContent = `${api.info.title} ${api.info.version}`;
  const operations = Object.entries(api.paths).flatMap(([path, { parameters, ...methods }]) =>
    Object.entries(methods).map(([method, told]) => [told.tags[0], operation(api, path, method, told, parameters)]));
  for (const { name, description } of api.tags) {
    const own = operations.filter(([tag]) => tag === name).map(([, each]) => each);
    document.getElementById("operations").append(element("h2", name), element("p", description ?? ""), ...own);
  }
  const schemas = Object.entries(api.components.schemas).map(([name, schema]) => {
    const made = element("details", "", element("summary", name), ...whole(schema));
    made.id = `schema-${name}`;
    return made;
  });
  document.getElementById("schemas").append(...schemas);
  document.getElementById("state").textContent = `${operations.length} operations, ${schemas.length} schemas.`;
}

// A link to a closed part opens it.
function open() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (target instanceof HTMLDetailsElement) {
    target.open = true;
    target.scrollIntoView();
  }
}

addEventListener("hashchange", open);
try {
  const response = await fetch("openapi.json");
  if (!response.ok) throw new Error(`status ${response.status}`);
  show(await response.json());
  open();
} catch (error) {
  document.getElementById("state").textContent = `openapi.json cannot be shown: ${error.message}`;
}
