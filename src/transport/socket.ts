/** A WebSocket as the broker sees it: frames in, frames out, and as few writes as can be. */
import type { Socket } from 'node:net'
import type { WebSocket } from 'ws'
import type { Wire } from '../broker/hub.ts'
import type { Close } from '../contract/closes.ts'

/** A frame of fewer bytes is copied next to its neighbours; a larger one is handed to the kernel where it lies. */
const COPIED_BYTES = 4096
/** From this many sockets at once the next flush waits a little, so that a write carries several frames. */
const CROWD = 50
const CROWD_WAIT_MS = 4

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

/**
 * Wraps a socket. Frames bypass `ws.send`, which writes each by itself; that is sound because compression is never negotiated,
 * nothing here is fragmented, and what `ws` writes by itself (pongs, the close frame) are whole frames, too.
 * @param raw the socket under `ws`
 */
export function createWire(ws: WebSocket, raw: Socket): Wire {
  let chunks: Buffer[] = []
  let eventBytes = 0
  let eventBytesWaiting = 0

  function flush(): void {
    if (chunks.length === 0) return
    const out = chunks
    const events = eventBytes
    chunks = []
    eventBytes = 0
    if (ws.readyState !== ws.OPEN) return
    const sent = () => {
      eventBytesWaiting -= events
    }
    if (out.length === 1) {
      raw.write(out[0]!, sent)
      return
    }
    // Corked, all chunks leave by one system call.
    raw.cork()
    for (let index = 0; index < out.length - 1; index++) raw.write(out[index]!)
    raw.write(out.at(-1)!, sent)
    raw.uncork()
  }

  /** Adds a frame made of two parts, copying them when they are small. */
  function add(head: Buffer, tail: string): number {
    const tailBytes = Buffer.byteLength(tail)
    const payload = head.length + tailBytes
    if (payload <= COPIED_BYTES) {
      const frame = Buffer.allocUnsafe(LONGEST_HEAD + payload)
      let at = frameHead(payload, frame, 0)
      at += head.copy(frame, at)
      at += frame.write(tail, at)
      chunks.push(frame.subarray(0, at))
    } else {
      const start = Buffer.allocUnsafe(LONGEST_HEAD)
      chunks.push(start.subarray(0, frameHead(payload, start, 0)), head)
      if (tailBytes > 0) chunks.push(Buffer.from(tail))
    }
    schedule(flush)
    return payload
  }

  return {
    send(text) {
      add(Buffer.from(text), '')
    },
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
  }
}
