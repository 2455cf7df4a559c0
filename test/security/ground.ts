/** What the suites about security stand on: every set of scopes, what each is worth, and a gateway that counts nothing. */
import { OPERATOR_SCOPES, type Scope } from '../../src/contract/block.ts'
import { createDevice, nonceOf } from '../support/device.ts'
import { CONNECT, type Frame, type Peer, type PeerOptions, type TestGateway } from '../support/gateway.ts'

/** All 32 of them. */
export const SCOPE_SETS: readonly (readonly Scope[])[] = Array.from(
  { length: 2 ** OPERATOR_SCOPES.length },
  (_, bits) => OPERATOR_SCOPES.filter((_, index) => bits & (1 << index)),
)

/** Whether somebody with these scopes may do what needs this one. Said here once more, apart from the gateway's own words. */
export function isWorth(scopes: readonly string[], needed: string): boolean {
  if (scopes.includes(needed) || scopes.includes('operator.admin')) return true
  return needed === 'operator.read' && scopes.includes('operator.write')
}

/** Many requests, and many that are refused, are what these suites are made of. */
export const UNCOUNTED = {
  requestsPerSecond: 0,
  deniedPerMinute: 0,
  preauthPerIp: 0,
  preauthTotal: 0,
  socketsPerPrincipal: 0,
}

/** Connects with the proof of a new device, paired without being asked where that is so. */
export async function connectDevice(
  gateway: TestGateway,
  changes: { role?: string; scopes?: readonly string[]; params?: object; peer?: PeerOptions } = {},
): Promise<{ peer: Peer; device: ReturnType<typeof createDevice>; answer: Frame }> {
  const { role = 'operator', peer: options, params } = changes
  const scopes = [...(changes.scopes ?? CONNECT.scopes)]
  const device = createDevice()
  const peer = await gateway.open(options)
  const proof = device.prove(await nonceOf(peer), { role, scopes })
  const answer = await peer.request('connect', { ...CONNECT, role, scopes, device: proof, ...params })
  return { peer, device, answer }
}

/** Connects as a node that asks for these scopes. */
export async function connectNode(gateway: TestGateway, scopes: readonly string[]): Promise<Peer> {
  const { peer, answer } = await connectDevice(gateway, { role: 'node', scopes })
  if (!answer['ok']) throw new Error(`the node was refused: ${JSON.stringify(answer['error'])}`)
  return peer
}

/** Makes a named token; its text. */
export async function makeToken(operator: Peer, token: { scopes: readonly string[]; sessions?: string[] }) {
  const { payload, error } = await operator.request('tokens.create', { name: 'a token for tests', ...token })
  if (error) throw new Error(error.message)
  return payload.token as string
}
