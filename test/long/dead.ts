/** Peers that are dead without anybody being told: what was theirs is given back, and those who live notice nothing. */
import { echo } from '../../src/runtimes/echo.ts'
import { type Cable, startCable } from '../support/cable.ts'
import { CONNECT, endOf, type Frame, openPeer, type Peer, startGateway, type TestGateway } from '../support/gateway.ts'
import { wait } from './ground.ts'
import { type Report, type Rounds, random, type Suite } from './suite.ts'
import { createTally, type Tally } from './tally.ts'

const ALIVE = 5
/** Between two pings in ms: the real one, and one for those who are in a hurry. */
const HEARTBEAT_MS = 20_000
const HASTY_HEARTBEAT_MS = 400
/** How long a dead peer may be there, in heartbeats; and in ms what a busy machine may add. */
const HEARTBEATS = 2.5
const DELAY_MS = 5_000

const BREACHES = [
  'connections left behind',
  'listed though they are gone',
  'living ones that were ended',
  'texts cut short',
]

export const dead: Suite = {
  summary: 'dead peers are found out and everything of theirs is given back, whatever they were in the middle of',
  few: 40,
  many: 1000,
  run: die,
}

async function die({ rounds, seed, say }: Rounds): Promise<Report> {
  const roll = random(seed)
  const tally = createTally([
    'dead',
    'of them before the handshake',
    'alive',
    'runs heard meanwhile',
    'ms until all were gone',
    ...BREACHES,
  ])
  const heartbeatMs = rounds < 100 ? HASTY_HEARTBEAT_MS : HEARTBEAT_MS
  const limits = { maxConnections: rounds + ALIVE, preauthPerIp: 0, preauthTotal: 0, requestsPerSecond: 0 }
  const gateway = await startGateway({
    // Only the heartbeat is to find out who is dead.
    config: { gateway: { limits, handshakeTimeoutMs: 600_000 } },
    heartbeatMs,
    runtimes: new Map([['echo', echo({ wordMs: heartbeatMs / 200 })]]),
  })
  const cable = await startCable(gateway.url)
  try {
    await wipeOut({ gateway, cable, rounds, heartbeatMs, roll, tally, seed, say })
  } finally {
    await cable.close()
    await gateway.stop()
  }
  return tally
}

interface Scene {
  gateway: TestGateway
  cable: Cable
  rounds: number
  heartbeatMs: number
  roll(): number
  tally: Tally
  seed: number
  say(line: string): void
}

async function wipeOut({ gateway, cable, rounds, heartbeatMs, roll, tally, seed, say }: Scene): Promise<void> {
  const alive = await Promise.all(Array.from({ length: ALIVE }, (_, n) => gateway.connect(named(`alive ${n}`))))
  tally.add('alive', alive.length)
  for (let n = 0; n < rounds; n++) {
    const knows = roll() < 0.9
    tally.add('dead')
    if (!knows) tally.add('of them before the handshake')
    const peer = await openPeer(cable.url)
    if (!knows) continue
    const { ok, error } = await peer.request('connect', { ...CONNECT, ...named(`dead ${n}`) })
    if (!ok) throw new Error(`connect was refused: ${JSON.stringify(error)}`)
    leaveUndone(peer, roll)
  }
  if ((await placesFree(gateway, 1)) > 0) throw new Error('there is room for more than were let in')
  say(`${rounds} peers fall silent`)
  let isOver = false
  const talk = speak(alive, tally, () => isOver, seed)
  await alive[0]!.next(({ payload }) => payload?.stream === 'assistant')
  cable.fallSilent()
  const began = performance.now()
  const longestMs = HEARTBEATS * heartbeatMs + DELAY_MS
  let free = 0
  while (free < rounds && performance.now() - began < longestMs) {
    free += await placesFree(gateway, rounds - free)
    await wait(heartbeatMs / 20)
  }
  tally.add('ms until all were gone', Math.round(performance.now() - began))
  if (free < rounds)
    tally.breach('connections left behind', `${rounds - free} of ${rounds} after ${longestMs} ms (seed ${seed})`)
  const { payload } = await alive[0]!.request('system-presence')
  for (const { instanceId, reason } of payload)
    if (reason === 'connect' && !instanceId?.startsWith('alive'))
      tally.breach('listed though they are gone', `${instanceId} (seed ${seed})`)
  isOver = true
  await talk
  for (const [n, { socket }] of alive.entries())
    if (socket.readyState !== socket.OPEN) tally.breach('living ones that were ended', `alive ${n} (seed ${seed})`)
}

const named = (instanceId: string) => ({ client: { ...CONNECT.client, instanceId }, caps: ['stream-offsets'] })

/** Begins something that the peer will not hear the end of. */
function leaveUndone(peer: Peer, roll: () => number): void {
  const request = (method: string, params: object) => peer.send({ type: 'req', id: 'undone', method, params })
  switch (Math.floor(roll() * 4)) {
    case 0:
      return request('agent.wait', { runId: 'never', timeoutMs: 3_600_000 })
    case 1:
      return request('chat.resume', { sessionKey: 'main' })
    case 2:
      for (let n = 0; n < 50; n++) request('sessions.list', {})
      return
    default:
  }
}

/** Takes what places there are, up to so many, and leaves the sockets there. */
async function placesFree({ url }: TestGateway, most: number): Promise<number> {
  for (let taken = 0; taken < most; taken++) {
    const refused = await openPeer(url).then(
      () => undefined,
      (error: { status?: number }) => error,
    )
    if (refused?.status === 503) return taken
    if (refused) throw refused
  }
  return most
}

/** One of the living asks again and again; all of them hear everything. */
async function speak(alive: Peer[], tally: Tally, isOver: () => boolean, seed: number): Promise<void> {
  const message = Array.from({ length: 30 }, (_, n) => `word${n}`).join(' ')
  for (let n = 0; !isOver(); n++) {
    const runId = `talk-${n}`
    const { ok, error } = await alive[0]!.request('chat.send', { sessionKey: 'main', message, idempotencyKey: runId })
    if (!ok) throw new Error(`the turn was refused: ${JSON.stringify(error)}`)
    const ends = await Promise.all(alive.map((peer) => peer.next(endOf(runId)).catch(() => undefined)))
    for (const [at, { frames }] of alive.entries()) {
      const heard = frames
        .filter(({ payload }: Frame) => payload?.runId === runId && payload.stream === 'assistant')
        .map(({ payload }: Frame) => payload.data.delta)
        .join('')
      if (heard !== ends[at]?.['payload'].message.content[0].text)
        tally.breach('texts cut short', `alive ${at}, ${runId}: ${heard.length} characters (seed ${seed})`)
      frames.length = 0
    }
    tally.add('runs heard meanwhile')
  }
}
