/** The configuration file's schema: one property a key, with the sentence its documentation is made of. */

import { type Static, type TSchema, type TSchemaOptions, Type } from 'typebox'
import { OPERATOR_SCOPES } from '../contract/block.ts'
import { LONGEST_TIMER_MS } from '../contract/timer.ts'

/**
 * What holds when the file is silent. The schema repeats these as `default`, so the page and the code cannot differ.
 */
export const defaults = {
  port: 18_789,
  handshakeTimeoutMs: 10_000,
  tickIntervalMs: 30_000,
  drainSeconds: 60,
  limits: {
    requestsPerSecond: 100,
    burst: 200,
    preauthPerIp: 32,
    preauthTotal: 512,
    maxConnections: 20_000,
    deniedPerMinute: 50,
    socketsPerPrincipal: 256,
    sessions: 10_000,
    liveKeys: 100_000,
  },
  bootstrapMaxChars: 20_000,
  maxConcurrent: 64,
  timeoutSeconds: 600,
  recovery: 'interrupt',
  mainKey: 'main',
  scope: 'per-sender',
  queueLimit: 32,
  queueMode: 'followup',
  level: 'info',
  contextWindow: 200_000,
  maxTokens: 8_192,
  graceSeconds: 30,
  failover: { everySeconds: 10, misses: 3 },
  chain: { hops: 8, visits: 3, messages: 50, fanOut: 8, tokens: 0, cost: 0 },
  toolSeconds: 60,
  toolRounds: 32,
  mcpStartSeconds: 20,
  ackMaxChars: 300,
  cronRuns: 4,
} as const

const text = (description: string, more: TSchemaOptions = {}) => Type.Optional(Type.String({ description, ...more }))
const flag = (description: string, value?: boolean) =>
  Type.Optional(Type.Boolean(value === undefined ? { description } : { description, default: value }))
const whole = (description: string, minimum: number, maximum: number, value?: number) =>
  Type.Optional(Type.Integer({ description, minimum, maximum, ...(value === undefined ? {} : { default: value }) }))
const price = (description: string) => Type.Optional(Type.Number({ description, minimum: 0, default: 0 }))
const texts = (description: string) => Type.Optional(Type.Array(Type.String(), { description }))
/** `objects` is an object whose members are objects. */
type UsualType = 'object' | 'objects' | 'array' | 'string' | 'number' | 'boolean'
/** A key that is read by others, or by nobody: any value. What it usually is matters to forms alone. */
const untyped = (description: string, usually: UsualType = 'object') =>
  Type.Optional(Type.Unknown({ description, usually }))
/** A section another program serves. It is accepted as it is and named once in a warning. */
const elsewhere = (description: string, usually: UsualType = 'object') =>
  Type.Optional(Type.Unknown({ description: `Not served here. ${description}`, served: false, usually }))

/** Whether this gateway leaves the section to others. */
export const isServed = (schema: TSchema): boolean => !('served' in schema && schema.served === false)

const longestSeconds = Math.floor(LONGEST_TIMER_MS / 1000)
const counts = Number.MAX_SAFE_INTEGER

const Level = (description: string) =>
  Type.Optional(
    Type.Enum(['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'], { description, default: defaults.level }),
  )

const Thinking = (description: string) =>
  Type.Optional(Type.Enum(['off', 'minimal', 'low', 'medium', 'high', 'xhigh'], { description }))

const ModelChoice = (description: string) =>
  Type.Optional(
    Type.Union(
      [
        Type.String({ minLength: 1 }),
        Type.Object({
          primary: text('The model that is tried first, `provider/id`.', { minLength: 1 }),
          fallbacks: Type.Optional(
            Type.Array(Type.String({ minLength: 1 }), {
              description:
                'Tried in order on 429, 5xx, time-out and auth failure, before the first piece of an answer only.',
            }),
          ),
        }),
      ],
      { description },
    ),
  )

const Heartbeat = Type.Optional(
  Type.Object(
    {
      every: text(
        'How often: a duration such as `30m`, `1h` or `90s`; a bare number is minutes, `0m` is never. Default: never.',
      ),
      prompt: text('What the agent is asked. Default: what its `HEARTBEAT.md` and what it was woken with ask.'),
      model: text('A model for heartbeats alone.', { minLength: 1 }),
      activeHours: Type.Optional(
        Type.Object(
          {
            start: text('`HH:MM`, the first minute. Default: `00:00`.'),
            end: text(
              '`HH:MM`, the minute after the last; `24:00` = the end of the day. Before `start`: the next day.',
            ),
            timezone: text('A time zone such as `Europe/Berlin`. Default: that of the machine.'),
          },
          { description: 'When heartbeats may come by themselves.' },
        ),
      ),
      ackMaxChars: whole(
        'An answer with HEARTBEAT_OK and at most so many characters more is heard by nobody.',
        0,
        100_000,
        defaults.ackMaxChars,
      ),
      target: text('Accepted, without effect here: an answer goes to the main session.'),
    },
    {
      description:
        'Asking an agent, from time to time, whether something needs attention. Where an agent has this section, only such agents have heartbeats, else only the default one.',
    },
  ),
)

const Endpoint = (description: string) =>
  Type.Optional(Type.Object({ enabled: flag('Whether it is served.', false) }, { description }))

const Gateway = Type.Object(
  {
    port: whole('TCP port for health, page, HTTP and WebSocket; 0 = any free one.', 0, 65_535, defaults.port),
    bind: text(
      'Where to listen: `loopback`, `lan` (every IPv4 address), `auto` (the same as loopback), `custom` (see `customBindHost`), `localhost`, or a literal address.',
      { default: 'loopback' },
    ),
    customBindHost: text('The literal address for `bind: "custom"`.'),
    mode: Type.Optional(
      Type.Enum(['local', 'remote'], { description: 'Accepted; this program is always the local gateway.' }),
    ),
    auth: Type.Optional(
      Type.Object(
        {
          mode: Type.Optional(
            Type.Enum(['token', 'password', 'none'], {
              description: 'The shared credential clients show; `none` is for loopback only.',
              default: 'token',
            }),
          ),
          token: text('The shared token. Beyond loopback at least 24 characters.'),
          password: text('The shared password, for `mode: "password"`.'),
          trustedProxy: Type.Optional(
            Type.Object(
              {
                userHeader: Type.String({
                  pattern: '^[A-Za-z][A-Za-z0-9-]{0,63}$',
                  description: 'The header in which a listed proxy says who has logged in, such as `X-Forwarded-User`.',
                }),
                allowUsers: texts('Who may come in that way; empty = everybody the proxy names.'),
                scopes: Type.Optional(
                  Type.Array(Type.Enum([...OPERATOR_SCOPES]), {
                    description: 'What they may do. Default: `operator.read` and `operator.write`.',
                  }),
                ),
              },
              { description: 'People whom a proxy of `gateway.trustedProxies` has logged in need no token.' },
            ),
          ),
        },
        { description: 'Who may connect.' },
      ),
    ),
    controlUi: Type.Optional(
      Type.Object(
        {
          enabled: flag('Serve the page.', true),
          allowInsecureAuth: flag(
            'Let browser clients in with the shared credential over plain HTTP, without pairing.',
            false,
          ),
          dangerouslyDisableDeviceAuth: flag('Ask no device identity of browser clients.', false),
          allowedOrigins: texts('Further origins a browser may come from, written `https://name[:port]`.'),
          dangerouslyAllowHostHeaderOriginFallback: flag(
            'Accepted; the request’s own host is an allowed origin already, through listed proxies.',
          ),
        },
        { description: 'The page and the browser clients.' },
      ),
    ),
    http: Type.Optional(
      Type.Object(
        {
          endpoints: Type.Optional(
            Type.Object(
              {
                chatCompletions: Endpoint('`POST /v1/chat/completions`.'),
                responses: Endpoint('`POST /v1/responses`.'),
              },
              { description: 'Agents as models, in OpenAI’s shapes; with either, `GET /v1/models` lists them.' },
            ),
          ),
        },
        { description: 'What is there over plain HTTP besides messages to agents.' },
      ),
    ),
    tls: Type.Optional(
      Type.Object(
        {
          cert: Type.String({
            minLength: 1,
            description: 'The certificate and its chain, a PEM file. Read again when it changes.',
          }),
          key: Type.String({ minLength: 1, description: 'Its private key, a PEM file for the gateway alone.' }),
        },
        { description: 'Speak TLS (https, wss). Behind a proxy that ends it, leave this out.' },
      ),
    ),
    trustedProxies: texts('Peers whose forwarded headers are believed: addresses, CIDR ranges, or `*`.'),
    limits: Type.Optional(
      Type.Object(
        {
          requestsPerSecond: whole('Requests a second per socket.', 0, counts, defaults.limits.requestsPerSecond),
          burst: whole('Requests at once per socket.', 0, counts, defaults.limits.burst),
          preauthPerIp: whole('Sockets of one address before `connect`.', 0, counts, defaults.limits.preauthPerIp),
          preauthTotal: whole('Sockets before `connect`, in all.', 0, counts, defaults.limits.preauthTotal),
          maxConnections: whole('Sockets in all.', 0, counts, defaults.limits.maxConnections),
          deniedPerMinute: whole(
            'Calls of one socket in a minute that are refused for want of a scope.',
            0,
            counts,
            defaults.limits.deniedPerMinute,
          ),
          socketsPerPrincipal: whole(
            'Sockets of one device or named token.',
            0,
            counts,
            defaults.limits.socketsPerPrincipal,
          ),
          sessions: whole('Sessions in all.', 0, counts, defaults.limits.sessions),
          liveKeys: whole(
            'Idempotency keys that are remembered of one device or named token; of the shared one, ten times as many.',
            0,
            counts,
            defaults.limits.liveKeys,
          ),
        },
        { description: 'Limits; 0 = off.' },
      ),
    ),
    compat: Type.Optional(
      Type.Object(
        { kurultai: flag('Speak the dialect of the Kurultai clients to connections that match it.', false) },
        { description: 'Dialects.' },
      ),
    ),
    handshakeTimeoutMs: whole(
      'From accept to a `connect` frame, in milliseconds.',
      100,
      600_000,
      defaults.handshakeTimeoutMs,
    ),
    drainSeconds: whole(
      'How long runs may go on after the gateway was told to stop. Less than what stops it would wait before it kills.',
      0,
      3_600,
      defaults.drainSeconds,
    ),
    tickIntervalMs: whole('Between two `tick` events, in milliseconds.', 1_000, 30_000, defaults.tickIntervalMs),
    remote: untyped('For clients: the gateway they connect to. Accepted, unused by the gateway itself.'),
  },
  { description: 'The listener, its credential and its limits.' },
)

const Agent = Type.Object({
  id: text('Names the agent in session keys: letters, digits, `_` and `-`; the case does not count.'),
  name: text('What people call it. Default: the id.'),
  workspace: text('The folder whose files make the system prompt.'),
  model: ModelChoice('A model of its own; a text replaces the primary only.'),
  default: flag('Whether it answers for a session that names no agent.'),
  thinkingDefault: Thinking('A thinking level of its own.'),
  agentDir: text('Accepted, without effect here.'),
  failoverFor: texts(
    'The ids of the agents it stands in for while they miss their checks; see `agents.defaults.failover`.',
  ),
  maxConcurrent: whole('Runs of this agent at the same time. Default: only the limit of all agents.', 1, counts),
  runtime: Type.Optional(
    Type.Object(
      {
        type: Type.Enum(['model', 'connector'], {
          description:
            '`model`: its models answer. `connector`: a node that is connected (role `node`, cap `agent`, command `agent.run`) answers.',
          default: 'model',
        }),
        node: text(
          'The node that is this agent: its device id, or the name it was paired under. Default: a node paired under the agent’s id or name.',
          { minLength: 1 },
        ),
        graceSeconds: whole(
          'How long a run waits for its node to be there, or to come back.',
          0,
          3_600,
          defaults.graceSeconds,
        ),
      },
      { description: 'What answers for it.' },
    ),
  ),
  failoverTriggers: untyped('Accepted, without effect here.', 'array'),
  heartbeat: Heartbeat,
})

const Agents = Type.Object(
  {
    defaults: Type.Optional(
      Type.Object(
        {
          model: ModelChoice('The models of an agent that names none.'),
          models: untyped('A catalogue with aliases. Accepted, without effect here.'),
          workspace: text('The workspace of an agent that names none.'),
          bootstrapMaxChars: whole(
            'Characters of each workspace file that go into the prompt.',
            0,
            1_000_000,
            defaults.bootstrapMaxChars,
          ),
          skipBootstrap: flag('Accepted; this gateway never makes workspace files.'),
          thinkingDefault: Thinking('The thinking level. Default: `low` for models that reason, else `off`.'),
          timeoutSeconds: whole('Deadline of a run in seconds; 0 = none.', 0, longestSeconds, defaults.timeoutSeconds),
          maxConcurrent: whole('Runs at the same time, over all sessions.', 1, counts, defaults.maxConcurrent),
          recovery: Type.Optional(
            Type.Enum(['interrupt', 'resume'], {
              description: 'What becomes of a run that had started when the process died.',
              default: defaults.recovery,
            }),
          ),
          failover: Type.Optional(
            Type.Object(
              {
                everySeconds: whole(
                  'Between two checks of an agent that somebody stands in for.',
                  1,
                  3_600,
                  defaults.failover.everySeconds,
                ),
                misses: whole('Checks missed in a row until the stand-in answers.', 1, 1_000, defaults.failover.misses),
              },
              { description: 'When `failoverFor` takes effect. It ends with the first check that is passed.' },
            ),
          ),
          sandbox: untyped('Accepted, without effect here.'),
          compaction: untyped('Accepted, without effect here.'),
          heartbeat: Heartbeat,
        },
        { description: 'What holds for every agent that does not say otherwise.' },
      ),
    ),
    list: Type.Optional(Type.Array(Agent, { description: 'The agents. Empty = one agent `main`.' })),
  },
  { description: 'Who answers.' },
)

const ProviderModel = Type.Object({
  id: text('The id the provider knows it by.'),
  name: text('What people call it. Default: the id.'),
  api: text('Overrides the provider’s `api`.', { minLength: 1 }),
  reasoning: flag('Whether it thinks before it answers.', false),
  input: Type.Optional(Type.Array(Type.Enum(['text', 'image']), { description: 'What it takes.', default: ['text'] })),
  cost: Type.Optional(
    Type.Object(
      {
        input: price('Of the prompt.'),
        output: price('Of the answer.'),
        cacheRead: price('Of a prompt read from the cache.'),
        cacheWrite: price('Of a prompt written to the cache.'),
      },
      { description: 'Price per million tokens.' },
    ),
  ),
  contextWindow: whole('Tokens.', 1, counts, defaults.contextWindow),
  maxTokens: whole('Tokens an answer may have.', 1, counts, defaults.maxTokens),
})

const Provider = Type.Object({
  baseUrl: text('An http or https address; `/chat/completions` or `/v1/messages` is added to it.'),
  apiKey: text('The key. Default: the variable `<PROVIDER>_API_KEY`.'),
  api: text('`openai-completions`, `anthropic-messages` or `echo`.', { minLength: 1, default: 'openai-completions' }),
  headers: Type.Optional(Type.Record(Type.String(), Type.String(), { description: 'Sent with every request.' })),
  models: Type.Optional(Type.Array(ProviderModel, { description: 'Its models. Absent = any id is passed on.' })),
})

export const FileSchema = Type.Object(
  {
    gateway: Type.Optional(Gateway),
    agents: Type.Optional(Agents),
    models: Type.Optional(
      Type.Object(
        {
          mode: Type.Optional(
            Type.Enum(['merge', 'replace'], {
              description: '`replace` drops the built-in models, except `echo/echo`.',
              default: 'merge',
            }),
          ),
          providers: Type.Optional(
            Type.Record(Type.String(), Provider, {
              description: 'By provider id, the part of a reference before the slash.',
            }),
          ),
        },
        { description: 'What the agents think with.' },
      ),
    ),
    session: Type.Optional(
      Type.Object(
        {
          mainKey: text('The last part of an agent’s main session key.', {
            pattern: '^[^\\s:]+$',
            default: defaults.mainKey,
          }),
          scope: Type.Optional(
            Type.Enum(['per-sender', 'global'], {
              description: 'Reported to clients; every session key is its own session here.',
              default: defaults.scope,
            }),
          ),
          projectFiles: flag(
            'Write the session list and transcripts to `agents/<id>/sessions/`, read by nobody here.',
            false,
          ),
          reset: untyped('Accepted, without effect here.'),
          signalRouting: untyped('Accepted, without effect here.'),
        },
        { description: 'Conversations.' },
      ),
    ),
    messages: Type.Optional(
      Type.Object(
        {
          queue: Type.Optional(
            Type.Object(
              {
                mode: Type.Optional(
                  Type.Enum(['followup', 'collect', 'steer', 'steer-backlog', 'interrupt', 'queue'], {
                    description:
                      'What a message does when a run is under way: waits for its own answer (`followup`), is answered together with others that wait (`collect`), joins the run (`steer`; `steer-backlog` and `queue` are the same), or stops it (`interrupt`).',
                    default: defaults.queueMode,
                  }),
                ),
                limit: whole('Turns that may wait in one session.', 1, 10_000, defaults.queueLimit),
              },
              { description: 'Turns that wait for a busy session.' },
            ),
          ),
        },
        { description: 'What happens to a message before it is a turn.' },
      ),
    ),
    cron: Type.Optional(
      Type.Object(
        {
          enabled: flag('Whether jobs are carried out by themselves.', true),
          maxConcurrentRuns: whole('Jobs under way at once.', 1, counts, defaults.cronRuns),
          store: untyped('Accepted, without effect here: jobs are kept with everything else.'),
        },
        { description: 'Turns at set times.' },
      ),
    ),
    commands: Type.Optional(
      Type.Object(
        {
          config: flag('Let clients write this file.', false),
          restart: flag('Let clients restart the gateway.', false),
          native: untyped('Accepted, without effect here.', 'boolean'),
          nativeSkills: untyped('Accepted, without effect here.', 'boolean'),
          ownerDisplay: untyped('Accepted, without effect here.', 'string'),
        },
        { description: 'What clients may do to the gateway itself.' },
      ),
    ),
    tools: Type.Optional(
      Type.Object(
        {
          deny: texts('Tools no agent may use; `*` stands for any characters, `*` alone for all tools.'),
          profile: text('Accepted, without effect here.'),
          timeoutSeconds: whole('How long one call of a tool may take.', 1, 3_600, defaults.toolSeconds),
          maxRounds: whole('How often in one run a model may ask for tools.', 1, 1_000, defaults.toolRounds),
          agentToAgent: Type.Optional(
            Type.Object(
              {
                enabled: flag('Whether agents may send to each other.', false),
                allow: Type.Optional(
                  Type.Union([Type.Array(Type.String()), Type.Record(Type.String(), Type.Array(Type.String()))], {
                    description:
                      'A list: these agents may send to each other. An object: who (the key) may send to whom (the list). `*` = every agent.',
                  }),
                ),
                limits: Type.Optional(
                  Type.Object(
                    {
                      hops: whole('How many messages may follow from one another.', 0, counts, defaults.chain.hops),
                      visits: whole(
                        'How often one agent may be in the line of who sent to whom.',
                        0,
                        counts,
                        defaults.chain.visits,
                      ),
                      messages: whole(
                        'Messages in all that may come of one request.',
                        0,
                        counts,
                        defaults.chain.messages,
                      ),
                      fanOut: whole('Messages one turn of an agent may send.', 0, counts, defaults.chain.fanOut),
                      totalTokens: whole(
                        'Tokens that may come of one request; beyond it nothing more is sent.',
                        0,
                        counts,
                        defaults.chain.tokens,
                      ),
                      cost: Type.Optional(
                        Type.Number({
                          description: 'The same for what it costs, by the prices of `models.providers`.',
                          minimum: 0,
                          default: defaults.chain.cost,
                        }),
                      ),
                    },
                    { description: 'What keeps agents from going round in circles; 0 = off.' },
                  ),
                ),
              },
              { description: 'Delegation.' },
            ),
          ),
        },
        { description: 'What agents may do.' },
      ),
    ),
    mcp: Type.Optional(
      Type.Object(
        {
          servers: Type.Optional(
            Type.Record(
              Type.String({ pattern: '^[A-Za-z0-9_-]{1,32}$' }),
              Type.Object({
                enabled: flag('Whether it is used.', true),
                command: text('The program to start; it speaks over its standard input and output.', { minLength: 1 }),
                args: texts('Its arguments.'),
                env: Type.Optional(
                  Type.Record(Type.String(), Type.String(), {
                    description: 'Its environment, besides PATH, HOME, LANG and TZ; nothing else is passed on.',
                  }),
                ),
                cwd: text('Where it is started.'),
                url: text('In place of `command`: the address of one that is running, http or https.', {
                  minLength: 1,
                }),
                headers: Type.Optional(
                  Type.Record(Type.String(), Type.String(), { description: 'Sent with every request.' }),
                ),
                timeoutSeconds: whole('How long one call may take. Default: `tools.timeoutSeconds`.', 1, 3_600),
                startSeconds: whole('How long it may take to be ready.', 1, 600, defaults.mcpStartSeconds),
                agents: texts('Who may use it, by id. Default: every agent.'),
              }),
              { description: 'By name: letters, digits, `_` and `-`. A tool is then called `<name>__<tool>`.' },
            ),
          ),
        },
        { description: 'Tools of other programs, by the Model Context Protocol.' },
      ),
    ),
    logging: Type.Optional(
      Type.Object(
        {
          level: Level('How much goes to the file.'),
          consoleLevel: Level('How much goes to the console.'),
          file: text('Where to. Default: `logs/gateway.log` in the state folder.', { minLength: 1 }),
          consoleStyle: untyped('Accepted, without effect here.', 'string'),
          redactSensitive: untyped('Accepted; secrets are never logged, whatever it says.', 'string'),
          redactPatterns: untyped('Accepted, without effect here.', 'array'),
        },
        { description: 'The log.' },
      ),
    ),
    env: Type.Optional(
      Type.Object(
        {
          shellEnv: Type.Optional(
            Type.Object(
              {
                enabled: flag('Accepted; the login shell is never asked for variables.'),
                timeoutMs: untyped('Accepted, without effect here.', 'number'),
              },
              { description: 'Variables of the login shell.' },
            ),
          ),
        },
        { description: 'Where variables come from.' },
      ),
    ),
    meta: untyped('Notes that other programs leave about the file.'),
    acp: elsewhere('Agent client protocol.'),
    approvals: elsewhere('Forwarding of approvals to channels.'),
    audio: elsewhere('Audio.'),
    auth: elsewhere('Provider log-ins and their order.'),
    bindings: elsewhere('Routes from channels to agents.', 'array'),
    broadcast: elsewhere('Groups of agents that hear one channel.'),
    browser: elsewhere('A browser for agents.'),
    canvasHost: elsewhere('The canvas.'),
    channels: elsewhere('Messengers.', 'objects'),
    diagnostics: elsewhere('Tracing.'),
    discovery: elsewhere('Announcement in the local network.'),
    hooks: elsewhere('HTTP hooks.'),
    media: elsewhere('Media files.'),
    memory: elsewhere('Long-term memory.'),
    nodeHost: elsewhere('The node host.'),
    plugins: elsewhere('Plugins.'),
    skills: elsewhere('Skills.'),
    talk: elsewhere('Speech.'),
    tts: elsewhere('Speech.'),
    ui: elsewhere('The look of the reference’s page.'),
    update: elsewhere('Self-update.'),
    web: elsewhere('WhatsApp Web.'),
    wizard: elsewhere('What the set-up wizard did last.'),
  },
  { description: 'The gateway’s configuration.' },
)

/** The file after `${VAR}` was replaced and everything unknown was left out. */
export type ConfigFile = Static<typeof FileSchema>
