/** Random walks: what holds on every edge also holds on long ways nobody thought of. */
import fc from 'fast-check'
import { describe, test } from 'vitest'
import { runMachine } from '../../machines/run.ts'
import { sessionMachine } from '../../machines/session.ts'
import { INVARIANTS } from './invariants.ts'
import { PLANS } from './plans.ts'
import { type Rig, rig } from './rig.ts'
import { alphabet } from './tour.ts'

const SEED = 1206
const RUNS = 300

function check(name: string, bench: Rig): void {
  for (const holds of Object.values(INVARIANTS[name]!)) holds(bench)
}

describe.each(['session', 'run', 'pairing', 'invocation', 'schedule'])('%s', (name) => {
  const plan = PLANS[name]!

  test(`keeps its word on ${RUNS} random walks`, async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom(...plan.inputs),
        fc.array(fc.nat({ max: 1_000 }), { minLength: 10, maxLength: 40 }),
        async (input, steps) => {
          const bench = rig(plan.machine, { input })
          for (const step of steps) {
            const events = alphabet(plan, bench.snapshot)
            if (events.length === 0) break
            await bench.happen(events[step % events.length]!)
          }
          check(name, bench)
        },
      ),
      { seed: SEED, numRuns: RUNS },
    )
  })
})

/** A session and its runs, bound to each other as their hosts do it: each tells the other on a later microtask. */
function world() {
  const runs = new Map<string, Rig>()
  const told: { to: Rig; event: { type: string } }[] = []
  const tell = (to: Rig | undefined, event: { type: string }) => to && told.push({ to, event })
  const session = rig(sessionMachine, {
    input: { key: 's' },
    onEffect(name, params: { runId: string; reason: string }) {
      const { runId, reason } = params
      if (name === 'begin') tell(runs.get(runId), { type: 'begin' })
      if (name === 'abortRun') tell(runs.get(runId), { type: 'abort', reason } as never)
    },
  })
  return {
    session,
    runs,
    turn() {
      const runId = `r${runs.size}`
      const run = rig(runMachine, {
        input: { runId, timeoutMs: 5_000, retryMs: 1_000 },
        onEffect: (name) => name === 'announceEnd' && tell(session, { type: 'ended', runId } as never),
      })
      runs.set(runId, run)
      tell(session, { type: 'turn', runId } as never)
    },
    abort: (runId: string | null) => tell(session, { type: 'abort', runId, reason: 'rpc' } as never),
    deliver(count = told.length) {
      for (const { to, event } of told.splice(0, count)) if (to.snapshot.status === 'active') to.send(event)
    },
    get undelivered() {
      return told.length
    },
  }
}

type World = ReturnType<typeof world>

/** One step of the world: a turn, a stop, a message that arrives, a piece of work that ends, some time that passes. */
async function step({ runs, ...rest }: World, [kind, n]: readonly [number, number], at: World): Promise<void> {
  const live = [...runs.values()].filter(({ snapshot }) => snapshot.status === 'active')
  const run = live[n % Math.max(live.length, 1)]
  const [work] = run?.working ?? []
  switch (kind) {
    case 0:
      return rest.turn()
    case 1:
      return void rest.abort(n % 3 === 0 ? null : `r${n % (runs.size + 1)}`)
    case 2:
      return at.deliver(1)
    case 3:
      return run && work ? run.resolve(work, { stopReason: 'stop', calls: 0 }) : at.deliver()
    case 4:
      return run && work ? run.reject(work, new Error('it failed')) : at.deliver()
    default:
      return run?.wait(n % 6_000)
  }
}

describe('a session and its runs', () => {
  test(`keep their word together on ${RUNS} random walks, and all runs end`, async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.tuple(fc.nat({ max: 5 }), fc.nat({ max: 10_000 })), { minLength: 20, maxLength: 60 }),
        async (steps) => {
          const at = world()
          for (const next of steps) {
            await step(at, next, at)
            const busy = [...at.runs.values()].filter(({ snapshot }) => snapshot.matches('streaming'))
            if (busy.length > 1) throw new Error(`${busy.length} runs of one session ask the model at once`)
          }
          // From now on everything goes well: then nothing may be left over.
          for (let n = 0; n < 500 && !over(at); n += 1) {
            at.deliver()
            for (const run of at.runs.values()) {
              for (const work of run.working) await run.resolve(work, { stopReason: 'stop', calls: 0 })
              run.wait(1_000)
            }
          }
          if (!over(at)) throw new Error('something is left over')
          check('session', at.session)
          for (const run of at.runs.values()) check('run', run)
        },
      ),
      { seed: SEED, numRuns: RUNS },
    )
  })
})

const over = ({ session, runs, undelivered }: World): boolean =>
  undelivered === 0 &&
  session.state() === 'idle' &&
  [...runs.values()].every(({ snapshot }) => snapshot.status === 'done')
