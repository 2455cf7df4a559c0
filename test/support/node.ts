/** A node: a paired device that is asked to do things, with the frames of its own as a test sends them. */
import { createDevice, type Device, nonceOf } from './device.ts'
import { CONNECT, type Frame, type Peer, type TestGateway } from './gateway.ts'

export interface TestNode extends Peer {
  device: Device
  /** What it was asked, the next that was not taken yet, with its parameters read. */
  asked(): Promise<Frame & { id: string; params: Frame }>
  /** Tells a piece of an answer. */
  say(id: string, offset: number, text: string): Promise<Frame>
  finish(id: string, payload?: object): Promise<Frame>
}

export interface NodeOptions {
  device?: Device
  /** What it calls itself. */
  name?: string
  caps?: string[]
  commands?: string[]
}

/** Connects as a node, from here: a new device is paired with the name it gives. */
export async function connectAsNode(gateway: Pick<TestGateway, 'open'>, options: NodeOptions = {}): Promise<TestNode> {
  const { device = createDevice(), name, caps = ['agent'], commands = ['agent.run'] } = options
  const peer = await gateway.open()
  const proof = device.prove(await nonceOf(peer), { role: 'node', scopes: [] })
  const client = { ...CONNECT.client, ...(name !== undefined && { displayName: name }) }
  const params = { ...CONNECT, client, role: 'node', scopes: [], caps, commands, device: proof }
  const hello = await peer.request('connect', params)
  if (!hello['ok']) throw new Error(`the node was refused: ${JSON.stringify(hello['error'])}`)
  return Object.assign(peer, {
    device,
    async asked() {
      const { payload } = await peer.next(({ event }) => event === 'node.invoke.request')
      return { ...payload, params: JSON.parse(payload.paramsJSON) }
    },
    say: (id: string, offset: number, text: string) =>
      peer.request('node.event', { event: 'agent.delta', payload: { id, offset, text } }),
    finish: (id: string, payload: object = {}) =>
      peer.request('node.invoke.result', { id, nodeId: device.id, ok: true, payload }),
  })
}
