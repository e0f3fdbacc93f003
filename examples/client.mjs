// A client in JavaScript, without packages: a streamed chat over OpenAI's route, in Node 18 or newer or in a browser.
//
//     node examples/client.mjs http://127.0.0.1:8000 "Tell me a story"
//
// A token, where the server wants one, comes from the environment: FASTSERVE_API_KEY.

const [url = "http://127.0.0.1:8000", prompt = "Tell me a story"] = process.argv.slice(2);
const token = process.env.FASTSERVE_API_KEY;

/** Yields the text of each token as it arrives. */
export async function* chat(url, messages, token, signal) {
  const response = await fetch(`${url}/v1/chat/completions`, {
    method: "POST",
    headers: { "Content-Type": "application/json", ...(token && { Authorization: `Bearer ${token}` }) },
    body: JSON.stringify({ messages, max_tokens: 32, stream: true }),
    signal,
  });
  if (!response.ok) throw new Error(`${response.status}: ${await response.text()}`);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data: ")) continue; // a blank line, or a comment while the request waits
      const data = line.slice("data: ".length);
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Error(chunk.error.message);
      yield chunk.choices[0]?.delta.content ?? "";
    }
  }
}

try {
  for await (const text of chat(url, [{ role: "user", content: prompt }], token)) process.stdout.write(text);
  process.stdout.write("\n");
} catch (error) {
  console.error(error.message);
  process.exitCode = 1;
}
