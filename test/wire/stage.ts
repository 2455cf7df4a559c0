/** The gateway that a recording is played to: in this process, or one of its own, which may end and is started again. */
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { destination, pino } from 'pino'
import { type Frame, type Peer, startGateway, TOKEN } from '../support/gateway.ts'
import { type GatewayProcess, startProcess } from '../support/gateway-process.ts'
import { startModelServer } from '../support/model-server.ts'

/** How much faster than in the recordings the model answers, and deadlines pass. */
export const PACE = 4
/** How much the model of the recordings said when nothing told it how much. */
const RECORDED_CHUNKS = 50

export interface Stage extends AsyncDisposable {
  /** Where one that runs is to be reached; it is started again if it has ended. */
  url(): Promise<string>
  /** A peer that has shaken hands. */
  connect(changes?: object): Promise<Peer>
  /** Ends a gateway of a process of its own. */
  end(how: 'at once' | 'in order'): Promise<void>
  /** Resolves when a gateway in this process has logged something that fits. */
  logged(fits: (entry: Frame) => boolean): Promise<void>
}

export interface StageOptions {
  /** Members of `gateway` in its configuration. */
  gateway?: object | undefined
  /** Its agents; otherwise one without a name in the configuration. */
  agents?: string[] | undefined
  /** More sections of its configuration. */
  sections?: object | undefined
  /** Whether it has a process of its own. */
  isProcess?: boolean | undefined
}

/** Starts a gateway as it was configured for the recordings, with a model beside it. */
export async function startStage(options: StageOptions = {}): Promise<Stage> {
  const folder = mkdtempSync(join(tmpdir(), 'replay-'))
  const model = await startModelServer({ pace: PACE, chunks: RECORDED_CHUNKS, quotesResults: false })
  const config = configOf(model.url, folder, options)
  const gateway = await (options.isProcess ? inProcess(folder, model.url, config) : here(config))
  return {
    ...gateway,
    async [Symbol.asyncDispose]() {
      await gateway[Symbol.asyncDispose]()
      await model.close()
      rmSync(folder, { recursive: true, force: true })
    },
  }
}

async function here(config: ReturnType<typeof configOf>): Promise<Stage> {
  const watchers: { fits(entry: Frame): boolean; resolve(): void }[] = []
  const file = destination({ dest: config.logging.file, sync: true })
  const write = (line: string) => {
    file.write(line)
    const entry = JSON.parse(line)
    for (const { fits, resolve } of watchers) if (fits(entry)) resolve()
  }
  const log = pino({ level: 'debug' }, { write })
  const gateway = await startGateway({ config, log, healthMs: 1_000 })
  return {
    url: async () => gateway.url,
    connect: (changes) => gateway.connect(changes),
    async end() {
      throw new Error('a gateway in this process is not ended by itself')
    },
    logged: (fits) => new Promise((resolve) => watchers.push({ fits, resolve })),
    async [Symbol.asyncDispose]() {
      await gateway.stop()
      file.end()
    },
  }
}

async function inProcess(folder: string, modelUrl: string, sections: object): Promise<Stage> {
  let gateway: GatewayProcess | undefined
  let ended: Promise<unknown> = Promise.resolve()
  const running = async () => {
    await ended
    gateway ??= await startProcess(folder, modelUrl, { sections })
    return gateway
  }
  await running()
  return {
    url: async () => (await running()).url,
    connect: async (changes) => (await running()).connect(changes),
    async end(how) {
      const one = gateway!
      gateway = undefined
      ended = one.exited
      if (how === 'at once') await one.kill()
      else one.terminate()
    },
    async logged() {
      throw new Error('the log of another process is not watched')
    },
    async [Symbol.asyncDispose]() {
      await ended
      await gateway?.kill()
    },
  }
}

/** The configuration of the recordings: one agent unless told otherwise, one model. */
function configOf(modelUrl: string, folder: string, { gateway, agents, sections }: StageOptions) {
  const workspace = join(folder, 'workspace')
  mkdirSync(workspace)
  return {
    gateway: { mode: 'local', bind: 'loopback', port: 18_789, auth: { mode: 'token', token: TOKEN }, ...gateway },
    models: {
      mode: 'replace',
      providers: {
        fake: {
          baseUrl: `${modelUrl}/v1`,
          apiKey: 'fake-key-for-tests',
          api: 'openai-completions',
          models: [
            {
              id: 'fake-1',
              name: 'Fake 1',
              reasoning: false,
              input: ['text'],
              cost: { input: 0, output: 0, cacheRead: 0, cacheWrite: 0 },
              contextWindow: 200_000,
              maxTokens: 8_192,
            },
          ],
        },
      },
    },
    agents: {
      defaults: {
        model: { primary: 'fake/fake-1' },
        models: { 'fake/fake-1': {} },
        workspace,
        skipBootstrap: true,
        heartbeat: { every: '0m' },
      },
      ...(agents && { list: agents.map((id) => ({ id, workspace })) }),
    },
    discovery: { mdns: { mode: 'off' } },
    update: { checkOnStart: false },
    logging: { file: join(folder, 'gateway.jsonl') },
    ...sections,
  }
}
