/** Peers that come and say nothing, or say it slowly: they are gone in time, and nobody waits for them. */
import { expect, it } from 'vitest'
import { startGateway } from '../support/gateway.ts'
import { closeOf, connectFrame, dial, frame, type RawLine, request, UPGRADE, upgraded } from './raw-line.ts'

/** Of each kind. */
const COUNT = 100
/** Between two bytes of a slow peer, in ms. */
const DRIP_MS = 250

const many = (open: () => Promise<RawLine>) => Promise.all(Array.from({ length: COUNT }, open))

it('silent peers, and slow ones of every kind, are all gone; an honest one is let in meanwhile', async () => {
  const config = { gateway: { handshakeTimeoutMs: 1_000, limits: { preauthPerIp: 0 } } }
  await using gateway = await startGateway({ config })
  const { port } = gateway
  const silent = await many(() => dial(port))
  const heads = await many(() => dial(port, { text: 'GET / HTTP/1.1\r\nHost: localhost\r\n' }))
  const bodies = await many(() => dial(port, { text: request('POST / HTTP/1.1', ['Content-Length: 1000']) }))
  const open = await many(() => upgraded(port))
  const begun = await many(() => upgraded(port))
  // The first frame never ends: one byte after the other of a payload, and one empty piece after the other.
  for (const line of begun) line.write(frame(connectFrame(), { claims: 60_000, lengthBytes: 2 }).subarray(0, 200))
  const pieces = await many(() => upgraded(port))
  for (const line of pieces) line.write(frame('{', { isFinal: false }))
  let drips = 0
  const drip = setInterval(() => {
    drips += 1
    for (const line of [...heads, ...begun, ...bodies]) line.write('x')
    if (drips < 50) for (const line of pieces) line.write(frame('', { opcode: 0, isFinal: false }))
  }, DRIP_MS)
  const honest = await gateway.connect()
  for (const kind of [open, begun, pieces]) {
    await Promise.all(kind.map(({ gone }) => gone))
    for (const line of kind) expect(closeOf(line.frames)).toEqual({ code: 1008, reason: 'handshake timeout' })
  }
  expect((await honest.request('health'))['ok']).toBe(true)
  // The time for a head is the listener's own: five seconds. The test's own limit is what may be added to it.
  await Promise.all([...silent, ...heads].map(({ gone }) => gone))
  for (const line of [...silent, ...heads]) expect(line.received.toString('latin1')).not.toMatch(/ 101 | 200 /)
  expect((await honest.request('health'))['ok']).toBe(true)
  clearInterval(drip)
  for (const line of bodies) line.close()
}, 15_000)

it('a head may take its time as long as it is whole in the end', async () => {
  await using gateway = await startGateway()
  const line = await dial(gateway.port)
  await line.trickle(Buffer.from(request('GET / HTTP/1.1', UPGRADE)))
  await line.until(({ frames }) => frames.length > 0)
  await line.trickle(frame(connectFrame()))
  await line.until(({ frames }) => frames.length > 1)
  expect(line.frames[1]?.payload.toString()).toContain('hello-ok')
  line.close()
})
