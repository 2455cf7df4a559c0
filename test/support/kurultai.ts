/** The council of six with its deployed configuration, on a free port of this machine and in front of a model that does as it is told. */
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import JSON5 from 'json5'
import { startGateway, type TestGateway, type TestGatewayOptions } from './gateway.ts'
import { type ModelServer, startModelServer } from './model-server.ts'

export const DEPLOYED = fileURLToPath(new URL('../kurultai/deployed/openclaw.json5', import.meta.url))

interface DeployedConfig {
  gateway: { [name: string]: unknown }
  agents: { defaults: { [name: string]: unknown }; list: { id: string; name: string }[] }
  [section: string]: unknown
}

/** The deployed file as it stands, parsed. */
export const deployed = (): DeployedConfig => JSON5.parse(readFileSync(DEPLOYED, 'utf8'))

export interface Kurultai extends TestGateway {
  model: ModelServer
  http: string
}

export interface KurultaiOptions extends Pick<TestGatewayOptions, 'store' | 'log'> {
  /** Whether the dialect is asked for, as their image does it: by a variable. */
  dialect?: boolean
  /** More members of the section `gateway`. */
  gateway?: object
  /** More sections. */
  sections?: object
}

/** Only where it listens and which model answers is another than in the deployed file. */
export async function startKurultai({
  dialect = true,
  gateway,
  sections,
  ...rest
}: KurultaiOptions = {}): Promise<Kurultai> {
  const model = await startModelServer()
  const file = deployed()
  const fake = { baseUrl: `${model.url}/v1`, apiKey: 'none', api: 'openai-completions', models: [{ id: 'm' }] }
  const started = await startGateway({
    ...rest,
    env: dialect ? { OPENCLAW_COMPAT: 'kurultai' } : {},
    config: {
      ...file,
      gateway: { ...file.gateway, bind: 'loopback', ...gateway },
      agents: { ...file.agents, defaults: { ...file.agents.defaults, model: 'fake/m' } },
      models: { providers: { fake } },
      ...sections,
    },
  })
  const stop = async () => {
    await started.stop()
    await model.close()
  }
  return { ...started, model, http: `http://127.0.0.1:${started.port}`, stop, [Symbol.asyncDispose]: stop }
}
