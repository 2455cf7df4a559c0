/** A WebSocket as the broker sees it: frames in, frames out, and as few writes as can be. */
import type { Socket } from 'node:net'
import type { WebSocket } from 'ws'
import type { Wire } from '../broker/peer.ts'
import type { Close } from '../contract/closes.ts'

/** Frames are copied into one buffer for one write; a payload of more bytes is handed to the kernel where it lies. */
const COPIED_BYTES = 8192
/** From this many sockets at once the next flush waits a little, so that a write carries several frames. */
const CROWD = 50
const CROWD_WAIT_MS = 5

/** Sockets with something to send; all are written to at the end of this turn of the event loop. */
const dirty = new Set<() => void>()
let scheduled = false
let lastFlush = 0
let lastCount = 0

/**
 * A write costs the same for one frame as for forty, so the frames of one turn of the loop leave together. The first frame
 * after a silence leaves at once; only while a crowd is being written to again and again does the next flush wait.
 */
function schedule(flush: () => void): void {
  dirty.add(flush)
  if (scheduled) return
  scheduled = true
  if (lastCount >= CROWD && performance.now() - lastFlush < 2 * CROWD_WAIT_MS) setTimeout(flushAll, CROWD_WAIT_MS)
  else setImmediate(flushAll)
}

function flushAll(): void {
  scheduled = false
  lastCount = dirty.size
  lastFlush = performance.now()
  const due = [...dirty]
  dirty.clear()
  for (const flush of due) flush()
}

/** The head of a whole, unmasked text frame of so many bytes (RFC 6455, section 5.2). */
function frameHead(bytes: number, target: Buffer, at: number): number {
  target[at] = 0x81
  if (bytes < 126) {
    target[at + 1] = bytes
    return at + 2
  }
  if (bytes < 65_536) {
    target[at + 1] = 126
    return target.writeUInt16BE(bytes, at + 2)
  }
  target[at + 1] = 127
  return target.writeBigUInt64BE(BigInt(bytes), at + 2)
}

const LONGEST_HEAD = 10
/** Bytes of a TCP segment that every network carries. */
const SHORTEST_SEGMENT = 536

/**
 * Wraps a socket. Frames bypass `ws.send`, which writes each by itself; that is sound because compression is never negotiated,
 * nothing here is fragmented, and what `ws` writes by itself (pongs, the close frame) are whole frames, too.
 * @param raw the socket under `ws`
 * @param onKnown called when the broker takes its frames: it has said who it is
 */
export function createWire(ws: WebSocket, raw: Socket, onKnown: () => void = () => {}): Wire {
  /** The payloads that wait: `tails[n]` follows `heads[n]`, in so many bytes together. */
  let heads: (Buffer | undefined)[] = []
  let tails: string[] = []
  let sizes: number[] = []
  let eventBytes = 0
  let eventBytesWaiting = 0
  /** Bytes that wait for the end of this turn of the loop. */
  let gathered = 0
  let onEventsSent = () => {}

  function flush(): void {
    if (sizes.length === 0) return
    const frames = { heads, tails, sizes }
    const events = eventBytes
    heads = []
    tails = []
    sizes = []
    eventBytes = 0
    gathered = 0
    if (ws.readyState !== ws.OPEN) return
    const sent = () => {
      eventBytesWaiting -= events
      if (events > 0) onEventsSent()
    }
    const chunks = gather(frames)
    if (chunks.length === 1) {
      raw.write(chunks[0]!, sent)
      return
    }
    // Corked, all chunks leave by one system call.
    raw.cork()
    for (let index = 0; index < chunks.length - 1; index++) raw.write(chunks[index]!)
    raw.write(chunks.at(-1)!, sent)
    raw.uncork()
  }

  function add(head: Buffer | undefined, tail: string): number {
    const size = (head?.length ?? 0) + Buffer.byteLength(tail)
    heads.push(head)
    tails.push(tail)
    sizes.push(size)
    gathered += size
    schedule(flush)
    return size
  }

  return {
    send: (text) => void add(undefined, text),
    sendShared(head, tail) {
      const size = add(head, tail)
      eventBytes += size
      eventBytesWaiting += size
    },
    close({ code, reason }: Close) {
      flush()
      ws.close(code, reason)
    },
    terminate: () => ws.terminate(),
    get eventBytesWaiting() {
      return eventBytesWaiting
    },
    get bytesWaiting() {
      return gathered + raw.writableLength
    },
    takeFramesOf(bytes) {
      onKnown()
      // `ws` has one limit for all its sockets; each socket's receiver has its own copy of it. A test sends a large frame: should the
      // name change, large frames would be refused, never the small limit lifted.
      const { _receiver: receiver } = ws as unknown as {
        _receiver?: { _maxPayload: number; _maxBufferedChunks: number }
      }
      if (!receiver) return
      receiver._maxPayload = bytes
      // A slow network brings a large frame in segments, the shortest of 536 bytes.
      receiver._maxBufferedChunks = Math.max(receiver._maxBufferedChunks, Math.ceil(bytes / SHORTEST_SEGMENT))
    },
    pause: () => ws.pause(),
    resume: () => ws.resume(),
    onDrained: (callback) => void raw.on('drain', callback),
    onEventsSent(callback) {
      onEventsSent = callback
    },
  }
}

interface Frames {
  heads: (Buffer | undefined)[]
  tails: string[]
  sizes: number[]
}

/** Puts frames into as few buffers as can be: each write costs more than copying what is small. */
function gather({ heads, tails, sizes }: Frames): Buffer[] {
  let room = 0
  for (let n = 0; n < sizes.length; n++) {
    const head = heads[n]
    room += LONGEST_HEAD + sizes[n]! - (head && isLarge(head) ? head.length : 0)
  }
  const chunks: Buffer[] = []
  let target = Buffer.allocUnsafe(room)
  let at = 0
  for (let n = 0; n < sizes.length; n++) {
    const head = heads[n]
    at = frameHead(sizes[n]!, target, at)
    if (head && isLarge(head)) {
      chunks.push(target.subarray(0, at), head)
      target = target.subarray(at)
      at = 0
    } else if (head) at += head.copy(target, at)
    at += target.write(tails[n]!, at)
  }
  if (at > 0) chunks.push(target.subarray(0, at))
  return chunks
}

const isLarge = ({ length }: Buffer): boolean => length > COPIED_BYTES
