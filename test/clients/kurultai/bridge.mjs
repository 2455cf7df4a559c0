// The Discord bridge, as far as the gateway sees it: `node bridge.mjs URL TOKEN SESSION=TEXT…`. It sends each text to its session,
// prints a line of JSON for each message that it would post, and leaves when each session has had its answer.
import { randomUUID } from 'node:crypto'
import WebSocket from 'ws'

const [url, token, ...rest] = process.argv.slice(2)
const orders = rest.map((order) => [order.slice(0, order.indexOf('=')), order.slice(order.indexOf('=') + 1)])
const socket = new WebSocket(url)
const open = new Set(orders.map(([sessionKey]) => sessionKey))
const say = (line) => console.log(JSON.stringify(line))
const request = (method, params) => socket.send(JSON.stringify({ type: 'req', id: randomUUID(), method, params }))

const hear = {
  'connect.challenge': ({ params }) =>
    request('connect', {
      minProtocol: 3,
      maxProtocol: 3,
      client: { id: 'discord-bridge', version: '0.4.0', platform: 'linux', mode: 'backend' },
      role: 'operator',
      scopes: ['operator.admin', 'operator.approvals', 'operator.pairing'],
      auth: { token },
      challenge: { nonce: params.nonce },
    }),
  'connect.response': ({ params }) => {
    say({ connected: params.success, sessionId: params.sessionId })
    for (const [sessionKey, message] of orders) {
      const context = { channel: 'discord', channelId: '42', author: 'Börte' }
      request('chat.send', { sessionKey, message, deliver: true, idempotencyKey: randomUUID(), context })
    }
  },
}

socket.on('message', (data) => {
  const message = JSON.parse(data)
  if (message.type === 'res' && !message.ok) {
    console.error(message.error.message)
    process.exit(1)
  }
  hear[message.method]?.(message)
  if (message.event !== 'agent') return
  const { stream, data: said, sessionKey } = message.payload
  if (stream === 'assistant') say({ post: said.delta, in: sessionKey })
  if (stream === 'lifecycle' && said.phase === 'end') {
    open.delete(sessionKey)
    if (open.size === 0) socket.close()
  }
})
socket.on('error', (error) => {
  console.error(error.message)
  process.exit(1)
})
