/**
 * The floor: a bare `ws` server that says the same frames as the gateway and does nothing else. No actors, no validation,
 * no storage, no credentials. Its packages are imported the plain way.
 *
 * - `limit` makes the pieces of an answer in process;
 * - `limit-http` reads them from a streaming model server, as a gateway must;
 * - `limit-hist-http` also keeps what was said in each session, as text, and sends it along;
 * - `limit-tick5` is `limit-http` that gathers the frames of 5 ms into one write a socket.
 *
 * `node limit.js --mode limit-http --model http://127.0.0.1:18990` prints the port it took.
 */
import { randomUUID } from 'node:crypto'
import { Agent, createServer, request } from 'node:http'
import type { AddressInfo, Socket } from 'node:net'
import { parseArgs } from 'node:util'
import { type WebSocket, WebSocketServer } from 'ws'

const { values } = parseArgs({
  options: { mode: { type: 'string', default: 'limit' }, model: { type: 'string', default: '' } },
})
const { mode, model } = values
const keepsHistory = mode === 'limit-hist-http'
const flushAfterMs = mode === 'limit-tick5' ? 5 : 0
const agent = new Agent({ keepAlive: true, maxSockets: 1024 })

interface Turn {
  runId: string
  sessionKey: string
  message: string
}

/** Everyone who has said hello. */
const audience = new Map<WebSocket, Socket>()
/** What each session has said, as members of a JSON array. */
const histories = new Map<string, string>()

const METHODS = ['health', 'status', 'chat.send', 'chat.abort', 'chat.history', 'sessions.list', 'agents.list']
const EVENTS = ['connect.challenge', 'agent', 'chat', 'presence', 'tick', 'health', 'shutdown']
const health = JSON.stringify({
  ok: true,
  ts: Date.now(),
  durationMs: 0,
  channels: {},
  channelOrder: [],
  channelLabels: {},
  heartbeatSeconds: 0,
  defaultAgentId: 'main',
  agents: [{ agentId: 'main', isDefault: true, sessions: { path: '/tmp/limit.sqlite', count: 0, recent: [] } }],
  sessions: { path: '/tmp/limit.sqlite', count: 0, recent: [] },
})

/** One whole, unmasked text frame, the same bytes for everybody. */
function frameOf(text: string): Buffer {
  const length = Buffer.byteLength(text)
  const headLength = length < 126 ? 2 : length < 65_536 ? 4 : 10
  const frame = Buffer.allocUnsafe(headLength + length)
  frame[0] = 0x81
  if (length < 126) frame[1] = length
  else if (length < 65_536) {
    frame[1] = 126
    frame.writeUInt16BE(length, 2)
  } else {
    frame[1] = 127
    frame.writeBigUInt64BE(BigInt(length), 2)
  }
  frame.write(text, headLength)
  return frame
}

let waiting: Buffer[] = []
let eventSeq = 0

function flush(): void {
  const bytes = waiting.length === 1 ? waiting[0]! : Buffer.concat(waiting)
  waiting = []
  for (const socket of audience.values()) socket.write(bytes)
}

/** Events of one turn of the loop, or of 5 ms, leave in one write a socket. */
function publish(event: string, payload: string): void {
  waiting.push(frameOf(`{"type":"event","event":"${event}","payload":${payload},"seq":${++eventSeq}}`))
  if (waiting.length > 1) return
  if (flushAfterMs > 0) setTimeout(flush, flushAfterMs)
  else setImmediate(flush)
}

/** Says what a run says, from its first event to its last. */
function createRun({ runId, sessionKey, message }: Turn) {
  const head = `{"runId":${JSON.stringify(runId)},"sessionKey":${JSON.stringify(sessionKey)}`
  let seq = 0
  let text = ''
  const agentEvent = (stream: string, data: string) =>
    publish('agent', `${head},"stream":"${stream}","data":${data},"seq":${++seq},"ts":${Date.now()}}`)
  agentEvent('lifecycle', `{"phase":"start","startedAt":${Date.now()}}`)
  return {
    delta(piece: string) {
      const delta = JSON.stringify(piece)
      text += delta.slice(1, -1)
      agentEvent('assistant', `{"text":"${text}","delta":${delta}}`)
    },
    end() {
      agentEvent('lifecycle', `{"phase":"end","endedAt":${Date.now()}}`)
      const content = `{"role":"assistant","content":[{"type":"text","text":"${text}"}],"timestamp":${Date.now()}}`
      publish('chat', `${head},"seq":${seq},"state":"final","message":${content}}`)
      if (!keepsHistory) return
      const mine = `{"role":"user","content":${JSON.stringify(message)}}`
      const turn = `${mine},{"role":"assistant","content":"${text}"}`
      const before = histories.get(sessionKey)
      histories.set(sessionKey, before === undefined ? turn : `${before},${turn}`)
    },
  }
}

function answerInProcess(turn: Turn): void {
  const run = createRun(turn)
  let left = Number(/chunks=(\d+)/.exec(turn.message)?.[1] ?? 3)
  const step = () => {
    if (left-- === 0) return run.end()
    run.delta('word ')
    setImmediate(step)
  }
  step()
}

function answerByHttp(turn: Turn): void {
  const run = createRun(turn)
  const before = histories.get(turn.sessionKey)
  const message = `{"role":"user","content":${JSON.stringify(turn.message)}}`
  const body = `{"model":"m","stream":true,"messages":[${before === undefined ? '' : `${before},`}${message}]}`
  const asked = request(
    `${model}/chat/completions`,
    {
      method: 'POST',
      agent,
      headers: { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) },
    },
    (response) => {
      let rest = ''
      response.setEncoding('utf8')
      response.on('data', (bytes: string) => {
        const events = (rest + bytes).split('\n\n')
        rest = events.pop() ?? ''
        for (const event of events) {
          if (!event.startsWith('data: {')) continue
          const chunk = JSON.parse(event.slice(6)) as { choices?: { delta?: { content?: string } }[] }
          const content = chunk.choices?.[0]?.delta?.content
          if (content) run.delta(content)
        }
      })
      response.on('end', () => run.end())
    },
  )
  asked.on('error', () => run.end())
  asked.end(body)
}

const answer = mode === 'limit' ? answerInProcess : answerByHttp

const server = createServer((_, response) => {
  response.writeHead(200, { 'content-type': 'application/json' }).end('{"ok":true,"status":"ok"}')
})
const sockets = new WebSocketServer({ server, perMessageDeflate: false, maxPayload: 1 << 20 })

sockets.on('connection', (ws, request) => {
  const raw = request.socket
  raw.setNoDelay(true)
  let corked = false
  /** The answers to one read leave in one write. */
  const send = (text: string) => {
    if (!corked) {
      corked = true
      raw.cork()
      process.nextTick(() => {
        corked = false
        raw.uncork()
      })
    }
    ws.send(text)
  }
  send(`{"type":"event","event":"connect.challenge","payload":{"nonce":"${randomUUID()}","ts":${Date.now()}}}`)
  ws.on('message', (data: Buffer) => {
    const { id, method, params } = JSON.parse(data.toString()) as {
      id: string
      method: string
      params: { sessionKey: string; message: string; idempotencyKey: string }
    }
    const head = `{"type":"res","id":${JSON.stringify(id)},"ok":true,"payload":`
    switch (method) {
      case 'connect': {
        audience.set(ws, raw)
        const snapshot = `{"presence":[],"health":${health},"stateVersion":{"presence":1,"health":1},"uptimeMs":1}`
        const features = JSON.stringify({ methods: METHODS, events: EVENTS })
        const policy = '{"maxPayload":524288,"maxBufferedBytes":1572864,"tickIntervalMs":30000}'
        const server = `{"version":"dev","host":"limit","connId":"${randomUUID()}"}`
        const hello = `"type":"hello-ok","protocol":3,"server":${server},"features":${features},"snapshot":${snapshot},"policy":${policy}`
        return send(`${head}{${hello}}}`)
      }
      case 'health':
        return send(`${head}${health}}`)
      case 'chat.send': {
        const { sessionKey, message, idempotencyKey: runId } = params
        send(`${head}{"runId":${JSON.stringify(runId)},"status":"started"}}`)
        setImmediate(answer, { runId, sessionKey, message })
      }
    }
  })
  ws.on('error', () => ws.terminate())
  ws.on('close', () => audience.delete(ws))
})

server.listen(0, '127.0.0.1', () => console.log(`running on 127.0.0.1:${(server.address() as AddressInfo).port}`))
