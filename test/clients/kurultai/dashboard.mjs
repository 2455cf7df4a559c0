// The dashboard, as far as the gateway sees it: `node dashboard.mjs URL TOKEN`. Prints the sessions that it would draw.
const [url, token] = process.argv.slice(2)
const response = await fetch(`${url}/api/sessions`, {
  headers: { Authorization: `Bearer ${token}` },
  cache: 'no-store',
  signal: AbortSignal.timeout(5_000),
})
if (!response.ok) throw new Error(`HTTP ${response.status}`)
const sessions = await response.json()
for (const { sessionId, agentId, lastActivity, messageCount } of sessions)
  console.log(
    JSON.stringify({ sessionId, agentId, isDated: !Number.isNaN(new Date(lastActivity).getTime()), messageCount }),
  )
