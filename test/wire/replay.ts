/** Plays the client's part of a recorded conversation to a gateway of this process, and keeps what it hears. */
import { createHash, generateKeyPairSync, type KeyObject, randomUUID, sign } from 'node:crypto'
import { WebSocket } from 'ws'
import { CONNECT, type Frame, openPeer, type Peer, TOKEN } from '../support/gateway.ts'
import { compare, PERIODIC } from './compare.ts'
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
import { PACE, type Stage, type StageOptions, startStage } from './stage.ts'
import { type Difference, type Equivalents, isName } from './values.ts'

/** How long a frame that was recorded is waited for, in milliseconds. */
const PATIENCE_MS = 15_000
/** Silence before a client's frame from which on the recording waited for everything to be over, in milliseconds. */
const PAUSE_MS = 1_000
const BARRIER = 'replay-barrier'

/** What a recording does not say of itself. */
interface Circumstances extends StageOptions {
  /** Headers of the upgrade, by connection. `<HOST>` is this gateway's own host and port. */
  headers?: { [conn: string]: { [name: string]: string } }
  /** What is wrong with the device's proof, and which form it is signed in where that is not 2. */
  proof?: 'signature' | 'id' | 'nonce' | 'v3'
  /** Turns that sessions had before it began. */
  earlier?: { sessionKey: string; message: string; idempotencyKey: string }[]
  /** Frames that were sent but not recorded, by the words of the note before them. */
  unrecorded?: { [note: string]: string | Buffer }
  /** A connection that does not read while another makes many messages, until it is closed. */
  slow?: string
}

const turn = (sessionKey: string, message: string, idempotencyKey: string) => ({ sessionKey, message, idempotencyKey })

const CIRCUMSTANCES: { [file: string]: Circumstances } = {
  catalog: {
    agents: ['main', 'other'],
    earlier: [
      turn('agent:main:main', 'hi [[chunks=1]]', 'run-sk-agent:main:main'),
      turn('agent:main:hist', 'first question [[chunks=3]]', 'run-hist-1'),
    ],
  },
  'chat-inject': { earlier: [turn('agent:main:hist', 'first question [[chunks=3]]', 'run-hist-1')] },
  'chat-reset-command': { earlier: [turn('agent:main:hist', 'first question [[chunks=3]]', 'run-hist-1')] },
  'connect-any-origin-other-client': { headers: { A: { origin: 'https://evil.example' } } },
  'connect-device-bad-signature': { proof: 'signature' },
  'connect-device-id-mismatch': { proof: 'id' },
  'connect-device-nonce-mismatch': { proof: 'nonce' },
  'connect-remote-host-header': { headers: { B: { host: 'gateway.example' } } },
  'connect-timeout': { gateway: { handshakeTimeoutMs: 100 } },
  'connect-webchat-bad-origin': { headers: { A: { origin: 'https://evil.example' } } },
  'connect-webchat-no-device': { headers: { A: { origin: 'http://<HOST>' } } },
  'connect-webchat-ok': { headers: { A: { origin: 'http://<HOST>' } } },
  // Clients may write the file only where it says so itself.
  config: { sections: { commands: { config: true } } },
  devices: { headers: { C: { host: 'gateway.example' } } },
  errors: {
    unrecorded: { 'binary frame': Buffer.from('{"type":"req","id":"bin1","method":"last-heartbeat"}') },
  },
  'health-status': {
    agents: ['main', 'other'],
    earlier: [turn('agent:main:main', 'hi [[chunks=1]]', 'run-sk-agent:main:main')],
  },
  'life-kill-9': { isProcess: true },
  'life-shutdown': { isProcess: true, gateway: { drainSeconds: 1 } },
  'limit-slow-consumer': {
    slow: 'A',
    earlier: [turn('agent:main:main', '/status', 'before')],
    gateway: { limits: { requestsPerSecond: 0 } },
  },
  logs: { earlier: ['one', 'two', 'three'].map((key) => turn('agent:main:main', 'hi [[chunks=1]]', key)) },
  sessions: {
    earlier: [
      turn('agent:main:main', 'hi [[chunks=1]]', 'run-sk-agent:main:main'),
      turn('agent:main:main', 'hello main [[chunks=2]]', 'ses-1'),
      turn('agent:main:work', 'hello work [[chunks=2]]', 'ses-2'),
    ],
  },
  'tick-and-health': { gateway: { tickIntervalMs: 1_000 } },
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
  /** The names of here for those that a gateway gave then. */
  const given = new Map<unknown, unknown>()
  await using stage = await startStage(circumstances)
  for (const params of circumstances.earlier ?? []) await spend(stage, params)

  const lines = new Map<string, Line>()
  const late: string[] = []
  /** The entries that the next frame of the client waits for. */
  let due: Entry[] = []
  /** How many answers, and how many events of a name, have been waited for. */
  const waited = new Map<string, number>()
  let lastAt = 0
  for (const entry of entries) {
    if (entry.note !== undefined) {
      await happen(entry, entry.note)
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
    } else if (entry.close!.code === 1006 && !circumstances.isProcess) {
      await catchUp(entry)
      line.peer!.socket.terminate()
      await line.peer!.closed
    } else {
      if (circumstances.slow === entry.conn) await flood(line.peer!)
      due.push(entry)
    }
    lastAt = entry.t ?? lastAt
  }
  await catchUp(undefined)
  await Promise.all([...lines.values()].map((line) => line.barrier()))

  const heard = new Map([...lines].map(([conn, line]) => [conn, line.heard()]))
  const differences = compare(recording, names, recorded, heard, same)
  return [
    // What many messages were, while somebody did not read, was not recorded.
    ...differences.filter(({ here }) => !circumstances.slow || !isForeign((here ?? {}) as Frame, names)),
    ...late.map((where): Difference => ({ where, kind: 'missing', here: 'waited for in vain' })),
  ]

  /** Does what a note says. */
  async function happen(entry: Entry, note: string): Promise<void> {
    const unrecorded = Object.entries(circumstances.unrecorded ?? {}).find(([words]) => note.includes(words))
    const end = note === 'kill -9' ? 'at once' : note === 'SIGTERM' ? 'in order' : undefined
    if (unrecorded || end) await catchUp(entry)
    if (unrecorded) lines.get('A')!.peer!.socket.send(unrecorded[1])
    if (end) await stage.end(end)
  }

  /** Says more than the kernel holds for one who does not read, and lets it read on when the gateway has had enough of that. */
  async function flood(slow: Peer): Promise<void> {
    await catchUp(undefined)
    let isOver = false
    // At once: it is not waited for long.
    void stage
      .logged(({ code }) => code === 1008)
      .then(() => {
        isOver = true
        slow.socket.resume()
      })
    slow.socket.pause()
    const other = [...lines.values()].find(({ peer }) => peer !== slow)!.peer!
    const params = { sessionKey: 'agent:main:main', message: 'x'.repeat(250_000) }
    while (!isOver) await other.request('chat.inject', params, BARRIER)
  }

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
    for (const { conn, frame, close } of due) {
      const line = lines.get(conn!)!
      if (line.refused !== undefined) continue
      if (close) {
        await patiently(`${conn} close`, () => line.closed !== undefined)
        continue
      }
      const { type, event, payload, id } = frame!
      if (event === 'agent' || event === 'chat') {
        const { runId } = payload
        if (!names.runs.has(runId)) continue
        const length = event === 'agent' ? payload.data.text?.length : payload.message?.content[0].text.length
        const begun = payload.data?.phase === 'start' || length !== undefined
        if (begun && payload.state !== 'final')
          await patiently(`${conn} run ${runId}`, () => line.ended(runId) || line.streamed(runId) >= (length ?? 0))
        else if (['final', 'aborted', 'error'].includes(payload.state))
          await patiently(`${conn} run ${runId}`, () => line.ended(runId))
        continue
      }
      const what = type === 'res' ? (names.methods.get(`${conn} ${id}`) ?? 'answer') : event
      const name = type === 'res' ? `${conn} ${what} ${id}` : `${conn} ${what}`
      // An id may be a number, too, and is then another one.
      const kind = `${conn} ${type === 'res' ? JSON.stringify(id) : event}`
      const seen = PERIODIC.has(event) ? 0 : (waited.get(kind) ?? 0)
      waited.set(kind, seen + 1)
      const same = (one: Frame) => (type === 'res' ? one['type'] === 'res' && one['id'] === id : one['event'] === event)
      await patiently(seen > 0 ? `${name} #${seen + 1}` : name, () => line.frames().filter(same).length > seen)
      learn(told(frame!), told(line.frames().filter(same)[seen] ?? {}), '')
    }
    due = []
    const pause = next?.t === undefined || next.t - lastAt >= PAUSE_MS
    if (pause || recordedAreOver(next))
      await patiently('every run', () => [...lines.values()].every((line) => line.idle()))
  }

  /** What a frame says, without its own id. */
  function told({ payload, error }: Frame): unknown {
    return { payload, error }
  }

  /** Remembers what is called how here. */
  function learn(then: unknown, now: unknown, key: string): void {
    if (isName(key, then)) given.set(then, now)
    else if (typeof then === 'object' && then !== null && typeof now === 'object' && now !== null)
      for (const [name, member] of Object.entries(then)) learn(member, (now as Frame)[name], name)
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
    if (isMissing(where) || late.includes(where)) return
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
    const url = await stage.url()
    const headers = Object.entries(circumstances.headers?.[conn] ?? {}).map(
      ([name, value]) => [name, value.replace('<HOST>', new URL(url).host)] as const,
    )
    const opened = await openPeer(url, { headers: Object.fromEntries(headers) }).catch((error: { status?: number }) => {
      if (error.status === undefined) throw error
      return error.status
    })
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
    if (given.has(value)) return given.get(value)
    if (typeof value !== 'string') return value
    if (value === '<TOKEN>') return TOKEN
    if (value === '<DEVICE_TOKEN>') return deviceToken()
    return same.get(value) ?? value
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

/** Who is not among those who are present. */
const UNLISTED = { ...CONNECT.client, id: 'cli', mode: 'cli' }

/** Lets a session have a turn. */
async function spend(stage: Stage, params: { idempotencyKey: string }): Promise<void> {
  const peer = await stage.connect({ client: UNLISTED })
  const answer = await peer.request('chat.send', params)
  if (!answer['ok']) throw new Error(`a turn before the recording was refused: ${JSON.stringify(answer['error'])}`)
  await peer.next(
    ({ event, payload }) => event === 'chat' && payload.runId === params.idempotencyKey && payload.state === 'final',
  )
  peer.socket.close()
  await peer.closed
}
