/** A TCP connection on which a test writes what no well-behaved client would: requests and WebSocket frames by the byte. */
import { connect, type Socket } from 'node:net'
import { CONNECT } from '../support/gateway.ts'

/** A frame as the gateway sent it. */
interface Received {
  opcode: number
  isFinal: boolean
  reserved: number
  payload: Buffer
}

export interface RawLine {
  socket: Socket
  /** Everything that has come, of a WebSocket the answer to the upgrade only. */
  readonly received: Buffer
  /** The whole frames that have come; what is taken out of it is forgotten. */
  readonly frames: Received[]
  write(bytes: Uint8Array | string): void
  /** Each byte in a segment of its own, as far as the kernel lets them be. */
  trickle(bytes: Uint8Array): Promise<void>
  /** Resolves when something has come that fits, or the line has ended. */
  until(fits: (line: RawLine) => boolean): Promise<void>
  /** Resolves when the other side has ended or reset the line. */
  readonly gone: Promise<void>
  readonly isGone: boolean
  close(): void
}

export const OPCODE = { continuation: 0, text: 1, binary: 2, close: 8, ping: 9, pong: 10 } as const

export interface FrameShape {
  opcode?: number
  isFinal?: boolean
  /** The three reserved bits as a number, the first worth 4. */
  reserved?: number
  isMasked?: boolean
  /** What the head says of the length, when it is not the truth. */
  claims?: number | bigint
  /** How many bytes the head uses for the length: 7 bits, 2 or 8 bytes; the shortest unless given. */
  lengthBytes?: 0 | 2 | 8
}

/** The bytes of a frame (RFC 6455, section 5.2). */
export function frame(payload: Uint8Array | string, shape: FrameShape = {}): Buffer {
  const { opcode = OPCODE.text, isFinal = true, reserved = 0, isMasked = true } = shape
  const bytes = Buffer.from(payload as Uint8Array)
  const length = BigInt(shape.claims ?? bytes.length)
  const width = shape.lengthBytes ?? (length < 126n ? 0 : length < 65_536n ? 2 : 8)
  const head = Buffer.alloc(2 + width + (isMasked ? 4 : 0))
  head[0] = (isFinal ? 0x80 : 0) | (reserved << 4) | opcode
  head[1] = (isMasked ? 0x80 : 0) | (width === 0 ? Number(length) : width === 2 ? 126 : 127)
  if (width === 2) head.writeUInt16BE(Number(length), 2)
  if (width === 8) head.writeBigUInt64BE(BigInt.asUintN(64, length), 2)
  if (!isMasked) return Buffer.concat([head, bytes])
  const mask = Buffer.from([0x37, 0xfa, 0x21, 0x3d])
  mask.copy(head, 2 + width)
  return Buffer.concat([head, bytes.map((byte, index) => byte ^ mask[index % 4]!)])
}

/** A close frame with a code, if it has one, and the bytes behind it. */
export function closing(code?: number, reason: Uint8Array | string = ''): Buffer {
  if (code === undefined) return frame('', { opcode: OPCODE.close })
  const head = Buffer.alloc(2)
  head.writeUInt16BE(code)
  return frame(Buffer.concat([head, Buffer.from(reason as Uint8Array)]), { opcode: OPCODE.close })
}

interface Dialled {
  /** What is written first. */
  text?: string
  localAddress?: string
}

/** Opens a TCP connection to a port of this machine. */
export async function dial(port: number, { text, localAddress }: Dialled = {}): Promise<RawLine> {
  const socket = connect({ port, host: '127.0.0.1', ...(localAddress && { localAddress }) })
  await new Promise<void>((resolve, reject) => {
    socket.once('connect', resolve)
    socket.once('error', reject)
  })
  socket.setNoDelay(true)
  let received: Buffer = Buffer.alloc(0)
  let isGone = false
  let isWebSocket = false
  /** What has come of a frame that is not whole yet. */
  let rest: Buffer = Buffer.alloc(0)
  const frames: Received[] = []
  const waiting = new Set<() => void>()
  const look = () => {
    for (const wake of [...waiting]) wake()
  }
  socket.on('data', (data) => {
    if (isWebSocket) rest = rest.length === 0 ? data : Buffer.concat([rest, data])
    else {
      received = Buffer.concat([received, data])
      const end = received.indexOf('\r\n\r\n')
      if (end >= 0 && received.subarray(0, 12).toString() === 'HTTP/1.1 101') {
        isWebSocket = true
        rest = received.subarray(end + 4)
        received = received.subarray(0, end + 4)
      }
    }
    let read = 0
    for (let next = isWebSocket && parse(rest, read); next; next = parse(rest, read)) {
      read = next.end
      frames.push(next.frame)
    }
    rest = rest.subarray(read)
    look()
  })
  // What resets the line ends it, too.
  socket.on('error', () => {})
  const gone = new Promise<void>((resolve) => {
    const end = () => {
      isGone = true
      look()
      resolve()
      socket.destroy()
    }
    socket.once('end', end)
    socket.once('close', end)
  })
  const line: RawLine = {
    socket,
    get received() {
      return received
    },
    frames,
    write: (bytes) => void socket.write(bytes),
    async trickle(bytes) {
      for (let at = 0; at < bytes.length && !isGone; at++)
        await new Promise<void>((resolve) => socket.write(bytes.subarray(at, at + 1), () => resolve()))
    },
    until: (fits) =>
      new Promise((resolve) => {
        const wake = () => {
          if (!isGone && !fits(line)) return
          waiting.delete(wake)
          resolve()
        }
        waiting.add(wake)
        wake()
      }),
    gone,
    get isGone() {
      return isGone
    },
    close: () => socket.destroy(),
  }
  if (text !== undefined) line.write(text)
  return line
}

/** The frame that begins there, if all of it is there. */
function parse(bytes: Buffer, at: number): { frame: Received; end: number } | undefined {
  if (bytes.length < at + 2) return undefined
  const short = bytes[at + 1]! & 0x7f
  const width = short === 126 ? 2 : short === 127 ? 8 : 0
  const from = at + 2 + width
  if (bytes.length < from) return undefined
  const length = width === 0 ? short : width === 2 ? bytes.readUInt16BE(at + 2) : Number(bytes.readBigUInt64BE(at + 2))
  if (bytes.length < from + length) return undefined
  const first = bytes[at]!
  return {
    frame: {
      opcode: first & 0x0f,
      isFinal: (first & 0x80) !== 0,
      reserved: (first >> 4) & 7,
      payload: bytes.subarray(from, from + length),
    },
    end: from + length,
  }
}

/** The head of a request. */
export const request = (first: string, headers: string[] = []): string =>
  `${[first, 'Host: localhost', ...headers].join('\r\n')}\r\n\r\n`

export const UPGRADE = [
  'Connection: Upgrade',
  'Upgrade: websocket',
  'Sec-WebSocket-Version: 13',
  'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==',
]

/** A line that has become a WebSocket; the challenge has come. */
export async function upgraded(port: number, headers: string[] = [], localAddress?: string): Promise<RawLine> {
  const text = request('GET / HTTP/1.1', [...UPGRADE, ...headers])
  const line = await dial(port, { text, ...(localAddress && { localAddress }) })
  await line.until(({ frames }) => frames.length > 0)
  if (line.frames.length === 0) throw new Error(`no upgrade: ${line.received.toString('latin1').split('\r\n', 1)[0]}`)
  return line
}

export const connectFrame = (changes: object = {}): string =>
  JSON.stringify({ type: 'req', id: 'c', method: 'connect', params: { ...CONNECT, ...changes } })

/** A WebSocket that has said who it is; `hello-ok` has come. */
export async function known(port: number, changes: object = {}): Promise<RawLine> {
  const line = await upgraded(port)
  line.write(frame(connectFrame(changes)))
  await line.until(({ frames }) => textsOf(frames).some(({ id }) => id === 'c'))
  if (!textsOf(line.frames).some(({ id, ok }) => id === 'c' && ok === true)) throw new Error('connect was refused')
  return line
}

/** The JSON of the text frames. */
export const textsOf = (frames: Received[]): { [member: string]: unknown }[] =>
  frames.filter(({ opcode }) => opcode === OPCODE.text).map(({ payload }) => JSON.parse(payload.toString('utf8')))

/** What the close frame says, if one has come: the code, 1005 for none. */
export function closeOf(frames: Received[]): { code: number; reason: string } | undefined {
  const last = frames.find(({ opcode }) => opcode === OPCODE.close)
  if (!last) return undefined
  const { payload } = last
  return payload.length < 2
    ? { code: 1005, reason: '' }
    : { code: payload.readUInt16BE(0), reason: payload.subarray(2).toString('utf8') }
}

/** Everything that comes until the line ends: the first word of the status line, the heads, the body. */
export async function answerTo(port: number, text: string | Buffer): Promise<{ status: string; text: string }> {
  const line = await dial(port)
  line.write(text)
  await line.until(() => false)
  const all = line.received.toString('latin1')
  return { status: all.split(' ', 2)[1] ?? 'none', text: all }
}
