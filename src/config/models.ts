/** The models that can be called: built-in ones, and what `models.providers` adds or overrides. */
import type { Model } from '../runtimes/runtime.ts'
import type { Config } from './config.ts'
import type { Findings } from './findings.ts'
import type { Environment } from './reading.ts'
import { type ConfigFile, defaults } from './schema.ts'
import { Secret } from './secret.ts'

/** What is known of a provider; its models are made from it. */
interface Provider {
  id: string
  api: string
  baseUrl?: string
  apiKey?: string
  apiKeyVariable?: string
  headers?: Record<string, string>
  models: ModelFacts[]
  /** Whether ids that are not listed are passed on. */
  open: boolean
}

type ModelFacts = Partial<Pick<Model, 'name' | 'api' | 'reasoning' | 'input' | 'contextWindow' | 'maxTokens'>> & {
  id: string
  cost?: Partial<Model['cost']> | undefined
}

type ProviderFile = NonNullable<NonNullable<ConfigFile['models']>['providers']>[string]

const echo: Provider = {
  id: 'echo',
  api: 'echo',
  models: [{ id: 'echo', name: 'Echo', input: ['text', 'image'] }],
  open: true,
}

const builtIn: Provider[] = [
  {
    id: 'moonshot',
    api: 'openai-completions',
    baseUrl: 'https://api.moonshot.ai/v1',
    apiKeyVariable: 'MOONSHOT_API_KEY',
    models: [{ id: 'kimi-k2.5', name: 'Kimi K2.5', reasoning: true, input: ['text', 'image'], contextWindow: 256_000 }],
    open: true,
  },
  {
    id: 'kimi-coding',
    api: 'anthropic-messages',
    baseUrl: 'https://api.kimi.com/coding/',
    apiKeyVariable: 'KIMI_API_KEY',
    models: [
      { id: 'k2p5', name: 'Kimi for Coding', reasoning: true, input: ['text', 'image'], contextWindow: 256_000 },
    ],
    open: true,
  },
  echo,
]

/** The interfaces a runtime exists for. */
const served = new Set(['openai-completions', 'anthropic-messages', 'echo'])

export function readModels(file: ConfigFile['models'], env: Environment, findings: Findings): Config['models'] {
  const providers = new Map((file?.mode === 'replace' ? [echo] : builtIn).map((one) => [one.id, one]))
  for (const [id, written] of Object.entries(file?.providers ?? {})) {
    // What is built in stays known in `replace` mode: only its models go.
    const base = providers.get(id) ?? withoutModels(builtIn.find((one) => one.id === id))
    providers.set(id, merge(id, base, written, findings))
  }
  const list = [...providers.values()].flatMap((one) => one.models.map((facts) => model(one, facts, env)))
  const byRef = new Map(list.map((one) => [one.ref, one]))
  return {
    list,
    find(ref) {
      const exact = byRef.get(ref)
      if (exact !== undefined) return exact
      const slash = ref.indexOf('/')
      if (slash === -1) {
        const [only, ...more] = list.filter((one) => one.id === ref)
        return more.length === 0 ? only : undefined
      }
      const provider = providers.get(ref.slice(0, slash))
      const id = ref.slice(slash + 1)
      return provider?.open && id !== '' ? model(provider, { id }, env) : undefined
    },
  }
}

const withoutModels = (provider: Provider | undefined): Provider | undefined => provider && { ...provider, models: [] }

/**
 * Lays what is written over what is known. Problems: addresses and ids nothing could be sent with. Unserved ones are
 * warnings.
 */
function merge(id: string, base: Provider | undefined, written: ProviderFile, findings: Findings): Provider {
  const path = `models.providers.${id}`
  if (id === '' || id.includes('/')) findings.problems.push(`${path}: a provider id must be a name without a slash`)
  const provider: Provider = {
    id,
    api: written.api ?? base?.api ?? 'openai-completions',
    apiKeyVariable: base?.apiKeyVariable ?? `${id.toUpperCase().replace(/[^A-Z0-9]/g, '_')}_API_KEY`,
    models: [...(base?.models ?? [])],
    open: written.models === undefined,
  }
  const baseUrl = written.baseUrl ?? base?.baseUrl
  if (baseUrl !== undefined) provider.baseUrl = baseUrl
  if (written.baseUrl !== undefined && !isHttp(written.baseUrl)) {
    // The text is not repeated: it may hold a password.
    findings.problems.push(`${path}.baseUrl: must be an http or https address without user and password`)
  }
  if (written.apiKey) provider.apiKey = written.apiKey
  const headers = { ...base?.headers, ...written.headers }
  if (Object.keys(headers).length > 0) provider.headers = headers

  const seen = new Set<string>()
  for (const [index, facts] of (written.models ?? []).entries()) {
    const at = `${path}.models[${index}]`
    if (!facts.id) findings.problems.push(`${at}.id: is required`)
    else if (seen.has(facts.id)) findings.problems.push(`${at}.id: ${JSON.stringify(facts.id)} is listed twice`)
    else {
      seen.add(facts.id)
      const known = provider.models.findIndex((one) => one.id === facts.id)
      const merged = { ...provider.models[known], ...facts, id: facts.id }
      provider.models.splice(known === -1 ? provider.models.length : known, 1, merged)
      if (facts.api !== undefined && !served.has(facts.api)) findings.warnings.push(unserved(`${at}.api`, facts.api))
    }
  }
  if (!served.has(provider.api)) findings.warnings.push(unserved(`${path}.api`, provider.api))
  else if (provider.api !== 'echo' && baseUrl === undefined) {
    findings.warnings.push(`${path}.baseUrl: is missing; runs with this provider end with an error`)
  }
  return provider
}

const unserved = (path: string, api: string): string =>
  `${path}: ${JSON.stringify(api)} is not served here (${[...served].join(', ')}); runs with it end with an error`

function isHttp(text: string): boolean {
  const url = URL.parse(text)
  // `fetch` refuses a user or password in an address, and an error would show it.
  return url !== null && /^https?:$/.test(url.protocol) && url.username === '' && url.password === ''
}

function model(provider: Provider, facts: ModelFacts, env: Environment): Model {
  const api = facts.api ?? provider.api
  const result: Model = {
    ref: `${provider.id}/${facts.id}`,
    provider: provider.id,
    id: facts.id,
    name: facts.name ?? facts.id,
    api,
    reasoning: facts.reasoning ?? false,
    input: facts.input ?? ['text'],
    contextWindow: facts.contextWindow ?? defaults.contextWindow,
    maxTokens: facts.maxTokens ?? defaults.maxTokens,
    cost: { input: 0, output: 0, cacheRead: 0, cacheWrite: 0, ...facts.cost },
  }
  if (provider.baseUrl !== undefined) result.baseUrl = provider.baseUrl
  if (provider.headers !== undefined) result.headers = provider.headers
  if (api === 'echo') return result
  const variable = provider.apiKeyVariable
  const key = provider.apiKey ?? (variable === undefined ? undefined : env[variable]?.trim())
  if (variable !== undefined) result.apiKeyVariable = variable
  if (key) result.apiKey = new Secret(key)
  return result
}
