/** What the server lists, over HTTP. */

/**
 * @typedef {{exchange: string, state: string|null, source: string, topics: number}} Exchange
 * `state` is null while nothing has been said of it */

/** Every carried topic that a pattern covers, page by page.
 * @param {string} pattern @returns {Promise<string[]>} */
export async function listTopics(pattern) {
  const found = [];
  let cursor = "";
  do {
    const query = new URLSearchParams({ pattern, ...(cursor && { cursor }) });
    const page = await getJson(`v1/topics?${query}`);
    for (const { topic } of page.topics) found.push(topic);
    cursor = page.cursor;
  } while (cursor);
  return found;
}

/** @returns {Promise<{exchanges: Exchange[], banner: string}>} `banner` is what everybody must be
 *   told of where the prices come from; empty where there is nothing to tell */
export async function listExchanges() {
  const { exchanges, banner } = await getJson("v1/exchanges");
  return { exchanges, banner: banner || sourceBanner(exchanges) };
}

/** @param {Exchange[]} exchanges */
function sourceBanner(exchanges) {
  const sources = new Set(exchanges.map(({ source }) => source));
  if (sources.has("replay")) return "REPLAY: recorded prices, not live ones";
  return sources.has("sim") ? "SIMULATION: these prices are made up" : "";
}

/** @param {string} path relative to the page @returns {Promise<any>} */
async function getJson(path) {
  const response = await fetch(new URL(path, document.baseURI), { cache: "no-store" });
  if (!response.ok) throw new Error(`${path}: HTTP ${response.status}`);
  return response.json();
}
