/** Devices and nodes: who may come in on their own, and who says so. */
import type { Handlers } from '../broker/dispatch.ts'
import type { Pairings } from '../broker/pairings.ts'
import type { devices as contract } from '../contract/devices.ts'

export interface DevicesNeeds {
  pairings: Pairings
}

export function deviceMethods({ pairings }: DevicesNeeds): Handlers<typeof contract> {
  return {
    'device.pair.list': (_, caller) => pairings.devices(caller),
    'device.pair.approve': async ({ requestId }, caller) => ({
      requestId,
      device: await pairings.approveDevice(requestId, caller),
    }),
    'device.pair.reject': async ({ requestId }, caller) => ({
      requestId,
      deviceId: await pairings.rejectDevice(requestId, caller),
    }),
    async 'device.pair.remove'({ deviceId }, caller) {
      await pairings.removeDevice(deviceId, caller)
      return { deviceId }
    },
    async 'device.token.rotate'({ deviceId, role, scopes: asked }, caller) {
      const { token, scopes, rotatedAtMs } = await pairings.rotate({ deviceId, role, scopes: asked }, caller)
      return { deviceId, role, token, scopes: [...scopes], rotatedAtMs }
    },
    'device.token.revoke': async ({ deviceId, role }, caller) => ({
      deviceId,
      role,
      ...(await pairings.revoke({ deviceId, role }, caller)),
    }),

    'node.pair.request': async (node, caller) => ({
      status: 'pending' as const,
      ...(await pairings.requestNode(node, caller)),
    }),
    'node.pair.list': (_, caller) => pairings.nodes(caller),
    async 'node.pair.approve'({ requestId }, caller) {
      const { node, token } = await pairings.approveNode(requestId, caller)
      return { requestId, node: { ...node, token } }
    },
    'node.pair.reject': async ({ requestId }, caller) => ({
      requestId,
      nodeId: await pairings.rejectNode(requestId, caller),
    }),
    async 'node.pair.remove'({ nodeId }, caller) {
      await pairings.removeNode(nodeId, caller)
      return { nodeId }
    },
    'node.pair.verify'({ nodeId, token }, caller) {
      const node = pairings.verifyNode(nodeId, token, caller)
      return node ? { ok: true, node } : { ok: false }
    },
  }
}
