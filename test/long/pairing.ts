/**
 * People who connect, ask to be paired, say yes to each other, rotate, narrow, revoke and remove, through the real rooms without
 * sockets: whatever they do and whenever the process ends, nobody holds what nobody who held it gave.
 */
import { type Admitted, type Authenticator, createAuthenticator, type PeerFacts } from '../../src/auth/authenticate.ts'
import { type DeviceRecord, openDevices, type Revocation, worthOf } from '../../src/auth/devices.ts'
import { openTokens } from '../../src/auth/tokens.ts'
import { type Caller, createDispatch, type Dispatch, type Handlers } from '../../src/broker/dispatch.ts'
import { openPairings, type Pairings } from '../../src/broker/pairings.ts'
import { Secret } from '../../src/config/secret.ts'
import { OPERATOR_SCOPES, type Scope } from '../../src/contract/block.ts'
import type { METHODS } from '../../src/contract/index.ts'
import { deviceMethods } from '../../src/methods/devices.ts'
import { tokenMethods } from '../../src/methods/tokens.ts'
import { openMemoryStore } from '../../src/stores/memory.ts'
import { StoreError } from '../../src/stores/store.ts'
import { createDevice } from '../support/device.ts'
import { CONNECT, type Frame, TOKEN } from '../support/gateway.ts'
import { patient, quiet } from '../support/rooms.ts'
import { type Report, type Rounds, random, type Suite } from './suite.ts'
import { createTally, type Tally } from './tally.ts'

/** Steps in one world, which begins with nobody paired. */
const STEPS_A_WALK = 1_000
const PEOPLE = 5
/** Connections at once; the one that came first leaves for one more. */
const MOST_SESSIONS = 10
const MINUTE = 60_000
const OVERLAP_MS = MINUTE

const BREACHES = [
  'scopes gained that no approver held',
  'scopes gained that were not asked for',
  'scopes gained without a word of anybody',
  'tokens worth more than their pairing',
  'connections worth more than their credential',
  'credentials taken that were none',
  'strangers seen',
]

export const pairing: Suite = {
  summary: 'nobody gains a scope that no approver held, whatever devices ask, approve, rotate, revoke and remove',
  few: 12_000,
  many: 1_000_000,
  async run({ rounds, seed, say }: Rounds): Promise<Report> {
    const tally = createTally([
      'steps',
      'walks',
      'connects let in',
      'connects refused',
      'approvals',
      'approvals refused',
      'rotations',
      'tokens revoked and devices removed',
      'writes the disk refused',
      'restarts',
      'scopes gained',
      ...BREACHES,
    ])
    const people = Array.from({ length: PEOPLE }, createDevice)
    for (let first = 0; first < rounds; first += STEPS_A_WALK) {
      const walk = first / STEPS_A_WALK
      const world = await createWorld({
        people,
        roll: random(seed + walk),
        tally,
        where: `(walk ${walk}, seed ${seed})`,
      })
      for (let n = first; n < Math.min(rounds, first + STEPS_A_WALK); n++) await world.step()
      world.end()
      tally.add('walks')
      if (walk % 100 === 99) say(`${(first + STEPS_A_WALK).toLocaleString('en')} steps, ${tally.broken.length} broken`)
    }
    if (tally.counts['scopes gained']! * 200 < rounds)
      tally.broken.push(`so little was gained that nothing is proved (seed ${seed})`)
    return tally
  },
}

/** What somebody who holds these can do: the rules of protocol 3, in other words than the gateway's. */
function powers(scopes: Iterable<string>): Set<Scope> {
  const all = new Set(scopes as Iterable<Scope>)
  if (all.has('operator.write')) all.add('operator.read')
  return all.has('operator.admin') ? new Set(OPERATOR_SCOPES) : all
}

/** A credential as somebody remembers it who was once told it. */
interface Told {
  text: string
  /** The device that it is for, and in what role. */
  device: string
  role: string
  /** `former`: rotated at that time, and taken for a while; `over`: taken away. */
  state: 'current' | 'former' | 'over'
  formerAt: number
}

/** A connection that was let in. */
interface Session {
  caller: Caller
  credential: string | undefined
}

/** Who may have gained what by a step, and who is to have asked for it. */
interface Leave {
  device: string
  role: string
  /** What those hold who gave their word. */
  held: Set<Scope>
  /** What was shown to them. */
  asked: Set<Scope>
}

interface WorldNeeds {
  people: ReturnType<typeof createDevice>[]
  roll(): number
  tally: Tally
  where: string
}

async function createWorld({ people, roll, tally, where }: WorldNeeds) {
  const pick = <T>(list: readonly T[]): T | undefined => list[Math.floor(roll() * list.length)]
  const some = (of: readonly Scope[]): Scope[] => of.filter(() => roll() < 0.5)
  const breach = (kind: string, sentence: string) => tally.breach(kind, `${sentence} ${where}`)

  /** What whoever set this world up gave out by hand. In a closed one nobody else ever shows the shared token. */
  const root = some(OPERATOR_SCOPES)
  const isClosed = roll() < 0.5
  let clock = 1_800_000_000_000
  const now = () => clock
  let isDiskFull = false
  const memory = openMemoryStore()
  const store: typeof memory = {
    ...memory,
    put(...args) {
      if (!isDiskFull) return memory.put(...args)
      tally.add('writes the disk refused')
      return Promise.reject(new StoreError('FULL', 'no space'))
    },
  }
  const secret = new Uint8Array(32).fill(7)
  const sessions = new Set<Session>()
  const told: Told[] = []
  const named: { id: string; text: string; scopes: Scope[]; isOver: boolean }[] = []
  const nodeTokens: string[] = []
  let rooms = await open()

  async function open() {
    const onRevoked = ({ principal, role, credential }: Revocation) => {
      for (const session of sessions) {
        const { caller } = session
        if (caller.principal !== principal || (role !== undefined && caller.role !== role)) continue
        if (credential === undefined || session.credential === credential) sessions.delete(session)
      }
    }
    const devices = await openDevices(store, secret, { onRevoked, now, overlapMs: OVERLAP_MS })
    const tokens = await openTokens({ store, now, onRevoked })
    const pairings: Pairings = await openPairings({ devices, store, log: quiet, now, tell() {} })
    const authenticator: Authenticator = createAuthenticator({
      auth: { mode: 'token', token: new Secret(TOKEN) },
      pagesNeedNoDevice: false,
      devices,
      tokens,
      pairings,
      attempts: patient,
      pause: () => Promise.resolve(),
      now,
    })
    const handlers = { ...deviceMethods({ pairings }), ...tokenMethods({ tokens, log: quiet }) } as Handlers<
      typeof METHODS
    >
    const dispatch: Dispatch = createDispatch({ handlers, log: quiet, audit: { note() {} } })
    return { devices, tokens, pairings, authenticator, dispatch }
  }

  let requests = 0
  const ask = ({ caller }: Session, method: string, params: object): Promise<Frame> =>
    new Promise((resolve) =>
      rooms.dispatch.dispatch({ type: 'req', id: `${++requests}`, method, params }, caller, (text) =>
        resolve(JSON.parse(text) as Frame),
      ),
    )

  const callerOf = (principal: string, role: Caller['role'], scopes: readonly Scope[]): Caller => ({
    connId: `c${++requests}`,
    principal,
    role,
    scopes: new Set(scopes),
    protocol: 4,
    client: CONNECT.client as Caller['client'],
    gone: () => new AbortController().signal,
    addressed() {},
  })
  /** Whoever set it up. */
  const owner: Session = { caller: callerOf('token:shared', 'operator', ['operator.admin']), credential: 'shared' }

  const recordsNow = () =>
    new Map(
      people.flatMap(({ id }) =>
        ['operator', 'node'].flatMap((role) => {
          const record = rooms.devices.get(id, role)
          return record ? [[`${id} ${role}`, record] as const] : []
        }),
      ),
    )
  let before = recordsNow()

  /** Compares what each device holds with what it held, and with what may have been given to it. */
  function compare(leaves: Leave[], what: string): void {
    const after = recordsNow()
    for (const [key, record] of after) {
      const [device, role] = key.split(' ') as [string, string]
      const was = before.get(key)
      const mine = leaves.filter((leave) => leave.device === device && leave.role === role)
      gained(record.scopes, was?.scopes ?? [], mine, what, key)
      gained(worthOf(record), was ? worthOf(was) : [], mine, `the token by ${what}`, key)
      const whole = powers(record.scopes)
      for (const scope of powers(worthOf(record)))
        if (!whole.has(scope)) breach('tokens worth more than their pairing', `${key}: ${scope} after ${what}`)
      if (role === 'node' && record.scopes.length > 0)
        breach('scopes gained without a word of anybody', `a node holds ${record.scopes} after ${what}`)
      if (isClosed) withinRoot(record, what)
    }
    before = after
  }

  function gained(is: readonly Scope[], was: readonly Scope[], leaves: Leave[], what: string, key: string): void {
    const had = powers(was)
    for (const scope of powers(is)) {
      if (had.has(scope)) continue
      tally.add('scopes gained')
      if (leaves.length === 0) breach('scopes gained without a word of anybody', `${key} gained ${scope} by ${what}`)
      else if (!leaves.some(({ held }) => held.has(scope)))
        breach('scopes gained that no approver held', `${key} gained ${scope} by ${what}`)
      else if (!leaves.some(({ asked, held }) => asked.has(scope) && held.has(scope)))
        breach('scopes gained that were not asked for', `${key} gained ${scope} by ${what}`)
    }
  }

  function withinRoot({ deviceId, scopes }: DeviceRecord, what: string): void {
    const possible = powers(root)
    for (const scope of powers(scopes))
      if (!possible.has(scope))
        breach('scopes gained that no approver held', `${deviceId}: ${scope} came from nowhere by ${what}`)
  }

  /** Somebody comes with some credential, from somewhere, and asks for some scopes. */
  async function connect(): Promise<Leave[]> {
    const person = pick(people)!
    const role = roll() < 0.9 ? 'operator' : 'node'
    const dice = roll()
    const scopes = dice < 0.1 ? undefined : dice < 0.15 ? [] : some(OPERATOR_SCOPES)
    const place = pick(['here', 'afar', 'page'] as const)!
    const shown = show(person.id, role)
    const nonce = `n${++requests}`
    const proof =
      roll() < 0.9 && person.prove(nonce, { token: shown.text, role, scopes: scopes ?? [], signedAt: clock })
    const params = {
      ...CONNECT,
      role,
      scopes,
      auth: shown.text === '' ? {} : { token: shown.text },
      ...(proof && { device: proof }),
    } as unknown as Parameters<Authenticator['authenticate']>[0]
    const outcome = await rooms.authenticator.authenticate(params, FACTS[place], nonce).catch((error: unknown) => {
      // Whom the disk could not keep is not let in.
      if (isDiskFull && error instanceof StoreError) return undefined
      throw error
    })
    if (!outcome?.decision.admitted) {
      tally.add('connects refused')
      return []
    }
    const { decision } = outcome
    const { principal, credential, deviceToken } = outcome as Admitted
    tally.add('connects let in')
    const from = `${shown.kind} from ${place}`
    const record = before.get(`${person.id} ${role}`)
    const most = mostOf(shown, record, proof !== false)
    if (most === undefined) breach('credentials taken that were none', `${from} of ${person.id} as ${role}`)
    const wanted = new Set<string>(scopes ?? OPERATOR_SCOPES)
    for (const scope of decision.granted)
      if (!most?.has(scope) || !wanted.has(scope))
        breach('connections worth more than their credential', `${scope} by ${from} of ${person.id}`)
    if (deviceToken) learn(deviceToken.deviceToken, person.id, role)
    const caller = callerOf(principal, decision.role, decision.granted)
    sessions.add({ caller, credential })
    if (sessions.size > MOST_SESSIONS) sessions.delete([...sessions][0]!)
    // The holder of the shared token gives its word by showing it, here, for the device in hand.
    const isWord = shown.kind === 'shared' && place === 'here' && proof !== false
    const asked = role === 'node' ? new Set<Scope>() : powers(scopes ?? OPERATOR_SCOPES)
    return isWord ? [{ device: person.id, role, held: new Set(OPERATOR_SCOPES), asked }] : []
  }

  interface Shown {
    kind: 'shared' | 'own' | 'other' | 'named' | 'node' | 'none'
    text: string
  }

  function show(device: string, role: string): Shown {
    const dice = roll()
    if (dice < 0.25 && !isClosed) return { kind: 'shared', text: TOKEN }
    if (dice < 0.55) {
      // The latest more often than the rest.
      const mine = told.filter((one) => one.device === device && one.role === role)
      return { kind: 'own', text: (roll() < 0.7 ? mine.at(-1) : pick(mine))?.text ?? '' }
    }
    if (dice < 0.65) return { kind: 'other', text: pick(told)?.text ?? '' }
    if (dice < 0.95) return { kind: 'named', text: pick(named)?.text ?? '' }
    return roll() < 0.5 ? { kind: 'node', text: pick(nodeTokens) ?? '' } : { kind: 'none', text: '' }
  }

  /** What a credential is worth at the most; undefined: it lets nobody in. */
  function mostOf({ kind, text }: Shown, record: DeviceRecord | undefined, isProven: boolean): Set<Scope> | undefined {
    if (kind === 'shared') return new Set(OPERATOR_SCOPES)
    const token = named.find((one) => one.text === text)
    if (token) return token.isOver ? undefined : powers(token.scopes)
    const known = told.find((one) => one.text === text)
    if (!known || !record || !isProven) return undefined
    if (known.device !== record.deviceId || known.role !== record.role || known.state === 'over') return undefined
    if (known.state === 'former' && clock >= known.formerAt + OVERLAP_MS) return undefined
    return powers(worthOf(record))
  }

  /** A device token is told to its device. */
  function learn(text: string, device: string, role: string): void {
    if (told.some((one) => one.text === text)) return
    told.push({ text, device, role, state: 'current', formerAt: 0 })
  }

  /** The tokens of a device are worth less: the current one by a rotation, all of them by its end. */
  function unlearn(device: string, role: string | undefined, isEnd: boolean): void {
    for (const one of told) {
      if (one.device !== device || (role !== undefined && one.role !== role)) continue
      one.state = isEnd || one.state !== 'current' ? 'over' : 'former'
      if (one.state === 'former') one.formerAt = clock
    }
  }

  const pendingNow = () => rooms.pairings.devices(owner.caller).pending
  /** Half of the time somebody who may decide something. */
  function whoever(): Session {
    if (roll() < 0.15 && !isClosed) return owner
    const all = [...sessions]
    const may = all.filter(({ caller }) => powers(caller.scopes).has('operator.pairing'))
    return (roll() < 0.5 ? pick(may) : undefined) ?? pick(all) ?? owner
  }

  async function approve(session: Session): Promise<Leave[]> {
    const pending = pick(pendingNow())
    if (isClosed && session === owner) return []
    const { ok } = await ask(session, 'device.pair.approve', { requestId: pending?.requestId ?? 'nobody' })
    tally.add(ok ? 'approvals' : 'approvals refused')
    if (!ok || !pending) return []
    const held = powers(session.caller.scopes)
    const asked = pending.role === 'node' ? new Set<Scope>() : powers(pending.scopes ?? [])
    return [{ device: pending.deviceId, role: pending.role, held, asked }]
  }

  async function rotate(): Promise<Leave[]> {
    const session = whoever()
    const device = pick(people)!.id
    const role = roll() < 0.9 ? 'operator' : 'node'
    const scopes = roll() < 0.5 ? undefined : some(OPERATOR_SCOPES)
    const record = before.get(`${device} ${role}`)
    const { ok, payload } = await ask(session, 'device.token.rotate', {
      deviceId: device,
      role,
      ...(scopes && { scopes }),
    })
    if (!ok) return []
    tally.add('rotations')
    unlearn(device, role, false)
    learn(payload.token, device, role)
    const asked = powers(scopes ?? record?.scopes ?? [])
    return [{ device, role, held: powers(session.caller.scopes), asked }]
  }

  async function end(method: 'device.token.revoke' | 'device.pair.remove'): Promise<Leave[]> {
    const device = pick(people)!.id
    const role = roll() < 0.9 ? 'operator' : 'node'
    const isRemoval = method === 'device.pair.remove'
    const { ok } = await ask(whoever(), method, { deviceId: device, ...(!isRemoval && { role }) })
    if (!ok) return []
    tally.add('tokens revoked and devices removed')
    unlearn(device, isRemoval ? undefined : role, true)
    return []
  }

  async function nameToken(): Promise<Leave[]> {
    const scopes = some(root)
    const { ok, payload } = await ask(owner, 'tokens.create', { name: 'by hand', scopes })
    if (ok) named.push({ id: payload.id, text: payload.token, scopes, isOver: false })
    return []
  }

  async function endToken(): Promise<Leave[]> {
    const token = pick(named)
    if (token && (await ask(owner, 'tokens.revoke', { id: token.id }))['ok']) token.isOver = true
    return []
  }

  async function node(): Promise<Leave[]> {
    const session = whoever()
    const { payload } = await ask(session, 'node.pair.request', { nodeId: `node-${Math.floor(roll() * 3)}` })
    const answer = payload && (await ask(whoever(), 'node.pair.approve', { requestId: payload.request.requestId }))
    if (answer?.ok) nodeTokens.push(answer.payload.node.token)
    return []
  }

  async function list(): Promise<Leave[]> {
    const session = whoever()
    const { ok, payload } = await ask(session, 'device.pair.list', {})
    const { principal, scopes } = session.caller
    if (!ok || scopes.has('operator.admin') || principal.startsWith('token:')) return []
    for (const { deviceId } of [...payload.pending, ...payload.paired])
      if (deviceId !== principal) breach('strangers seen', `${principal} saw ${deviceId}`)
    return []
  }

  /** Two words at the same time, of whom the first counts. */
  async function both(): Promise<Leave[]> {
    return (await Promise.all([approve(whoever()), approve(whoever())])).flat()
  }

  async function reject(): Promise<Leave[]> {
    await ask(whoever(), 'device.pair.reject', { requestId: pick(pendingNow())?.requestId ?? 'nobody' })
    return []
  }

  async function pass(): Promise<Leave[]> {
    clock += Math.floor(roll() * 2 * MINUTE)
    rooms.devices.sweep()
    rooms.tokens.sweep()
    return []
  }

  async function restart(): Promise<Leave[]> {
    rooms.pairings.stop()
    sessions.clear()
    rooms = await open()
    tally.add('restarts')
    return []
  }

  interface Act {
    /** How often it is chosen, of a hundred times. */
    weight: number
    what: string
    act(): Promise<Leave[]>
  }
  const acts: Act[] = [
    { weight: 40, what: 'a connect', act: connect },
    { weight: 22, what: 'an approval', act: () => approve(whoever()) },
    { weight: 4, what: 'two approvals at once', act: both },
    { weight: 3, what: 'a rejection', act: reject },
    { weight: 12, what: 'a rotation', act: rotate },
    { weight: 3, what: 'a revocation', act: () => end('device.token.revoke') },
    { weight: 2, what: 'a removal', act: () => end('device.pair.remove') },
    { weight: 3, what: 'a named token', act: nameToken },
    { weight: 1, what: 'the end of a named token', act: endToken },
    { weight: 2, what: 'a node', act: node },
    { weight: 3, what: 'a list', act: list },
    { weight: 4, what: 'time', act: pass },
    { weight: 1, what: 'a restart', act: restart },
  ]
  const lots = acts.flatMap((act) => Array<Act>(act.weight).fill(act))

  return {
    async step(): Promise<void> {
      const { what, act } = pick(lots)!
      isDiskFull = act !== restart && roll() < 0.02
      const leaves = await act()
      isDiskFull = false
      compare(leaves, what)
      tally.add('steps')
    },
    end: () => rooms.pairings.stop(),
  }
}

const facts = (changes: Partial<PeerFacts>): PeerFacts => ({
  address: '127.0.0.1',
  clientAddress: '127.0.0.1',
  local: true,
  origin: 'absent',
  guesser: { network: '127.0.0.1', origin: undefined, isShared: true },
  forwardedByStranger: false,
  path: '/',
  ...changes,
})

/** Where somebody may come from. */
const FACTS = {
  here: facts({}),
  afar: facts({ address: '203.0.113.7', clientAddress: '203.0.113.7', local: false }),
  page: facts({ address: '203.0.113.8', clientAddress: '203.0.113.8', local: false, origin: 'allowed' }),
}
