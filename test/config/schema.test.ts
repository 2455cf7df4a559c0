import { type TSchema, Type } from 'typebox'
import { describe, expect, it } from 'vitest'
import { formOf } from '../../src/config/form.ts'
import { FileSchema } from '../../src/config/schema.ts'

/** Every key of the schema, with its path. */
function* keysOf(schema: TSchema, path: string): Generator<[string, TSchema]> {
  if (Type.IsArray(schema)) yield* keysOf(schema.items, `${path}[]`)
  if (Type.IsUnion(schema)) for (const one of schema.anyOf) yield* keysOf(one, path)
  if (Type.IsRecord(schema))
    for (const one of Object.values(schema.patternProperties)) yield* keysOf(one, `${path}.<id>`)
  if (!Type.IsObject(schema)) return
  for (const [key, inner] of Object.entries<TSchema>(schema.properties)) {
    const at = path === '' ? key : `${path}.${key}`
    yield [at, inner]
    yield* keysOf(inner, at)
  }
}

const keys = new Map(keysOf(FileSchema, ''))

describe('the schema', () => {
  it('describes each of its keys', () => {
    const silent = [...keys].filter(([, schema]) => !('description' in schema) || schema.description === '')
    expect(silent.map(([path]) => path)).toEqual([])
  })

  it('is plain JSON Schema that survives a round trip', () => {
    expect(JSON.parse(JSON.stringify(FileSchema))).toMatchObject({
      type: 'object',
      properties: { gateway: { type: 'object' } },
    })
  })

  it('knows every key the deployment uses', () => {
    const used = `gateway.port gateway.bind gateway.mode gateway.auth.mode gateway.auth.token gateway.controlUi.enabled
      gateway.controlUi.allowInsecureAuth gateway.controlUi.dangerouslyDisableDeviceAuth gateway.controlUi.allowedOrigins
      gateway.controlUi.dangerouslyAllowHostHeaderOriginFallback gateway.trustedProxies commands.config commands.restart
      commands.native commands.nativeSkills commands.ownerDisplay tools.deny tools.profile tools.agentToAgent.enabled
      tools.agentToAgent.allow agents.defaults.model.primary agents.defaults.model.fallbacks agents.defaults.workspace
      agents.defaults.bootstrapMaxChars agents.defaults.skipBootstrap agents.defaults.thinkingDefault agents.defaults.sandbox
      agents.defaults.compaction agents.defaults.heartbeat.every agents.defaults.heartbeat.target agents.defaults.heartbeat.prompt
      agents.list[].id agents.list[].name agents.list[].workspace agents.list[].model agents.list[].default agents.list[].agentDir
      agents.list[].failoverFor agents.list[].failoverTriggers agents.list[].heartbeat.every agents.list[].heartbeat.target
      agents.list[].heartbeat.model models.mode models.providers.<id>.baseUrl models.providers.<id>.apiKey models.providers.<id>.api
      models.providers.<id>.models[].id models.providers.<id>.models[].name models.providers.<id>.models[].api
      models.providers.<id>.models[].reasoning models.providers.<id>.models[].input models.providers.<id>.models[].cost.cacheRead
      models.providers.<id>.models[].contextWindow models.providers.<id>.models[].maxTokens session.scope session.reset
      session.signalRouting bindings channels plugins skills browser logging.level logging.consoleLevel logging.file
      env.shellEnv.enabled meta wizard`.split(/\s+/)
    expect(used.filter((path) => !keys.has(path))).toEqual([])
  })
})

describe('the form', () => {
  const { schema, uiHints } = formOf(FileSchema)

  it('is a schema of draft 7 in which whatever somebody names is an additional property', () => {
    const text = JSON.stringify(schema)
    expect(schema).toMatchObject({
      $schema: 'http://json-schema.org/draft-07/schema#',
      properties: {
        mcp: { properties: { servers: { propertyNames: { pattern: expect.any(String) } } } },
        models: {
          properties: { providers: { additionalProperties: { properties: { baseUrl: { type: 'string' } } } } },
        },
      },
    })
    expect(text).not.toContain('patternProperties')
    for (const [, { description }] of keys as Map<string, { description?: string }>)
      expect(text).toContain(JSON.stringify(description))
  })

  it('says of each secret that it is one, and of nothing else', () => {
    expect(uiHints).toMatchObject({
      'gateway.auth.token': { sensitive: true },
      'gateway.auth.password': { sensitive: true },
      'models.providers.*.apiKey': { sensitive: true },
      'models.providers.*.headers.*': { sensitive: true },
    })
    for (const path of ['gateway.bind', 'models.providers.*.baseUrl', 'session.mainKey'])
      expect(Object.keys(uiHints)).not.toContain(path)
  })
})
