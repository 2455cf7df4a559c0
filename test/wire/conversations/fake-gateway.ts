/** A gateway whose one agent is answered by the local model server. */
import {
  type Frame,
  type Peer,
  startGateway,
  type TestGateway,
  type TestGatewayOptions,
} from '../../support/gateway.ts'
import { startModelServer } from '../../support/model-server.ts'

export async function startFakeGateway({ config, ...options }: TestGatewayOptions = {}): Promise<TestGateway> {
  const model = await startModelServer()
  const gateway = await startGateway({
    ...options,
    config: {
      agents: { defaults: { model: { primary: 'fake/fake-1' } } },
      models: {
        mode: 'replace',
        providers: {
          fake: {
            baseUrl: `${model.url}/v1`,
            apiKey: 'fake-key-for-tests',
            api: 'openai-completions',
            models: [{ id: 'fake-1', contextWindow: 200_000, maxTokens: 8_192 }],
          },
        },
      },
      ...config,
    },
  })
  const stop = async () => {
    await gateway.stop()
    await model.close()
  }
  return { ...gateway, stop, [Symbol.asyncDispose]: stop }
}

export const PROTOCOL = { 3: { minProtocol: 3, maxProtocol: 3 }, 4: { minProtocol: 4, maxProtocol: 4 } }

/** What a connection heard of a run: `agent` and `chat` payloads, in order. */
export const heardOf = ({ frames }: Peer, runId: string): Frame[] =>
  frames
    .filter(({ event, payload }) => (event === 'agent' || event === 'chat') && payload.runId === runId)
    .map(({ event, payload }) => ({ event, ...payload }))

/** The steps of a run, deltas left out: `start end final`. */
export const stepsOf = (peer: Peer, runId: string): string =>
  heardOf(peer, runId)
    .flatMap(({ stream, state, data }) => (state === 'delta' || stream === 'assistant' ? [] : (state ?? data.phase)))
    .join(' ')

/** Fits the first piece of text of a run. */
export const textOf =
  (runId: string) =>
  ({ event, payload }: Frame): boolean =>
    event === 'agent' && payload.runId === runId && payload.stream === 'assistant'
