/** How the gateway starts, and how it stops however far it got. */
import { describe, expect, test } from 'vitest'
import { gatewayMachine } from '../../machines/gateway.ts'
import { type Rig, rig } from './rig.ts'

const start = () => rig(gatewayMachine, { input: { drainMs: 60_000 } })
const stop = { type: 'stop', reason: 'a signal' }
const lost = { type: 'failed', error: 'the disk is gone' }

async function serving(): Promise<Rig> {
  const gateway = start()
  for (const name of ['openStorage', 'listen', 'recover']) await gateway.resolve(name)
  expect(gateway.state()).toBe('serving')
  return gateway
}

/** Lets it close what is open, and tells in which order. */
async function close(gateway: Rig): Promise<string[]> {
  const closed: string[] = []
  while (gateway.working.length > 0) {
    closed.push(...gateway.working)
    await gateway.resolve(gateway.working[0]!)
  }
  expect(gateway.state()).toBe('stopped')
  return closed
}

describe('the start', () => {
  test('opens the storage, takes the port, then recovers, one after the other', async () => {
    const gateway = start()
    for (const name of ['openStorage', 'listen', 'recover']) {
      expect(gateway.working).toEqual([name])
      await gateway.resolve(name)
    }
    expect(gateway.state()).toBe('serving')
    expect(gateway.effects()).toEqual([])
  })

  test.each([0, 1, 2])('closes what is open when step %i fails, and says why', async (step) => {
    const gateway = start()
    const steps = ['openStorage', 'listen', 'recover']
    for (const name of steps.slice(0, step)) await gateway.resolve(name)
    await gateway.reject(steps[step]!, new Error(`${steps[step]} failed`))
    expect(await close(gateway)).toEqual(['hangUp', 'closeStorage'])
    expect(gateway.snapshot.context.failure).toBe(`${steps[step]} failed`)
  })

  test('that recovery breaks off leaves the runs it has begun to the next process', async () => {
    const gateway = start()
    await gateway.resolve('openStorage')
    await gateway.resolve('listen')
    await gateway.reject('recover', new Error('a bad record'))
    expect(gateway.effects()).toEqual(['checkpoint'])
  })

  test.each([0, 1, 2])('closes what is open when it is stopped during step %i, which is no failure', async (step) => {
    const gateway = start()
    for (const name of ['openStorage', 'listen'].slice(0, step)) await gateway.resolve(name)
    gateway.send(stop)
    // The step that is under way is ended first: what it opens must be there to be closed.
    const underWay = ['openStorage', 'listen', 'recover'][step]!
    expect(await close(gateway)).toEqual([underWay, 'hangUp', 'closeStorage'])
    expect(gateway.snapshot.context.failure).toBeNull()
    expect(gateway.effects()).toEqual(['checkpoint'])
  })

  test('ends with a failure when the storage is lost before it serves', async () => {
    const gateway = start()
    await gateway.resolve('openStorage')
    await gateway.resolve('listen')
    gateway.send(lost)
    await close(gateway)
    expect(gateway.snapshot.context.failure).toBe('the disk is gone')
  })
})

describe('a stop', () => {
  test('takes nothing new, lets runs end, then closes', async () => {
    const gateway = await serving()
    gateway.send(stop)
    expect(gateway.effects()).toEqual(['refuseNewTurns', 'announceShutdown'])
    expect(await close(gateway)).toEqual(['runsEnded', 'hangUp', 'closeStorage'])
    expect(gateway.effects()).not.toContain('checkpoint')
  })

  test('waits for runs as long as the budget lasts, and no longer', async () => {
    const gateway = await serving()
    gateway.send(stop)
    gateway.wait(59_999)
    expect(gateway.state()).toBe('draining')
    gateway.wait(1)
    expect(gateway.effects()).toContain('checkpoint')
    expect(gateway.working).toEqual(['hangUp'])
  })

  test('does not wait for runs the second time', async () => {
    const gateway = await serving()
    gateway.send(stop)
    gateway.send(stop)
    expect(gateway.effects()).toEqual(['refuseNewTurns', 'announceShutdown', 'checkpoint'])
    expect(await close(gateway)).toEqual(['hangUp', 'closeStorage'])
  })

  test('goes on to the end however often it is asked for', async () => {
    const gateway = await serving()
    for (let n = 0; n < 5; n += 1) gateway.send(stop)
    expect(await close(gateway)).toEqual(['hangUp', 'closeStorage'])
    expect(gateway.effects()).not.toContain('unexpected')
  })

  test('closes the storage even when the sockets cannot be closed', async () => {
    const gateway = await serving()
    gateway.send(stop)
    await gateway.resolve('runsEnded')
    await gateway.reject('hangUp', new Error('a socket that will not go'))
    expect(await close(gateway)).toEqual(['closeStorage'])
    expect(gateway.snapshot.context.failure).toBeNull()
  })
})

describe('a storage that is lost', () => {
  test('ends the gateway with a failure, without waiting for runs that cannot be kept', async () => {
    const gateway = await serving()
    gateway.send(lost)
    expect(gateway.effects()).toEqual(['checkpoint'])
    expect(await close(gateway)).toEqual(['hangUp', 'closeStorage'])
    expect(gateway.snapshot.context.failure).toBe('the disk is gone')
  })

  test('cuts a drain short', async () => {
    const gateway = await serving()
    gateway.send(stop)
    gateway.send(lost)
    expect(gateway.effects()).toContain('checkpoint')
    await close(gateway)
    expect(gateway.snapshot.context.failure).toBe('the disk is gone')
  })

  test('is the failure that is told, not the one that follows from it', async () => {
    const gateway = await serving()
    gateway.send(lost)
    await gateway.resolve('hangUp')
    await gateway.reject('closeStorage', new Error('not open'))
    expect(gateway.snapshot.context.failure).toBe('the disk is gone')
  })
})
