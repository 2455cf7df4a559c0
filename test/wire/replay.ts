/** Plays the client's part of a recorded conversation to a gateway of this process, and keeps what it hears. */
import { createHash, generateKeyPairSync, type KeyObject, randomUUID, sign } from 'node:crypto'
import { WebSocket } from 'ws'
import { CONNECT, type Frame, openPeer, type Peer, startGateway, type TestGateway, TOKEN } from '../support/gateway.ts'
import { startModelServer } from '../support/model-server.ts'
import { compare, type Difference, type Equivalents } from './compare.ts'
import {
  closedByClient,
  type Entry,
  type Heard,
  heardIn,
  isForeign,
  isReceived,
  isSent,
  namesOf,
  type Recording,
} from './recording.ts'

/** How much faster than in the recordings the model answers, and deadlines pass. */
const PACE = 4
/** How long a frame that was recorded is waited for, in milliseconds. */
const PATIENCE_MS = 4_000
/** Silence before a client's frame from which on the recording waited for everything to be over, in milliseconds. */
const PAUSE_MS = 1_000
/** How much the model of the recordings said when nothing told it how much. */
const RECORDED_CHUNKS = 50
const BARRIER = 'replay-barrier'

/** What a recording does not say of itself. */
interface Circumstances {
  /** Headers of the upgrade, by connection. `<HOST>` is this gateway's own host and port. */
  headers?: { [conn: string]: { [name: string]: string } }
  /** What is wrong with the device's proof, and which form it is signed in where that is not 2. */
  proof?: 'signature' | 'id' | 'nonce' | 'v3'
  /** Turns that sessions had before it began. */
  earlier?: { sessionKey: string; message: string; idempotencyKey: string }[]
  /** Frames that were sent but not recorded, by the words of the note before them. */
  unrecorded?: { [note: string]: string | Buffer }
  handshakeTimeoutMs?: number
}

const turn = (sessionKey: string, message: string, idempotencyKey: string) => ({ sessionKey, message, idempotencyKey })

const CIRCUMSTANCES: { [file: string]: Circumstances } = {
  'chat-inject': { earlier: [turn('agent:main:hist', 'first question [[chunks=3]]', 'run-hist-1')] },
  'chat-reset-command': { earlier: [turn('agent:main:hist', 'first question [[chunks=3]]', 'run-hist-1')] },
  'connect-any-origin-other-client': { headers: { A: { origin: 'https://evil.example' } } },
  'connect-device-bad-signature': { proof: 'signature' },
  'connect-device-id-mismatch': { proof: 'id' },
  'connect-device-nonce-mismatch': { proof: 'nonce' },
  'connect-remote-host-header': { headers: { B: { host: 'gateway.example' } } },
  'connect-timeout': { handshakeTimeoutMs: 100 },
  'connect-webchat-bad-origin': { headers: { A: { origin: 'https://evil.example' } } },
  'connect-webchat-no-device': { headers: { A: { origin: 'http://<HOST>' } } },
  'connect-webchat-ok': { headers: { A: { origin: 'http://<HOST>' } } },
  errors: {
    unrecorded: { 'binary frame': Buffer.from('{"type":"req","id":"bin1","method":"last-heartbeat"}') },
  },
  sessions: {
    earlier: [
      turn('agent:main:main', 'hi [[chunks=1]]', 'run-sk-agent:main:main'),
      turn('agent:main:main', 'hello main [[chunks=2]]', 'ses-1'),
      turn('agent:main:work', 'hello work [[chunks=2]]', 'ses-2'),
    ],
  },
  'v4/connect-device-v3': { proof: 'v3' },
}

export interface ReplayOptions {
  /** Whether a part of the recording (`A run r1 chat final`) is known not to come here, and need not be waited for. */
  isMissing(where: string): boolean
}

/** Replays a conversation and returns every difference between what was recorded and what was heard. */
export async function replay(recording: Recording, { isMissing }: ReplayOptions): Promise<Difference[]> {
  const { file, entries } = recording
  const circumstances = CIRCUMSTANCES[file] ?? {}
  const names = namesOf(recording)
  const recorded = heardIn(recording, names)
  const same: Equivalents = new Map()
  await using model = await startModelServer({ pace: PACE, chunks: RECORDED_CHUNKS, quotesResults: false })
  await using gateway = await startGateway({ config: configOf(model.url, circumstances) })
  for (const params of circumstances.earlier ?? []) await spend(gateway, params)

  const lines = new Map<string, Line>()
  const late: string[] = []
  /** The entries that the next frame of the client waits for. */
  let due: Entry[] = []
  let lastAt = 0
  for (const entry of entries) {
    if (entry.note !== undefined) {
      const unrecorded = Object.entries(circumstances.unrecorded ?? {}).find(([words]) => entry.note!.includes(words))
      if (unrecorded) {
        await catchUp(entry)
        lines.get('A')!.peer!.socket.send(unrecorded[1])
      }
      continue
    }
    const line = await lineOf(entry.conn!)
    if (isReceived(entry)) {
      if (!isForeign(entry.frame!, names)) due.push(entry)
    } else if (isSent(entry)) {
      await catchUp(entry)
      line.say(entry)
    } else if (closedByClient(recorded.get(entry.conn!)!, entry)) {
      await catchUp(entry)
      line.peer?.socket.close(1000)
      await line.peer?.closed
    } else due.push(entry)
    lastAt = entry.t ?? lastAt
  }
  await catchUp(undefined)
  await Promise.all([...lines.values()].map((line) => line.barrier()))

  const heard = new Map([...lines].map(([conn, line]) => [conn, line.heard()]))
  return [
    ...compare(recording, names, recorded, heard, same),
    ...late.map((where): Difference => ({ where, kind: 'missing', here: 'waited for in vain' })),
  ]

  async function lineOf(conn: string): Promise<Line> {
    let line = lines.get(conn)
    if (!line) {
      line = await openLine(conn)
      lines.set(conn, line)
      // A recording that begins in the middle takes the handshake for granted.
      const first = entries.find((entry) => entry.conn === conn && isSent(entry))
      if (first?.frame && first.frame['method'] !== 'connect' && !recorded.get(conn)!.close) await line.greet()
    }
    return line
  }

  /** Waits until everything has come that had come in the recording when the client said its next word. */
  async function catchUp(next: Entry | undefined): Promise<void> {
    const texts = new Map<string, number>()
    for (const { conn, frame, close } of due) {
      const line = lines.get(conn!)!
      if (line.refused !== undefined) continue
      if (close) {
        await patiently(`${conn} close`, () => line.closed !== undefined)
        continue
      }
      const { type, event, payload, id } = frame!
      if (type === 'res') {
        const seen = texts.get(`${conn} ${id}`) ?? 0
        texts.set(`${conn} ${id}`, seen + 1)
        const where = `${conn} ${names.methods.get(`${conn} ${id}`) ?? 'answer'} ${id}${seen > 0 ? ` #${seen + 1}` : ''}`
        await patiently(where, () => line.frames().filter((one) => one.type === 'res' && one.id === id).length > seen)
      } else if (event === 'agent' || event === 'chat') {
        const { runId } = payload
        if (!names.runs.has(runId)) continue
        const length = event === 'agent' ? payload.data.text?.length : payload.message?.content[0].text.length
        const begun = payload.data?.phase === 'start' || length !== undefined
        if (begun && payload.state !== 'final')
          await patiently(`${conn} run ${runId}`, () => line.ended(runId) || line.streamed(runId) >= (length ?? 0))
        else if (['final', 'aborted', 'error'].includes(payload.state))
          await patiently(`${conn} run ${runId}`, () => line.ended(runId))
      } else await patiently(`${conn} ${event}`, () => line.frames().some((one) => one.event === event))
    }
    due = []
    const pause = next?.t === undefined || next.t - lastAt >= PAUSE_MS
    if (pause || recordedAreOver(next))
      await patiently('every run', () => [...lines.values()].every((line) => line.idle()))
  }

  /** Whether every run that the recording had begun before an entry had ended. */
  function recordedAreOver(until: Entry | undefined): boolean {
    const live = new Set<string>()
    for (const entry of entries) {
      if (entry === until) break
      const { payload, event } = entry.frame ?? {}
      if (payload?.status === 'started' || payload?.status === 'accepted') live.add(payload.runId)
      if (event === 'chat' && ['final', 'aborted', 'error'].includes(payload.state)) live.delete(payload.runId)
    }
    return live.size === 0
  }

  async function patiently(where: string, holds: () => boolean): Promise<void> {
    if (isMissing(where)) return
    const until = Date.now() + PATIENCE_MS
    while (!holds()) {
      if (Date.now() > until) {
        late.push(where)
        return
      }
      await new Promise((resolve) => setTimeout(resolve, 2))
    }
  }

  /** A connection of the recording, and everything that is said on it. */
  async function openLine(conn: string): Promise<Line> {
    const headers = Object.entries(circumstances.headers?.[conn] ?? {}).map(
      ([name, value]) => [name, value.replace('<HOST>', `127.0.0.1:${gateway.port}`)] as const,
    )
    const opened = await openPeer(gateway.url, { headers: Object.fromEntries(headers) }).catch(
      (error: { status?: number }) => {
        if (error.status === undefined) throw error
        return error.status
      },
    )
    const peer = typeof opened === 'number' ? undefined : opened
    const frames = () => (peer?.frames ?? []).filter(({ id }) => id !== BARRIER)
    let closed: { code: number; reason: string } | undefined
    void peer?.closed.then((how) => {
      closed = how
    })
    const challenge = await peer?.next(({ event }) => event === 'connect.challenge')
    const recordedChallenge = recorded.get(conn)?.frames.find(({ event }) => event === 'connect.challenge')
    let greeted = false
    const ended = (runId: string) =>
      frames().some(
        ({ event, payload }) =>
          event === 'chat' && payload.runId === runId && ['final', 'aborted', 'error'].includes(payload.state),
      )
    return {
      peer,
      refused: typeof opened === 'number' ? opened : undefined,
      frames,
      get closed() {
        return closed
      },
      say({ frame, raw }) {
        if (raw !== undefined) return peer?.send(raw.startsWith('<a chat.send of') ? oversized(raw) : raw)
        const filled = fill(frame) as Frame
        if (filled['method'] === 'connect') {
          const device = filled['params']?.device
          if (device)
            prove(frame!, filled['params'], challenge!['payload'], recordedChallenge?.['payload'], circumstances)
        }
        if (filled['method']?.startsWith('cron.') && filled['params']?.id)
          filled['params'].id = jobOf(conn, filled['params'].id)
        if (filled['method'] === 'node.invoke.result') filled['params'].id = invokeOf(conn, filled['params'].id)
        if (filled['params']?.timeoutMs !== undefined && filled['method'] === 'chat.send')
          filled['params'].timeoutMs /= PACE
        peer?.send(filled)
      },
      async greet() {
        greeted = true
        const hello = await peer!.request('connect', CONNECT, BARRIER)
        if (!hello['ok']) throw new Error('the handshake before the recording was refused')
      },
      async barrier() {
        // Who is refused is shown out; until then not everything has been said.
        const refused = frames().some(({ type, ok, error }) => type === 'res' && !ok && error.code !== undefined)
        const isIn = frames().some(({ payload }) => payload?.type === 'hello-ok')
        if (!isIn && !greeted && refused) await peer?.closed
        if ((isIn || greeted) && peer?.socket.readyState === WebSocket.OPEN)
          await peer.request('last-heartbeat', {}, BARRIER)
      },
      heard: () => ({
        frames: frames(),
        ...(closed && !closedByClient({ frames: frames() }, { close: closed }) && { close: closed }),
        ...(typeof opened === 'number' && { refused: opened }),
      }),
      streamed: (runId) => {
        const mine = frames().filter(({ payload }) => payload?.runId === runId && payload.stream)
        if (mine.length === 0) return -1
        return mine.reduce((length, { payload }) => length + (payload.data.delta?.length ?? 0), 0)
      },
      ended,
      idle() {
        if (closed) return true
        return frames().every(
          ({ payload }) => !['started', 'accepted'].includes(payload?.status) || ended(payload.runId),
        )
      },
    }
  }

  /** Puts in what the recording left blank, and the ids of here for those of then. */
  function fill(value: unknown): unknown {
    if (Array.isArray(value)) return value.map(fill)
    if (typeof value === 'object' && value !== null)
      return Object.fromEntries(Object.entries(value).map(([name, member]) => [name, fill(member)]))
    if (typeof value !== 'string') return value
    if (value === '<TOKEN>') return TOKEN
    if (value === '<DEVICE_TOKEN>') return deviceToken()
    return same.get(`requestId ${value}`) ?? same.get(value) ?? value
  }

  /** The id of here for something that a node was asked then: the nth is the nth. */
  function invokeOf(conn: string, id: string): string {
    const isAsked = ({ event }: Frame) => event === 'node.invoke.request'
    const then = recorded.get(conn)!.frames.filter(isAsked)
    const now = lines.get(conn)!.frames().filter(isAsked)
    return now[then.findIndex(({ payload }) => payload.id === id)]?.['payload'].id ?? id
  }

  /** The id of here for a job that was added then: the nth is the nth. */
  function jobOf(conn: string, id: string): string {
    const isAdded = ({ event, payload }: Frame) => event === 'cron' && payload.action === 'added'
    const then = recorded.get(conn)!.frames.filter(isAdded)
    const now = lines.get(conn)!.frames().filter(isAdded)
    return now[then.findIndex(({ payload }) => payload.jobId === id)]?.['payload'].jobId ?? id
  }

  function deviceToken(): string {
    for (const line of lines.values())
      for (const { payload } of line.frames()) if (payload?.auth?.deviceToken) return payload.auth.deviceToken
    throw new Error('no device token was issued')
  }

  /** Fills in a device and signs for it, in the form that was recorded. */
  function prove(
    then: Frame,
    params: Frame,
    challenge: Frame,
    challengeThen: Frame | undefined,
    { proof }: Circumstances,
  ): void {
    const placeholder = then['params'].device.id as string
    const { id, publicKey, privateKey } = deviceOf(placeholder)
    const { nonce, signedAt } = then['params'].device
    const at = Date.now() + (challengeThen ? signedAt - challengeThen['ts'] : 0)
    const signedNonce = proof === 'nonce' ? randomUUID() : challenge['nonce']
    const { client, role, scopes, auth } = params as typeof CONNECT
    const version = nonce === undefined ? 'v1' : proof === 'v3' ? 'v3' : 'v2'
    const parts = [version, id, client.id, client.mode, role, (scopes ?? []).join(), at, auth?.token ?? '']
    if (nonce !== undefined) parts.push(signedNonce)
    if (version === 'v3') {
      const { platform, deviceFamily } = client as { platform: string; deviceFamily?: string }
      parts.push(platform.trim().toLowerCase(), (deviceFamily ?? '').trim().toLowerCase())
    }
    const text = proof === 'signature' ? 'something else' : parts.join('|')
    params['device'] = {
      id: proof === 'id' ? deviceOf('another').id : id,
      publicKey,
      signature: sign(null, Buffer.from(text), privateKey).toString('base64url'),
      signedAt: at,
      ...(nonce !== undefined && { nonce: signedNonce }),
    }
    same.set(placeholder, id)
  }
}

interface Line {
  peer: Peer | undefined
  /** The status of an upgrade that was refused. */
  refused: number | undefined
  readonly closed: { code: number; reason: string } | undefined
  frames(): Frame[]
  say(entry: Entry): void
  /** Shakes hands where the recording took that for granted. */
  greet(): Promise<void>
  /** Resolves when everything that was on its way has come. */
  barrier(): Promise<void>
  heard(): Heard
  /** Characters that a run has streamed; -1 before it began. */
  streamed(runId: string): number
  ended(runId: string): boolean
  /** Whether every run that was acknowledged here has ended. */
  idle(): boolean
}

const devices = new Map<string, { id: string; publicKey: string; privateKey: KeyObject }>()

/** The device that a placeholder stands for: a real key pair. */
function deviceOf(placeholder: string) {
  const known = devices.get(placeholder)
  if (known) return known
  const { publicKey, privateKey } = generateKeyPairSync('ed25519')
  const raw = publicKey.export({ format: 'der', type: 'spki' }).subarray(-32)
  const device = {
    id: createHash('sha256').update(raw).digest('hex'),
    publicKey: raw.toString('base64url'),
    privateKey,
  }
  devices.set(placeholder, device)
  return device
}

/** What a note such as `<a chat.send of 530000 characters>` stands for. */
function oversized(note: string): string {
  const params = { sessionKey: 'main', idempotencyKey: 'too-large', message: '' }
  const frame = (message: string) =>
    JSON.stringify({ type: 'req', id: '2', method: 'chat.send', params: { ...params, message } })
  return frame('x'.repeat(Number(/\d+/.exec(note)![0]) - frame('').length))
}

/** The configuration of the recordings: one agent, one model. */
function configOf(modelUrl: string, { handshakeTimeoutMs }: Circumstances) {
  return {
    gateway: handshakeTimeoutMs === undefined ? {} : { handshakeTimeoutMs },
    agents: { defaults: { model: { primary: 'fake/fake-1' } } },
    models: {
      mode: 'replace',
      providers: {
        fake: {
          baseUrl: `${modelUrl}/v1`,
          apiKey: 'fake-key-for-tests',
          api: 'openai-completions',
          models: [{ id: 'fake-1', name: 'Fake', contextWindow: 200_000, maxTokens: 8_192 }],
        },
      },
    },
  }
}

/** Lets a session have a turn. */
async function spend(gateway: TestGateway, params: { idempotencyKey: string }): Promise<void> {
  const peer = await gateway.connect()
  const answer = await peer.request('chat.send', params)
  if (!answer['ok']) throw new Error(`a turn before the recording was refused: ${JSON.stringify(answer['error'])}`)
  await peer.next(
    ({ event, payload }) => event === 'chat' && payload.runId === params.idempotencyKey && payload.state === 'final',
  )
  peer.socket.close()
  await peer.closed
}
