/** Agents as models: chat completions, responses and the list of models, in OpenAI's shapes, for the programs that speak those. */
import { createHash, randomUUID } from 'node:crypto'
import type { IncomingMessage } from 'node:http'
import type { Agents } from '../broker/agents.ts'
import type { Caller } from '../broker/dispatch.ts'
import type { Hub } from '../broker/hub.ts'
import type { OneShots } from '../broker/one-shots.ts'
import { GatewayError } from '../contract/errors.ts'
import type { ResponseFrame } from '../contract/frames.ts'
import type { JsonObject } from '../contract/json-object.ts'
import { agentIn, canonical, isOneShot } from '../contract/session-key.ts'
import { type EventStream, openEventStream } from './event-stream.ts'
import { failureOf, HttpError, header, statusOf } from './http-error.ts'
import { type About, type Answer, completionVoice, errorBody, responseVoice, type Voice } from './openai-answer.ts'
import { type Asked, readCompletion, readResponse } from './openai-request.ts'
import { runEar } from './run-ear.ts'
import { isAccepted, type Route, readBody, type Visit, type Visits } from './visits.ts'

export interface OpenaiNeeds {
  visits: Visits
  /** Which of the two are served; the list of models with either. */
  endpoints: { chatCompletions: boolean; responses: boolean }
  agents: Pick<Agents, 'resolve' | 'ids' | 'defaultId' | 'mainKey'>
  hub: Pick<Hub, 'join' | 'leave'>
  oneShots: Pick<OneShots, 'keyFor' | 'end'>
  now(): number
}

/** One of the two shapes: how a request in it is read, and an answer told. */
interface Shape {
  read(body: JsonObject): Asked
  voice(about: About): Voice
}

/** Where a request is for. */
interface Destination {
  /** As the request names it, or none. */
  agentId: string | undefined
  sessionKey: string
}

const MODEL = /^(?:openclaw(?:[:/](?<one>.+))?|agent:(?<other>.+))$/i

export function openaiRoutes(needs: OpenaiNeeds): Route[] {
  const { visits, agents, hub, oneShots, now, endpoints } = needs
  const startedAt = Math.floor(now() / 1000)
  /** How many wait for a run. */
  const waiting = new Map<string, number>()

  /** The agent that a model stands for: undefined for `openclaw`, which is whichever answers by default. @throws HttpError 404 */
  function agentOf(model: string): string | undefined {
    const found = MODEL.exec(model.trim())?.groups
    const name = found?.['one'] ?? found?.['other']
    const agentId = name === undefined ? undefined : agents.resolve(name)
    const isDefault = name === undefined || (agentId === undefined && name.toLowerCase() === 'default')
    if (!found || (agentId === undefined && !isDefault))
      throw new HttpError(404, 'model_not_found', `The model \`${model.slice(0, 128)}\` does not exist.`, {
        param: 'model',
      })
    return agentId
  }

  /** The agent that a header names. @throws HttpError 404 */
  function agentNamed(name: string): string {
    const agentId = agents.resolve(name)
    if (agentId === undefined)
      throw new HttpError(404, 'UNKNOWN_AGENT', `x-openclaw-agent-id: no agent is called "${name.slice(0, 64)}"`)
    return agentId
  }

  function lookUp(request: IncomingMessage, { model, user }: Asked, { principal }: Caller): Destination {
    const named = header(request, 'x-openclaw-agent-id')
    const agentId = named === undefined ? agentOf(model) : agentNamed(named)
    if (named !== undefined && MODEL.test(model) && ![undefined, agentId].includes(agentOf(model)))
      throw new HttpError(400, 'INVALID_PARAMS', 'model and x-openclaw-agent-id name different agents', {
        param: 'model',
      })
    const own = agentId ?? agents.defaultId
    const spelling = header(request, 'x-openclaw-session-key') ?? (user === undefined ? undefined : keyOfUser(user))
    if (spelling === undefined) {
      const idempotencyKey = header(request, 'idempotency-key')
      return { agentId, sessionKey: oneShots.keyFor(own, { principal, idempotencyKey }) }
    }
    const { key } = canonical(agentIn(spelling) === undefined ? `agent:${own}:${spelling}` : spelling, agents)
    if (isOneShot(key))
      throw new HttpError(400, 'INVALID_PARAMS', 'x-openclaw-session-key: sessions of one turn have no second one')
    return { agentId, sessionKey: key }
  }

  /** Where a request is for. Who reaches some sessions only is not told which agents there are. */
  function destinationOf(request: IncomingMessage, asked: Asked, caller: Caller): Destination {
    try {
      return lookUp(request, asked, caller)
    } catch (error) {
      const refusal =
        error instanceof GatewayError ? new HttpError(statusOf(error.kind), error.kind, error.message) : error
      if (
        caller.sessions &&
        refusal instanceof HttpError &&
        (refusal.status === 404 || refusal.more['param'] === 'model')
      )
        throw new HttpError(404, 'SESSION_NOT_FOUND', 'session not found')
      throw refusal
    }
  }

  /** One fewer waits for a run: they have been told its end, or have left. True when nobody waits for it any more. */
  function waitsNoMore(runId: string): boolean {
    const left = (waiting.get(runId) ?? 1) - 1
    if (left > 0) waiting.set(runId, left)
    else waiting.delete(runId)
    return left <= 0
  }

  /** Gives an agent a turn, and tells what comes of it. */
  async function complete(visit: Visit, shape: Shape): Promise<void> {
    const { request, response, reply } = visit
    const caller = await visits.callerOf(visit)
    const asked = shape.read(await readBody(visit))
    const { agentId, sessionKey } = destinationOf(request, asked, caller)
    const voiceOf = (runId: string): Voice =>
      shape.voice({ runId, model: asked.model, created: Math.floor(now() / 1000), wantsUsage: asked.wantsUsage })
    let run: { runId: string; sessionKey: string } | undefined
    let teller: Teller | undefined
    const { first, last } = visits.call(caller, 'agent', paramsOf(asked, agentId, sessionKey, request), (frame) => {
      // The run has not begun: from here on every word of it is heard.
      if (!isAccepted(frame)) return
      const { runId } = frame.payload as { runId: string }
      run = { runId, sessionKey }
      waiting.set(runId, (waiting.get(runId) ?? 0) + 1)
      if (!asked.isStreamed || response.destroyed) return
      const stream = openEventStream(response)
      const begun = tellerOn(stream, voiceOf(runId))
      teller = begun
      hub.join(runEar(caller, run, stream, begun.piece))
    })
    const accepted = await first
    if (!accepted.ok) throw failureOf(accepted)
    const onLeft = () => {
      if (run && waitsNoMore(run.runId)) visits.call(caller, 'chat.abort', run)
    }
    if (run && response.destroyed) onLeft()
    else if (run) response.once('close', onLeft)
    try {
      const end = await last
      hub.leave(caller.connId)
      if (run && !response.destroyed) {
        response.off('close', onLeft)
        waitsNoMore(run.runId)
      }
      const answer = answerIn(end, visit)
      if (teller) return teller.end(answer)
      if (answer instanceof HttpError) throw answer
      const voice = voiceOf((accepted.payload as { runId: string }).runId)
      if (asked.isStreamed) tellerOn(openEventStream(response), voice).end(answer)
      else reply(200, voice.whole(answer))
    } finally {
      if (isOneShot(sessionKey)) await oneShots.end(sessionKey)
    }
  }

  const modelRow = (id: string) => ({ id, object: 'model', created: startedAt, owned_by: 'kurultai' })

  async function agentIds(visit: Visit): Promise<string[]> {
    const caller = await visits.callerOf(visit)
    const end = await visits.call(caller, 'agents.list', {}).last
    if (!end.ok) throw failureOf(end)
    return (end.payload as { agents: { id: string }[] }).agents.map(({ id }) => id)
  }

  /** `GET /v1/models` */
  async function models(visit: Visit): Promise<void> {
    const ids = ['openclaw', ...(await agentIds(visit)).map((id) => `openclaw:${id}`)]
    visit.reply(200, { object: 'list', data: ids.map(modelRow) })
  }

  /** `GET /v1/models/{id}`, also under the other names that a model has. */
  async function model(visit: Visit): Promise<void> {
    const id = visit.parts[0]!
    await agentIds(visit)
    agentOf(id)
    visit.reply(200, modelRow(id))
  }

  const post = (path: RegExp, shape: Shape): Route => ({
    method: 'POST',
    path,
    handle: (visit) => complete(visit, shape),
    tell,
  })

  return [
    ...(endpoints.chatCompletions
      ? [post(/^\/v1\/chat\/completions$/, { read: readCompletion, voice: completionVoice })]
      : []),
    ...(endpoints.responses ? [post(/^\/v1\/responses$/, { read: readResponse, voice: responseVoice })] : []),
    ...(endpoints.chatCompletions || endpoints.responses
      ? [
          { method: 'GET', path: /^\/v1\/models$/, handle: models, tell },
          { method: 'GET', path: /^\/v1\/models\/(.{1,256})$/, handle: model, tell },
        ]
      : []),
  ]
}

/** Refusals after which the same request comes to the same, or does a thing twice: OpenAI's clients would repeat them by themselves. */
const FINAL = new Set(['RUN_FAILED', 'RUN_TIMED_OUT', 'RUN_ABORTED', 'IDEMPOTENCY_KEY_REUSED'])

const tell: Route['tell'] = (error) => ({
  body: errorBody(error),
  ...(FINAL.has(error.code) && { headers: { 'x-should-retry': 'false' } }),
})

/** The session of a user. Keys make no difference between cases, and users may be told apart by nothing else. */
function keyOfUser(user: string): string {
  const isKey = /^[a-z0-9][a-z0-9._@+-]{0,127}$/.test(user)
  return `openai-user:${isKey ? user : `~${createHash('sha256').update(user).digest('hex')}`}`
}

function paramsOf(
  { message, instructions, earlier, images, thinking }: Asked,
  agentId: string | undefined,
  sessionKey: string,
  request: IncomingMessage,
): object {
  return {
    message,
    sessionKey,
    ...(agentId !== undefined && { agentId }),
    idempotencyKey: header(request, 'idempotency-key') ?? randomUUID(),
    ...(instructions !== '' && { extraSystemPrompt: instructions }),
    ...(earlier.length > 0 && { earlier }),
    ...(images.length > 0 && { attachments: images.map((content) => ({ type: 'image', content })) }),
    ...(thinking !== undefined && { thinking }),
  }
}

/** What a run came to, for which there has to be room. */
function answerIn(end: ResponseFrame, { hold }: Pick<Visit, 'hold'>): Answer | HttpError {
  if (!end.ok) return failureOf(end)
  const { result } = end.payload as {
    result?: {
      payloads?: { text: string }[]
      meta?: { aborted?: boolean; stopReason?: string; agentMeta?: { usage?: Partial<Answer['usage']> } }
    }
  }
  const { aborted = false, stopReason, agentMeta } = result?.meta ?? {}
  // Half an answer is none, and is not told as one.
  if (aborted) return new HttpError(409, 'RUN_ABORTED', `the answer was stopped (${stopReason ?? 'rpc'})`)
  const { input = 0, output = 0, cacheRead = 0, cacheWrite = 0 } = agentMeta?.usage ?? {}
  const text = (result?.payloads ?? []).map((payload) => payload.text).join('')
  try {
    hold(text.length)
  } catch (error) {
    return error as HttpError
  }
  return {
    text,
    usage: { input, output, cacheRead, cacheWrite },
    isCut: stopReason === 'length',
  }
}

interface Teller {
  piece(text: string): void
  end(answer: Answer | HttpError): void
}

/** Tells an answer while it is made. */
function tellerOn(stream: EventStream, voice: Voice): Teller {
  let told = 0
  /** The first half of a character that was cut in two. */
  let half = ''
  const say = (text: string) => {
    if (text === '') return
    told += text.length
    stream.send(voice.piece(text))
  }
  stream.send(voice.opening())
  return {
    piece(text) {
      const whole = half + text
      half = /[\ud800-\udbff]$/.test(whole) ? whole.slice(-1) : ''
      say(half === '' ? whole : whole.slice(0, -1))
    },
    end(answer) {
      if (answer instanceof HttpError) stream.send(voice.failing(answer))
      else {
        // What a slow reader has not been told yet, or who came in the middle.
        say(answer.text.slice(told))
        stream.send(voice.closing(answer))
      }
      stream.end()
    },
  }
}
