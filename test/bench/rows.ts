/** What is measured: one function a row group, each giving the lines it prints. */
import { closeSync, fdatasyncSync, openSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { connect, connectMany, delay, flood, micros, type Peer } from './client.ts'
import { folder, type Mode, type Server, startGateway, startLimit } from './servers.ts'
import { createTalker } from './talker.ts'

/** What the gateway's figure is held against, together with the reference's. */
export type Target =
  /** Gateway / reference. */
  | { ratio: number }
  /** Gateway − reference, in the unit of the line. */
  | { plus: number }
  /** The gateway's figure alone. */
  | { atMost: number }
  /** A figure that knows no margin. */
  | { exactly: number }
  /** Shown, not judged. */
  | 'none'

export interface Line {
  title: string
  unit: string
  /** One figure for each repetition; the same index was measured one after the other. */
  gateway: number[]
  reference: number[]
  /** What the reference is. */
  against: string
  target: Target
  /** Wall-clock figures of the same repetitions. */
  wall?: { unit: string; gateway: number[]; reference: number[] }
  note?: string
}

interface Bench {
  reps: number
  /** Also 5,000 connections and 1,000 subscribers. */
  long: boolean
  /** The address of the model server. */
  model: string
}

type Row = (bench: Bench) => Promise<Line[]>

type Figures = { [name: string]: number }

/** Measures A B A B …: what comes over the machine comes over both. */
async function paired(reps: number, measure: ((rep: number) => Promise<Figures>)[]): Promise<Figures[][]> {
  const all: Figures[][] = measure.map(() => [])
  for (let rep = 0; rep < reps; rep++) {
    for (const [index, one] of measure.entries()) all[index]!.push(await one(rep))
  }
  return all
}

const figure = (figures: Figures[] | undefined, name: string): number[] => (figures ?? []).map((row) => row[name]!)

/** A line from the figures of the gateway and of the reference. */
function line(
  [gateway, reference]: Figures[][],
  name: string,
  rest: Pick<Line, 'title' | 'unit' | 'against' | 'target' | 'note'> & { wallOf?: [name: string, unit: string] },
): Line {
  const { wallOf, ...shown } = rest
  return {
    ...shown,
    gateway: figure(gateway, name),
    reference: figure(reference, name),
    ...(wallOf && {
      wall: { unit: wallOf[1], gateway: figure(gateway, wallOf[0]), reference: figure(reference, wallOf[0]) },
    }),
  }
}

/** Starts a gateway and a reference for the time of `use`. */
async function withBoth<T>(model: string, mode: Mode, use: (gateway: Server, reference: Server) => Promise<T>) {
  const gateway = await startGateway(model)
  const reference = await startLimit(mode, model)
  try {
    return await use(gateway, reference)
  } finally {
    await Promise.all([gateway.stop(), reference.stop()])
  }
}

/** What the server spends on `work`, in ms of CPU, what it does right after it included. */
async function spent(server: Server, work: () => Promise<void>, settleMs = 30): Promise<{ cpu: number; wall: number }> {
  const before = server.cpu()
  const started = performance.now()
  await work()
  const wall = performance.now() - started
  await delay(settleMs)
  return { cpu: server.cpu() - before, wall }
}

const times = async (count: number, what: (n: number) => Promise<unknown>) => {
  for (let n = 0; n < count; n++) await what(n)
}

const middle = (values: number[]): number => {
  const sorted = values.toSorted((a, b) => a - b)
  return sorted[Math.floor(sorted.length / 2)] ?? Number.NaN
}

const closeAll = (peers: Peer[]) => Promise.all(peers.map((peer) => peer.close()))

let keys = 0
/** Session keys that were never used, so that no row inherits a history. */
const newKeys = (count: number): string[] => Array.from({ length: count }, () => `agent:main:bench-${++keys}`)

const start: Row = async ({ reps, model }) => {
  const measure = async (starting: Promise<Server>, signal?: 'SIGINT'): Promise<Figures> => {
    const server = await starting
    try {
      const health = await fetch(`http://127.0.0.1:${server.port}/health`)
      if (!health.ok) throw new Error(`${server.name}: /health says ${health.status}`)
      await health.arrayBuffer()
      const healthy = performance.now() - server.spawnedAt
      const peer = await connect(server)
      const wall = performance.now() - server.spawnedAt
      await delay(20)
      const cpu = server.cpu()
      await delay(600)
      const rss = server.rss() / 1e6
      await peer.close()
      return { healthy, wall, cpu, rss }
    } finally {
      await server.stop(signal)
    }
  }
  // The first start after a build compiles everything; when it ends well it leaves the result for those that follow.
  const firsts = await paired(1, [
    () => measure(startGateway(model), 'SIGINT'),
    () => measure(startLimit('limit', model)),
  ])
  const figures = await paired(reps, [() => measure(startGateway(model)), () => measure(startLimit('limit', model))])
  const against = 'limit'
  return [
    line(firsts, 'cpu', {
      title: 'the very first start after a build',
      unit: 'ms CPU',
      against,
      target: 'none',
      wallOf: ['wall', 'ms'],
    }),
    line(figures, 'cpu', {
      title: 'start until hello-ok',
      unit: 'ms CPU',
      against,
      target: { ratio: 0.75 },
      wallOf: ['wall', 'ms'],
    }),
    line(figures, 'healthy', { title: 'start: wall until /health', unit: 'ms', against, target: 'none' }),
    line(figures, 'rss', { title: 'start: RSS when idle', unit: 'MB', against, target: { ratio: 1.25 } }),
  ]
}

/** Connects and closes `count` times, so many at once. */
async function handshakes(server: Server, count: number, atOnce: number, clientId?: string): Promise<Figures> {
  const walls: number[] = []
  const { cpu, wall } = await spent(server, () =>
    times(count / atOnce, async () => {
      const began = performance.now()
      const peers = await Promise.all(Array.from({ length: atOnce }, () => connect(server, clientId)))
      walls.push(performance.now() - began)
      await closeAll(peers)
    }),
  )
  return { cpu: (cpu / count) * 1000, p50: middle(walls), rate: (count / wall) * 1000 }
}

const handshake: Row = ({ reps, model }) =>
  withBoth(model, 'limit', async (gateway, limit) => {
    const lines: Line[] = []
    const cases: [atOnce: number, count: number, clientId: string, title: string][] = [
      [1, 150, 'gateway-client', 'connect + close, 1 at once'],
      [64, 384, 'gateway-client', 'connect + close, 64 at once'],
      [64, 384, 'cli', 'the same, client not listed in presence'],
    ]
    for (const server of [gateway, limit]) await handshakes(server, 64, 1, 'cli')
    for (const [atOnce, count, clientId, title] of cases) {
      const figures = await paired(
        reps,
        [gateway, limit].map((server) => () => handshakes(server, count, atOnce, clientId)),
      )
      lines.push(
        line(figures, 'cpu', {
          title,
          unit: 'µs CPU',
          against: 'limit',
          target: { ratio: 1.4 },
          wallOf: atOnce === 1 ? ['p50', 'ms'] : ['rate', '/s'],
        }),
      )
    }
    return lines
  })

const HEALTH = (n: number) => `{"type":"req","id":"h${n}","method":"health"}`

async function healthCost(server: Server, peers: Peer[], depth: number, count: number): Promise<Figures> {
  const { cpu, wall } = await spent(server, () => flood(peers, depth, count, HEALTH))
  return { cpu: (cpu / count) * 1000, rate: (count / wall) * 1000, each: (wall / count) * 1000 }
}

const connections: Row = async ({ reps, model, long }) => {
  const lines: Line[] = []
  for (const held of long ? [1000, 5000] : [1000]) {
    const measure = async (starting: Promise<Server>): Promise<Figures> => {
      const server = await starting
      try {
        const few = await connectMany(server, 100)
        const [one] = few
        await handshakes(server, 32, 8)
        const atFew = await handshakes(server, 64, 8)
        await delay(300)
        const before = server.rss()
        await connectMany(server, held - 100)
        await delay(500)
        const bytes = (server.rss() - before) / (held - 100) / 1000
        const health = await healthCost(server, [one!], 1, 300)
        one!.listen(undefined)
        const atMany = await handshakes(server, 64, 8)
        return { bytes, health: health['cpu']!, each: health['each']!, few: atFew['cpu']!, many: atMany['cpu']! }
      } finally {
        await server.stop()
      }
    }
    const figures = await paired(Math.min(reps, long ? 2 : reps), [
      () => measure(startGateway(model)),
      () => measure(startLimit('limit', model)),
    ])
    const against = 'limit'
    const target: Target = { ratio: 1.4 }
    lines.push(
      line(figures, 'bytes', { title: `idle connection, ${held} held`, unit: 'kB', against, target: { ratio: 1.8 } }),
      line(figures, 'health', {
        title: `health while ${held} are held`,
        unit: 'µs CPU',
        against,
        target: { ratio: 1.3 },
        wallOf: ['each', 'µs'],
      }),
      line(figures, 'many', { title: `connect + close while ${held} are held`, unit: 'µs CPU', against, target }),
      {
        title: `the same, ${held} held against 100 held`,
        unit: 'µs CPU',
        gateway: figure(figures[0], 'many'),
        reference: figure(figures[0], 'few'),
        against: 'itself',
        target: { ratio: 1.2 },
      },
    )
  }
  return lines
}

const rpc: Row = ({ reps, model }) =>
  withBoth(model, 'limit', async (gateway, limit) => {
    const lines: Line[] = []
    const cases: [sockets: number, depth: number, count: number, ratio: number][] = [
      [1, 1, 2000, 1.25],
      [16, 1, 4000, 1.25],
      [16, 16, 20_000, 1.5],
    ]
    for (const [sockets, depth, count, ratio] of cases) {
      const peers = await Promise.all([gateway, limit].map((server) => connectMany(server, sockets)))
      const measures = [gateway, limit].map((server, index) => () => healthCost(server, peers[index]!, depth, count))
      for (const measure of measures) await measure()
      const figures = await paired(reps, measures)
      const title =
        depth === 1 ? `health, ${sockets} socket(s), one in flight each` : `health, ${sockets} × ${depth} pipelined`
      lines.push(
        line(figures, 'cpu', {
          title,
          unit: 'µs CPU',
          against: 'limit',
          target: { ratio },
          wallOf: depth === 1 && sockets === 1 ? ['each', 'µs'] : ['rate', '/s'],
        }),
      )
      await Promise.all(peers.map(closeAll))
    }
    return lines
  })

/** What one `fdatasync` of a few pages costs in the bench's folder, p50 in ms. */
function syncCost(): number {
  const file = openSync(join(folder, 'sync'), 'w')
  const page = Buffer.alloc(8192, 1)
  const all: number[] = []
  for (let n = 0; n < 60; n++) {
    writeSync(file, page)
    const began = performance.now()
    fdatasyncSync(file)
    all.push(performance.now() - began)
  }
  closeSync(file)
  return middle(all)
}

const ack: Row = ({ reps, model }) =>
  withBoth(model, 'limit-http', async (gateway, limit) => {
    const lines: Line[] = []
    for (const atOnce of [1, 10]) {
      const rounds = atOnce === 1 ? 40 : 15
      const measure = async (server: Server): Promise<Figures> => {
        const peer = await connect(server)
        const talker = createTalker(peer)
        const sessions = newKeys(atOnce)
        const acks: number[] = []
        const { cpu } = await spent(server, () =>
          times(rounds, async () => {
            const turns = sessions.map((key) => talker.run(key, 'hello [[chunks=1 burst=1]]'))
            acks.push(...(await Promise.all(turns.map(({ acked }) => acked))))
            await Promise.all(turns.map(({ ended }) => ended))
          }),
        )
        await peer.close()
        return { p50: middle(acks), cpu: (cpu / rounds / atOnce) * 1000, sync: syncCost() }
      }
      for (const server of [gateway, limit]) await measure(server)
      const figures = await paired(reps, [() => measure(gateway), () => measure(limit)])
      const sync = figure(figures[1], 'sync')
      const asked = line(figures, 'p50', {
        title: `durable ack of chat.send, p50, ${atOnce} at once`,
        unit: 'ms',
        against: 'limit-http + fdatasync',
        target: { ratio: 1.3 },
        note: `one fdatasync here: ${middle(sync).toFixed(2)} ms`,
      })
      asked.reference = asked.reference.map((value, index) => value + sync[index]!)
      lines.push(
        asked,
        line(figures, 'cpu', {
          title: `a whole turn of one delta, ${atOnce} at once`,
          unit: 'µs CPU',
          against: 'limit-http',
          target: 'none',
        }),
      )
    }
    const sends = 400
    const flooded = async (server: Server): Promise<Figures> => {
      const peers = await connectMany(server, 10)
      const waiting: Promise<unknown>[] = []
      const began = performance.now()
      await Promise.all(
        peers.map(async (peer) => {
          const talker = createTalker(peer)
          await times(sends / 10, async () => {
            const { acked, ended } = talker.run(newKeys(1)[0]!, 'hello [[chunks=1 burst=1]]')
            waiting.push(ended)
            await acked
          })
        }),
      )
      const wall = performance.now() - began
      await Promise.all(waiting)
      await closeAll(peers)
      return { each: wall / sends }
    }
    const figures = await paired(reps, [() => flooded(gateway), () => flooded(limit)])
    const rate = line(figures, 'each', {
      title: 'acknowledged chat.send, 10 at once, runs going on behind',
      unit: 'ms each',
      against: 'limit-http (not durable)',
      target: 'none',
    })
    rate.note = `${Math.round(1000 / middle(rate.gateway))}/s against ${Math.round(1000 / middle(rate.reference))}/s`
    return [...lines, rate]
  })

/** The thread that keeps the store tidies its log a second after the last call: that belongs to the runs, too. */
const STORE_SETTLES_MS = 1_200

const runs: Row = ({ reps, model }) =>
  withBoth(model, 'limit-http', async (gateway, limit) => {
    const lines: Line[] = []
    const shapes: [sessions: number, sockets: number, each: number][] = [
      [1, 1, 40],
      [8, 2, 12],
      [64, 16, 4],
    ]
    for (const [sessions, sockets, each] of shapes) {
      const measure = async (server: Server, rounds: number, settleMs = STORE_SETTLES_MS): Promise<Figures> => {
        const peers = await connectMany(server, sockets)
        const talkers = peers.map(createTalker)
        const { cpu, wall } = await spent(
          server,
          async () => {
            await Promise.all(
              newKeys(sessions).map((key, index) =>
                times(rounds, () => talkers[index % sockets]!.run(key, 'tell me [[chunks=50 burst=1]]').ended),
              ),
            )
          },
          settleMs,
        )
        await closeAll(peers)
        return { cpu: cpu / (rounds * sessions), rate: ((rounds * sessions) / wall) * 1000 }
      }
      for (const server of [gateway, limit]) await measure(server, Math.ceil(each / 4), 0)
      const figures = await paired(reps, [() => measure(gateway, each), () => measure(limit, each)])
      lines.push(
        line(figures, 'cpu', {
          title: `run of 50 deltas, ${sessions} session(s) on ${sockets} socket(s)`,
          unit: 'ms CPU',
          against: 'limit-http',
          target: { ratio: 1.6 },
          wallOf: ['rate', 'runs/s'],
        }),
      )
    }
    return lines
  })

const latency: Row = ({ reps, model }) =>
  withBoth(model, 'limit-http', async (gateway, limit) => {
    const lines: Line[] = []
    const shapes: [atOnce: number, rounds: number, ask: string, first: number, added: number][] = [
      [1, 4, 'chunks=20 gap=10', 1.5, 0.1],
      [50, 1, 'chunks=20 gap=50', 2, 1],
    ]
    for (const [atOnce, rounds, ask, firstTarget, addedTarget] of shapes) {
      const measure = async (server: Server): Promise<Figures> => {
        const peer = await connect(server)
        const talker = createTalker(peer)
        const firsts: number[] = []
        const added: number[] = []
        const hear = (delta: string) => {
          const now = micros()
          for (const stamp of delta.split(' ')) if (stamp !== '') added.push((now - Number(stamp)) / 1000)
        }
        await times(rounds, async () => {
          const turns = newKeys(atOnce).map((key) => talker.run(key, `go on [[${ask} stamp=1]]`, hear))
          firsts.push(...(await Promise.all(turns.map(({ first }) => first))))
          await Promise.all(turns.map(({ ended }) => ended))
        })
        await peer.close()
        const sent = atOnce * rounds * 20
        if (added.length !== sent) throw new Error(`${server.name}: ${added.length} of ${sent} deltas came`)
        return { first: middle(firsts), added: middle(added) }
      }
      for (const server of [gateway, limit]) await measure(server)
      const figures = await paired(reps, [() => measure(gateway), () => measure(limit)])
      const against = 'limit-http'
      lines.push(
        line(figures, 'first', {
          title: `first delta, p50, ${atOnce} run(s) at once`,
          unit: 'ms',
          against,
          target: { ratio: firstTarget },
        }),
        line(figures, 'added', {
          title: `added to each delta, p50, ${atOnce} run(s) at once`,
          unit: 'ms',
          against,
          target: { plus: addedTarget },
        }),
      )
    }
    return lines
  })

const fanout: Row = async ({ reps, model, long }) => {
  const lines: Line[] = []
  const shapes: [title: string, mode: Mode, ask: string, deltas: number][] = [
    ['trickling', 'limit-tick5', 'chunks=200 gap=2', 200],
    ['all at once', 'limit-http', 'chunks=500 burst=1', 500],
  ]
  for (const subscribers of long ? [100, 1000] : [100]) {
    for (const [title, mode, ask, deltas] of shapes) {
      lines.push(
        await withBoth(model, mode, async (gateway, reference) => {
          const measures = await Promise.all(
            [gateway, reference].map(async (server) => {
              const peers = await connectMany(server, subscribers)
              const talkers = peers.map(createTalker)
              return async (): Promise<Figures> => {
                const [key] = newKeys(1)
                const { cpu, wall } = await spent(server, async () => {
                  const { runId, ended } = talkers[0]!.run(key!, `to all [[${ask}]]`)
                  const heard = talkers.slice(1).map((talker) => talker.hear(runId))
                  const texts = await Promise.all([ended, ...heard])
                  if (texts.some((text) => text !== 'word '.repeat(deltas)))
                    throw new Error(`${server.name}: a subscriber did not hear everything`)
                })
                return { cpu: (cpu * 1000) / (deltas * subscribers), wall }
              }
            }),
          )
          for (const measure of measures) await measure()
          const figures = await paired(reps, measures)
          return line(figures, 'cpu', {
            title: `a delta to each of ${subscribers}, ${title}`,
            unit: 'µs CPU',
            against: mode === 'limit-http' ? 'limit-http' : 'limit-tick5, http',
            target: { ratio: 1.1 },
            wallOf: ['wall', 'ms'],
          })
        }),
      )
    }
  }
  return lines
}

const dedupe: Row = ({ reps, model }) =>
  withBoth(model, 'limit-http', async (gateway) => {
    const peers = await connectMany(gateway, 50)
    const copies = async (): Promise<Figures> => {
      const [key] = newKeys(1)
      const runId = `once-${key}`
      const params = { sessionKey: key, message: 'once [[chunks=20 burst=1]]', idempotencyKey: runId }
      const watcher = createTalker(peers[0]!)
      const counted = watcher.count(runId)
      const began = performance.now()
      const answers = await Promise.all(
        Array.from({ length: 1000 }, (_, n) => peers[n % 50]!.request('chat.send', params)),
      )
      const wall = performance.now() - began
      await delay(200)
      const started = answers.filter((text) => text.includes('"status":"started"')).length
      const mine = answers.filter((text) => text.includes(`"runId":"${runId}"`)).length
      const { starts, ends } = counted()
      const runs = mine === 1000 && started === 1 && starts === 1 && ends === 1 ? 1 : Math.max(starts, started, ends)
      const text = (n: number) => JSON.stringify({ type: 'req', id: `h${n}`, method: 'chat.send', params })
      const replays = await spent(gateway, () => flood(peers, 20, 5000, text))
      const health = await spent(gateway, () => flood(peers, 20, 5000, HEALTH))
      for (const peer of peers) peer.listen(() => {})
      return { runs, wall, replay: replays.cpu / 5, health: health.cpu / 5 }
    }
    await copies()
    const [figures = []] = await paired(reps, [copies])
    return [
      {
        title: '1000 copies of a key over 50 sockets: runs',
        unit: 'runs',
        gateway: figure(figures, 'runs'),
        reference: figure(figures, 'runs').map(() => 1),
        against: 'exactly one',
        target: { exactly: 1 },
        note: `all answered in ${middle(figure(figures, 'wall')).toFixed(0)} ms`,
      },
      {
        title: 'a replay of an ended key',
        unit: 'µs CPU',
        gateway: figure(figures, 'replay'),
        reference: figure(figures, 'health'),
        against: 'its own health',
        target: { ratio: 2 },
      },
    ]
  })

const longSession: Row = ({ reps, model }) =>
  withBoth(model, 'limit-hist-http', async (gateway, limit) => {
    const ask = 'and then? [[chunks=5 burst=1]]'
    const measures = await Promise.all(
      [gateway, limit].map(async (server) => {
        const peer = await connect(server)
        const talker = createTalker(peer)
        const grown = async (turns: number) => {
          const [key] = newKeys(1)
          await times(turns, () => talker.run(key!, ask).ended)
          return key!
        }
        await grown(10)
        const young = await grown(10)
        const old = await grown(1000)
        await delay(STORE_SETTLES_MS)
        const cost = async (key: string) => {
          const { cpu } = await spent(server, () => times(15, () => talker.run(key, ask).ended))
          return cpu / 15
        }
        return async (): Promise<Figures> => ({ young: await cost(young), old: await cost(old) })
      }),
    )
    const figures = await paired(reps, measures)
    return [
      {
        title: 'run after 1000 turns against after 10',
        unit: 'ms CPU',
        gateway: figure(figures[0], 'old'),
        reference: figure(figures[0], 'young'),
        against: 'itself',
        target: { ratio: 1.3 },
      },
      line(figures, 'old', {
        title: 'run after 1000 turns',
        unit: 'ms CPU',
        against: 'limit-hist-http',
        target: { ratio: 2 },
      }),
    ]
  })

const slow: Row = async ({ reps, model }) => {
  const measure = async (starting: Promise<Server>, stall: boolean): Promise<Figures> => {
    const server = await starting
    try {
      const peers = await connectMany(server, 20)
      const talkers = peers.map(createTalker)
      const ask = 'much [[chunks=1000 size=36 gap=1]]'
      await talkers[0]!.run(newKeys(1)[0]!, 'warm [[chunks=300 size=24]]').ended
      const before = server.rss()
      let most = before
      const watch = setInterval(() => {
        most = Math.max(most, server.rss())
      }, 20)
      if (stall) peers.at(-1)!.pause(true)
      const readers = stall ? talkers.slice(1, -1) : talkers.slice(1)
      const began = performance.now()
      await Promise.all(
        newKeys(4).map(async (key, index) => {
          const { runId, ended } = talkers[0]!.run(key, ask)
          const texts = await Promise.all([ended, ...readers.map((talker) => talker.hear(runId))])
          if (texts.some((text) => text.length !== 1000 * 36))
            throw new Error(`run ${index}: a reader missed something`)
        }),
      )
      const wall = performance.now() - began
      clearInterval(watch)
      const growth = (most - before) / 1e6
      // What was stalled learns how it was treated once it reads again.
      peers.at(-1)!.pause(false)
      await delay(300)
      return { growth, wall, closed: Number(peers.at(-1)!.closed) }
    } finally {
      await server.stop()
    }
  }
  const count = Math.min(reps, 2)
  const figures = await paired(count, [
    () => measure(startGateway(model), true),
    () => measure(startGateway(model), false),
    () => measure(startLimit('limit-http', model), true),
    () => measure(startLimit('limit-http', model), false),
  ])
  const held = (stalled: number, free: number) =>
    figure(figures[stalled], 'growth').map((value, index) => value - figure(figures[free], 'growth')[index]!)
  return [
    {
      title: 'one reader of 20 stalled: memory held for it',
      unit: 'MB',
      gateway: held(0, 1),
      reference: held(2, 3),
      against: 'limit-http',
      target: { atMost: 2 },
      note: `it was ${middle(figure(figures[0], 'closed')) === 1 ? 'closed' : 'kept'}; limit ${middle(figure(figures[2], 'closed')) === 1 ? 'closed' : 'kept'} it`,
    },
    {
      title: 'the other 19: time until all is heard',
      unit: 'ms',
      gateway: figure(figures[0], 'wall'),
      reference: figure(figures[1], 'wall'),
      against: 'itself, none stalled',
      target: { ratio: 1.1 },
    },
  ]
}

/** All rows, in the order they are measured. */
export const ROWS: { [name: string]: Row } = {
  start,
  handshake,
  connections,
  rpc,
  ack,
  runs,
  latency,
  fanout,
  dedupe,
  long: longSession,
  slow,
}
