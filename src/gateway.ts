/** The whole gateway, put together: picks the store and the runtimes, and hands the rooms to each other. */
import { randomBytes, randomUUID } from 'node:crypto'
import { chmodSync, mkdirSync } from 'node:fs'
import { homedir } from 'node:os'
import { basename, join } from 'node:path'
import { createActor, toPromise } from 'xstate'
import { gatewayMachine } from '../machines/gateway.ts'
import { type Attempts, createAttempts, type KeptAttempts } from './auth/attempts.ts'
import { createAuthenticator } from './auth/authenticate.ts'
import { type Devices, openDevices, type Revocation } from './auth/devices.ts'
import { stands } from './auth/standing.ts'
import { openTokens, type Tokens } from './auth/tokens.ts'
import { createActivity } from './broker/activity.ts'
import { type Agents, createAgents } from './broker/agents.ts'
import { createApprovals } from './broker/approvals.ts'
import { openApprovalsDocument } from './broker/approvals-document.ts'
import { type Audit, openAudit } from './broker/audit.ts'
import { createChains } from './broker/chains.ts'
import { type Connections, createConnections } from './broker/connections.ts'
import { createDispatch, type Dispatch } from './broker/dispatch.ts'
import { createFollowing } from './broker/following.ts'
import { createHealth, type Health } from './broker/health.ts'
import { createHeartbeats, type Heartbeats } from './broker/heartbeats.ts'
import { work } from './broker/host.ts'
import { createHub, type Hub } from './broker/hub.ts'
import { createLineage } from './broker/lineage.ts'
import { createMailbox, type Mailbox } from './broker/mailbox.ts'
import { ConnectorAway, createNodes, type Nodes } from './broker/nodes.ts'
import { createOneShots, type OneShots } from './broker/one-shots.ts'
import { openPairings, type Pairings } from './broker/pairings.ts'
import type { Hearing } from './broker/peer.ts'
import { createPresence, type Presence } from './broker/presence.ts'
import { createPrompt } from './broker/prompt.ts'
import { quotasOf } from './broker/quotas.ts'
import { createReplay, type Replay } from './broker/replay.ts'
import { createRuns, type Runs } from './broker/runs.ts'
import { createSchedules, type Schedules } from './broker/schedules.ts'
import { createSessions, type Sessions } from './broker/sessions.ts'
import { createStandby, type Standby } from './broker/standby.ts'
import { createSupervisor, type Supervisor } from './broker/supervisor.ts'
import { createToolServers, type ToolServers } from './broker/tool-servers.ts'
import { createToolbox, deniedInVain } from './broker/toolbox.ts'
import { createTurns, type Turns } from './broker/turns.ts'
import { createUpkeep, type Upkeep } from './broker/upkeep.ts'
import { openWakeWords } from './broker/wake-words.ts'
import { parseRange, type Range } from './config/address.ts'
import type { Config } from './config/config.ts'
import { openConfigFile } from './config/file.ts'
import { formOf } from './config/form.ts'
import type { ConfigSource } from './config/load.ts'
import { nearest } from './config/reading.ts'
import { FileSchema } from './config/schema.ts'
import { checklist, identity, systemPrompt } from './config/workspace.ts'
import { listFiles, readFile, writeFile } from './config/workspace-files.ts'
import { holds } from './contract/scopes.ts'
import { forClients, type Logger } from './logging.ts'
import { methodHandlers } from './methods/index.ts'
import { connector, connectorModel } from './runtimes/connector.ts'
import { canReach } from './runtimes/exchange.ts'
import { answerWithFallbacks, createRuntimes, isNotToBeHad, type Runtimes } from './runtimes/index.ts'
import { projected } from './stores/projection.ts'
import { openSqliteStore, type SqliteStore } from './stores/sqlite.ts'
import type { Json, Store } from './stores/store.ts'
import { watched } from './stores/watched.ts'
import { councilTools } from './tools/council.ts'
import { mcpLines } from './tools/mcp.ts'
import { type Api, createApi } from './transport/api.ts'
import { createDialect, type Dialect } from './transport/dialect.ts'
import { createListener, type Listener } from './transport/http.ts'
import { version } from './version.ts'

export interface Gateway {
  /** Starts it. Rejects with the reason when it could not be started; everything is closed again then. */
  start(): Promise<void>
  /** Stops it: the first time it lets runs end, within the budget; the second time it does not wait. */
  stop(reason: string): void
  /** Resolves when it has stopped, with the failure that made it stop, if one did. */
  readonly stopped: Promise<{ failure: string | undefined }>
  readonly addresses: { host: string; port: number }[]
}

export interface GatewayOptions {
  config: Config
  log: Logger
  /** Default: SQLite in the state folder. */
  store?: () => Promise<Store>
  runtimes?: Runtimes
  /** How long runs may go on after a stop, in ms; default: as configured. */
  drainMs?: number
  /** Between two pings of a socket, in ms. */
  heartbeatMs?: number
  /** Between two looks for what is old, in ms. */
  sweepMs?: number
  /** Between two looks at how the gateway is, in ms. */
  healthMs?: number
  /** The wall clock in ms, which anybody may set. */
  now?(): number
  /** Milliseconds of a clock that nobody sets. */
  monotonic?(): number
  /** How the configuration was found; default: in its state folder, with the environment of the process. */
  source?: ConfigSource
  /**
   * Starts the gateway anew after so many ms, because a client that may do so asked for it; one that is asked for already comes when
   * it comes. Says in how many ms that is; undefined: it will not be.
   */
  restart?(delayMs: number, reason: string): number | undefined
}

const sourceOf = ({ stateDir }: Config): ConfigSource => ({
  env: process.env,
  home: homedir(),
  cwd: process.cwd(),
  flags: { stateDir, allowUnconfigured: true },
})

/** Departures within so many ms are one event. */
const PRESENCE_GATHERED_MS = 250
const HEARTBEAT_MS = 20_000

/** What is there once the store is open. */
interface Rooms {
  store: Store
  runs: Runs
  sessions: Sessions
  supervisor: Supervisor
  turns: Turns
  oneShots: OneShots
  mailbox: Mailbox
  standby: Standby
  toolServers: ToolServers
  schedules: Schedules
  heartbeats: Heartbeats
  devices: Devices
  tokens: Tokens
  attempts: Attempts
  pairings: Pairings
  nodes: Nodes
  connections: Connections
  dispatch: Dispatch
  api: Api
  hub: Hub
  health: Health
  presence: Presence
  listener: Listener
  replay: Replay
  audit: Audit
}

export function createGateway(options: GatewayOptions): Gateway {
  const {
    config,
    log,
    runtimes = createRuntimes(),
    drainMs = config.gateway.drainMs,
    heartbeatMs = HEARTBEAT_MS,
  } = options
  const { now = () => Date.now(), monotonic = () => performance.now() } = options
  const startedAt = monotonic()
  const agents = createAgents(config)
  const databasePath = join(config.stateDir, 'kurultai.sqlite')
  const openConfiguredStore =
    options.store ??
    (async () => {
      mkdirSync(config.stateDir, { recursive: true, mode: 0o700 })
      database = await openSqliteStore({
        path: databasePath,
        quotas: quotasOf(config.gateway.limits),
        warn: (message) => log.warn(message),
      })
      if (database.incident)
        log.error(database.incident, 'the database was damaged: it was set aside, and mended as far as it could be')
      void database.lost.then(({ message }) => lose(message))
      return database
    })
  const following = createFollowing({ hub: () => rooms!.hub, log, now })
  let rooms: Rooms | undefined
  let database: SqliteStore | undefined
  /** The error behind the failure that the chart knows in words. */
  let cause: unknown
  let upkeep: Upkeep | undefined

  const actor = createActor(
    gatewayMachine.provide({
      actions: {
        refuseNewTurns: () => rooms?.supervisor.drain(),
        announceShutdown: (_, { reason }) => {
          log.info({ reason, runs: rooms?.runs.size ?? 0 }, 'stopping')
          // Protocol 3 says null where it is not known, protocol 4 leaves it out.
          rooms?.hub.publish('shutdown', ({ protocol }) =>
            JSON.stringify({ reason, ...(protocol === 3 && { restartExpectedMs: null }) }),
          )
        },
        checkpoint: () => {
          const left = rooms?.runs.size ?? 0
          if (left > 0) log.warn({ runs: left }, 'runs were cut off; the next start ends or resumes them')
          rooms?.sessions.dropAll()
          rooms?.runs.dropAll()
        },
        unexpected: (_, { event }) => log.debug({ event }, 'gateway: an event that means nothing now'),
      },
      actors: {
        openStorage: work(async () => {
          const opened = await openConfiguredStore().catch((error: unknown) => {
            cause = error
            throw error
          })
          const { stateDir: folder, session } = config
          const kept = session.projectFiles ? projected(opened, { folder, warn: log.warn.bind(log) }) : opened
          const store = watched(following.ear(kept), { onLost: lose, onFull: () => upkeep?.seekSpace() })
          upkeep = createUpkeep({
            ...{ store, log, now, monotonic },
            backUp: () => database?.backup(),
            tickMs: config.gateway.tickIntervalMs,
            healthMs: options.healthMs,
            sweepMs: options.sweepMs,
          })
          try {
            rooms = await furnish(store)
          } catch (error) {
            await store.close()
            throw error
          }
        }),
        listen: work(() => rooms!.listener.listen(config.gateway.hosts, config.gateway.port)),
        recover: work(async () => {
          const { turns, oneShots, health, replay, mailbox, standby, toolServers, schedules, heartbeats } = rooms!
          toolServers.start()
          // Before a run that was cut off says how it ended: that belongs to the new epoch.
          const { renewed } = await replay.recover()
          if (renewed > 0) log.info({ sessions: renewed }, 'streams began a new epoch')
          const settled = { ...(await turns.recover()), answers: await mailbox.recover() }
          const forgotten = await oneShots.recover()
          if (forgotten > 0)
            log.info({ sessions: forgotten }, 'removing the sessions of requests that nobody waits for')
          const { jobs, ...left } = await schedules.recover()
          if (Object.values(left).some((count) => count > 0)) log.info({ jobs, ...left }, 'took up the jobs')
          await heartbeats.start()
          if (Object.values(settled).some((count) => count > 0)) log.info(settled, 'settled what the last process left')
          standby.start()
          await health.refresh()
          upkeep!.start(rooms!)
        }),
        runsEnded: work(async () => {
          const { supervisor, turns, runs, dispatch, api } = rooms!
          // A turn that is being kept is still to be acknowledged and begun: it is waited for like those under way.
          await supervisor.settled()
          await turns.arrivedAll()
          await runs.idle()
          await dispatch.answered()
          await api.answered()
        }),
        hangUp: work(async () => {
          upkeep?.stop()
          if (!rooms) return
          const toolsStopped = rooms.toolServers.stop()
          await rooms.connections.closeAll('serviceRestart', { size: 500, everyMs: 20 })
          await rooms.listener.close()
          await toolsStopped
        }),
        closeStorage: work(async () => {
          rooms?.supervisor.stop()
          rooms?.pairings.stop()
          rooms?.nodes.stop()
          rooms?.mailbox.stop()
          rooms?.schedules.stop()
          rooms?.heartbeats.stop()
          rooms?.standby.stop()
          await rooms?.replay.flush()
          await rooms?.attempts.sweep()
          await rooms?.audit.flush()
          await rooms?.store.close()
        }),
      },
    }),
    { input: { drainMs } },
  )

  /** Makes every room. Nothing runs yet, and nobody can come in. */
  async function furnish(store: Store): Promise<Rooms> {
    const replay = createReplay({ store, log, now })
    const hub = createHub({
      replay,
      // Who hears over HTTP is no connection of ours to close, but can be cut off all the same.
      onBroken: ({ connId, wire }, error) => {
        log.error({ connId, err: error }, 'a socket failed; it is disconnected')
        if (!connections.close(connId, 'internal')) wire.terminate()
      },
      onSlow: ({ connId, wire }) => {
        log.warn({ connId, bytesWaiting: wire.bytesWaiting }, 'a reader is too slow; it is disconnected')
        if (!connections.close(connId, 'slowConsumer')) wire.terminate()
      },
    })
    const onRevoked = (revocation: Revocation) => {
      connections.revoke(revocation)
      api.revoke(revocation)
      const { principal, silences } = revocation
      if (silences)
        turns
          .drop(principal)
          .catch((error: unknown) => log.error({ principal, err: error }, 'what was sent could not be dropped'))
    }
    const devices = await openDevices(store, await deviceSecret(store), { onRevoked, now })
    const tokens = await openTokens({ store, now, onRevoked })
    const pairings = await openPairings({
      devices,
      tokens,
      store,
      log,
      now,
      tell: (event, payload, may) => hub.tellAll(event, payload, { only: may }),
    })
    const presence = createPresence({ now, version })
    const isConnector = (agentId: string) => agents.get(agentId)?.connector !== undefined
    const isReachable = (agentId: string) =>
      isConnector(agentId) ? nodes.hasNodeFor(agentId) : canReach(prompt.modelOf(agentId, undefined)?.baseUrl)
    const standby = createStandby({ agents, ...config.agents.failover, isReachable, log })
    const chains = createChains({ store, rules: config.tools.agentToAgent })
    const toolServers = createToolServers({
      servers: config.mcp.servers,
      openLine: mcpLines({ env: process.env, version }),
      log,
      monotonic,
      random: Math.random,
    })
    const toolbox = createToolbox({ sources: [{ tools: () => council }, toolServers], tools: config.tools, log })
    const prompt = createPrompt({
      agents,
      models: config.models,
      store,
      instructions: instructionsOf(agents),
      tools: toolbox.specs,
      connectorModel,
      standInFor: standby.standInFor,
    })
    const runs = createRuns({
      store,
      hub,
      log,
      now,
      deadlineMs: config.agents.timeoutMs,
      maxConcurrent: config.agents.maxConcurrent,
      maxConcurrentOf: (agentId) => agents.get(agentId)?.maxConcurrent,
      toolbox,
      maxRounds: config.tools.maxRounds,
      async prepare(record, steps) {
        const isItself = standby.standInFor(record.agentId) === undefined
        const { candidates, call } = await prompt.for(record, steps)
        return async (sink, signal, asking) => {
          try {
            const answer = await answerWithFallbacks({
              runtimes: everyRuntime,
              candidates,
              call,
              sink,
              signal,
              onAttempt: (model, attempt) => {
                asking(model)
                log.debug({ runId: record.runId, model: model.ref, attempt }, 'asking a model')
              },
            })
            if (isItself) standby.asked(record.agentId, true)
            return answer
          } catch (error) {
            const isAway = isNotToBeHad(error) || error instanceof ConnectorAway
            if (isItself && isAway && !signal.aborted) standby.asked(record.agentId, false)
            throw error
          }
        }
      },
      onStarted: (record) => mailbox.started(record),
      onSpent: chains.spend,
      onEnded: (record, ended) => {
        const { outcome, endedAt, startedAt } = ended
        supervisor.ended(record, outcome)
        sessions.ended(record.sessionKey, record.runId)
        activity.ended(record, outcome.state === 'failed' ? outcome.error : undefined)
        mailbox.ended(record, ended)
        const { runId, sessionKey } = record
        const details = { runId, sessionKey, state: outcome.state, ms: endedAt - (startedAt ?? endedAt) }
        if (outcome.error) log.warn({ ...details, error: outcome.error }, 'run ended')
        else log.debug(details, 'run ended')
      },
    })
    const nodes = createNodes({
      ...{ agents, devices, hub, runs, toolbox, log, now, monotonic },
      expel: (connId) => connections.close(connId, 'notYourRun'),
    })
    const everyRuntime: Runtimes = new Map([...runtimes, ['connector', connector(nodes.ask)]])
    const sessions = createSessions({ runs, log, onCrash: (key) => supervisor.crashed(key) })
    const supervisor = createSupervisor({
      store,
      log,
      // One runs, the others wait.
      isFull: (_, unfinished) => unfinished > config.messages.queueLimit,
      restartSession: (key) => sessions.restart(key),
      onCrash: () => actor.send({ type: 'failed', error: 'the supervisor crashed' }),
      monotonic,
      random: Math.random,
    })
    const turns = createTurns({
      store,
      supervisor,
      runs,
      sessions,
      replay,
      now,
      queueMode: config.messages.queueMode,
      stands: (principal) => stands(principal, { devices, tokens }),
      recovery: config.agents.recovery,
    })
    const mailbox = createMailbox({
      store,
      turns,
      runs,
      chains,
      hub,
      nameOf: (agentId) => agents.get(agentId)?.name ?? agentId,
      log,
      now,
    })
    const heartbeats = createHeartbeats({
      ...{ agents, store, turns, runs, sessions, hub, log, now },
      checklistOf: (agentId) => {
        const agent = agents.get(agentId)
        return agent && checklist(agent, config.agents.bootstrapMaxChars, refusedFile(agentId))
      },
    })
    const schedules = createSchedules({
      ...{ store, agents, turns, runs, hub, log, now },
      onUrgent: ({ agentId, sessionKey }, reason) => heartbeats.wake(agentId, sessionKey, reason),
      isOn: config.cron.enabled,
      maxConcurrent: config.cron.maxConcurrentRuns,
    })
    const lineage = createLineage({ store })
    const activity = createActivity({
      runs,
      isReachable: (agentId) => standby.isThere(agentId) ?? (!isConnector(agentId) || nodes.hasNodeFor(agentId)),
    })
    const council = councilTools({ agents, chains, mailbox, store, sessions, activityOf: activity.of, now })
    warnOfDenied(
      config.tools.deny,
      council.map(({ name }) => name),
    )
    const health = createHealth({
      agents,
      store,
      path: basename(databasePath),
      now,
      heartbeats,
      modelOf: (id) => prompt.modelOf(id, undefined),
      problem: () => (upkeep?.isFull ? 'the disk is full: no turn is taken until there is space' : undefined),
    })
    const audit = await openAudit({ store, log, now, monotonic })
    const approvalsDocument = await openApprovalsDocument(store)
    const wakeWords = await openWakeWords(store)
    const announcePresence = () =>
      hub.tellAll('presence', { presence: presence.list() }, { stateVersion: stateVersion() })
    const approvals = createApprovals({
      document: approvalsDocument,
      announceRequested: (payload, about) => hub.tellAll('exec.approval.requested', payload, { about }),
      announceResolved: (payload, about) => hub.tellAll('exec.approval.resolved', payload, { about }),
      log,
      now,
      monotonic,
    })
    const knowsModel = (ref: string) => config.models.find(ref) !== undefined
    const dispatch = createDispatch({
      log,
      audit,
      handlers: methodHandlers({
        log,
        pairings,
        nodes,
        tokens,
        agents,
        approvals,
        audit,
        approvalsDocument,
        announcePresence,
        following,
        wakeWords,
        store,
        turns,
        sessions,
        runs,
        hub,
        replay,
        presence,
        health,
        config,
        now,
        newId: randomUUID,
        logLine: forClients,
        path: databasePath,
        models: config.models,
        scope: config.session.scope,
        modelOf: prompt.modelOf,
        knowsModel,
        queueMode: config.messages.queueMode,
        takesImages: (agentId, model) => prompt.modelOf(agentId, model)?.input.includes('image') ?? false,
        identity,
        activityOf: activity.of,
        workspaceFiles: { list: listFiles, read: readFile, write: writeFile },
        lineage,
        standIn: (agentId) => {
          const replacedBy = standby.standInFor(agentId)
          return { standingInFor: standby.standingInFor(agentId), ...(replacedBy !== undefined && { replacedBy }) }
        },
        mailbox,
        toolbox,
        schedules,
        heartbeats,
        configFile: openConfigFile(config, options.source ?? sourceOf(config)),
        configForm: formOf(FileSchema),
        version,
        restart: config.commands.restart ? options.restart : undefined,
      }),
    })
    const stateVersion = () => ({ presence: presence.version, health: health.version })
    let leaving: NodeJS.Timeout | undefined
    const { auth, controlUi } = config.gateway
    const attempts = createAttempts({
      monotonic,
      now,
      kept: (await store.list('attempts')) as unknown as { id: string; value: KeptAttempts }[],
      async keep(changes) {
        await Promise.all(
          changes.map(({ id, value }) =>
            value ? store.put('attempts', id, value as unknown as Json) : store.remove('attempts', id),
          ),
        )
      },
      onUnkept: (error) => log.error({ err: error }, 'failed attempts could not be kept'),
    })
    const authenticator = createAuthenticator({
      auth,
      pagesNeedNoDevice: controlUi.allowInsecureAuth || controlUi.dangerouslyDisableDeviceAuth,
      devices,
      tokens,
      pairings,
      attempts,
      pause: (ms) => new Promise((resolve) => setTimeout(resolve, ms)),
      now,
    })
    const connections = createConnections({
      authenticator,
      limits: config.gateway.limits,
      monotonic,
      dispatch,
      hub,
      presence,
      nodes: {
        ...nodes,
        join(node) {
          nodes.join(node)
          // It may not ask for them.
          const isItself = ({ connId }: Hearing) => connId === node.connId
          hub.tellAll('voicewake.changed', { triggers: wakeWords.current() }, { only: isItself })
        },
      },
      log,
      audit,
      now,
      handshakeTimeoutMs: config.gateway.handshakeTimeoutMs,
      tickIntervalMs: config.gateway.tickIntervalMs,
      version,
      snapshot: (scopes) => ({
        // Who may not ask for it is not told it at the door either.
        presence: holds(new Set(scopes), 'operator.read') ? presence.list() : [],
        health: holds(new Set(scopes), 'operator.read') ? health.current() : { ok: true },
        stateVersion: stateVersion(),
        uptimeMs: Math.round(monotonic() - startedAt),
        // Paths of the machine are for those who may change it.
        ...(scopes.includes('operator.admin') && {
          ...(config.path && { configPath: config.path }),
          stateDir: config.stateDir,
        }),
        sessionDefaults: {
          defaultAgentId: agents.defaultId,
          mainKey: agents.mainKey,
          mainSessionKey: `agent:${agents.defaultId}:${agents.mainKey}`,
          scope: config.session.scope,
        },
      }),
      onLeft: () => {
        // The list goes to everybody: many who leave together are said once.
        if (leaving) return
        leaving = setTimeout(() => {
          leaving = undefined
          announcePresence()
        }, PRESENCE_GATHERED_MS).unref()
      },
    })
    const oneShots = createOneShots({ store, turns, log })
    const api = createApi({
      ...{ authenticator, dispatch, audit, agents, hub, oneShots, log, monotonic, now },
      refusalOf: chains.refusalOf,
      endpoints: config.gateway.http,
      limits: config.gateway.limits,
    })
    const listener = await createListener({
      connections,
      api,
      dialect: config.compat.kurultai ? spokenHere(agents) : undefined,
      log,
      policy: {
        allowedOrigins: controlUi.allowedOrigins,
        trustedProxies: config.gateway.trustedProxies
          .map(parseRange)
          .filter((range): range is Range => range !== undefined),
        userHeader: auth.trustedProxy?.userHeader,
      },
      probe,
      uptimeMs: () => Math.round(monotonic() - startedAt),
      maxConnections: config.gateway.limits.maxConnections,
      limits: config.gateway.limits,
      tls: config.gateway.tls,
      servePage: controlUi.enabled,
      heartbeatMs,
    })
    return {
      ...{ store, runs, sessions, supervisor, turns, oneShots, mailbox, standby, toolServers, schedules, heartbeats },
      ...{ devices, tokens, attempts, pairings, nodes },
      ...{ connections, dispatch, api, hub, health, presence, listener, replay, audit },
    }
  }

  /** @param known names of the gateway's own tools */
  function warnOfDenied(deny: readonly string[], known: readonly string[]): void {
    for (const name of deniedInVain(deny, known)) {
      const meant = nearest(name, known)
      log.warn({ name, ...(meant !== undefined && { meant }) }, 'tools.deny names no tool')
    }
  }

  function spokenHere(names: Agents): Dialect {
    log.info('the dialect of the Kurultai clients is spoken to those that show they need it')
    return createDialect(names)
  }

  function instructionsOf(directory: Agents) {
    return (agentId: string) => {
      const agent = directory.get(agentId)
      return agent === undefined ? '' : systemPrompt(agent, config.agents.bootstrapMaxChars, refusedFile(agentId))
    }
  }

  const refusedFile = (agentId: string) => (file: string, why: string) =>
    log.warn({ agentId, file, why }, 'a workspace file is not used')

  function lose(error: string): void {
    log.fatal(`the storage is lost: ${error}`)
    actor.send({ type: 'failed', error })
  }

  function probe() {
    const snapshot = actor.getSnapshot()
    const serving = snapshot.matches('serving')
    // It serves after a mended database, and on a full disk, but somebody should look at it.
    const well = database?.incident || upkeep?.isFull ? 'degraded' : 'ok'
    const status = serving ? well : snapshot.matches('starting') ? 'starting' : 'draining'
    return { serving, ready: serving && !upkeep?.isFull, status } as const
  }

  const stopped = toPromise(actor).then(
    () => ({ failure: actor.getSnapshot().context.failure ?? undefined }),
    (error: unknown) => ({ failure: error instanceof Error ? error.message : String(error) }),
  )

  return {
    async start() {
      const serving = new Promise<void>((resolve) => {
        actor.subscribe((snapshot) => {
          if (snapshot.matches('serving')) resolve()
        })
      })
      actor.start()
      const failed = stopped.then(({ failure }) => {
        throw new Error(failure ?? 'the gateway was stopped while it started', { cause })
      })
      await Promise.race([serving, failed])
      failed.catch(() => {})
      chmodState()
    },
    stop: (reason) => actor.send({ type: 'stop', reason }),
    stopped,
    get addresses() {
      return rooms?.listener.addresses ?? []
    },
  }

  /** Others may not read what agents were told. */
  function chmodState(): void {
    if (options.store) return
    try {
      chmodSync(config.stateDir, 0o700)
    } catch {
      // A folder that belongs to somebody else (a mounted volume) is theirs to protect.
    }
  }
}

/** The secret that device tokens are derived from: made once, kept with the records it protects. */
async function deviceSecret(store: Store): Promise<Uint8Array> {
  const kept = await store.get('secret', 'device-tokens')
  if (typeof kept === 'string') return Buffer.from(kept, 'base64url')
  const secret = randomBytes(32)
  await store.put('secret', 'device-tokens', secret.toString('base64url'))
  return secret
}
