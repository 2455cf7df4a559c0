/** A connection that keeps nothing: answers go to who asked, events to who listens. It checks what holds for every connection. */
import { WebSocket } from 'ws'
import { CONNECT, type Frame } from '../support/gateway.ts'

export interface Line {
  /** Resolves to the answer, or to undefined when the connection ends before it. `second` gets a second one. */
  ask(method: string, params: object, second?: (answer: Frame) => void): Promise<Frame | undefined>
  /** Ends it without a word, whatever is under way. */
  cut(): void
  /** Reads no further, or goes on. */
  pause(paused: boolean): void
  /** The port of this end. */
  port: number
  closed: Promise<{ code: number; reason: string }>
}

export interface LineOptions {
  protocol: 3 | 4
  caps?: string[]
  /** Of each event, in order. */
  onEvent(frame: Frame): void
  /** Of each answer to what was asked, before who asked is told and before any later event. */
  onAnswer?(answer: Frame, method: string, params: Frame): void
  /** The events of the connection did not come one after the other. */
  onGap(sentence: string): void
}

interface Question {
  method: string
  params: object
  settle(answer: Frame): void
  second(answer: Frame): void
}

/** Opens a connection and shakes hands. Rejects with `status` when the upgrade is refused. */
export function openLine(url: string, options: LineOptions): Promise<Line> {
  const { protocol, caps = [], onEvent, onAnswer = () => {}, onGap } = options
  const socket = new WebSocket(url, { perMessageDeflate: false })
  const asked = new Map<string, Question>()
  const abandoned = new Set<() => void>()
  let requests = 0
  let seq = 0
  const closed = new Promise<{ code: number; reason: string }>((resolve) => {
    socket.on('close', (code, reason) => {
      resolve({ code, reason: reason.toString() })
      for (const abandon of abandoned) abandon()
    })
  })
  const line: Line = {
    closed,
    cut: () => socket.terminate(),
    pause: (paused) => (paused ? socket.pause() : socket.resume()),
    port: 0,
    ask: (method, params, second = () => {}) =>
      new Promise((resolve) => {
        if (socket.readyState !== WebSocket.OPEN) return resolve(undefined)
        const id = `${++requests}`
        const abandon = () => resolve(undefined)
        abandoned.add(abandon)
        const settle = (answer: Frame) => {
          abandoned.delete(abandon)
          resolve(answer)
        }
        asked.set(id, { method, params, settle, second })
        socket.send(JSON.stringify({ type: 'req', id, method, params }))
      }),
  }
  return new Promise((resolve, reject) => {
    socket.on('error', reject)
    socket.on('upgrade', (response) => {
      line.port = response.socket.localPort!
    })
    socket.on('close', () => reject(new Error('closed before the handshake was over')))
    socket.on('unexpected-response', (_, response) => {
      reject(Object.assign(new Error(`HTTP ${response.statusCode}`), { status: response.statusCode }))
      socket.terminate()
    })
    socket.on('message', (data) => {
      const frame = JSON.parse(data.toString()) as Frame
      if (frame['type'] === 'res') {
        const question = asked.get(frame['id'])
        if (!question) return onGap(`an answer to nothing: ${JSON.stringify(frame)}`)
        onAnswer(frame, question.method, question.params)
        question.settle(frame)
        asked.set(frame['id'], { ...question, settle: question.second, second: () => {} })
        return
      }
      if (frame['event'] === 'connect.challenge') {
        const params = { ...CONNECT, minProtocol: protocol, maxProtocol: protocol, caps }
        void line.ask('connect', params).then((hello) => {
          if (hello?.['ok']) resolve(line)
          else reject(new Error(`connect was refused: ${JSON.stringify(hello?.['error'])}`))
        })
        return
      }
      if (frame['seq'] !== undefined) {
        if (frame['seq'] !== seq + 1) onGap(`event ${frame['seq']} came after event ${seq} of its connection`)
        seq = frame['seq']
      }
      onEvent(frame)
    })
  })
}
