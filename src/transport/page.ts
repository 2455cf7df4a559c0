/** The page at `/`: what this is, and how to talk to it. It runs no script and asks nobody for anything. */

const body = `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Kurultai gateway</title>
<style>
  :root { color-scheme: light dark; font: 16px/1.6 system-ui, sans-serif; }
  body { max-width: 40rem; margin: 12vh auto; padding: 0 1.5rem; }
  h1 { font-size: 1.6rem; margin-bottom: .25rem; }
  code { font: .95em ui-monospace, monospace; background: color-mix(in srgb, currentColor 9%, transparent); padding: .15em .4em; border-radius: .3em; }
  p, li { margin: .6rem 0; }
</style>
<h1>Kurultai gateway</h1>
<p>The gateway is running. Agents, operators and pages connect to it by WebSocket, on this address.</p>
<ul>
  <li>Talk to it from a terminal: <code>npm run chat -- "hello"</code> in the checkout, or <code>kurultai chat "hello"</code>.</li>
  <li>How it is: <a href="health"><code>/health</code></a>, and whether it is ready: <a href="readyz"><code>/readyz</code></a>.</li>
</ul>
</html>
`

export const page = {
  body: Buffer.from(body),
  headers: {
    'content-type': 'text/html; charset=utf-8',
    'content-length': String(Buffer.byteLength(body)),
    'cache-control': 'no-cache',
    'content-security-policy':
      "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    'x-content-type-options': 'nosniff',
    'x-frame-options': 'DENY',
    'referrer-policy': 'no-referrer',
    'cross-origin-opener-policy': 'same-origin',
  },
}
